//! What `/proc` says of processes, and signals that never hit a reused pid.
//!
//! A process is known by its pid and its start time in clock ticks since boot (field 22 of `/proc/PID/stat`,
//! `proc_pid_stat(5)`); the two together are not reused before a reboot. All reads are bounded. Used by `tree`,
//! which looks for the processes of an attempt, and by `program`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::action::Program;

/// How long what needs descriptors, processes or memory waits for them: others give them back when they end.
pub(crate) const SHORTAGE_MAX: Duration = Duration::from_secs(30);

/// Between two tries of what the host is short of.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// Taken of `/proc/PID/stat`, all at once: the name takes at most 64 bytes and each number before field 23 at most 20.
const STAT_BYTES: usize = 1 << 10;

/// Longer environments are read this far; the mark is among the first entries that a keeper gets.
const ENVIRON_BYTES_MAX: u64 = 4 << 20;

/// One process as `/proc` showed it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) program: Program,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    /// One letter of `proc_pid_stat(5)`: `R`, `S`, `D`, ...
    pub(crate) state: char,
    pub(crate) name: String,
    threads: u32,
}

impl Process {
    /// The process with that pid, if there is one.
    pub(crate) fn read(pid: u32) -> io::Result<Option<Self>> {
        let mut stat = [0; STAT_BYTES];
        match File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat)) {
            Ok(length) => Ok(Self::parse(pid, &String::from_utf8_lossy(stat.get(..length).unwrap_or(&stat)))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name stands in brackets and may hold anything, brackets too: the last one ends it.
    fn parse(pid: u32, stat: &str) -> Option<Self> {
        let (name, rest) = (stat.split_once('(')?.1).rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // `rest` begins with field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let small = |field: usize| number(field).and_then(|value| u32::try_from(value).ok());
        Some(Self {
            program: Program { pid, start_ticks: number(22)? },
            parent: small(4)?,
            session: small(6)?,
            state: fields.first()?.chars().next()?,
            name: name.to_owned(),
            threads: small(20)?,
        })
    }

    /// Whether it can still act: a zombie only waits for its parent to read its end.
    pub(crate) fn is_alive(&self) -> bool {
        match self.state {
            // The first thread of a process may end before the others.
            'Z' => self.threads > 1,
            'X' | 'x' => false,
            _ => true,
        }
    }

    /// Whether it leads a session and is within execve(2): it has left its old program, and nothing of the new one can
    /// be read yet, not its environment either. Such a process may wait for a slow disk.
    pub(crate) fn is_becoming(&self) -> bool {
        let is_empty = |what: &str| {
            let mut byte = [0];
            File::open(format!("/proc/{}/{what}", self.program.pid))
                .and_then(|mut file| file.read(&mut byte))
                .is_ok_and(|length| length == 0)
        };
        self.session == self.program.pid && self.is_alive() && is_empty("cmdline") && is_empty("environ")
    }

    /// See [`environment`].
    pub(crate) fn environment(&self, name: &str) -> io::Result<Option<String>> {
        environment(self.program.pid, name)
    }
}

/// The value of an environment variable with which the program of a process was started. None if it is not set, the
/// process is gone, or it belongs to somebody whose environment this process may not read.
/// An error only if this process is short of descriptors or memory: then it is not known.
pub(crate) fn environment(pid: u32, name: &str) -> io::Result<Option<String>> {
    let file = match File::open(format!("/proc/{pid}/environ")) {
        Err(error) if is_shortage(&error) => return Err(error),
        Err(_) => return Ok(None),
        Ok(file) => file,
    };
    let mut bytes = Vec::new();
    // What was read before an error counts: the process may end while it is looked at.
    let _ = file.take(ENVIRON_BYTES_MAX).read_to_end(&mut bytes);
    let entry = bytes
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    Ok(entry.and_then(|entry| String::from_utf8(entry.to_vec()).ok()))
}

/// All processes that this process may see.
pub(crate) fn all() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && let Some(process) = Process::read(pid)?
        {
            found.push(process);
        }
    }
    Ok(found)
}

/// Sends a signal to exactly this process; false if it is gone.
pub(crate) fn signal(program: Program, signal: Signal) -> io::Result<bool> {
    signal_each(program, &[signal])
}

/// The same with several, one after the other.
pub(crate) fn signal_each(program: Program, signals: &[Signal]) -> io::Result<bool> {
    let Some(pid) = pid(program.pid) else { return Ok(false) };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // The handle pins whoever has the pid now; only then is it worth looking who that is.
    if Process::read(program.pid)?.is_none_or(|now| now.program != program) {
        return Ok(false);
    }
    for signal in signals {
        match pidfd_send_signal(&handle, *signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// A handle that becomes readable when exactly this process has ended; none if it is gone. Needs a tokio runtime.
pub(crate) fn watch(program: Program) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    let Some(pid) = pid(program.pid) else { return Ok(None) };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if Process::read(program.pid)?.is_none_or(|now| now.program != program) {
        return Ok(None);
    }
    #[expect(
        deprecated,
        reason = "sound for an owned descriptor, which nothing closes before the AsyncFd does"
    )]
    AsyncFd::with_interest(handle, Interest::READABLE).map(Some)
}

/// A pid as the kernel's calls take it; none for 0, which means something else to them.
pub(crate) fn pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)
}

/// Whether an error says something of the host's load, and nothing of the process or program that it is about.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM, Errno::NOSPC, Errno::DQUOT];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Does it again while the host is short of what it takes, within a bound. Blocks.
pub(crate) fn while_short<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + SHORTAGE_MAX;
    loop {
        match work() {
            Err(error) if is_shortage(&error) && Instant::now() < until => std::thread::sleep(SHORTAGE_PAUSE),
            done => return done,
        }
    }
}

/// Whether an error of reading below `/proc/PID` says that the process is gone.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1 1";
        let process = Process::parse(42, stat).unwrap();
        assert_eq!(process.program, Program { pid: 42, start_ticks: 987_654 });
        assert_eq!((process.parent, process.session, process.threads), (7, 41, 3));
        assert_eq!((process.state, process.name.as_str()), ('S', "a) b (c)"));
        assert_eq!(Process::parse(1, ""), None);
        assert_eq!(Process::parse(1, "1 (x) S 1"), None);
    }

    #[test]
    fn own_process_is_found_with_its_environment() {
        let own = Process::read(std::process::id()).unwrap().unwrap();
        assert!(own.is_alive() && !own.is_becoming());
        assert_eq!(own.environment("PATH").unwrap(), std::env::var("PATH").ok());
        assert_eq!(own.environment("PAT").unwrap(), None);
        assert!(all().unwrap().iter().any(|process| process.program == own.program));
    }

    #[test]
    fn signal_does_not_reach_a_process_that_started_at_another_time() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let program = Process::read(child.id()).unwrap().unwrap().program;
        let other = Program { start_ticks: program.start_ticks + 1, ..program };
        assert!(!signal(other, Signal::KILL).unwrap());
        assert!(signal(program, Signal::KILL).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(!signal(program, Signal::KILL).unwrap());
    }
}
