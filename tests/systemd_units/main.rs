//! Units of a real systemd 252 or later, the one in `tests/systemd/container`: asked from outside over its bus, and
//! from inside as an unprivileged user, and as a service. Needs root, and fails without.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod bus;
mod container;
mod life;
mod rights;
mod settings;

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use actiond::action::ActionId;
use actiond::runner::units::{UnitPlan, UnitSettings, UnitStarted, Units, unit_name};

const BOUND: Duration = Duration::from_secs(30);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < BOUND, "{what}: not within {BOUND:?}");
        std::thread::yield_now();
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        tokio::time::timeout(BOUND * 2, future).await.expect("an answer of systemd within a minute")
    })
}

/// A script in a unit.
fn plan(id: u64, script: &str) -> UnitPlan {
    UnitPlan {
        name: unit_name(ActionId(id), 1, false),
        description: format!("Action {id}"),
        argv: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        ..UnitPlan::default()
    }
}

fn settings(toml: &str) -> Result<UnitSettings, Vec<String>> {
    UnitSettings::new(&toml::from_str(toml).unwrap())
}

/// What a unit's standard input is the other end of.
fn socket() -> (UnixStream, OwnedFd) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_read_timeout(Some(BOUND)).unwrap();
    (here, there.into())
}

async fn start(units: &Units, plan: &UnitPlan) -> (UnixStream, UnitStarted) {
    let (here, there) = socket();
    let started = units.start(plan, there).await.unwrap_or_else(|error| panic!("{}: {error}", plan.name));
    (here, started)
}

fn line(from: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).expect("a line in time") == 1 && byte != [b'\n'] {
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}
