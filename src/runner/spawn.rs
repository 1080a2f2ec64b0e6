//! Starts processes by posix_spawn(3), on threads that are kept for it.
//!
//! The C library does that with `CLONE_VM | CLONE_VFORK` (clone(2)): no page of the daemon is copied, however large it
//! is, and the calling thread waits until the child executes its program. A slow disk can make that long, so it
//! is never done on the runtime's threads. As the threads here never end, no child ever changes its parent thread:
//! see `orphans`.
//!
//! # What the child has
//!
//! - a session of its own, which it leads; no signal blocked, none ignored;
//! - the descriptors of its order and no other: the daemon's own close themselves at the exec(3), and those that it
//!   was started with are closed by their numbers;
//! - the limit on open files of the daemon: see `open_files`.
//!
//! Called by `program`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::sched::{CloneFlags, unshare};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpid};
use tokio::sync::oneshot;

/// `POSIX_SPAWN_SETSID` of the C library's spawn.h, which nix does not name.
const SETSID: i32 = 0x80;

/// Where those threads are between two programs, so that they keep no file system busy.
const ROOT: &str = "/";

/// What to start. Of the descriptors the child gets copies, from 0 on in this order.
pub(crate) struct Order {
    pub(crate) program: CString,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// The daemon's own if none.
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A process that was started here and is not reaped yet: its pid, session and group cannot mean anything else.
/// Killed with its group when dropped unreaped.
pub(crate) struct Child {
    pid: Pid,
    is_reaped: bool,
}

/// One of the threads, as its work sees it.
pub(crate) struct Place {
    /// Whether a change of the working directory is this thread's alone.
    has_own_cwd: bool,
}

type Job = Box<dyn FnOnce(&Place) + Send>;

/// Does the work on one of the threads. If the caller is gone by then, what the work returns is dropped.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    let job: Job = Box::new(move |place| drop(tell.send(work(place))));
    threads()?.send(job).map_err(|_| io::Error::other("the threads that start programs have ended"))?;
    told.await.map_err(io::Error::other)?
}

/// The way to the threads, which are started with the first program.
fn threads() -> io::Result<Sender<Job>> {
    static THREADS: Mutex<Option<Sender<Job>>> = Mutex::new(None);
    let mut started = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(jobs) = &*started {
        return Ok(jobs.clone());
    }
    let (jobs, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).max(2) {
        let receiver = Arc::clone(&receiver);
        std::thread::Builder::new().name("spawn".to_owned()).spawn(move || work_off(&receiver))?;
    }
    *started = Some(jobs.clone());
    Ok(jobs)
}

fn work_off(jobs: &Mutex<Receiver<Job>>) {
    // Refused by some sandboxes.
    let has_own_cwd = unshare(CloneFlags::CLONE_FS).is_ok() && std::env::set_current_dir(ROOT).is_ok();
    let place = Place { has_own_cwd };
    loop {
        // Let go of before the work is done: the next thread waits for it.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(&place),
            Err(_) => return,
        }
    }
}

impl Place {
    /// Starts a process. An error says that nothing was started; of the kind `Unsupported`, that this host does not
    /// let a single thread change its directory.
    pub(crate) fn spawn(&self, order: &Order) -> io::Result<Child> {
        let cwd = order.cwd.as_deref().filter(|cwd| self.is_elsewhere(cwd));
        let Some(cwd) = cwd else { return start(order) };
        if !self.has_own_cwd {
            return Err(io::ErrorKind::Unsupported.into());
        }
        std::env::set_current_dir(cwd).map_err(|error| {
            let told = format!("cannot change into the directory {}: {error}", cwd.display());
            io::Error::new(error.kind(), told)
        })?;
        let child = start(order);
        // Cannot fail: every process may search its root directory.
        let _ = std::env::set_current_dir(ROOT);
        child
    }

    fn is_elsewhere(&self, cwd: &Path) -> bool {
        let is_root = cwd == Path::new(ROOT);
        if self.has_own_cwd { !is_root } else { std::env::current_dir().is_ok_and(|now| now != cwd) }
    }
}

/// Starts a process in the calling thread's own directory. An error says that nothing was started.
pub(crate) fn start(order: &Order) -> io::Result<Child> {
    let mut actions = PosixSpawnFileActions::init()?;
    let mut next: RawFd = 0;
    for descriptor in &order.descriptors {
        // All of them are above 2, and copied in their order: none is overwritten before it was copied.
        actions.add_dup2(descriptor.as_raw_fd(), next)?;
        next += 1;
    }
    for fd in inherited().iter().filter(|fd| **fd >= next) {
        // Refused for a number beyond the limit on open files, which was lowered after it was opened: such a one
        // stays open for a program without a keeper.
        let _ = actions.add_close(*fd);
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::from_bits_retain(SETSID),
    )?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&SigSet::empty())?;
    let pid = posix_spawn(order.program.as_c_str(), &actions, &attributes, &order.argv, &order.env)?;
    let pid = Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("the program has no pid"))?;
    Ok(Child { pid, is_reaped: false })
}

/// The descriptors that the daemon was started with and that would stay open over an exec(3). Its own never do.
pub(crate) fn inherited() -> &'static [RawFd] {
    static INHERITED: OnceLock<Vec<RawFd>> = OnceLock::new();
    INHERITED.get_or_init(|| {
        let Ok(entries) = std::fs::read_dir("/proc/self/fdinfo") else { return Vec::new() };
        let open = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        open.filter(|fd| *fd > 2 && !closes_itself(*fd)).collect()
    })
}

/// By the line `flags` of proc_pid_fdinfo(5), in octal digits.
fn closes_itself(fd: RawFd) -> bool {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) else { return true };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_none_or(|flags| flags & O_CLOEXEC != 0)
}

impl Child {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pid as a number, which is also that of its session and its process group.
    pub(crate) fn number(&self) -> u32 {
        u32::try_from(self.pid.as_raw_nonzero().get()).unwrap_or(0)
    }

    /// Whether it has ended; it stays unreaped.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(self.is_reaped || waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    /// How it ended; none if it has not. Only now may its pid be used again.
    pub(crate) fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.is_reaped {
            return Ok(None);
        }
        let ended = waitpid(Some(self.pid), WaitOptions::NOHANG)?;
        self.is_reaped = ended.is_some();
        Ok(ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw())))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.reap(), Ok(None)) || self.is_reaped {
            return;
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        let pid = self.pid;
        // It may hang in the kernel: never wait for that here.
        let wait = move || while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {};
        let _ = std::thread::Builder::new().name("reap".to_owned()).spawn(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(script: &str, cwd: Option<&str>, output: OwnedFd) -> Order {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let words = ["/bin/sh", "-c", script].map(|word| CString::new(word).unwrap());
        Order {
            program: words[0].clone(),
            argv: words.to_vec(),
            env: Vec::new(),
            cwd: cwd.map(PathBuf::from),
            descriptors: vec![null(), output],
        }
    }

    async fn said(script: &str, cwd: Option<&str>) -> String {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let order = order(script, cwd, writer);
        let mut child = on_thread(move |place| place.spawn(&order)).await.unwrap();
        let text = io::read_to_string(std::fs::File::from(reader)).unwrap();
        let mut ended = None;
        while ended.is_none() {
            ended = child.reap().unwrap();
        }
        assert!(ended.unwrap().success(), "{ended:?}");
        text
    }

    #[tokio::test]
    async fn each_process_starts_in_its_own_directory_and_the_daemon_stays_where_it_is() {
        let before = std::env::current_dir().unwrap();
        for cwd in ["/usr", "/", "/etc", "/"] {
            assert_eq!(said("pwd", Some(cwd)).await, format!("{cwd}\n"));
        }
        assert_eq!(std::env::current_dir().unwrap(), before);
        let (_reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let order = order("", Some("/nonexistent"), writer);
        let error = on_thread(move |place| place.spawn(&order)).await.err().unwrap();
        assert!(error.to_string().starts_with("cannot change into the directory /nonexistent"), "{error}");
    }

    #[tokio::test]
    async fn process_that_is_dropped_is_killed_with_its_group_and_reaped() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let order = order("sleep 1000 & echo up; wait", None, writer);
        let child = on_thread(move |place| {
            let child = place.spawn(&order);
            drop(order);
            child
        });
        let child = child.await.unwrap();
        let number = child.number();
        drop(child);
        // The end of file comes when both are gone.
        io::read_to_string(std::fs::File::from(reader)).unwrap();
        while super::super::proc::Process::read(number).unwrap().is_some() {
            std::thread::yield_now();
        }
    }
}
