//! Disk under churn: round after round of actions that are submitted, run and, but for the last thousand, forgotten.

use super::{Bench, say};
use crate::flood;
use crate::process;
use crate::results::figure;
use crate::servers::Server;
use crate::servers::actiond::{Actiond, Door, place};
use crate::table;

pub fn measure(bench: &mut Bench) {
    let (rounds, count) = bench.settings.churn;
    let handler = "[[handler]]\naction = \"*\"\nuse = \"noop\"\nrecovery = \"rerun\"\n";
    let retention = "[retention]\ncount = 1000\n";
    let mut daemon =
        Actiond::with(place(&bench.settings.dir, "churn"), Door::Lines, 64, handler, retention).running();
    daemon.fresh();
    for round in 1..=rounds {
        say(&format!("churn: round {round}"));
        flood::fill(&daemon, 2, round * count, count, true);
        daemon.drain();
        process::settle(daemon.pid(), &daemon.dir());
        bench.results.add("actiond", "churn", round, process::on_disk(&daemon.dir()) as f64);
    }
    let title = format!("Disk in MB after rounds of {count} actions, 1,000 of them kept");
    table::cross(&bench.results, &title, "churn", "round", |who, at| {
        bench.results.median(who, "churn", at).map(|bytes| figure(bytes / 1e6))
    });
}
