//! Whole lives: submitted by 64 connections, claimed, carried out (by doing nothing), reported as done; each step durable.
//!
//! Submitters submit for a while; the clock stops when the last has ended. actiond carries out with `noop`; on the
//! peers 64 workers take from the queue and delete.

use std::time::Duration;

use super::{Bench, say};
use crate::closed_loop::{self, Plan};
use crate::process::Watch;
use crate::results::figure;
use crate::servers::actiond::{Actiond, Door, place};
use crate::servers::{self, Server};
use crate::table;

const SUBMITTERS: u64 = 64;

pub fn measure(bench: &mut Bench) {
    let mut lines = Actiond::new(place(&bench.settings.dir, "lines"), Door::Lines).running();
    let mut requests = Actiond::new(place(&bench.settings.dir, "requests"), Door::Requests).running();
    let (mut peers, missing) = servers::peers(&bench.settings);
    for round in 1..=bench.settings.rounds {
        say(&format!("lives: round {round}"));
        for daemon in [&mut lines, &mut requests] {
            one(bench, daemon, Actiond::drain);
        }
        for peer in &mut peers {
            one(bench, peer, |_| ());
        }
    }
    let results = &bench.results;
    table::cross(
        results,
        "Whole lives per s (us of the server's CPU each)",
        "lives",
        "submitters",
        |who, at| {
            let (rate, each) = (results.median(who, "lives", at)?, results.median(who, "lives.cpu_us", at)?);
            Some(format!("{} ({})", figure(rate), figure(each)))
        },
    );
    for line in missing {
        println!("\n{line}");
    }
}

fn one<S: AsServer>(bench: &mut Bench, server: &mut S, drain: impl Fn(&S)) {
    server.as_server().fresh();
    let now = server.as_server();
    let (submitters, workers) = (servers::submitters(now, SUBMITTERS), servers::workers(now, SUBMITTERS));
    let (pid, name) = (now.pid(), now.name());
    let watch = Watch::begin(pid);
    let plan = Plan { warm: Duration::ZERO, time: bench.settings.time, count_max: u64::MAX, gate: None, pid };
    let told = closed_loop::run(submitters, workers, &plan);
    drain(server);
    let spent = watch.end();
    drop(told.links);
    server.as_server().rest();
    bench.results.add(name, "lives", SUBMITTERS, spent.per_second(told.submitted));
    bench.results.add(name, "lives.cpu_us", SUBMITTERS, spent.each(told.submitted));
    bench.results.add(name, "lives.generator_percent", SUBMITTERS, spent.own_share());
}

/// A daemon and a peer behind a pointer are measured alike.
trait AsServer {
    fn as_server(&mut self) -> &mut dyn Server;
}

impl AsServer for Actiond {
    fn as_server(&mut self) -> &mut dyn Server {
        self
    }
}

impl AsServer for Box<dyn Server> {
    fn as_server(&mut self) -> &mut dyn Server {
        self.as_mut()
    }
}
