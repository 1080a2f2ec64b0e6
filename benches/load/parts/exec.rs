//! Whole lives of actions that are programs (`exec` of /bin/true), beside the least that a program costs here: two
//! threads that start it and wait for it, over and over, with nothing else.
//!
//! The actions wait already when the clock starts: what is measured is the durable claim, the program and the durable
//! outcome. Both kinds of program are: those behind a keeper, that outlive the daemon, and short ones (`adopt = false`).

use super::{Bench, limits, say};
use crate::flood;
use crate::process::Watch;
use crate::results::figure;
use crate::servers::Server;
use crate::servers::actiond::{Actiond, Door, place};
use crate::table;

/// What a queue has by default.
const CONCURRENCY: u64 = 8;

pub fn measure(bench: &mut Bench) {
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
