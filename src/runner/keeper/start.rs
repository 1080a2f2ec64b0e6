//! Starts the program of an attempt, from its keeper, with all that the two need to hear each other.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;

use super::leaf::Leaf;
use super::pipes::pipe;
use super::user;
use super::words::Order;
use crate::action::Program;
use crate::crash_point::crash_point;
use crate::runner::open_files;
use crate::runner::proc::{self, Process};
use crate::runner::spawn::{self, Child};

/// Where the keeper is itself, so that it keeps no file system busy.
const ROOT: &str = "/";

/// A program that runs, or has ended already, and the keeper's ends of its descriptors. None of them blocks.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) program: Program,
    pub(super) feed: OwnedFd,
    pub(super) outputs: [OwnedFd; 2],
    pub(super) reports: File,
    /// The program's cgroup.
    pub(super) leaf: Option<Leaf>,
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

/// Starts it with pipes as its descriptors 0 to 2, and the reports' FIFO as 3.
///
/// # Errors
///
/// Nothing was started, although a shortage was waited out for a while.
pub(super) fn start(order: &Order) -> Result<Started, Fault> {
    let argv =
        c_strings(&order.user.as_ref().map_or_else(|| order.argv.clone(), |user| user::argv(order, user)))?;
    let program = argv.first().cloned().ok_or_else(|| Fault::new("no program is configured"))?;
    // In a child that has not executed anything yet, this is the keeper's own binary.
    let program = if order.user.is_some() { c"/proc/self/exe".to_owned() } else { program };
    let opened = proc::while_short(|| open(order));
    let (ours, descriptors) = opened
        .map_err(|error| Fault::of("cannot open what its reports and its output go through", &error))?;
    let limited = open_files::set_soft(order.open_files);
    limited.map_err(|error| Fault::of("cannot set the limit on open files", &error))?;
    if order.user.is_none() {
        let what = || format!("cannot change into the directory {}", order.cwd.display());
        std::env::set_current_dir(&order.cwd).map_err(|error| Fault::of(&what(), &error))?;
    }
    let start = spawn::Order { program, argv, env: c_strings(&order.env)?, cwd: None, descriptors };
    let (leaf, spawned) = Leaf::around(|| proc::while_short(|| spawn::start(&start)));
    // Cannot fail: every process may search its root directory.
    let _ = std::env::set_current_dir(ROOT);
    let what = || format!("cannot start {}", order.argv.first().map_or("", String::as_str));
    let child = spawned.map_err(|error| Fault::of(&what(), &error))?;
    crash_point("keeper_started_program");
    let process = Process::read(child.number()).ok().flatten();
    // It has a line in /proc even if it has ended, until it is reaped.
    let program = process.map_or(Program { pid: child.number(), start_ticks: 0 }, |process| process.program);
    let (feed, outputs, reports) = ours;
    Ok(Started { child, program, feed, outputs, reports, leaf })
}

/// The keeper's ends, and the program's in the order of their numbers.
type Ends = ((OwnedFd, [OwnedFd; 2], File), Vec<OwnedFd>);

fn open(order: &Order) -> io::Result<Ends> {
    // Open for reading and writing at both ends: so opening and writing never wait, and never fail, for want of a reader.
    let mut both = OpenOptions::new();
    both.read(true).write(true);
    let its_reports = both.open(order.fifo())?;
    let reports = both.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(order.fifo())?;
    let (its_input, feed) = pipe(OFlags::empty())?;
    rustix::fs::fcntl_setfl(&feed, OFlags::NONBLOCK)?;
    let (out, its_out) = pipe(OFlags::NONBLOCK)?;
    let (err, its_err) = pipe(OFlags::NONBLOCK)?;
    Ok(((feed, [out, err], reports), vec![its_input, its_out, its_err, its_reports.into()]))
}

fn c_strings(words: &[String]) -> Result<Vec<CString>, Fault> {
    let all = words.iter().map(|word| CString::new(word.as_bytes()));
    all.collect::<Result<_, _>>().map_err(|_| Fault::new("an argument holds a NUL character"))
}
