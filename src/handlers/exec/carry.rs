//! Carries one attempt of a program from its start to an outcome.
//!
//! Two things go on at once: the *life* (wait for the end or a stop, then end all that is left) and the *talk*
//! (input, output, reports). The talk goes on until the life is over, so that a program that is being stopped is
//! never blocked by a full pipe; then it reads what is still there and ends by itself.

use std::future::Future;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::{Exec, input};
use crate::action::{JsonText, Outcome, ProbeAnswer, Recovery};
use crate::crash_point::crash_point;
use crate::handlers::{Attempt, NotRecorded, StopReason};
use crate::runner::logs::Stream;
use crate::runner::output::copy;
use crate::runner::proc::{SHORTAGE_MAX, is_shortage};
use crate::runner::program::{self, Leader, Plan, Started};
use crate::runner::report::{Report, Reports};
use crate::runner::tree::describe;

/// The exit code that asks for another try (EX_TEMPFAIL of sysexits(3)).
const TRY_AGAIN: i32 = 75;

/// Reads of an ended program's reports: more than a pipe holds at its largest (1 MiB, pipe(7)), and an end even
/// if a process that got away goes on writing.
const REST_READS_MAX: u32 = 256;

/// Between two tries of a start for which the host is short of something.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// How a program's life ended.
enum End {
    Exited(ExitStatus),
    Stopped(StopReason),
    /// What it said was not recorded: the daemon goes down.
    NotRecorded,
    /// Something of it is alive; with what.
    Alive(String),
}

/// What a program said that counts at its end; the last of each.
#[derive(Default)]
struct Said {
    message: Option<String>,
    result: Option<JsonText>,
    fault: Option<String>,
    /// The last line that it printed, on stderr if there is one.
    printed: Option<String>,
}

/// Runs the handler's program for an attempt.
pub(super) async fn outcome(exec: &Exec, attempt: &Attempt) -> Outcome {
    let path = exec.program.first().map_or("", String::as_str);
    let name = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
    let (end, said) = match run(exec, &exec.program, "", attempt).await {
        Ok(ended) => ended,
        Err(error) => {
            // One in words says what could not be done, the kernel's only why.
            let is_in_words = error.get_ref().is_some();
            let message =
                if is_in_words { error.to_string() } else { format!("cannot start {path}: {error}") };
            return Outcome::Failed { message, result: None, retryable: is_shortage(&error) };
        }
    };
    match end {
        End::NotRecorded | End::Stopped(StopReason::Shutdown) => Outcome::Interrupted,
        End::Alive(what) => Outcome::Unkillable { message: format!("could not be ended: {what}") },
        End::Stopped(StopReason::Cancel) => Outcome::Cancelled { message: format!("{name} was stopped") },
        End::Stopped(StopReason::TimeOut) => {
            let last = said.printed.map(|printed| format!("; last it said: {printed}")).unwrap_or_default();
            Outcome::TimedOut { message: format!("{name} ran out of time and was stopped{last}") }
        }
        End::Exited(status) if status.success() => Outcome::Succeeded {
            message: said.message.unwrap_or_else(|| format!("{name} succeeded")),
            result: said.result,
        },
        End::Exited(status) => {
            let retryable = status.code() == Some(TRY_AGAIN);
            // Its own words first: they are read by whoever is called at night.
            let message = said.fault.or(said.message).unwrap_or_else(|| {
                let end = program::describe_end(status);
                let what = if retryable { "asked to be tried again" } else { "failed" };
                said.printed.map_or(format!("{name} {what}: {end}"), |printed| format!("{end}: {printed}"))
            });
            Outcome::Failed { message, result: said.result, retryable }
        }
    }
}

/// Runs the handler's probe for an action.
pub(super) async fn probe(exec: &Exec, argv: &[String], attempt: &Attempt) -> ProbeAnswer {
    match run(exec, argv, ".probe", attempt).await {
        Ok((End::Exited(status), said)) if said.fault.is_none() => match status.code() {
            Some(0) => ProbeAnswer::Committed,
            Some(1) => ProbeAnswer::NotCommitted,
            _ => ProbeAnswer::Unknown,
        },
        Ok(_) => ProbeAnswer::Unknown,
        Err(error) => {
            tracing::warn!(action_id = attempt.action.id.0, %error, "cannot start a probe");
            ProbeAnswer::Unknown
        }
    }
}

async fn run(exec: &Exec, argv: &[String], suffix: &str, attempt: &Attempt) -> io::Result<(End, Said)> {
    let action = &attempt.action;
    let input = input::json(action)?;
    // Whether it is known to run matters only where it would not simply be run again.
    let is_direct = !exec.adopt && suffix.is_empty() && action.body.recovery == Recovery::Rerun;
    let plan = Plan {
        keeper: (!is_direct).then_some(&exec.keeper),
        argv,
        env: &exec.env,
        cwd: &exec.cwd,
        place: exec.attempts_dir.join(format!("{}.{}{suffix}", action.id, action.status.attempt)),
        id: action.id,
        attempt: action.status.attempt,
        mark: &attempt.mark,
        input: &input,
    };
    let started = match start(plan, &exec.keeper, attempt).await? {
        Ok(started) => started,
        Err(reason) => return Ok((End::Stopped(reason), Said::default())),
    };
    let Started { mut leader, at_gate, stdin, stdout, stderr, reports, place } = started;
    if let Some(program) = at_gate {
        crash_point("program_spawned");
        if attempt.program_started(program).await.is_err() {
            // The gate closes: the program is never started.
            drop(stdin);
            leader.ended().await;
            let _ = leader.reap()?;
            return Ok((End::NotRecorded, Said::default()));
        }
        crash_point("program_recorded");
    }
    let (over, ended) = watch::channel(false);
    let (cannot_record, not_recorded) = oneshot::channel();
    let feed = until(ended.clone(), program::go(stdin, at_gate.is_some(), &input));
    let talk = async {
        let out = copy(stdout, Stream::Stdout, &attempt.log, ended.clone());
        let err = copy(stderr, Stream::Stderr, &attempt.log, ended.clone());
        let heard = listen(reports, attempt, ended.clone(), cannot_record);
        let ((), out, err, said) = tokio::join!(feed, out, err, heard);
        Said { printed: err.quoted().or_else(|| out.quoted()), ..said }
    };
    let life = async {
        let end = live(exec, attempt, &mut leader, not_recorded).await;
        // Who cannot look for processes does not know that they are gone: the resource stays locked.
        let end = end.unwrap_or_else(|error| End::Alive(format!("cannot look for its processes: {error}")));
        let _ = over.send(true);
        end
    };
    let (end, said) = tokio::join!(life, talk);
    crash_point("program_ended");
    drop(place);
    Ok((end, said))
}

/// Starts the program, behind its gate if it has one. While the host is short of something that running programs give
/// back when they end, it waits for that: an action does not fail because others run. Or the reason to stop meanwhile.
async fn start<'a>(
    mut plan: Plan<'a>,
    keeper: &'a Path,
    attempt: &Attempt,
) -> io::Result<Result<Started, StopReason>> {
    let until = Instant::now() + SHORTAGE_MAX;
    loop {
        match program::start(&plan).await {
            Err(error) if is_shortage(&error) && Instant::now() < until => {
                tracing::debug!(action_id = plan.id.0, %error, "cannot start a program yet");
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported && plan.keeper.is_none() => {
                plan.keeper = Some(keeper);
                continue;
            }
            started => return started.map(Ok),
        }
        tokio::select! {
            () = tokio::time::sleep(SHORTAGE_PAUSE) => {}
            reason = attempt.stopped() => return Ok(Err(reason)),
        }
    }
}

/// Waits for the program's end, or ends it; returns when nothing of the attempt is alive, or cannot be ended.
async fn live(
    exec: &Exec,
    attempt: &Attempt,
    leader: &mut Leader,
    not_recorded: oneshot::Receiver<NotRecorded>,
) -> io::Result<End> {
    let lost = async {
        match not_recorded.await {
            Ok(fault) => fault,
            // A sender that was dropped has said nothing.
            Err(_) => std::future::pending().await,
        }
    };
    let stopped = tokio::select! {
        biased;
        () = leader.ended() => None,
        _ = lost => Some(End::NotRecorded),
        reason = attempt.stopped() => Some(End::Stopped(reason)),
    };
    let mut is_over = false;
    if stopped.is_none() {
        let left = leader.left().await?;
        is_over = left.is_empty();
        if !is_over {
            let line = format!("the program has ended; ending what it left: {}", describe(&left));
            attempt.log.line(Stream::Daemon, line.as_bytes());
        }
    }
    if !is_over {
        let survivors = leader.end_all(exec.kill_grace).await?;
        if !survivors.is_empty() {
            return Ok(End::Alive(describe(&survivors)));
        }
    }
    leader.ended().await;
    let status = leader.reap()?;
    Ok(match (stopped, status) {
        (Some(end), _) => end,
        (None, Some(status)) => End::Exited(status),
        (None, None) => return Err(io::Error::other("the program has ended, but its status cannot be read")),
    })
}

/// Takes the program's reports until it has ended and the pipe is empty.
async fn listen(
    mut reports: Reports,
    attempt: &Attempt,
    mut ended: watch::Receiver<bool>,
    cannot_record: oneshot::Sender<NotRecorded>,
) -> Said {
    let mut said = Said::default();
    let mut rest = REST_READS_MAX;
    loop {
        let is_over = tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => true,
            readable = reports.readable() => readable.is_err(),
        };
        let taken = if is_over { reports.take_rest() } else { reports.take() };
        match taken {
            Ok(Some(taken)) => {
                for report in taken {
                    if let Err(fault) = hear(report, attempt, &mut said).await {
                        let _ = cannot_record.send(fault);
                        return said;
                    }
                }
                // A program that writes without a pause would keep this task here for good: its stop and its
                // end are seen by the same task, and other attempts need the thread.
                tokio::task::yield_now().await;
            }
            // The readiness is cleared by a take that found nothing: no busy loop.
            Ok(None) if !is_over => {}
            Ok(None) | Err(_) => break,
        }
        if is_over {
            rest -= 1;
            if rest == 0 {
                break;
            }
        }
    }
    for report in reports.finish() {
        if let Err(fault) = hear(report, attempt, &mut said).await {
            let _ = cannot_record.send(fault);
            break;
        }
    }
    said
}

async fn hear(report: Report, attempt: &Attempt, said: &mut Said) -> Result<(), NotRecorded> {
    match report {
        Report::Progress { percent, message } => attempt.progress(percent, &message),
        Report::Checkpoint(checkpoint) => match attempt.checkpoint(checkpoint).await {
            Err(error @ NotRecorded::TooLarge { .. }) => {
                let line = format!("a checkpoint is left out, the one before stands: {error}");
                attempt.log.line(Stream::Daemon, line.as_bytes());
            }
            recorded => recorded?,
        },
        Report::Result(result) => said.result = Some(result),
        Report::Message(message) => said.message = Some(message),
        Report::Fault(fault) => said.fault = Some(fault),
        Report::Bad(why) => attempt.log.line(Stream::Daemon, why.as_bytes()),
    }
    Ok(())
}

/// Does the work, or drops it when the program has ended.
async fn until(mut ended: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
}
