//! Durable submissions over connections: each submits, waits for the durable answer and submits again.
//!
//! Round by round every server gets its turn at each number of connections, from empty files each time; nothing runs
//! what is submitted.

use std::time::Duration;

use super::{Bench, say};
use crate::closed_loop::{self, Plan};
use crate::results::figure;
use crate::servers::actiond::{Actiond, Door, place};
use crate::servers::{self, Server};
use crate::table;

pub fn measure(bench: &mut Bench) {
    let settings = &bench.settings;
    let mut servers: Vec<Box<dyn Server>> = vec![
        Box::new(Actiond::new(place(&settings.dir, "lines"), Door::Lines)),
        Box::new(Actiond::new(place(&settings.dir, "requests"), Door::Requests)),
    ];
    let (peers, missing) = servers::peers(settings);
    servers.extend(peers);
    for connections in &settings.connections {
        for round in 1..=settings.rounds {
            say(&format!("submit: {connections} connections, round {round}"));
            for server in &mut servers {
                server.fresh();
                let plan = Plan {
                    warm: settings.warm(),
                    time: settings.time,
                    count_max: u64::MAX,
                    gate: None,
                    pid: server.pid(),
                };
                let told =
                    closed_loop::run(servers::submitters(server.as_ref(), *connections), Vec::new(), &plan);
                server.rest();
                let mut add =
                    |what: &str, value: f64| bench.results.add(server.name(), what, *connections, value);
                add("submit", told.spent.per_second(told.count));
                let wait = |share: f64| {
                    Duration::from_nanos(told.waits.value_at_quantile(share)).as_secs_f64() * 1e3
                };
                add("submit.p50_ms", wait(0.5));
                add("submit.p99_ms", wait(0.99));
                add("submit.p999_ms", wait(0.999));
                add("submit.cpu_us", told.spent.each(told.count));
                add("submit.server_percent", told.spent.server_share());
                add("submit.generator_percent", told.spent.own_share());
            }
        }
    }
    print(bench, &missing);
}

fn print(bench: &Bench, missing: &[String]) {
    let results = &bench.results;
    let median = |who: &str, what: &str, at: u64| results.median(who, what, at);
    table::cross(results, "Durable submits per s (p50 / p99 in ms)", "submit", "connections", |who, at| {
        let (rate, p50) = (median(who, "submit", at)?, median(who, "submit.p50_ms", at)?);
        let p99 = median(who, "submit.p99_ms", at)?;
        Some(format!("{} ({} / {})", figure(rate), figure(p50), figure(p99)))
    });
    let title = "Its CPU: us of the server for each submit; server and generator in percent of a core";
    table::cross(results, title, "submit", "connections", |who, at| {
        let (each, server) = (median(who, "submit.cpu_us", at)?, median(who, "submit.server_percent", at)?);
        let own = median(who, "submit.generator_percent", at)?;
        Some(format!("{}; {server:.0} + {own:.0}", figure(each)))
    });
    for line in missing {
        println!("\n{line}");
    }
}
