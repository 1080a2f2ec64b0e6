//! Ends every program that an earlier run of the daemon left behind.
//!
//! A daemon may die between starting a program and making its pid durable. So programs are not only known by what
//! the store says, but also by the mark that each of their processes carries in its environment. Called once at a
//! start, before anything is claimed: until then no resource may be given to another action.
//!
//! A program that is started without a gate may even be on its way to its first instruction when the daemon dies. Until it
//! executes its program it holds a copy of the store's lock, so no other daemon gets here; from then on it carries
//! its mark, but for the moment in which the kernel has taken its old memory and not yet filled the new one. Such a
//! process is waited for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::adoption::Survey;
use super::proc::{self, Process};
use super::tree::{Search, describe};
use crate::action::ActionId;

/// The environment variable that every process of an attempt carries: `STORE_ID/ACTION/ATTEMPT`.
pub const MARK: &str = "ACTIOND_MARK";

/// The value of [`MARK`] for one attempt.
#[must_use]
pub fn mark(store_id: &str, id: ActionId, attempt: u32) -> String {
    format!("{store_id}/{id}/{attempt}")
}

/// Longest wait for a process within execve(2); one that hides its command line and environment looks the same.
const BECOMING_MAX: Duration = Duration::from_secs(5);

/// Returns when the mark of every process can be read.
fn await_becoming() {
    let until = Instant::now() + BECOMING_MAX;
    // What appears meanwhile was not started by a daemon that is dead.
    let Ok(mut all) = proc::all() else { return };
    loop {
        all.retain(Process::is_becoming);
        if all.is_empty() {
            return;
        }
        if Instant::now() >= until {
            tracing::warn!(processes = describe(&all), "the environment of a process cannot be read");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends all programs that carry this store's mark, or that the survey knows to belong to an action, with all their
/// descendants: SIGTERM, after `patience_ms` SIGKILL. Returns the actions of which something is still alive
/// 5 s after that, with what.
///
/// A keeper that still waits at its gate ends by itself, as the other end of its gate died with the daemon. Programs of
/// attempts that will be adopted are let alone: their keepers go on.
///
/// Blocks. Called once at a start, before anything is claimed.
#[must_use]
pub fn end_all(store_id: &str, survey: &Survey, patience_ms: u64) -> HashMap<ActionId, String> {
    await_becoming();
    let search = Search {
        mark: format!("{store_id}/"),
        known: survey.known.clone(),
        below: None,
        spared: survey.adoptable.clone(),
        since_ticks: 0,
    };
    let survivors = match search.end(Duration::from_millis(patience_ms), None) {
        Ok(survivors) => survivors,
        Err(error) => {
            // Without /proc nothing can be said of any program: all that are known may be alive.
            let cannot = format!("cannot look for processes in /proc: {error}");
            return survey.known.iter().map(|(id, _)| (*id, cannot.clone())).collect();
        }
    };
    let mut by_action: HashMap<ActionId, Vec<Process>> = HashMap::new();
    for (id, process) in survivors {
        by_action.entry(id).or_default().push(process);
    }
    by_action.into_iter().map(|(id, processes)| (id, describe(&processes))).collect()
}
