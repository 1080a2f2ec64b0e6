//! The limit on open files (`RLIMIT_NOFILE`, getrlimit(2)): raised for the daemon, as it was for its programs.
//!
//! Every connection is a descriptor, and the soft limit of 1,024 that processes usually get is there for programs
//! that still use select(2), not for a server: the daemon takes all that the hard limit allows. Its programs must not
//! inherit that (select(2) breaks above 1,023, and some close every possible descriptor one by one), so each
//! keeper goes back to the soft limit that the daemon was started with. A program that is started without a keeper gets
//! that limit from the daemon, at once after its start.
//!
//! Called at the daemon's start, by `program` and by `keeper`.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The soft limit that this process was started with, once it was raised.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit to the hard one, and gives it.
///
/// # Errors
///
/// The kernel's; the limit is then as it was.
pub fn raise() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let _ = BEFORE.set(number(limit.current));
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(number(limit.maximum))
}

/// The soft limit for programs: what this process was started with.
pub(crate) fn for_programs() -> u64 {
    BEFORE.get().copied().unwrap_or_else(|| number(getrlimit(Resource::Nofile).current))
}

/// Sets the soft limit of this process, as far as the hard one allows.
pub(crate) fn set_soft(soft: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let soft = soft.min(number(limit.maximum));
    let current = (soft < u64::MAX).then_some(soft);
    Ok(setrlimit(Resource::Nofile, Rlimit { current, ..limit })?)
}

/// Gives a program that was just started the soft limit that this process was started with. Not possible, and left
/// out, if the program has got another user by now (setuid).
pub(crate) fn give_back(program: Pid) {
    let limit = getrlimit(Resource::Nofile);
    if let Some(soft) = BEFORE.get()
        && number(limit.current) != *soft
    {
        let current = (*soft < u64::MAX).then_some(*soft);
        let _ = prlimit(Some(program), Resource::Nofile, Rlimit { current, ..limit });
    }
}

/// No limit is the largest number.
fn number(limit: Option<u64>) -> u64 {
    limit.unwrap_or(u64::MAX)
}
