//! The package on a host with systemd: installed, restarted, upgraded, removed, and the daemon under exactly its unit.
//!
//! Each test boots a container of its own (`tests/systemd/container`, needs root) and installs the packages that
//! `tests/systemd/packages` has built; `tests/run` does both, and what cannot run fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "these are tests"
)]

mod cancel;
mod footprint;
mod host;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../whole/common/http.rs"]
mod http;
#[path = "../nasty/programs/mod.rs"]
mod nasty;
mod package;
mod programs;
mod reboot;
mod service;
mod unkillable;

use self::host::PATIENCE;
