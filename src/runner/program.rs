//! One program of one attempt: its directory, its start behind the gate, its end.
//!
//! The program's process is not reaped before nothing else of the attempt is alive: until then its pid, which is
//! also the number of its session and its process group, cannot come to mean something else.
//!
//! Used by `handlers::exec` only.

use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::runtime::Handle;

use super::keeper::GO;
use super::leftovers::MARK;
use super::proc::{self, Process};
use super::report::Reports;
use super::spawn::{self, Child, Order, Place};
use super::tree::Search;
use super::{open_files, orphans};
use crate::action::{ActionId, Program};
use crate::crash_point::crash_point;

/// Where programs are looked up by those that a program starts: the same on every host and for every user.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// By which path a program without a gate finds its reports' pipe.
const REPORT: &str = "/proc/self/fd/3";

/// An input of at most this size is in the pipe before the program is there: the least that a pipe holds (pipe(7)).
const INPUT_AT_ONCE_MAX: usize = 4_096;

/// What to start.
pub(crate) struct Plan<'a> {
    /// This very binary, which holds the program at its gate. None starts it without one.
    pub(crate) keeper: Option<&'a Path>,
    /// Program and arguments; never seen by a shell.
    pub(crate) argv: &'a [String],
    /// Beside what every program gets.
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: &'a Path,
    /// The attempt's own directory, made with mode 0700 for the reports' FIFO if there is a gate.
    pub(crate) place: PathBuf,
    pub(crate) id: ActionId,
    pub(crate) attempt: u32,
    pub(crate) mark: &'a str,
    /// What it finds on standard input.
    pub(crate) input: &'a [u8],
}

/// A program at its gate, or past it.
pub(crate) struct Started {
    pub(crate) leader: Leader,
    /// The program at its gate: to be made durable before [`go`]. None if there is no gate.
    pub(crate) at_gate: Option<Program>,
    /// None if the program has its whole input.
    pub(crate) stdin: Option<Sender>,
    pub(crate) stdout: Receiver,
    pub(crate) stderr: Receiver,
    pub(crate) reports: Reports,
    /// None if there is no gate.
    pub(crate) place: Option<AttemptPlace>,
}

/// The attempt's own directory, with the reports' FIFO; gone when dropped.
pub(crate) struct AttemptPlace {
    path: PathBuf,
    fifo: PathBuf,
}

/// All that a start needs, owned.
struct Prepared {
    /// None if there is no gate.
    place: Option<AttemptPlace>,
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
    /// Read when it is needed, if it has no gate: as long as it is not reaped it has its line in /proc.
    program: Option<Program>,
}

/// Starts a program with everything that it will have. With a gate it is the keeper as yet, and waits for [`go`]; if
/// what this returns is dropped, it is killed. Needs a tokio runtime.
///
/// # Errors
///
/// Nothing was started. `Unsupported`: this program can be started on this host only behind a gate.
pub(crate) async fn start(plan: &Plan<'_>) -> io::Result<Started> {
    // Before the first program is there, or what it leaves behind is given to somebody else.
    orphans::are_adopted();
    let place = plan.keeper.map(|_| AttemptPlace::at(plan.place.clone()));
    let report = place.as_ref().map_or(Path::new(REPORT), |place| &place.fifo);
    let (program, argv, cwd) = command(plan, report)?;
    let order = Order { program, argv, env: environment(plan, report)?, cwd, descriptors: Vec::new() };
    // Behind the gate the input begins with the go, and is handed over later.
    let input = plan.input.get(..INPUT_AT_ONCE_MAX.min(plan.input.len())).unwrap_or_default();
    let input = (plan.keeper.is_none() && input.len() == plan.input.len()).then(|| input.to_vec());
    let prepared = Prepared { place, order, input, id: plan.id, mark: plan.mark.to_owned() };
    let runtime = Handle::current();
    spawn::on_thread(move |thread| {
        let _in_runtime = runtime.enter();
        prepared.start(thread)
    })
    .await
}

/// What is executed, its arguments, and the directory in which it begins.
fn command(plan: &Plan<'_>, report: &Path) -> io::Result<(CString, Vec<CString>, Option<PathBuf>)> {
    let words =
        |words: &[String]| words.iter().map(|word| c_string(word.as_bytes())).collect::<io::Result<Vec<_>>>();
    let own = words(plan.argv)?;
    let Some(keeper) = plan.keeper else {
        let program = own.first().cloned().ok_or_else(|| io::Error::other("no program is configured"))?;
        return Ok((program, own, Some(plan.cwd.to_owned())));
    };
    let open_files = open_files::for_programs().to_string();
    let before = ["actiond", "keeper", "--report"].map(String::from);
    let mut argv = words(&before)?;
    argv.push(c_string(report.as_os_str().as_bytes())?);
    argv.push(c"--cwd".to_owned());
    argv.push(c_string(plan.cwd.as_os_str().as_bytes())?);
    argv.extend(words(&["--open-files".to_owned(), open_files, "--".to_owned()])?);
    argv.extend(own);
    Ok((c_string(keeper.as_os_str().as_bytes())?, argv, None))
}

fn environment(plan: &Plan<'_>, report: &Path) -> io::Result<Vec<CString>> {
    let (id, attempt) = (plan.id.to_string(), plan.attempt.to_string());
    let common = [("PATH", PATH), ("LANG", "C.UTF-8")].map(|(name, value)| (name, value.as_bytes()));
    let configured = plan.env.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let own = [
        ("ACTIOND_ID", id.as_bytes()),
        ("ACTIOND_ATTEMPT", attempt.as_bytes()),
        ("ACTIOND_REPORT", report.as_os_str().as_bytes()),
        (MARK, plan.mark.as_bytes()),
    ];
    // A name that is configured takes the place of the common one.
    let is_configured = |name: &str| plan.env.iter().any(|(configured, _)| configured == name);
    let common = common.into_iter().filter(|(name, _)| !is_configured(name));
    let all = common.chain(configured).chain(own);
    all.map(|(name, value)| c_string(&[name.as_bytes(), b"=", value].concat())).collect()
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::other)
}

impl Prepared {
    /// On a thread that may block, within the runtime.
    fn start(self, thread: &Place) -> io::Result<Started> {
        let Self { place, mut order, input, id, mark } = self;
        let (reports, its_reports) = if let Some(place) = &place {
            place.make()?;
            // Open for reading too: so opening and writing never wait, and never fail, for want of a reader.
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            (Reports::of_fifo(open(&place.fifo, flags, Mode::empty())?)?, None)
        } else {
            let (reports, its_reports) = pipe_with(PipeFlags::CLOEXEC)?;
            (Reports::of_pipe(reports)?, Some(its_reports))
        };
        let has_gate = place.is_some();
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
        order.descriptors.extend([its_stdin, its_stdout, its_stderr]);
        order.descriptors.extend(its_reports);
        let child = thread.spawn(&order)?;
        if !has_gate {
            crash_point("program_started_directly");
            open_files::give_back(child.pid());
        }
        // The program may run by now: a shortage is waited for, as it must not be started a second time.
        let exit = proc::while_short(|| watch(&child)).map_err(io::Error::other)?;
        let program = if has_gate { Some(identity(&child)?) } else { None };
        let leader = Leader { child, exit, id, mark, program };
        Ok(Started { leader, at_gate: program, stdin, stdout, stderr, reports, place })
    }
}

/// Not reaped yet, so the pid is this child's.
fn watch(child: &Child) -> io::Result<AsyncFd<OwnedFd>> {
    let handle = pidfd_open(child.pid(), PidfdFlags::empty())?;
    #[expect(
        deprecated,
        reason = "sound for an owned descriptor, which nothing closes before the AsyncFd does"
    )]
    AsyncFd::with_interest(handle, Interest::READABLE)
}

/// It has a line in /proc even if it has ended, until it is reaped.
fn identity(child: &Child) -> io::Result<Program> {
    let process = Process::read(child.number())?;
    Ok(process.ok_or_else(|| io::Error::other("/proc does not show the program"))?.program)
}

/// Gives the program its input, behind a gate after it was opened. A program that does not read it, or not all, does no
/// harm: the caller drops this when the program has ended.
pub(crate) async fn go(stdin: Option<Sender>, has_gate: bool, input: &[u8]) {
    let Some(mut stdin) = stdin else { return };
    // An error means that the program has closed its input or ended; its end tells the rest.
    if has_gate {
        if stdin.write_all(&[GO]).await.is_err() {
            return;
        }
        crash_point("program_released");
    }
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

    fn program(&self) -> io::Result<Program> {
        self.program.map_or_else(|| identity(&self.child), Ok)
    }

    fn search(&self) -> io::Result<Search> {
        let program = self.program()?;
        let known = vec![(self.id, program)];
        Ok(Search { mark: self.mark.clone(), known, since_ticks: program.start_ticks })
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl AttemptPlace {
    fn at(path: PathBuf) -> Self {
        Self { fifo: path.join("report"), path }
    }

    fn make(&self) -> io::Result<()> {
        match self.try_make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = self.path.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
            }
            // Left by a run of the daemon that died; no attempt's number is ever used twice.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.remove()?,
            made => return made,
        }
        self.try_make()
    }

    fn try_make(&self) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.path)?;
        Ok(mknodat(CWD, &self.fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
    }

    fn remove(&self) -> io::Result<()> {
        // Nearly always nothing else is in it.
        if std::fs::remove_file(&self.fifo).is_ok() && std::fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.path)
    }
}

impl Drop for AttemptPlace {
    fn drop(&mut self) {
        match self.remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove the directory of an attempt");
            }
            _ => {}
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
    fn place_of_an_attempt_goes_with_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("attempts/7.1");
        let place = AttemptPlace::at(path.clone());
        place.make().unwrap();
        place.make().unwrap();
        assert!(place.fifo.exists());
        std::fs::write(path.join("x"), "").unwrap();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn ends_are_named() {
        assert_eq!(describe_end(ExitStatus::from_raw(3 << 8)), "exit code 3");
        assert_eq!(describe_end(ExitStatus::from_raw(11)), "killed by SIGSEGV");
        assert_eq!(describe_end(ExitStatus::from_raw(40)), "killed by signal 40");
    }
}
