//! The process of one attempt of a built-in handler: `actiond handle`, started under a keeper as any program is.
//!
//! A handler in a process of its own goes on when the daemon stops, dies or is upgraded, takes nobody with it when it
//! fails, and has its own user, unit and cgroup. What it starts in its turn is ended with it.
//!
//! Standard input has two lines: the action as every program gets it, and [`Settings`].
//!
//! # Its end
//!
//! | exit | means |
//! | --- | --- |
//! | 0 | done |
//! | 1 | failed for good; what had been done is taken back |
//! | 75 | another try goes on where this one was |
//! | 195 | it cannot be told what state the world is in, or what was done cannot be taken back: a person decides |
//!
//! When it is told to end (SIGTERM) its keeper knows why. What is cancelled or out of time is taken back first; if the host
//! goes down there is no time for that, and an attempt after the boot goes on.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use signal_hook::consts::SIGTERM;
use tokio::io::AsyncReadExt as _;

use super::failure::{Failure, Kind};
use super::kind::{Entry, split};
use super::run::{Earlier, Mouth, Note, Parts, Run, UNDO};
use crate::clock;
use crate::handlers::UndoReason;
use crate::handlers::exec::{HOLD, TRY_AGAIN};
use crate::handlers::targets::Targets;
use crate::runner::keeper::words::{Answer, StopWhy, Word};
use crate::runner::say::say;

/// How long what keeps an undo from its work may last, and the pause before another try.
const UNDO_PATIENCE: Duration = Duration::from_secs(20);
const UNDO_PAUSE: Duration = Duration::from_millis(200);

/// How long a keeper may take to know why its program is told to end, and the pause before it is asked again.
const KEEPER_PATIENCE: Duration = Duration::from_secs(1);
const KEEPER_PAUSE: Duration = Duration::from_millis(10);

/// What a built-in handler gets beside its action.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) targets: Targets,
    pub(crate) secrets_dir: PathBuf,
    /// The daemon's systemd credentials, if it has any.
    #[serde(default)]
    pub(crate) credentials_dir: Option<PathBuf>,
    /// The retry policy has a try left after this one.
    pub(crate) is_retried: bool,
    /// Longest result and longest checkpoint.
    #[serde(default)]
    pub(crate) result_bytes_max: usize,
    /// What carries it out, if that does not follow from the action.
    #[serde(default)]
    pub(crate) kind: Option<String>,
    /// Nothing is to be done any more, only taken back.
    #[serde(default)]
    pub(crate) undo: Option<Undo>,
}

/// Why an attempt whose process is gone is taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Undo {
    Cancelled,
    OutOfTime,
    /// With its failure, as [`Failure::to_json`] gives it.
    Failed(Value),
}

impl From<UndoReason> for Undo {
    fn from(why: UndoReason) -> Self {
        match why {
            UndoReason::Cancelled => Self::Cancelled,
            UndoReason::TimedOut => Self::OutOfTime,
            UndoReason::Failed { message, result } => {
                let result = result.and_then(|result| serde_json::from_str::<Value>(result.as_str()).ok());
                let error = result.and_then(|result| result.get("error").cloned());
                Self::Failed(error.unwrap_or_else(|| Failure::permanent("failed", message).to_json()))
            }
        }
    }
}

impl Undo {
    fn failure(&self) -> Failure {
        match self {
            Self::Cancelled => Failure::permanent("cancelled", "it was cancelled"),
            Self::OutOfTime => Failure::permanent("timeout", "its timeout or deadline was over"),
            Self::Failed(failure) => Failure::from_json(failure),
        }
    }
}

/// The action as a program gets it: what of it is needed here.
#[derive(Deserialize)]
struct Given {
    id: u64,
    attempt: u32,
    action: String,
    resource_type: String,
    resource_id: u64,
    metadata: Value,
    checkpoint: Option<BTreeMap<String, String>>,
    steps: Vec<GivenStep>,
}

#[derive(Deserialize)]
struct GivenStep {
    name: String,
    begun_at: String,
    done_at: Option<String>,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Failed,
    TryAgain,
    Hold,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::Done => Self::SUCCESS,
            End::Failed => Self::FAILURE,
            End::TryAgain => Self::from(TRY_AGAIN),
            End::Hold => Self::from(HOLD),
        }
    }
}

struct Keeper;

impl Mouth for Keeper {
    fn say(&self, word: &Word) -> Result<Answer, String> {
        say(word).map_err(|unsaid| unsaid.to_string())
    }
}

/// Carries out the attempt that stands on standard input.
#[must_use]
pub fn main() -> ExitCode {
    match start() {
        Ok(end) => end.into(),
        Err(error) => {
            let _ =
                io::Write::write_all(&mut io::stderr(), format!("cannot carry it out: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn start() -> io::Result<End> {
    keep_memory_private();
    let told_to_end = told_to_end()?;
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    let mut lines = text.lines();
    let mut line =
        || lines.next().ok_or_else(|| io::Error::other("standard input is no action and its settings"));
    let input = line()?;
    let given: Given = serde_json::from_str(input)?;
    let Settings { targets, secrets_dir, credentials_dir, is_retried, result_bytes_max, kind, undo } =
        serde_json::from_str(line()?)?;
    let entry = super::of(kind.as_deref(), &given.action)
        .ok_or_else(|| io::Error::other(format!("this binary has no handler for {}", given.action)))?;
    let metadata = given.metadata;
    let (common, own) = split(metadata, entry.common_keys).map_err(io::Error::other)?;
    let run = Run::new(Parts {
        id: given.id,
        attempt: given.attempt,
        resource_type: given.resource_type,
        resource_id: given.resource_id,
        common,
        targets,
        secrets_dir,
        credentials_dir,
        input: input.to_owned(),
        result_bytes_max,
        is_retried,
        steps: earlier(given.steps, &given.checkpoint.unwrap_or_default())?,
        mouth: Box::new(Keeper),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(carry_out(
        &Attempt { entry, metadata: Value::Object(own), run, is_retried, undo },
        told_to_end,
    )))
}

/// It has passwords in its memory: no core is dumped of it, nor of what it starts.
fn keep_memory_private() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    // To lower a limit is always allowed.
    let _ = setrlimit(Resource::Core, nothing);
}

/// The steps of earlier attempts. What is begun has an intent: it was written first.
fn earlier(steps: Vec<GivenStep>, notes: &BTreeMap<String, String>) -> io::Result<Vec<Earlier>> {
    let of_step = |GivenStep { name, begun_at, done_at }: GivenStep| {
        let note: Note =
            notes.get(&name).map(|note| serde_json::from_str(note)).transpose()?.unwrap_or_default();
        let done_at_ms = done_at.as_deref().map(ms).transpose()?;
        Ok(Earlier { name, begun_at_ms: ms(&begun_at)?, done_at_ms, note })
    };
    steps.into_iter().map(of_step).collect()
}

/// Milliseconds since the epoch of a time as programs get it.
fn ms(time: &str) -> io::Result<i64> {
    chrono::DateTime::parse_from_rfc3339(time).map(|at| at.timestamp_millis()).map_err(io::Error::other)
}

/// Something that has a byte to read once this process is told to end.
fn told_to_end() -> io::Result<UnixStream> {
    let (told, tell) = UnixStream::pair()?;
    told.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGTERM, tell)?;
    Ok(told)
}

struct Attempt {
    entry: &'static Entry,
    /// Its own keys.
    metadata: Value,
    run: Run,
    is_retried: bool,
    undo: Option<Undo>,
}

/// Why `execute` did not come to an end by itself.
enum Stop {
    ToldToEnd,
    /// `timeout_s` is over.
    OutOfTime(u32),
}

async fn carry_out(attempt: &Attempt, told_to_end: UnixStream) -> End {
    let began = Instant::now();
    let run = &attempt.run;
    if run.common.dry_run {
        return tokio::select! {
            end = attempt.plan(began) => end,
            stop = stopped(run, told_to_end) => attempt.stop(&stop, began).await,
        };
    }
    match run.trace::<Value, Value>(UNDO) {
        // It was being taken back already, or has been: nothing goes forward again after that.
        Ok(Some(undo)) => return attempt.undo(&Failure::from_json(&undo.intent), began).await,
        Ok(None) => {}
        Err(failure) => return attempt.hold(&failure, began),
    }
    if let Some(why) = &attempt.undo {
        return attempt.undo(&why.failure(), began).await;
    }
    let executed = tokio::select! {
        executed = (attempt.entry.execute)(attempt.metadata.clone(), run) => executed,
        stop = stopped(run, told_to_end) => return attempt.stop(&stop, began).await,
    };
    match executed {
        Ok(done) => {
            let mut result = done.result;
            result.extend(run.common_result(Some(done.changed), began.elapsed()));
            run.conclude(&done.message, &result);
            End::Done
        }
        Err(failure) if failure.kind == Kind::Unknown => attempt.hold(&failure, began),
        Err(failure) if failure.kind == Kind::Transient && attempt.is_retried => {
            attempt.fail(&failure, began);
            End::TryAgain
        }
        Err(failure) => attempt.undo(&failure.for_good(), began).await,
    }
}

async fn stopped(run: &Run, told_to_end: UnixStream) -> Stop {
    let told = async {
        let Ok(mut told) = tokio::net::UnixStream::from_std(told_to_end) else {
            return std::future::pending().await;
        };
        // Also if it cannot be read any more.
        let _ = told.read_u8().await;
    };
    let Some(seconds) = run.common.timeout_s else {
        told.await;
        return Stop::ToldToEnd;
    };
    let begun_at = run.begun_at_ms().map_or_else(clock::now, crate::action::Timestamp);
    let used = Duration::from_millis(clock::now().ms_since(begun_at));
    tokio::select! {
        () = told => Stop::ToldToEnd,
        () = tokio::time::sleep(Duration::from_secs(seconds.into()).saturating_sub(used)) => Stop::OutOfTime(seconds),
    }
}

impl Attempt {
    async fn plan(&self, began: Instant) -> End {
        match (self.entry.plan)(self.metadata.clone(), &self.run).await {
            Ok(plan) => {
                let mut result =
                    Map::from_iter([("dry_run".to_owned(), json!(true)), ("plan".to_owned(), plan.into())]);
                result.extend(self.run.common_result(Some(false), began.elapsed()));
                self.run.conclude("this is what would be done; nothing was changed", &result);
                End::Done
            }
            Err(failure) => self.fail(&failure, began),
        }
    }

    async fn stop(&self, stop: &Stop, began: Instant) -> End {
        let failure = match stop {
            Stop::OutOfTime(seconds) => {
                Failure::permanent("timeout", format!("it took longer than timeout_s, {seconds} s"))
            }
            Stop::ToldToEnd => {
                let why = self.why_stopped().await;
                let is = |stop: StopWhy| why.as_deref() == Some(stop.as_str());
                if is(StopWhy::Cancel) {
                    Undo::Cancelled.failure()
                } else if is(StopWhy::TimeOut) && !self.is_retried {
                    Undo::OutOfTime.failure()
                } else {
                    self.run.log("told to end; the next attempt goes on from here");
                    return End::TryAgain;
                }
            }
        };
        self.undo(&failure, began).await
    }

    /// Where systemd ends a whole unit its keeper is told at the same time, and may not have heard it yet: it has to, or the
    /// end of this process would be this process's own.
    async fn why_stopped(&self) -> Option<String> {
        let until = Instant::now() + KEEPER_PATIENCE;
        loop {
            let why = self.run.why_stopped();
            if why.is_some() || Instant::now() >= until {
                return why;
            }
            tokio::time::sleep(KEEPER_PAUSE).await;
        }
    }

    /// Takes back what was done, whatever `failure` was the reason for it.
    async fn undo(&self, failure: &Failure, began: Instant) -> End {
        let run = &self.run;
        if !run.has_begun() {
            return self.fail(failure, began);
        }
        let undone = async {
            match run.trace::<Value, Value>(UNDO)? {
                // Interrupted after it: what it had to say of what stays is still to be said.
                Some(undo) if undo.result.is_some() => {
                    run.remark_again(&undo.result.unwrap_or_default());
                    return Ok(());
                }
                Some(_) => {}
                None => run.begin(UNDO, &failure.to_json())?,
            }
            let until = Instant::now() + UNDO_PATIENCE;
            loop {
                match (self.entry.undo)(self.metadata.clone(), run).await {
                    Ok(()) => break,
                    // Nobody tries that again: what may pass is waited for here.
                    Err(failure) if failure.kind == Kind::Transient && Instant::now() < until => {
                        run.log(&format!("cannot take it back yet: {}", failure.message()));
                        tokio::time::sleep(UNDO_PAUSE).await;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            run.end(UNDO, &failure.to_json(), &run.remarks())
        };
        match undone.await {
            Ok(()) => self.fail(failure, began),
            Err(also) => {
                let told = format!(
                    "{}; and what was done cannot be taken back: {}",
                    failure.message(),
                    also.message()
                );
                self.hold(&Failure::unknown(failure.code(), told).with("undo", also.to_json()), began)
            }
        }
    }

    fn hold(&self, failure: &Failure, began: Instant) -> End {
        self.fail(failure, began);
        End::Hold
    }

    fn fail(&self, failure: &Failure, began: Instant) -> End {
        let mut result = Map::from_iter([("error".to_owned(), failure.to_json())]);
        result.extend(self.run.common_result(None, began.elapsed()));
        self.run.conclude(failure.message(), &result);
        End::Failed
    }
}
