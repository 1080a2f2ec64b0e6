//! What ended programs left behind, without a look at every process of the host.
//!
//! The daemon is a *subreaper* (`PR_SET_CHILD_SUBREAPER`, prctl(2)): when a process below it dies, the kernel gives its
//! children to the daemon, before the death can be seen. So once a program has ended, whatever it started and is
//! still alive is a child of the daemon, or descends from one. Nearly always there is none, and a single file
//! in `/proc` says so; only else all processes have to be looked at (`tree`).
//!
//! Orphans become children of the main thread, which starts no programs itself: its list in
//! `/proc/PID/task/PID/children` holds nobody else. The list is exact only while no entry is removed from it (proc(5)),
//! and that happens only by reaping, which happens only here, under a lock.
//!
//! A kernel without that file (`CONFIG_PROC_CHILDREN`) gets no subreaper: there the whole look is always taken.
//!
//! Called by `program` for each ended program, and once a second by the daemon, so that orphans which end while
//! their program runs do not stay zombies.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use super::leftovers::MARK;
use super::proc::{self, Process};

/// Taken at once of the list, which is nearly always empty.
const READ_BYTES: usize = 1 << 10;

/// One reader at a time, which also reaps.
static READING: Mutex<()> = Mutex::new(());

/// From here on orphans come to this process. False if the kernel cannot do that, or cannot tell of them.
pub(crate) fn are_adopted() -> bool {
    list().is_some()
}

/// The list of orphans, once they come here. It stays open: to find the file takes the kernel longer than to make the list,
/// which it does anew for every reader that begins at its beginning.
fn list() -> Option<&'static File> {
    static LIST: OnceLock<Option<File>> = OnceLock::new();
    let open = || {
        let pid = getpid().as_raw_nonzero();
        let list = File::open(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        set_child_subreaper(Some(getpid())).ok().map(|()| list)
    };
    LIST.get_or_init(open).as_ref()
}

/// Reads how orphans ended, so that their pids are free.
pub fn reap() {
    if let Some(list) = list() {
        let _ = living(list, None);
    }
}

/// Whether nothing is a child of this process but the one with that pid, which is not reaped; others that have ended are.
/// False also means "unknown". For a keeper, to which everything comes that its program leaves.
pub(crate) fn none_but(pid: u32) -> io::Result<bool> {
    let Some(list) = list() else { return Ok(false) };
    Ok(living(list, Some(pid))?.is_empty())
}

/// Whether nothing is alive that an ended program can have started. False also means "unknown".
///
/// `since_ticks` is when the program started: what was an orphan's life before that is not its doing.
pub(crate) fn none_of(mark: &str, since_ticks: impl FnOnce() -> io::Result<u64>) -> io::Result<bool> {
    let Some(list) = list() else { return Ok(false) };
    let orphans = living(list, None)?;
    if orphans.is_empty() {
        return Ok(true);
    }
    let since_ticks = since_ticks()?;
    for orphan in orphans {
        if Process::read(orphan)?.is_some_and(|orphan| orphan.program.start_ticks >= since_ticks)
            && !is_anothers(orphan, mark)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether it carries the mark of another attempt: then what it has started is that attempt's too.
fn is_anothers(orphan: u32, mark: &str) -> io::Result<bool> {
    let Some(carried) = proc::environment(orphan, MARK)? else { return Ok(false) };
    let store = mark.split_once('/').map_or(mark, |(store, _)| store);
    Ok(carried != mark && carried.strip_prefix(store).is_some_and(|rest| rest.starts_with('/')))
}

/// The orphans that have not ended; the others are reaped. `but` is none of them.
fn living(list: &File, but: Option<u32>) -> io::Result<Vec<u32>> {
    let _reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut text, mut part) = (Vec::new(), [0; READ_BYTES]);
    while let length @ 1.. = list.read_at(&mut part, text.len() as u64)? {
        text.extend_from_slice(part.get(..length).unwrap_or_default());
    }
    let mut living = Vec::new();
    let text = String::from_utf8_lossy(&text);
    for pid in text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
        if but == Some(pid) {
            continue;
        }
        let Some(id) = proc::pid(pid) else { continue };
        match waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            // Reaped.
            Ok(Some(_)) | Err(Errno::CHILD) => {}
            Ok(None) | Err(_) => living.push(pid),
        }
    }
    Ok(living)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn orphans_are_seen_with_their_mark_and_reaped_when_they_end() {
        assert!(are_adopted(), "this kernel does not tell of orphans");
        let mark = format!("test-{}/7/1", std::process::id());
        let script = "sleep 1000 >&- 2>&- & echo $!";
        let output = Command::new("/bin/sh").args(["-c", script]).env(MARK, &mark).output().unwrap();
        let orphan: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let list = list().unwrap();
        assert!(living(list, None).unwrap().contains(&orphan));
        let process = Process::read(orphan).unwrap().unwrap();
        assert_eq!(process.parent, std::process::id());
        assert!(!none_of(&mark, || Ok(process.program.start_ticks)).unwrap());
        assert!(!is_anothers(orphan, &mark).unwrap());
        assert!(is_anothers(orphan, &mark.replace("/7/1", "/8/1")).unwrap());
        assert!(!is_anothers(orphan, "other/8/1").unwrap(), "another store's mark says nothing");
        assert!(proc::signal(process.program, rustix::process::Signal::KILL).unwrap());
        while living(list, None).unwrap().contains(&orphan) {
            std::thread::yield_now();
        }
        assert_eq!(Process::read(orphan).unwrap(), None, "it is not a zombie");
    }
}
