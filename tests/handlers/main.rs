//! Every built-in action type through the socket of the real daemon, against the real component.
//!
//! Each type on each engine is a [`Subject`]: how to make the world ready, what to ask for, and what the world has to look
//! like afterwards. What is tried with it is the same for all ([`cases`]), and a table at the end names type by case.
//! Nothing is skipped: a component that cannot be started fails the run.
//!
//! `cargo test --features crash-points --test handlers [-- WORD...]` runs all, or the subjects with a word in their name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test, although it has a harness of its own"
)]

#[path = "../whole/common/mod.rs"]
#[expect(dead_code, reason = "made for the tests of the whole")]
mod common;

mod caches;
mod cases;
mod containers;
mod databases;
mod deploy;
mod hosts;
mod identifiers;
mod maintenance;
mod mariadb;
mod processes;
mod replication;
mod secrets;
mod servers;
mod subject;
mod table;
mod webhook;

use std::process::ExitCode;
use std::sync::Mutex;

use subject::Subject;
use table::Table;

/// Families run beside each other, each against servers of its own; what it starts it stops. Long ones come first.
const FAMILIES: &[(&str, Each)] = &[
    ("docker", containers::docker),
    ("replication-mariadb", replication::mariadb::each),
    ("hosts", hosts::each),
    ("databases", databases::each),
    ("replication-postgresql/promote", replication::postgres::promote),
    ("replication-postgresql/basebackup", replication::postgres::basebackup),
    ("mariadb", mariadb::each),
    ("replication-postgresql/disable", replication::postgres::disable),
    ("replication-postgresql/rewind", replication::postgres::rewind),
    ("services", deploy::services::each),
    ("deploy", deploy::each),
    ("caches", caches::each),
    ("maintenance", maintenance::each),
    ("processes", processes::each),
    ("podman", containers::podman),
    ("webhook", webhook::each),
];

/// Families that run at a time: more of them only wait for the same disk.
const AT_A_TIME: usize = 5;

/// Gives each subject of a family to what tries it.
type Each = fn(&mut dyn FnMut(&dyn Subject));

/// Whether a word is that family, or the part of its name before a slash.
fn means(word: &str, family: &str) -> bool {
    word == family || family.split('/').next() == Some(word)
}

fn main() -> ExitCode {
    if let [_, verb, socket, instance] = std::env::args().collect::<Vec<_>>().as_slice()
        && verb == "serve-release"
    {
        return deploy::serve(socket.as_ref(), instance);
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    // Where families alone are meant, the servers of the others are not even started.
    let is_family = |word: &String| FAMILIES.iter().any(|(family, _)| means(word, family));
    let only_families = !words.is_empty() && words.iter().all(is_family);
    let table = Mutex::new(Table::default());
    let waiting = Mutex::new(FAMILIES.iter());
    let next = || waiting.lock().expect("the families").next();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some((family, each)) = next() {
                    if only_families && !words.iter().any(|word| means(word, family)) {
                        continue;
                    }
                    each(&mut |subject| {
                        let name = subject.name();
                        if words.is_empty()
                            || words.iter().any(|word| name.contains(word.as_str()) || means(word, family))
                        {
                            cases::run(subject, &table);
                        }
                    });
                }
            });
        }
    });
    table.into_inner().expect("the table").conclude()
}
