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

/// Families run beside each other, each against servers of its own; what it starts it stops.
const FAMILIES: &[(&str, Each)] = &[
    ("docker", containers::docker),
    ("podman", containers::podman),
    ("databases", databases::each),
    ("deploy", deploy::each),
    ("services", deploy::services::each),
    ("hosts", hosts::each),
    ("mariadb", mariadb::each),
    ("processes", processes::each),
    ("replication-mariadb", replication::mariadb::each),
    ("replication-postgresql/disable", replication::postgres::disable),
    ("replication-postgresql/promote", replication::postgres::promote),
    ("replication-postgresql/rewind", replication::postgres::rewind),
    ("replication-postgresql/basebackup", replication::postgres::basebackup),
    ("caches", caches::each),
    ("maintenance", maintenance::each),
    ("webhook", webhook::each),
];

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
    std::thread::scope(|scope| {
        for (family, each) in FAMILIES {
            if only_families && !words.iter().any(|word| means(word, family)) {
                continue;
            }
            let (words, table) = (&words, &table);
            let run = move || {
                each(&mut |subject| {
                    let name = subject.name();
                    if words.is_empty()
                        || words.iter().any(|word| name.contains(word.as_str()) || means(word, family))
                    {
                        cases::run(subject, table);
                    }
                });
            };
            std::thread::Builder::new()
                .name((*family).to_owned())
                .spawn_scoped(scope, run)
                .expect("a thread");
        }
    });
    table.into_inner().expect("the table").conclude()
}
