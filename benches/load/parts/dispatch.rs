//! Dispatch latency: about 100 submissions a second to an idle server, until each is in the hands of who carries it out.
//!
//! actiond says that an action runs over its stream of events, which it does once the claim is durable; that moment is
//! taken from the 202 and, comparable with peers, from the begin of the submission. On the peers it is the moment at
//! which a waiting worker has it. PostgreSQL has no waiting read for a table: left out.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, limits, say};
use crate::closed_loop::{Link, histogram};
use crate::results::figure;
use crate::servers::actiond::{Actiond, Door, place};
use crate::servers::{self, Server};
use crate::table;

/// Between two submissions.
const PACE: Duration = Duration::from_millis(10);

pub fn measure(bench: &mut Bench) {
    let mut daemon = Actiond::new(place(&bench.settings.dir, "lines"), Door::Lines).running();
    let (mut peers, _) = servers::peers(&bench.settings);
    peers.retain(|peer| peer.name() != "PostgreSQL");
    let count = (bench.settings.time.as_secs_f64() / PACE.as_secs_f64()) as u64;
    for round in 1..=bench.settings.rounds {
        say(&format!("dispatch: round {round}"));
        let (_, sync) = limits::sync(&bench.settings);
        bench.results.add("fdatasync", "sync.p50_ms", 4_096, sync);
        daemon.fresh();
        let (from_answer, from_ask) = of_daemon(&daemon, count);
        daemon.rest();
        add(bench, daemon.name(), "dispatch_from_202", from_answer);
        add(bench, daemon.name(), "dispatch", from_ask);
        for peer in &mut peers {
            peer.fresh();
            let waits = of_peer(peer.as_ref(), count);
            peer.rest();
            add(bench, peer.name(), "dispatch", waits);
        }
    }
    print(bench);
}

fn add(bench: &mut Bench, who: &str, what: &str, waits: Vec<Duration>) {
    let mut all = histogram();
    for wait in waits {
        all.saturating_record(wait.as_nanos() as u64);
    }
    for (name, share) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        bench.results.add(who, &format!("{what}.{name}"), 0, all.value_at_quantile(share) as f64 / 1e6);
    }
}

fn print(bench: &Bench) {
    let columns = ["dispatch", "p50 ms", "p99 ms"].map(str::to_owned);
    table::head("Dispatch latency at 100 submissions a second", &columns);
    let results = &bench.results;
    let row = |who: &str, what: &str, name: String| {
        let figures = ["p50_ms", "p99_ms"]
            .map(|p| results.median(who, &format!("{what}.{p}"), 0).map_or_else(|| "-".to_owned(), figure));
        table::row(&[name, figures[0].clone(), figures[1].clone()]);
    };
    row("actiond NDJSON", "dispatch_from_202", "actiond, from 202 to the durable claim".to_owned());
    for who in results.who("dispatch.p50_ms") {
        row(who, "dispatch", format!("{who}, from the begin of the submission"));
    }
    let sync = results.median("fdatasync", "sync.p50_ms", 4_096).map_or_else(|| "-".to_owned(), figure);
    table::row(&["one fdatasync of 4 KiB".to_owned(), sync, "-".to_owned()]);
}

/// From the answer and from the begin of each submission.
fn of_daemon(daemon: &Actiond, count: u64) -> (Vec<Duration>, Vec<Duration>) {
    let events = follow(daemon);
    let mut link = daemon.submitter();
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    pace(count, |number| {
        asked.push(Instant::now());
        answered.push(link.round(number).1);
    });
    // The n-th submission has the id n + 1.
    let mut ran: HashMap<u64, Instant> = HashMap::new();
    while ran.len() < usize::try_from(count).unwrap() {
        let (id, at) = events.recv_timeout(Duration::from_secs(10)).expect("each action runs");
        ran.entry(id).or_insert(at);
    }
    let since = |begin: &[Instant]| {
        (1..).zip(begin).map(|(id, begin)| ran[&id].saturating_duration_since(*begin)).collect()
    };
    (since(&answered), since(&asked))
}

/// The ids of actions that run, and when that was heard.
fn follow(daemon: &Actiond) -> mpsc::Receiver<(u64, Instant)> {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let is_following = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with(": following"));
    assert!(is_following, "the daemon tells no events");
    let (say, heard) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let at = Instant::now();
            assert!(!line.contains("lagged"), "events were missed");
            if !line.contains("\"state\":\"running\"") {
                continue;
            }
            let id = line.split_once("\"id\":").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
            if say.send((id.expect("an event with its id"), at)).is_err() {
                return;
            }
        }
    });
    heard
}

fn of_peer(peer: &dyn Server, count: u64) -> Vec<Duration> {
    let mut worker: Link = peer.worker().expect("a peer has workers");
    let mut submitter = peer.submitter();
    let taking = thread::spawn(move || (0..count).map(|_| worker.round(0).0).collect::<Vec<_>>());
    let mut asked = Vec::new();
    pace(count, |number| {
        asked.push(Instant::now());
        submitter.round(number);
    });
    let took = taking.join().unwrap();
    took.iter().zip(&asked).map(|(took, asked)| took.saturating_duration_since(*asked)).collect()
}

fn pace(count: u64, mut submit: impl FnMut(u64)) {
    let mut due = Instant::now() + Duration::from_millis(100);
    for number in 0..count {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        submit(number);
        due += PACE;
    }
}
