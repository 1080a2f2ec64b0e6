//! One program of one attempt: its directory, its start behind the gate, its end.
//!
//! The program's process is not reaped before nothing else of the attempt is alive: until then its pid, which is
//! also the number of its session and its process group, cannot come to mean something else.
//!
//! Used by `handlers::exec` only.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::keeper::GO;
use super::leftovers::MARK;
use super::orphans;
use super::proc::{self, Process};
use super::report::Reports;
use super::tree::Search;
use crate::action::{ActionId, Program};
use crate::crash_point::crash_point;

/// Where programs are looked up by those that a program starts: the same on every host and for every user.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to start.
pub(crate) struct Plan<'a> {
    /// This very binary, which holds the program at its gate.
    pub(crate) keeper: &'a Path,
    /// Program and arguments; never seen by a shell.
    pub(crate) argv: &'a [String],
    /// Beside what every program gets.
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: &'a Path,
    /// Directory of the attempt, made here with mode 0700.
    pub(crate) dir: PathBuf,
    pub(crate) id: ActionId,
    pub(crate) attempt: u32,
    pub(crate) mark: &'a str,
}

/// A program at its gate, or past it.
pub(crate) struct Started {
    pub(crate) leader: Leader,
    pub(crate) stdin: Sender,
    pub(crate) stdout: Receiver,
    pub(crate) stderr: Receiver,
    pub(crate) reports: Reports,
    pub(crate) dir: AttemptDir,
}

/// The attempt's own directory; gone when dropped.
pub(crate) struct AttemptDir(PathBuf);

/// The first process of an attempt, which leads its session and process group.
pub(crate) struct Leader {
    /// None once it was handed over to be waited for elsewhere.
    child: Option<Child>,
    exit: AsyncFd<OwnedFd>,
    pub(crate) program: Program,
    search: Search,
    is_reaped: bool,
}

/// Starts the keeper with everything that the program will have; it waits for [`go`]. If what this returns is
/// dropped, the keeper ends unstarted. Needs a tokio runtime.
pub(crate) fn start(plan: &Plan<'_>) -> io::Result<Started> {
    // Before the first program is there, or what it leaves behind is given to somebody else.
    orphans::are_adopted();
    let dir = AttemptDir::create(plan.dir.clone())?;
    let fifo = dir.0.join("report");
    let reports = Reports::create(&fifo)?;
    let mut command = Command::new(plan.keeper);
    command
        .arg0("actiond")
        .arg("keeper")
        .arg("--report")
        .arg(&fifo)
        .arg("--cwd")
        .arg(plan.cwd)
        .arg("--open-files")
        .arg(super::open_files::for_programs().to_string())
        .arg("--")
        .args(plan.argv)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .envs(plan.env.iter().map(|(name, value)| (name, value)))
        .env("ACTIOND_ID", plan.id.to_string())
        .env("ACTIOND_ATTEMPT", plan.attempt.to_string())
        .env("ACTIOND_REPORT", &fifo)
        .env(MARK, plan.mark)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("the program has no pipes"));
    };
    // From here on a failure drops `stdin`, and with it the gate: the keeper ends by itself.
    let leader = Leader::new(child, plan)?;
    Ok(Started {
        leader,
        stdin: Sender::from_owned_fd(stdin.into())?,
        stdout: Receiver::from_owned_fd(stdout.into())?,
        stderr: Receiver::from_owned_fd(stderr.into())?,
        reports,
        dir,
    })
}

/// Opens the gate and gives the program its input. A program that does not read it, or not all, does no harm:
/// the caller drops this when the program has ended.
pub(crate) async fn go(mut stdin: Sender, input: &[u8]) {
    // An error means that the program has closed its input or ended; its end tells the rest.
    if stdin.write_all(&[GO]).await.is_ok() {
        crash_point("program_released");
        let _ = stdin.write_all(input).await;
    }
}

impl Leader {
    fn new(mut child: Child, plan: &Plan<'_>) -> io::Result<Self> {
        match Self::watch(&child, plan) {
            Ok((exit, program, search)) => {
                Ok(Self { child: Some(child), exit, program, search, is_reaped: false })
            }
            Err(error) => {
                // It waits at its gate, so it dies at once, and must not stay a zombie.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn watch(child: &Child, plan: &Plan<'_>) -> io::Result<(AsyncFd<OwnedFd>, Program, Search)> {
        let pid = proc::pid(child.id()).ok_or_else(|| io::Error::other("the program has no pid"))?;
        // Not reaped yet, so the pid is this child's, and it has a line in /proc even if it has ended.
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let program = Process::read(child.id())?
            .ok_or_else(|| io::Error::other("/proc does not show the program"))?
            .program;
        let search = Search {
            mark: plan.mark.to_owned(),
            known: vec![(plan.id, program)],
            since_ticks: program.start_ticks,
        };
        #[expect(
            deprecated,
            reason = "sound for an owned descriptor, which nothing closes before the AsyncFd does"
        )]
        let exit = AsyncFd::with_interest(handle, Interest::READABLE)?;
        Ok((exit, program, search))
    }

    /// Resolves when the program has ended; it stays a zombie. Can be dropped and called again.
    pub(crate) async fn ended(&self) {
        // An error is only possible while the runtime shuts down: then nothing matters any more.
        let _ = self.exit.readable().await;
    }

    /// Ends everything of the attempt that is alive; see [`Search::end`]. Returns what could not be ended.
    pub(crate) async fn end_all(&self, patience: Duration) -> io::Result<Vec<Process>> {
        let (search, group) = (self.search.clone(), self.program.pid);
        let survivors = blocking(move || search.end(patience, Some(group))).await?;
        Ok(survivors.into_iter().map(|(_, process)| process).collect())
    }

    /// What is alive of the attempt after its program has ended.
    pub(crate) async fn left(&self) -> io::Result<Vec<Process>> {
        if orphans::none_of(&self.search.mark, || Ok(self.search.since_ticks))? {
            return Ok(Vec::new());
        }
        let search = self.search.clone();
        let alive = blocking(move || search.find()).await?;
        Ok(alive.into_iter().map(|(_, process)| process).collect())
    }

    /// How the program ended; none if it has not. Only now may its pid be used again.
    pub(crate) fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        self.is_reaped |= status.is_some();
        Ok(status)
    }
}

impl Drop for Leader {
    /// Reached unreaped only if the attempt's future was dropped or panicked, or the gate was never opened.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if self.is_reaped || matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(group) = proc::pid(self.program.pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.kill();
        // It may hang in the kernel: never wait for that here.
        let _ = std::thread::Builder::new().name("reap".to_owned()).spawn(move || child.wait());
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl AttemptDir {
    fn create(path: PathBuf) -> io::Result<Self> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        if let Some(parent) = path.parent()
            && !parent.is_dir()
        {
            DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
        }
        match builder.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a run of the daemon that died; no attempt's number is ever used twice.
                std::fs::remove_dir_all(&path)?;
                builder.create(&path)?;
            }
            other => other?,
        }
        Ok(Self(path))
    }
}

impl Drop for AttemptDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "cannot remove the directory of an attempt");
        }
    }
}

/// How a program ended, for people: `exit code 3`, `killed by SIGSEGV`.
pub(crate) fn describe_end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("killed by {name}"),
            None => format!("killed by signal {signal}"),
        },
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_an_attempt_goes_with_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = AttemptDir::create(home.path().join("attempts/7.1")).unwrap();
        std::fs::write(home.path().join("attempts/7.1/x"), "").unwrap();
        drop(dir);
        assert!(!home.path().join("attempts/7.1").exists());
    }

    #[test]
    fn ends_are_named() {
        assert_eq!(describe_end(ExitStatus::from_raw(3 << 8)), "exit code 3");
        assert_eq!(describe_end(ExitStatus::from_raw(11)), "killed by SIGSEGV");
        assert_eq!(describe_end(ExitStatus::from_raw(40)), "killed by signal 40");
    }
}
