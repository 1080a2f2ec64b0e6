//! What the environment says about a run; the defaults are those of a full one.

use std::path::PathBuf;
use std::time::Duration;

/// Read once, at the start.
pub struct Settings {
    /// Measurements of each cell; the median counts. `ROUNDS`.
    pub rounds: u64,
    /// Length of one timed measurement. `SECS`, fractions allowed.
    pub time: Duration,
    /// Numbers of connections. `CONNECTIONS`, separated by spaces.
    pub connections: Vec<u64>,
    /// Lengths of the queue for the costs of a backlog. `BACKLOG`, ascending.
    pub backlog: Vec<u64>,
    /// Lengths of the queue for starts, memory and disk. `WAITING`, ascending.
    pub waiting: Vec<u64>,
    /// Rounds of churn, and actions in each. `CHURN`.
    pub churn: (u64, u64),
    /// Names of the peers to measure beside. `PEERS`: all by default, empty for none.
    pub peers: Vec<String>,
    /// Where daemons and peers keep their files: a directory on a real disk. `BENCH_DIR`.
    pub dir: PathBuf,
}

/// The servers that know how to be measured, in the order of the tables.
pub const PEERS: &str = "redis-list redis-stream beanstalkd postgres";

impl Settings {
    pub fn read() -> Self {
        let churn = list("CHURN", "20 100000");
        Self {
            rounds: list("ROUNDS", "5")[0],
            time: Duration::from_secs_f64(text("SECS", "2").parse().expect("SECS is no number")),
            connections: list("CONNECTIONS", "1 16 64 256 1024"),
            backlog: list("BACKLOG", "1000 100000 1000000 5000000"),
            waiting: list("WAITING", "100000 1000000"),
            churn: (churn[0], churn[1]),
            peers: text("PEERS", PEERS).split_whitespace().map(str::to_owned).collect(),
            dir: PathBuf::from(text("BENCH_DIR", "/var/tmp"))
                .join(format!("actiond-bench-{}", std::process::id())),
        }
    }

    /// Thrown away at the begin of each timed measurement.
    pub fn warm(&self) -> Duration {
        self.time / 4
    }
}

fn text(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn list(name: &str, default: &str) -> Vec<u64> {
    let text = text(name, default);
    text.split_whitespace()
        .map(|word| word.parse().unwrap_or_else(|_| panic!("{name}: {word} is no number")))
        .collect()
}
