//! Tests of the real binary over its real doors: one module for each subject, one test for each promise.
//!
//! Every test starts the daemon in a home of its own and waits for its `READY=1`; nothing sleeps and hopes.
//! One crate, so that the whole is linked once. `tests/run` runs them; one subject alone:
//! `cargo test --features crash-points --test whole recovery::`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "these are tests: a failed assumption is a failed test, and what it was belongs on the terminal"
)]

mod cli;
mod common;
mod damage;
mod direct;
mod disk_full;
mod example;
#[cfg(feature = "crash-points")]
mod gate;
mod hostile;
mod keeper;
mod life;
mod limits;
mod overlap;
mod power;
mod programs;
mod readme;
mod reboot;
mod recovery;
mod service;
mod strace;
mod stream;
mod upgrade;
mod words;
