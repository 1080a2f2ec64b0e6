//! What actiond must reach beside its peers and its machine: each row with what was measured, the bound and the verdict.
//!
//! Ratios are those of medians; only what was measured in this run is judged. Where the run went less far than the
//! bound is meant for (fewer waiting, fewer rounds of churn), the row names how far.

use super::parts::limits;
use super::results::{Results, figure, whole};
use super::table;

const LINES: &str = "actiond NDJSON";
const REQUESTS: &str = "actiond HTTP";
const REDIS: [&str; 2] = ["Redis list", "Redis stream"];

struct Row {
    what: String,
    /// The figures behind the value.
    from: String,
    value: f64,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {}", figure(bound)),
            Self::AtMost(bound) => format!("at most {}", figure(bound)),
            Self::Below(bound) => format!("below {}", figure(bound)),
        }
    }
}

/// Prints the table of what this run allows to judge.
pub fn print(results: &Results) {
    let mut rows = Vec::new();
    submits(results, &mut rows);
    rates(results, &mut rows);
    waiting(results, &mut rows);
    flat(results, &mut rows);
    if rows.is_empty() {
        return;
    }
    let columns = ["what", "measured", "value", "bound", ""].map(str::to_owned);
    table::head("Against the bounds", &columns);
    for Row { what, from, value, bound } in rows {
        let verdict = if bound.is_met(value) { "met" } else { "**falls short**" };
        table::row(&[what, from, figure(value), bound.text(), verdict.to_owned()]);
    }
}

/// The best of some: its value and name.
fn best<'a>(
    results: &Results,
    who: &[&'a str],
    what: &str,
    at: u64,
    is_more_better: bool,
) -> Option<(f64, &'a str)> {
    let all = who.iter().filter_map(|who| Some((results.median(who, what, at)?, *who)));
    if is_more_better {
        all.max_by(|a, b| a.0.total_cmp(&b.0))
    } else {
        all.min_by(|a, b| a.0.total_cmp(&b.0))
    }
}

fn submits(results: &Results, rows: &mut Vec<Row>) {
    let mut add = |who: &str, at: u64, bound: f64| {
        let own = results.median(who, "submit", at)?;
        let (peer, name) = best(results, &REDIS, "submit", at, true)?;
        rows.push(Row {
            what: format!(
                "durable submits per s, {who}, {} connections, against the best of Redis",
                whole(at)
            ),
            from: format!("{} / {} ({name})", figure(own), figure(peer)),
            value: own / peer,
            bound: Bound::AtLeast(bound),
        });
        Some(())
    };
    for (at, bound) in [(1, 1.0), (64, 1.25), (256, 1.15), (1_024, 1.0)] {
        add(LINES, at, bound);
    }
    for (at, bound) in [(1, 1.0), (64, 0.8), (256, 0.7)] {
        add(REQUESTS, at, bound);
    }
    let waits = || {
        let own = results.median(LINES, "submit.p99_ms", 64)?;
        let (peer, name) = best(results, &REDIS, "submit.p99_ms", 64, false)?;
        Some(Row {
            what: "p99 of a durable submit at 64 connections, against the best of Redis".to_owned(),
            from: format!("{} ms / {} ms ({name})", figure(own), figure(peer)),
            value: own / peer,
            bound: Bound::AtMost(0.7),
        })
    };
    rows.extend(waits());
}

fn rates(results: &Results, rows: &mut Vec<Row>) {
    let flood = || {
        let own = results.median(LINES, "flood", 4)?;
        let ideal = results.median("ideal group commit", "flood", limits::SUBMITTERS)?;
        Some(Row {
            what: "NDJSON as fast as it goes, 4 streams, against the ideal group commit".to_owned(),
            from: format!("{} / {} per s", figure(own), figure(ideal)),
            value: own / ideal,
            bound: Bound::AtLeast(0.2),
        })
    };
    let lives = || {
        let own = results.median(LINES, "lives", 64)?;
        let peers: Vec<&str> =
            results.who("lives").into_iter().filter(|who| !who.starts_with("actiond")).collect();
        let (peer, name) = best(results, &peers, "lives", 64, true)?;
        Some(Row {
            what: "whole lives per s, 64 submitters, against the best peer".to_owned(),
            from: format!("{} / {} ({name})", figure(own), figure(peer)),
            value: own / peer,
            bound: Bound::AtLeast(1.5),
        })
    };
    let exec = || {
        let (own, name) = best(results, &["exec", "exec, adopt = false"], "spawn", 2, true)?;
        let bare = results.median("spawn and wait", "spawn", 2)?;
        Some(Row {
            what: format!("{name} of /bin/true, against a bare loop of two threads"),
            from: format!("{} / {} per s", figure(own), figure(bare)),
            value: own / bare,
            bound: Bound::AtLeast(0.75),
        })
    };
    let dispatch = || {
        let own = results.median(LINES, "dispatch_from_202.p50_ms", 0)?;
        let sync = results.median("fdatasync", "sync.p50_ms", 4_096)?;
        Some(Row {
            what: "from the 202 to the begin of the run, p50, in syncs of the disk".to_owned(),
            from: format!("{own:.3} ms / {sync:.3} ms"),
            value: own / sync,
            bound: Bound::AtMost(3.0),
        })
    };
    let keeper = || {
        let rss = results.median("keeper, its program is silent", "keeper.Rss", 0)?;
        Some(Row {
            what: "MB of memory (RSS) of a keeper that waits".to_owned(),
            from: String::new(),
            value: rss / 1e6,
            bound: Bound::Below(2.0),
        })
    };
    rows.extend([flood(), lives(), exec(), dispatch(), keeper()].into_iter().flatten());
}

fn waiting(results: &Results, rows: &mut Vec<Row>) {
    let Some(count) = results.over("start_s").last().copied() else { return };
    for peers in [&REDIS[..], &["PostgreSQL"][..]] {
        let start = || {
            let own = results.median(LINES, "start_s", count)?;
            let (peer, name) = best(results, peers, "start_s", count, false)?;
            Some(Row {
                what: format!("start after kill -9 with {} waiting, against {name}", whole(count)),
                from: format!("{} s / {} s", figure(own), figure(peer)),
                value: own / peer,
                bound: Bound::Below(1.0),
            })
        };
        rows.extend(start());
    }
    let mut add = |what: String, value: Option<f64>, bound: f64| {
        let bound = Bound::Below(bound);
        rows.extend(value.map(|value| Row { what, from: String::new(), value, bound }));
    };
    let megabytes = |at: u64| Some(results.median(LINES, "memory", at)? / 1e6);
    add(format!("MB of memory with {} waiting", whole(count)), megabytes(count), 100.0);
    add("MB of memory, idle".to_owned(), megabytes(0), 12.0);
    let what = format!("bytes on disk for each of {} waiting, incompressible", whole(count));
    add(what, results.median(LINES, "disk", count), 1_200.0);
}

fn flat(results: &Results, rows: &mut Vec<Row>) {
    let lengths = results.over("backlog.submit");
    if let (Some(first), Some(last)) = (lengths.first(), lengths.last()) {
        for (name, what) in [("submits", "submit"), ("lives", "life")] {
            let row = || {
                let median = |at: u64| Some(figure(results.median(LINES, &format!("backlog.{what}"), at)?));
                let (first, last) = (*first, *last);
                Some(Row {
                    what: format!("{name} per s with {} waiting, against {}", whole(last), whole(first)),
                    from: format!("{} / {}", median(last)?, median(first)?),
                    value: results.median(LINES, &format!("backlog.{what}_ratio"), last)?,
                    bound: Bound::AtLeast(0.85),
                })
            };
            rows.extend(row());
        }
    }
    let churn = || {
        let last = results.over("churn").last().copied()?;
        let bytes = |at: u64| results.median("actiond", "churn", at);
        Some(Row {
            what: format!("disk after round {last} of churn, against round 3"),
            from: format!("{} MB / {} MB", figure(bytes(last)? / 1e6), figure(bytes(3)? / 1e6)),
            value: bytes(last)? / bytes(3)?,
            bound: Bound::AtMost(1.2),
        })
    };
    rows.extend(churn());
}
