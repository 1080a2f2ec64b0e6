//! Programs that do not want to end, and what cannot be ended, run in plain sessions by the real daemon.
//!
//! A crate of its own, so that nothing else runs beside it: fork bombs take the processor from everybody, and how long an end
//! takes is measured. Needs root to freeze cgroups and file systems, and to run fork bombs as another user.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "these are tests: a failed assumption is a failed test, and what it was belongs on the terminal"
)]

#[expect(dead_code, unused_imports, reason = "the crate `whole` needs more of it")]
#[path = "../whole/common/mod.rs"]
mod common;
mod programs;
mod unkillable;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::common::{Daemon, Home, demand_root};
use crate::programs::Stage;

impl Stage for Daemon<'_> {
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = Daemon::ask(self, method, path, body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
        answer.json()
    }

    fn has_units(&self) -> bool {
        false
    }
}

/// One test of this crate at a time.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn nothing_of_a_nasty_program_is_alive_after_its_end_in_a_session() {
    let _alone = alone();
    demand_root("freeze cgroups and to run fork bombs as another user");
    let home = Home::new();
    let dir = home.path("");
    // Another user runs the scripts.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    for (path, text) in programs::scripts(&dir) {
        std::fs::write(&path, text).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let home = home.with_tables(&programs::tables(&dir));
    let daemon = Daemon::start(&home);
    programs::play_all(&daemon);
}
