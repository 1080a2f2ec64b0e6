//! Whole lives of actions that are programs, beside the least that a program costs on this machine.
//!
//! The least is a bare loop: two threads that start /bin/true and wait for it, over and over, with nothing else.
//! The daemon does the same with a durable claim before and a durable outcome after. Its CPU figure leaves out the
//! programs' own time, which is the same on both sides.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::cpu::Watch;
use super::daemon::Daemon;
use super::{per_second, row, setting, stream};

const PROGRAM: &str = "/bin/true";

pub fn measure() {
    let count = setting("PROGRAMS", 4_000);
    // Before and after, so that a machine that slows down meanwhile shows.
    let before = bare(count / 2);
    let (rate, note) = lives("", count);
    let after = bare(count / 2);
    let least = f64::midpoint(before, after);
    let spread = format!("two threads; {before:.0} per s before the daemon, {after:.0} after");
    row("bare spawn and wait of /bin/true", &format!("{least:.0} per s"), &spread);
    let what = "whole lives (exec /bin/true)";
    row(what, &format!("{rate:.0} per s"), &format!("{:.2} of bare; {note}", rate / least));
}

/// Programs per second of two threads that do nothing else.
fn bare(count: u64) -> f64 {
    let since = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..count / 2 {
                    let mut program = Command::new(PROGRAM);
                    program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    assert!(program.status().unwrap().success());
                }
            });
        }
    });
    per_second(count, since.elapsed())
}

/// Submitted, claimed, run, finished: until the last is final.
fn lives(settings: &str, count: u64) -> (f64, String) {
    let handler = format!("use = \"exec\"\nprogram = [\"{PROGRAM}\"]\nrecovery = \"rerun\"\n{settings}");
    let mut daemon = Daemon::with_handler("exec", &handler);
    let watch = Watch::begin(daemon.pid());
    stream::run(&daemon.socket(), 2, count / 2);
    while daemon.unfinished() > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    let spent = watch.end();
    let figures = (per_second(count, spent.time), spent.each(count));
    daemon.kill();
    figures
}
