//! Starts the program of an attempt, from its keeper.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;

use super::words::Order;
use crate::action::Program;
use crate::crash_point::crash_point;
use crate::runner::open_files;
use crate::runner::proc::{self, Process};
use crate::runner::spawn::{self, Child};

/// Where the keeper is itself, so that it keeps no file system busy.
const ROOT: &str = "/";

/// A program that runs, or has ended already.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) program: Program,
}

/// Why nothing was started.
pub(super) struct Fault {
    /// In words, for people.
    pub(super) told: String,
    /// The host is short of something that running programs give back when they end.
    pub(super) was_short: bool,
}

impl Fault {
    fn of(what: &str, error: &io::Error) -> Self {
        Self { told: format!("{what}: {error}"), was_short: proc::is_shortage(error) }
    }

    fn new(told: &str) -> Self {
        Self { told: told.to_owned(), was_short: false }
    }
}

/// Starts it with these as its descriptors 0 to 2, and the reports' FIFO as 3.
///
/// # Errors
///
/// Nothing was started, although a shortage was waited out for a while.
pub(super) fn start(order: &Order, pipes: [OwnedFd; 3]) -> Result<Started, Fault> {
    let argv = c_strings(&order.argv)?;
    let program = argv.first().cloned().ok_or_else(|| Fault::new("no program is configured"))?;
    // Open for reading too: so opening and writing never wait, and never fail, for want of a reader.
    let reports = OpenOptions::new().read(true).write(true).open(order.fifo());
    let reports = reports.map_err(|error| Fault::of("cannot open the FIFO of its reports", &error))?;
    let mut descriptors = Vec::from(pipes);
    descriptors.push(reports.into());
    let limited = open_files::set_soft(order.open_files);
    limited.map_err(|error| Fault::of("cannot set the limit on open files", &error))?;
    let what = || format!("cannot change into the directory {}", order.cwd.display());
    std::env::set_current_dir(&order.cwd).map_err(|error| Fault::of(&what(), &error))?;
    let start = spawn::Order { program, argv, env: c_strings(&order.env)?, cwd: None, descriptors };
    let spawned = proc::while_short(|| spawn::start(&start));
    // Cannot fail: every process may search its root directory.
    let _ = std::env::set_current_dir(ROOT);
    let what = || format!("cannot start {}", order.argv.first().map_or("", String::as_str));
    let child = spawned.map_err(|error| Fault::of(&what(), &error))?;
    crash_point("keeper_started_program");
    let process = Process::read(child.number()).ok().flatten();
    // It has a line in /proc even if it has ended, until it is reaped.
    let program = process.map_or(Program { pid: child.number(), start_ticks: 0 }, |process| process.program);
    Ok(Started { child, program })
}

fn c_strings(words: &[String]) -> Result<Vec<CString>, Fault> {
    let all = words.iter().map(|word| CString::new(word.as_bytes()));
    all.collect::<Result<_, _>>().map_err(|_| Fault::new("an argument holds a NUL character"))
}
