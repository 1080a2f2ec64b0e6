//! Whole lives of actions that are programs (`exec` of /bin/true), beside the least that a program costs here: two
//! threads that start it and wait for it, over and over, with nothing else.
//!
//! The actions wait already when the clock starts: what is measured is the durable claim, the program and the durable
//! outcome. Both kinds of program are: those behind a keeper, that outlive the daemon, and short ones (`adopt = false`).
//!
//! At last the memory of keepers whose programs run for seconds: the largest of them counts.

use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, limits, say};
use crate::flood;
use crate::process::{self, Watch};
use crate::results::figure;
use crate::servers::Server;
use crate::servers::actiond::{Actiond, Door, place};
use crate::table;

/// What a queue has by default.
const CONCURRENCY: u64 = 8;

/// Programs that run for some seconds: what they do meanwhile, and their script.
const LONG: [(&str, &str); 2] = [
    ("keeper, its program is silent", "exec sleep 5"),
    ("keeper, its program writes", "for i in $(seq 50); do echo a line; sleep 0.1; done"),
];
/// After that they are looked at.
const AT_WORK: Duration = Duration::from_secs(3);

pub fn measure(bench: &mut Bench) {
    rates(bench);
    keepers(bench);
}

fn rates(bench: &mut Bench) {
    // As many as take about as long as the other measurements do.
    let count = bench.settings.time.as_millis() as u64;
    let kinds = [("exec", ""), ("exec, adopt = false", "adopt = false\n")];
    let mut daemons = Vec::new();
    for (name, more) in kinds {
        let handler = format!(
            "[[handler]]\naction = \"*\"\nuse = \"exec\"\nprogram = [\"/bin/true\"]\nrecovery = \"rerun\"\n{more}"
        );
        let daemon =
            Actiond::with(place(&bench.settings.dir, "exec"), Door::Lines, CONCURRENCY, &handler, "");
        if daemon.is_possible() {
            daemons.push((name, daemon));
        } else {
            println!("\n{name}: not known to this daemon, not measured");
        }
    }
    for round in 1..=bench.settings.rounds {
        say(&format!("exec: round {round}"));
        bench.results.add("spawn and wait", "spawn", 2, limits::spawn(&bench.settings));
        for (name, daemon) in &mut daemons {
            daemon.fresh();
            flood::fill(daemon, 1, 0, count, false);
            let watch = Watch::begin(daemon.pid());
            daemon.resume();
            daemon.drain();
            let spent = watch.end();
            daemon.rest();
            bench.results.add(name, "spawn", 2, spent.per_second(count));
            bench.results.add(name, "spawn.cpu_us", 2, spent.each(count));
        }
    }
    let columns = ["programs", "per s", "against bare", "us of the daemon's own CPU each"].map(str::to_owned);
    table::head("Programs (/bin/true)", &columns);
    let results = &bench.results;
    let bare = results.median("spawn and wait", "spawn", 2).unwrap_or(f64::NAN);
    for who in results.who("spawn") {
        let rate = results.median(who, "spawn", 2).unwrap_or(f64::NAN);
        let each = results.median(who, "spawn.cpu_us", 2).map_or_else(|| "-".to_owned(), figure);
        table::row(&[who.to_owned(), figure(rate), figure(rate / bare), each]);
    }
}

/// Memory of keepers, in bytes.
fn keepers(bench: &mut Bench) {
    for (name, script) in LONG {
        say(&format!("exec: {name}"));
        let handler = format!(
            "[[handler]]\naction = \"*\"\nuse = \"exec\"\nadopt = true\nrecovery = \"rerun\"\n\
             program = [\"/bin/sh\", \"-c\", \"{script}\"]\n"
        );
        let mut daemon =
            Actiond::with(place(&bench.settings.dir, "keepers"), Door::Lines, CONCURRENCY, &handler, "");
        daemon.fresh();
        flood::fill(&daemon, 1, 0, CONCURRENCY, false);
        daemon.resume();
        let limit = Instant::now() + Duration::from_secs(60);
        let keepers = loop {
            let all = process::tree(daemon.pid()).into_iter();
            let keepers: Vec<u32> = all.filter(|pid| process::name(*pid).starts_with("keeper ")).collect();
            if keepers.len() as u64 == CONCURRENCY {
                break keepers;
            }
            assert!(Instant::now() < limit, "{} keepers of {CONCURRENCY}", keepers.len());
            thread::sleep(Duration::from_millis(5));
        };
        thread::sleep(AT_WORK);
        for what in ["Rss", "Pss", "Anonymous"] {
            let largest = keepers.iter().map(|pid| process::mapped(*pid, what)).max();
            bench.results.add(name, &format!("keeper.{what}"), 0, largest.unwrap_or(0) as f64);
        }
        daemon.drain();
        daemon.rest();
    }
    let columns = ["", "RSS", "PSS", "anonymous"].map(str::to_owned);
    table::head("Memory of a keeper in MB", &columns);
    let results = &bench.results;
    for (name, _) in LONG {
        let cell = |what: &str| {
            results.median(name, &format!("keeper.{what}"), 0).map_or(f64::NAN, |bytes| bytes / 1e6)
        };
        table::row(&[name.to_owned(), figure(cell("Rss")), figure(cell("Pss")), figure(cell("Anonymous"))]);
    }
}
