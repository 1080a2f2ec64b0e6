//! Carries one attempt of a program from its start to an outcome.
//!
//! Two things go on at once: the *life* (wait for the end or a stop, then end all that is left) and the *talk*
//! (input, output, reports). The talk goes on until the life is over, so that a program that is being stopped is
//! never blocked by a full pipe; then it reads what is still there and ends by itself.

use std::future::Future;
use std::io;
use std::path::Path;
use std::process::ExitStatus;

use tokio::sync::{oneshot, watch};

use super::{Exec, input};
use crate::action::{JsonText, Outcome, ProbeAnswer};
use crate::crash_point::crash_point;
use crate::handlers::{Attempt, NotRecorded, StopReason};
use crate::runner::logs::Stream;
use crate::runner::output::copy;
use crate::runner::program::{self, Leader, Plan, Started};
use crate::runner::report::{Report, Reports};
use crate::runner::tree::describe;

/// The exit code that asks for another try (EX_TEMPFAIL of sysexits(3)).
const TRY_AGAIN: i32 = 75;

/// Reads of an ended program's reports: more than a pipe holds at its largest (1 MiB, pipe(7)), and an end even
/// if a process that got away goes on writing.
const REST_READS_MAX: u32 = 128;

/// How a program's life ended.
enum End {
    Exited(ExitStatus),
    Stopped(StopReason),
    /// What it said could not be recorded: the daemon goes down.
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
}

/// Runs the handler's program for an attempt.
pub(super) async fn outcome(exec: &Exec, attempt: &Attempt) -> Outcome {
    let path = exec.program.first().map_or("", String::as_str);
    let name = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
    let (end, said) = match run(exec, &exec.program, "", attempt).await {
        Ok(ended) => ended,
        Err(error) => {
            let message = format!("cannot start {path}: {error}");
            return Outcome::Failed { message, result: None, retryable: false };
        }
    };
    match end {
        End::NotRecorded | End::Stopped(StopReason::Shutdown) => Outcome::Interrupted,
        End::Alive(what) => Outcome::Unkillable { message: format!("could not be ended: {what}") },
        End::Stopped(StopReason::Cancel) => Outcome::Cancelled { message: format!("{name} was stopped") },
        End::Stopped(StopReason::TimeOut) => {
            Outcome::TimedOut { message: format!("{name} ran out of time and was stopped") }
        }
        End::Exited(status) if status.success() => Outcome::Succeeded {
            message: said.message.unwrap_or_else(|| format!("{name} succeeded")),
            result: said.result,
        },
        End::Exited(status) => {
            let fallback = if status.code() == Some(TRY_AGAIN) {
                format!("{name} asked to be tried again (exit status {TRY_AGAIN})")
            } else {
                format!("{name} failed: {}", program::describe_end(status))
            };
            let message = said.fault.or(said.message).unwrap_or(fallback);
            let retryable = status.code() == Some(TRY_AGAIN);
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
    let Started { mut leader, stdin, stdout, stderr, reports, dir } = program::start(&Plan {
        keeper: &exec.keeper,
        argv,
        env: &exec.env,
        cwd: &exec.cwd,
        dir: exec.attempts_dir.join(format!("{}.{}{suffix}", action.id, action.status.attempt)),
        id: action.id,
        attempt: action.status.attempt,
        mark: &attempt.mark,
    })?;
    crash_point("program_spawned");
    if attempt.program_started(leader.program).await.is_err() {
        // The gate closes: the program is never started.
        drop(stdin);
        leader.ended().await;
        let _ = leader.reap()?;
        return Ok((End::NotRecorded, Said::default()));
    }
    crash_point("program_recorded");
    let (over, ended) = watch::channel(false);
    let (cannot_record, not_recorded) = oneshot::channel();
    let feed = until(ended.clone(), program::go(stdin, &input));
    let talk = async {
        let out = copy(stdout, Stream::Stdout, &attempt.log, ended.clone());
        let err = copy(stderr, Stream::Stderr, &attempt.log, ended.clone());
        tokio::join!(feed, out, err, listen(reports, attempt, ended.clone(), cannot_record)).3
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
    drop(dir);
    Ok((end, said))
}

/// Waits for the program's end, or ends it; returns when nothing of the attempt is alive, or cannot be ended.
async fn live(
    exec: &Exec,
    attempt: &Attempt,
    leader: &mut Leader,
    not_recorded: oneshot::Receiver<()>,
) -> io::Result<End> {
    let lost = async {
        // A sender that was dropped has said nothing.
        if not_recorded.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let stopped = tokio::select! {
        biased;
        () = leader.ended() => None,
        () = lost => Some(End::NotRecorded),
        reason = attempt.stopped() => Some(End::Stopped(reason)),
    };
    if stopped.is_none() {
        let left = leader.alive().await?;
        if !left.is_empty() {
            let line = format!("the program has ended; ending what it left: {}", describe(&left));
            attempt.log.line(Stream::Daemon, line.as_bytes());
        }
    }
    let survivors = leader.end_all(exec.kill_grace).await?;
    if !survivors.is_empty() {
        return Ok(End::Alive(describe(&survivors)));
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
    cannot_record: oneshot::Sender<()>,
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
                    if hear(report, attempt, &mut said).await.is_err() {
                        let _ = cannot_record.send(());
                        return said;
                    }
                }
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
        if hear(report, attempt, &mut said).await.is_err() {
            let _ = cannot_record.send(());
            break;
        }
    }
    said
}

async fn hear(report: Report, attempt: &Attempt, said: &mut Said) -> Result<(), NotRecorded> {
    match report {
        Report::Progress { percent, message } => attempt.progress(percent, &message),
        Report::Checkpoint(checkpoint) => attempt.checkpoint(checkpoint).await?,
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
