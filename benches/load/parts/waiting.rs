//! What waits costs memory and disk, and time at a start after `kill -9`.
//!
//! Idle memory is that of a fresh server; with a backlog it is looked at after the server has come to rest. A start is
//! measured from the exec of the server until the first of what waits was handed out. Bodies are incompressible; for
//! actiond the disk is looked at with plain ones too.

use super::{Bench, say};
use crate::flood;
use crate::process;
use crate::results::figure;
use crate::servers::actiond::{Actiond, Door, place};
use crate::servers::{self, Server};
use crate::table;

pub fn measure(bench: &mut Bench) {
    let settings = &bench.settings;
    let mut servers: Vec<Box<dyn Server>> =
        vec![Box::new(Actiond::new(place(&settings.dir, "lines"), Door::Lines))];
    let (peers, missing) = servers::peers(settings);
    servers.extend(peers);
    for server in &mut servers {
        say(&format!("waiting: {} idle", server.name()));
        server.fresh();
        process::settle(server.pid(), &server.dir());
        bench.results.add(server.name(), "memory", 0, process::memory(server.pid()) as f64);
        server.rest();
    }
    for count in &bench.settings.waiting {
        for server in &mut servers {
            say(&format!("waiting: {} is filled with {count}", server.name()));
            server.fresh();
            server.fill(*count);
            let mut add =
                |what: &str, value: u64| bench.results.add(server.name(), what, *count, value as f64);
            add("memory", process::memory(server.pid()));
            add("disk", process::on_disk(&server.dir()) / count);
            server.let_go();
            server.kill();
        }
        for round in 1..=bench.settings.rounds {
            for server in &mut servers {
                say(&format!("waiting: {} starts with {count}, round {round}", server.name()));
                let took = server.start_to_first();
                server.kill();
                bench.results.add(server.name(), "start_s", *count, took.as_secs_f64());
            }
        }
    }
    drop(servers);
    plain(bench);
    print(bench, &missing);
}

/// Bytes on disk with bodies that could be compressed.
fn plain(bench: &mut Bench) {
    let Some(count) = bench.settings.waiting.iter().max().copied() else { return };
    say(&format!("waiting: actiond is filled with {count}, plain bodies"));
    let mut daemon = Actiond::new(place(&bench.settings.dir, "plain"), Door::Lines);
    daemon.fresh();
    flood::fill(&daemon, 2, 0, count, false);
    process::settle(daemon.pid(), &daemon.dir());
    bench.results.add(
        "actiond, plain bodies",
        "disk",
        count,
        (process::on_disk(&daemon.dir()) / count) as f64,
    );
}

fn print(bench: &Bench, missing: &[String]) {
    let results = &bench.results;
    let cell = |what: &'static str, unit: f64| {
        move |who: &str, at: u64| results.median(who, what, at).map(|value| figure(value / unit))
    };
    table::cross(results, "Memory in MB (proportional set size)", "memory", "waiting", cell("memory", 1e6));
    table::cross(
        results,
        "Bytes on disk for each that waits, of 512 bytes",
        "disk",
        "waiting",
        cell("disk", 1.0),
    );
    table::cross(
        results,
        "Start after kill -9 until the first is handed out, s",
        "start_s",
        "waiting",
        cell("start_s", 1.0),
    );
    for line in missing {
        println!("\n{line}");
    }
}
