//! Whether a long queue makes anything dearer: submissions and whole lives with ever more actions waiting in it.
//!
//! Two daemons take turns: one keeps the shortest backlog, the other grows through the longer ones, so that a disturbance
//! of the machine meets both and the ratio stands. Submissions are measured with the queue paused. Lives are measured
//! with 64 submitters that submit as fast as actions end: each goes to the end of the queue, the longest waiting
//! ends, and the backlog stays as long as it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::{Bench, say};
use crate::closed_loop::{self, Plan};
use crate::flood;
use crate::process::{self, Watch};
use crate::results::{figure, whole};
use crate::servers::actiond::{Actiond, Door, place};
use crate::servers::{self, Server};
use crate::table;

const SUBMITTERS: u64 = 64;
/// How far lives may be behind submissions.
const SLACK: u64 = 1_000;

pub fn measure(bench: &mut Bench) {
    let Some((shortest, longer)) =
        bench.settings.backlog.clone().split_first().map(|(first, rest)| (*first, rest.to_vec()))
    else {
        return;
    };
    let mut reference = Actiond::new(place(&bench.settings.dir, "short"), Door::Lines);
    let mut growing = Actiond::new(place(&bench.settings.dir, "long"), Door::Lines);
    for daemon in [&mut reference, &mut growing] {
        daemon.fresh();
    }
    grow(&reference, shortest);
    for length in longer {
        say(&format!("backlog: growing to {length}"));
        grow(&growing, length);
        for round in 1..=bench.settings.rounds {
            say(&format!("backlog: {length}, round {round}"));
            let short = one(bench, &reference, shortest);
            let long = one(bench, &growing, length);
            for (what, at) in [("backlog.submit_ratio", 0), ("backlog.life_ratio", 1)] {
                bench.results.add("actiond NDJSON", what, length, long[at] / short[at]);
            }
        }
    }
    print(bench);
}

/// Fills up to `length` and waits until the daemon has come to rest.
fn grow(daemon: &Actiond, length: u64) {
    let waiting = daemon.unfinished();
    flood::fill(daemon, 2, waiting, length.saturating_sub(waiting), true);
    process::settle(daemon.pid(), &daemon.dir());
}

/// Submissions per second, lives per second.
fn one(bench: &mut Bench, daemon: &Actiond, length: u64) -> [f64; 2] {
    let name = daemon.name();
    let plan = Plan {
        warm: bench.settings.warm(),
        time: bench.settings.time / 2,
        count_max: u64::MAX,
        gate: None,
        pid: daemon.pid(),
    };
    let told = closed_loop::run(servers::submitters(daemon, SUBMITTERS), Vec::new(), &plan);
    let submits = told.spent.per_second(told.count);
    bench.results.add(name, "backlog.submit", length, submits);
    bench.results.add(name, "backlog.submit_cpu_us", length, told.spent.each(told.count));

    daemon.resume();
    while daemon.unfinished() > length + SLACK {
        thread::sleep(Duration::from_millis(5));
    }
    let (lives, each) = lives(bench, daemon);
    daemon.pause();
    bench.results.add(name, "backlog.life", length, lives);
    bench.results.add(name, "backlog.life_cpu_us", length, each);
    [submits, lives]
}

/// Lives per second and microseconds of CPU each, with as many submitted as end.
fn lives(bench: &Bench, daemon: &Actiond) -> (f64, f64) {
    let ended = || {
        let status = daemon.status();
        let unfinished: u64 = status.queues.iter().map(|queue| queue.waiting + queue.running).sum();
        // What was there before counts too: only differences are used.
        status.accepted.wrapping_sub(unfinished)
    };
    let submitters = servers::submitters(daemon, SUBMITTERS);
    let (gate, is_over) = (AtomicU64::new(SLACK), AtomicBool::new(false));
    let before = ended();
    let watch = Watch::begin(daemon.pid());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                gate.store(ended().wrapping_sub(before) + SLACK, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let plan = Plan {
            warm: Duration::ZERO,
            time: bench.settings.time,
            count_max: u64::MAX,
            gate: Some(&gate),
            pid: daemon.pid(),
        };
        closed_loop::run(submitters, Vec::new(), &plan);
        is_over.store(true, Ordering::Relaxed);
    });
    let (spent, count) = (watch.end(), ended().wrapping_sub(before));
    (spent.per_second(count), spent.each(count))
}

fn print(bench: &Bench) {
    let results = &bench.results;
    let columns = [
        "waiting",
        "submits per s",
        "us of CPU each",
        "lives per s",
        "us of CPU each",
        "submits, lives against the shortest",
    ];
    table::head("With a long queue, 64 NDJSON submitters", &columns.map(str::to_owned));
    for length in results.over("backlog.submit") {
        let median = |what: &str| {
            results
                .median("actiond NDJSON", &format!("backlog.{what}"), length)
                .map_or_else(|| "-".to_owned(), figure)
        };
        let ratios = format!("{}, {}", median("submit_ratio"), median("life_ratio"));
        let (submits, lives) = (median("submit"), median("life"));
        table::row(&[whole(length), submits, median("submit_cpu_us"), lives, median("life_cpu_us"), ratios]);
    }
}
