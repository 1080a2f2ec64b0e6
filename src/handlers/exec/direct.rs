//! Carries one attempt of a program that has no keeper, from its start to its end.
//!
//! Two things go on at once: the *life* (wait for the end or a stop, then end all that is left) and the *talk*
//! (input, output, reports). The talk goes on until the life is over, so that a program that is being stopped is
//! never blocked by a full pipe; then it reads what is still there and ends by itself.

use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::sync::{oneshot, watch};

use super::end::why;
use super::{Exec, input};
use crate::crash_point::crash_point;
use crate::handlers::{Attempt, NotRecorded, StopReason};
use crate::runner::keeper::place::Ended;
use crate::runner::keeper::words::StopWhy;
use crate::runner::logs::Stream;
use crate::runner::output::copy;
use crate::runner::proc::{SHORTAGE_MAX, is_shortage};
use crate::runner::program::{self, Leader, Plan, Started};
use crate::runner::report::{Report, Reports};
use crate::runner::tree::describe;

/// Reads of an ended program's reports: more than a pipe holds at its largest (1 MiB, pipe(7)), and an end even
/// if a process that got away goes on writing.
const REST_READS_MAX: u32 = 256;

/// Between two tries of a start for which the host is short of something.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// How a program's life ended.
enum End {
    Exited(ExitStatus),
    Stopped(StopWhy),
    /// Something of it is alive; with what.
    Alive(String),
}

/// Runs the program for an attempt.
///
/// # Errors
///
/// It was not started. `Unsupported`: this host starts it only with a keeper.
pub(super) async fn run(exec: &Exec, argv: &[String], attempt: &Attempt) -> io::Result<Ended> {
    let input = input::json(&attempt.action)?;
    let env = exec.environment(attempt, program::REPORT, None);
    let plan =
        Plan { argv, env: &env, cwd: &exec.cwd, id: attempt.action.id, mark: &attempt.mark, input: &input };
    let started = match start(&plan, attempt).await? {
        Ok(started) => started,
        Err(reason) => return Ok(Ended { stopped: Some(why(reason)), ..Ended::default() }),
    };
    let Started { mut leader, stdin, stdout, stderr, reports } = started;
    let (over, ended) = watch::channel(false);
    let (cannot_record, not_recorded) = oneshot::channel();
    let feed = until(ended.clone(), program::feed(stdin, &input));
    let talk = async {
        let out = copy(stdout, Stream::Stdout, &attempt.log, ended.clone());
        let err = copy(stderr, Stream::Stderr, &attempt.log, ended.clone());
        let heard = listen(reports, attempt, ended.clone(), cannot_record);
        let ((), out, err, said) = tokio::join!(feed, out, err, heard);
        Ended { printed: err.quoted().or_else(|| out.quoted()), ..said }
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
    Ok(match end {
        End::Exited(status) => Ended { code: status.code(), signal: status.signal(), ..said },
        End::Stopped(why) => Ended { stopped: Some(why), ..said },
        End::Alive(what) => Ended { alive: Some(what), ..said },
    })
}

/// Starts the program. While the host is short of something that running programs give back when they end, it waits
/// for that: an action does not fail because others run. Or the reason to stop meanwhile.
async fn start(plan: &Plan<'_>, attempt: &Attempt) -> io::Result<Result<Started, StopReason>> {
    let until = Instant::now() + SHORTAGE_MAX;
    loop {
        match program::start(plan).await {
            Err(error) if is_shortage(&error) && Instant::now() < until => {
                tracing::debug!(action_id = plan.id.0, %error, "cannot start a program yet");
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
        // What it said was not recorded: the daemon goes down.
        _ = lost => Some(End::Stopped(StopWhy::Daemon)),
        reason = attempt.stopped() => Some(End::Stopped(why(reason))),
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
) -> Ended {
    let mut said = Ended::default();
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

async fn hear(report: Report, attempt: &Attempt, said: &mut Ended) -> Result<(), NotRecorded> {
    match report {
        Report::Progress { percent, message } => attempt.progress(percent, &message),
        Report::Checkpoint(checkpoint) => match attempt.checkpoint(checkpoint).await {
            Err(error @ NotRecorded::TooLarge { .. }) => {
                let line = format!("a checkpoint is left out, the one before stands: {error}");
                attempt.log.line(Stream::Daemon, line.as_bytes());
            }
            recorded => recorded?,
        },
        Report::Result(result) => said.result = RawValue::from_string(result.as_str().to_owned()).ok(),
        Report::Message(message) => said.message = Some(message),
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
