//! Measures the real daemon under load, by words: `cargo bench --bench load -- submit lines redis ndjson lives exec backlog`.
//!
//! Each measurement starts a daemon of its own on the disk that holds the build directory, and drives it
//! from this process over the Unix socket. The generator's own share of the CPU is printed beside
//! each figure, because both share the machine. Without words all of it is measured; `redis` is Redis, if it is
//! installed, under the same load. Settings: `SECS` for each run of submits (3), `CONNECTIONS` (`1 16 64 256`),
//! `LINES` for each stream (300000), `PROGRAMS` (4000), `BACKLOG` (1000000),
//! `STORE` (further lines for `[store]`).
//!
//! Figures, not checks: what is too slow fails no run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::naive_bytecount,
    reason = "a benchmark: whatever fails ends it, and its figures belong on stdout"
)]

mod closed_loop;
mod cpu;
mod daemon;
mod programs;
mod redis;
mod stream;

use std::path::Path;
use std::time::{Duration, Instant};

use closed_loop::{Http, Line, Speech};
use cpu::Watch;
use daemon::Daemon;
use redis::Redis;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn row(what: &str, figure: &str, note: &str) {
    println!("| {what} | {figure} | {note} |");
}

fn main() {
    // `cargo bench` adds --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    println!("| what | figure | beside it |\n| --- | --- | --- |");
    let counts = std::env::var("CONNECTIONS").unwrap_or_else(|_| "1 16 64 256".to_owned());
    for connections in counts.split_whitespace().map(|text| text.parse().expect("CONNECTIONS are numbers")) {
        if wanted("submit") {
            submit("one request each", &Http, connections);
        }
        if wanted("lines") {
            submit("one line each", &Line, connections);
        }
        if wanted("redis") {
            peer("Redis list", &redis::LIST, connections);
            peer("Redis stream", &redis::STREAM, connections);
        }
    }
    if wanted("ndjson") {
        for connections in [1, 2, 4] {
            ndjson(connections);
        }
    }
    if wanted("lives") {
        lives();
    }
    if wanted("exec") {
        programs::measure();
    }
    if wanted("backlog") {
        backlog();
    }
}

/// Each connection submits, waits for the durable answer and submits again; nothing runs meanwhile.
fn submit(how: &str, speech: &dyn Speech, connections: usize) {
    let mut daemon = Daemon::start("submit");
    daemon.post("/v1/queues/default:pause");
    closed(&format!("durable submits, {how}"), speech, connections, &daemon.socket(), daemon.pid());
    daemon.kill();
}

/// The same with a peer.
fn peer(name: &str, speech: &dyn Speech, connections: usize) {
    match Redis::start() {
        Some(redis) => closed(name, speech, connections, &redis.socket(), redis.pid()),
        None => row(name, "-", "redis-server is not installed"),
    }
}

fn closed(what: &str, speech: &dyn Speech, connections: usize, socket: &Path, pid: u32) {
    let watch = Watch::begin(pid);
    let (count, mut waits) =
        closed_loop::run(socket, speech, connections, Duration::from_secs(setting("SECS", 3)));
    let spent = watch.end();
    waits.sort_unstable();
    let percentile = |share: usize| {
        let at = (waits.len() * share / 1_000).min(waits.len() - 1);
        Duration::from_micros(u64::from(*waits.get(at).unwrap()))
    };
    row(
        &format!("{what}, {connections} connections"),
        &format!("{:.0} per s", per_second(count, spent.time)),
        &format!(
            "p50 {:?}, p99 {:?}, p99.9 {:?}; {}",
            percentile(500),
            percentile(990),
            percentile(999),
            spent.each(count)
        ),
    );
}

/// Lines of one stream a connection, all sent at once; each answered when durable.
fn ndjson(connections: u64) {
    let mut daemon = Daemon::start("ndjson");
    daemon.post("/v1/queues/default:pause");
    let lines = setting("LINES", 300_000);
    let watch = Watch::begin(daemon.pid());
    stream::run(&daemon.socket(), connections, lines / connections);
    let spent = watch.end();
    row(
        &format!("NDJSON submits, {connections} streams"),
        &format!("{:.0} per s", per_second(lines, spent.time)),
        &spent.each(lines),
    );
    daemon.kill();
}

/// Submitted, claimed, run by `noop`, finished: until the last is final.
fn lives() {
    let mut daemon = Daemon::start("lives");
    let lines = setting("LINES", 300_000) / 3;
    let watch = Watch::begin(daemon.pid());
    stream::run(&daemon.socket(), 2, lines / 2);
    while daemon.unfinished() > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let spent = watch.end();
    row("whole lives (noop)", &format!("{:.0} per s", per_second(lines, spent.time)), &spent.each(lines));
    daemon.kill();
}

/// Memory and restart with a long queue.
fn backlog() {
    let mut daemon = Daemon::start("backlog");
    daemon.post("/v1/queues/default:pause");
    let count = setting("BACKLOG", 1_000_000);
    let watch = Watch::begin(daemon.pid());
    stream::run(&daemon.socket(), 2, count / 2);
    let spent = watch.end();
    row(
        &format!("{count} waiting: filling"),
        &format!("{:.0} per s", per_second(count, spent.time)),
        &spent.each(count),
    );
    row(&format!("{count} waiting: resident"), &daemon.resident(), &format!("on disk {}", daemon.on_disk()));
    daemon.kill();
    let since = Instant::now();
    let mut daemon = daemon.again();
    let ready = since.elapsed();
    closed_loop::run(&daemon.socket(), &Http, 1, Duration::from_millis(1));
    row(
        &format!("{count} waiting: kill -9 to READY"),
        &format!("{:.2} s", ready.as_secs_f64()),
        &format!(
            "first submission answered after {:.2} s; resident {}",
            since.elapsed().as_secs_f64(),
            daemon.resident()
        ),
    );
    assert!(daemon.unfinished() >= count, "actions were lost: {}", daemon.unfinished());
    daemon.kill();
}
