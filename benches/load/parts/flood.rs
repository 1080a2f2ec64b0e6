//! NDJSON as fast as it goes, over one stream and over four, beside the ideal group commit of the same bytes.

use super::{Bench, limits, say};
use crate::flood;
use crate::results::figure;
use crate::servers::Server;
use crate::servers::actiond::{Actiond, Door, place};
use crate::table;

pub const STREAMS: [u64; 2] = [1, 4];

pub fn measure(bench: &mut Bench) {
    let settings = &bench.settings;
    let mut daemon = Actiond::new(place(&settings.dir, "lines"), Door::Lines);
    for round in 1..=settings.rounds {
        say(&format!("flood: round {round}"));
        bench.results.add("ideal group commit", "flood", limits::SUBMITTERS, limits::ideal(settings));
        for streams in STREAMS {
            daemon.fresh();
            let (count, spent) = flood::timed(&daemon, streams, settings.warm(), settings.time);
            daemon.rest();
            let name = daemon.name();
            bench.results.add(name, "flood", streams, spent.per_second(count));
            bench.results.add(name, "flood.cpu_us", streams, spent.each(count));
            bench.results.add(name, "flood.server_percent", streams, spent.server_share());
            bench.results.add(name, "flood.generator_percent", streams, spent.own_share());
        }
    }
    let results = &bench.results;
    table::cross(results, "As fast as it goes, per s", "flood", "streams", |who, at| {
        let rate = figure(results.median(who, "flood", at)?);
        let Some(each) = results.median(who, "flood.cpu_us", at) else { return Some(rate) };
        let server = results.median(who, "flood.server_percent", at)?;
        let own = results.median(who, "flood.generator_percent", at)?;
        Some(format!("{rate} (CPU {} us; {server:.0} + {own:.0} %)", figure(each)))
    });
}
