//! A program that is started without a keeper: its start, and its end.
//!
//! The program's process is not reaped before nothing else of the attempt is alive: until then its pid, which is
//! also the number of its session and its process group, cannot come to mean something else.
//!
//! Used by `handlers::exec` only.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncWriteExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::runtime::Handle;

use super::proc::{self, Process};
use super::report::Reports;
use super::spawn::{self, Child, Order, Place};
use super::tree::Search;
use super::{open_files, orphans};
use crate::action::{ActionId, Program};
use crate::crash_point::crash_point;

/// Where programs are looked up by those that a program starts: the same on every host and for every user.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// By which path it finds its reports' pipe.
pub(crate) const REPORT: &str = "/proc/self/fd/3";

/// An input of at most this size is in the pipe before the program is there: the least that a pipe holds (pipe(7)).
const INPUT_AT_ONCE_MAX: usize = 4_096;

/// What to start.
pub(crate) struct Plan<'a> {
    /// Program and arguments; never seen by a shell.
    pub(crate) argv: &'a [String],
    /// The whole environment, `NAME=value` each.
    pub(crate) env: &'a [String],
    pub(crate) cwd: &'a Path,
    pub(crate) id: ActionId,
    pub(crate) mark: &'a str,
    /// What it finds on standard input.
    pub(crate) input: &'a [u8],
}

/// A program that was started.
pub(crate) struct Started {
    pub(crate) leader: Leader,
    /// None if the program has its whole input.
    pub(crate) stdin: Option<Sender>,
    pub(crate) stdout: Receiver,
    pub(crate) stderr: Receiver,
    pub(crate) reports: Reports,
}

/// All that a start needs, owned.
struct Prepared {
    order: Order,
    /// Written before the program is there; none if it is handed over later.
    input: Option<Vec<u8>>,
    id: ActionId,
    mark: String,
}

/// The first process of an attempt, which leads its session and process group.
pub(crate) struct Leader {
    child: Child,
    exit: AsyncFd<OwnedFd>,
    id: ActionId,
    mark: String,
}

/// Starts a program with everything that it will have. If what this returns is dropped, it is killed. Needs a tokio
/// runtime.
///
/// # Errors
///
/// Nothing was started. `Unsupported`: this host lets only a process of its own begin in that directory.
pub(crate) async fn start(plan: &Plan<'_>) -> io::Result<Started> {
    // Before the first program is there, or what it leaves behind is given to somebody else.
    orphans::are_adopted();
    let argv = c_strings(plan.argv)?;
    let program = argv.first().cloned().ok_or_else(|| io::Error::other("no program is configured"))?;
    let cwd = Some(plan.cwd.to_owned());
    let order = Order { program, argv, env: c_strings(plan.env)?, cwd, descriptors: Vec::new() };
    let input = plan.input.get(..INPUT_AT_ONCE_MAX.min(plan.input.len())).unwrap_or_default();
    let input = (input.len() == plan.input.len()).then(|| input.to_vec());
    let prepared = Prepared { order, input, id: plan.id, mark: plan.mark.to_owned() };
    let runtime = Handle::current();
    spawn::on_thread(move |thread| {
        let _in_runtime = runtime.enter();
        prepared.start(thread)
    })
    .await
}

fn c_strings(words: &[String]) -> io::Result<Vec<CString>> {
    words.iter().map(|word| CString::new(word.as_bytes()).map_err(io::Error::other)).collect()
}

impl Prepared {
    /// On a thread that may block, within the runtime.
    fn start(self, thread: &Place) -> io::Result<Started> {
        let Self { mut order, input, id, mark } = self;
        let (reports, its_reports) = pipe_with(PipeFlags::CLOEXEC)?;
        let reports = Reports::of_pipe(reports)?;
        let (its_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdout, its_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, its_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdout, stderr) = (Receiver::from_owned_fd(stdout)?, Receiver::from_owned_fd(stderr)?);
        let stdin = match input {
            Some(input) => {
                // Fits into the empty pipe. What follows it is the end of file.
                rustix::io::write(&stdin, &input)?;
                None
            }
            None => Some(Sender::from_owned_fd(stdin)?),
        };
        order.descriptors.extend([its_stdin, its_stdout, its_stderr, its_reports]);
        let child = thread.spawn(&order)?;
        crash_point("program_started_directly");
        open_files::give_back(child.pid());
        // The program may run by now: a shortage is waited for, as it must not be started a second time.
        let exit = proc::while_short(|| watch(&child)).map_err(io::Error::other)?;
        let leader = Leader { child, exit, id, mark };
        Ok(Started { leader, stdin, stdout, stderr, reports })
    }
}

/// Not reaped yet, so it is there.
fn watch(child: &Child) -> io::Result<AsyncFd<OwnedFd>> {
    proc::watch(identity(child)?)?.ok_or_else(|| io::Error::other("the program has no handle"))
}

/// It has a line in /proc even if it has ended, until it is reaped.
fn identity(child: &Child) -> io::Result<Program> {
    let process = Process::read(child.number())?;
    Ok(process.ok_or_else(|| io::Error::other("/proc does not show the program"))?.program)
}

/// Gives the program its input. One that does not read it, or not all, does no harm: the caller drops this when the
/// program has ended.
pub(crate) async fn feed(stdin: Option<Sender>, input: &[u8]) {
    let Some(mut stdin) = stdin else { return };
    // An error means that the program has closed its input or ended; its end tells the rest.
    let _ = stdin.write_all(input).await;
}

impl Leader {
    /// Resolves when the program has ended; it stays a zombie. Can be dropped and called again.
    pub(crate) async fn ended(&self) {
        // An error is only possible while the runtime shuts down: then nothing matters any more.
        let _ = self.exit.readable().await;
    }

    /// Ends everything of the attempt that is alive; see [`Search::end`]. Returns what could not be ended.
    pub(crate) async fn end_all(&self, patience: Duration) -> io::Result<Vec<Process>> {
        let (search, group) = (self.search()?, self.child.number());
        let survivors = blocking(move || search.end(patience, Some(group))).await?;
        Ok(survivors.into_iter().map(|(_, process)| process).collect())
    }

    /// What is alive of the attempt after its program has ended.
    pub(crate) async fn left(&self) -> io::Result<Vec<Process>> {
        if orphans::none_of(&self.mark, || Ok(self.program()?.start_ticks))? {
            return Ok(Vec::new());
        }
        let search = self.search()?;
        let alive = blocking(move || search.find()).await?;
        Ok(alive.into_iter().map(|(_, process)| process).collect())
    }

    /// How the program ended; none if it has not. Only now may its pid be used again.
    pub(crate) fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.reap()
    }

    /// Read when it is needed: as long as it is not reaped it has its line in /proc.
    fn program(&self) -> io::Result<Program> {
        identity(&self.child)
    }

    fn search(&self) -> io::Result<Search> {
        let program = self.program()?;
        let known = vec![(self.id, program)];
        Ok(Search {
            mark: self.mark.clone(),
            known,
            below: None,
            spared: HashSet::new(),
            since_ticks: program.start_ticks,
        })
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// How a program ended, for people: `exit code 3`, `killed by SIGSEGV`.
pub(crate) fn describe_end(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("killed by {name}"),
            None => format!("killed by signal {signal}"),
        },
        (None, None) => "nobody knows how".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_named() {
        assert_eq!(describe_end(Some(3), None), "exit code 3");
        assert_eq!(describe_end(None, Some(11)), "killed by SIGSEGV");
        assert_eq!(describe_end(None, Some(40)), "killed by signal 40");
    }
}
