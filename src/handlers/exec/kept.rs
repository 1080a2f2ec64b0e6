//! Carries one attempt of a program that has a keeper: starts it, or takes it up after a restart of the daemon, and follows
//! it to its end.
//!
//! A daemon that stops lets go of the keeper, and the attempt stays claimed: the next start takes it up.

use std::io;
use std::time::{Duration, Instant};

use super::end::{outcome, why};
use super::{Exec, input};
use crate::action::{JsonText, Outcome, Program};
use crate::crash_point::crash_point;
use crate::handlers::{Attempt, NotRecorded, StopReason};
use crate::runner::backend::Launch;
use crate::runner::keeper::place::{AttemptPlace, Ended, with_end};
use crate::runner::keeper::statements::Statement;
use crate::runner::keeper::words::{Order, StepLine, StopWhy, VERSION};
use crate::runner::kept::{self, Gated, Kept, News};
use crate::runner::proc::{SHORTAGE_MAX, is_shortage};

/// Between two tries of a start for which the host is short of something.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
/// Keepers of one attempt that are killed before they reach their gate.
const KILLED_MAX: u32 = 5;

/// How long a start that is underway may take when the daemon is to stop.
const START_MOMENT: Duration = Duration::from_secs(2);
/// So long after a start that failed it may turn out that the daemon is to stop.
const STOP_NEWS: Duration = Duration::from_secs(1);

/// Beyond its timeout and its grace nothing of an attempt should be there; systemd looks so much later.
const RUNTIME_SLACK: Duration = Duration::from_secs(600);

/// What became of an attempt.
pub(super) enum End {
    Ended(Box<Ended>),
    /// Its keeper is gone without a word; with what is alive of it.
    Lost(Option<String>),
    /// It was not started: the daemon stops, or the action was stopped before.
    NotStarted(Option<StopReason>),
    /// It goes on without this daemon.
    LeftRunning,
}

/// Runs the handler's program for an attempt.
pub(super) async fn run(exec: &Exec, attempt: &Attempt, settings: &[u8]) -> io::Result<Outcome> {
    let end = start(exec, &exec.program, "", attempt, settings).await?;
    crash_point("program_ended");
    Ok(means(exec, end))
}

/// Takes up an attempt that an earlier run of the daemon left running, or ended.
pub(super) async fn adopt(exec: &Exec, attempt: &Attempt) -> Outcome {
    let name = name(attempt, "");
    let keeper = attempt.action.status.claim.as_ref().and_then(|claim| claim.program);
    let place = AttemptPlace::of(&exec.around.attempts_dir, &name);
    let socket = kept::socket(&exec.around.keepers_dir, &name);
    let kept = Kept::adopt(place, &socket, keeper).await;
    means(exec, follow(exec, kept, &name, attempt, keeper).await)
}

/// What the end of an attempt means.
pub(super) fn means(exec: &Exec, end: End) -> Outcome {
    match end {
        End::Ended(ended) => outcome(exec, *ended),
        End::Lost(None) => Outcome::Lost { message: format!("the keeper of {} was killed", exec.name()) },
        End::Lost(Some(what)) => Outcome::Unkillable { message: format!("could not be ended: {what}") },
        End::LeftRunning => Outcome::LeftRunning,
        End::NotStarted(None | Some(StopReason::Shutdown)) => Outcome::NotStarted,
        End::NotStarted(Some(StopReason::Cancel)) => {
            Outcome::Cancelled { message: String::new(), result: None }
        }
        End::NotStarted(Some(StopReason::TimeOut)) => {
            Outcome::TimedOut { message: "it was not started".to_owned(), result: None }
        }
    }
}

/// `<id>.<attempt>`, by which keeper and directory are known.
pub(super) fn name(attempt: &Attempt, suffix: &str) -> String {
    format!("{}.{}{suffix}", attempt.action.id, attempt.action.status.attempt)
}

/// Starts a program and follows it to its end. `settings` follow the action on its standard input.
///
/// # Errors
///
/// It was not started.
pub(super) async fn start(
    exec: &Exec,
    argv: &[String],
    suffix: &str,
    attempt: &Attempt,
    settings: &[u8],
) -> io::Result<End> {
    let name = name(attempt, suffix);
    let mut input = input::json(&attempt.action)?;
    input.extend_from_slice(settings);
    let order = order(exec, argv, &name, attempt, suffix.is_empty(), input.len())?;
    let action = &attempt.action.body;
    let description =
        format!("{} on {} {} ({name})", action.action, action.resource_type, action.resource_id);
    let launch = Launch {
        name: &name,
        description: &description,
        unit: &exec.unit,
        switches_user: exec.user.is_some(),
        runtime_max: Duration::from_millis(action.timeout_ms) + exec.kill_grace + RUNTIME_SLACK,
    };
    let gated = match reach_gate(exec, launch, &order, &input, attempt).await? {
        Ok(gated) => gated,
        Err(reason) => return Ok(End::NotStarted(Some(reason))),
    };
    crash_point("program_spawned");
    let keeper = gated.keeper;
    if attempt.program_started(keeper).await.is_err() {
        // The gate closes: the program is never started.
        return Ok(End::NotStarted(None));
    }
    crash_point("program_recorded");
    let kept = gated.go().await;
    crash_point("program_released");
    Ok(follow(exec, kept, &name, attempt, Some(keeper)).await)
}

fn order(
    exec: &Exec,
    argv: &[String],
    name: &str,
    attempt: &Attempt,
    outlives_daemon: bool,
    input_bytes: usize,
) -> io::Result<Order> {
    let around = &exec.around;
    let place = AttemptPlace::of(&around.attempts_dir, name);
    let socket = kept::socket(&around.keepers_dir, name);
    let status = &attempt.action.status;
    Ok(Order {
        version: VERSION,
        id: attempt.action.id.0,
        attempt: status.attempt,
        log: attempt.log.place(),
        argv: argv.to_vec(),
        env: exec.environment(attempt, &with_end(&socket, ".report").to_string_lossy(), Some(&socket)),
        cwd: exec.cwd.clone(),
        user: exec.user.clone(),
        open_files: crate::runner::open_files::for_programs(),
        kill_grace_ms: u64::try_from(exec.kill_grace.as_millis()).unwrap_or(u64::MAX),
        mark: attempt.mark.clone(),
        result_bytes_max: around.result_bytes_max,
        checkpoint: status.checkpoint.as_ref().map(|text| serde_json::from_str(text.as_str())).transpose()?,
        steps: status.steps.iter().map(StepLine::from).collect(),
        outlives_daemon,
        asks_program_only: exec.ends_children,
        input_bytes,
        place: place.prefix().to_owned(),
        socket,
    })
}

/// Starts a keeper. While the host is short of something that running programs give back when they end, it waits for
/// that: an action does not fail because others run. Nor because somebody kills a keeper that has started nothing yet.
/// Or the reason to stop meanwhile.
async fn reach_gate(
    exec: &Exec,
    launch: Launch<'_>,
    order: &Order,
    input: &[u8],
    attempt: &Attempt,
) -> io::Result<Result<Gated, StopReason>> {
    let until = Instant::now() + SHORTAGE_MAX;
    let mut killed = 0;
    loop {
        let gated = tokio::select! {
            gated = kept::start(&*exec.around.backend, launch, order, input) => gated,
            reason = has_to_end(attempt) => return Ok(Err(reason)),
        };
        match gated {
            Err(error) if is_shortage(&error) && Instant::now() < until => {
                tracing::debug!(action_id = order.id, %error, "cannot start a keeper yet");
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && killed < KILLED_MAX => {
                killed += 1;
                tracing::warn!(action_id = order.id, %error, "starting another keeper");
            }
            // On a host that goes down systemd starts nothing any more, or its bus is away: that may be known a moment before
            // the daemon is told to stop, and says nothing about the action.
            Err(error) => tokio::select! {
                reason = attempt.stopped() => return Ok(Err(reason)),
                () = tokio::time::sleep(STOP_NEWS) => return Err(error),
            },
            Ok(gated) => return Ok(Ok(gated)),
        }
        tokio::select! {
            () = tokio::time::sleep(SHORTAGE_PAUSE) => {}
            reason = attempt.stopped() => return Ok(Err(reason)),
        }
    }
}

/// As [`Attempt::stopped`], but for a daemon that stops: a start that is underway is worth the moment that it takes. One that
/// takes longer is left: its keeper never gets its go.
async fn has_to_end(attempt: &Attempt) -> StopReason {
    let reason = attempt.stopped().await;
    if reason == StopReason::Shutdown {
        tokio::time::sleep(START_MOMENT).await;
    }
    reason
}

/// Follows a keeper to its end, and tells it to stop when the attempt has to.
async fn follow(exec: &Exec, mut kept: Kept, name: &str, attempt: &Attempt, keeper: Option<Program>) -> End {
    let mut told = None;
    loop {
        let news = tokio::select! {
            // A program that never stops stating must not keep this from being seen.
            biased;
            reason = attempt.stopped(), if told.is_none() => {
                if reason == StopReason::Shutdown {
                    return End::LeftRunning;
                }
                told = Some(why(reason));
                kept.stop(why(reason), exec.kill_grace).await;
                continue;
            }
            news = kept.next() => news,
        };
        match news {
            News::Stated(stated) => {
                for statement in stated {
                    if hear(statement, attempt).await.is_err() {
                        return End::LeftRunning;
                    }
                }
                // A program that states without a pause must not keep this task here for good.
                tokio::task::yield_now().await;
            }
            News::Logged => attempt.log.grown(),
            News::Ended(ended) => {
                attempt.log.grown();
                for statement in kept.last_statements() {
                    if hear(statement, attempt).await.is_err() {
                        return End::LeftRunning;
                    }
                }
                attempt.when_recorded(kept.recorder());
                return End::Ended(Box::new(told_why(*ended, told)));
            }
            News::Over => break,
        }
    }
    attempt.log.grown();
    // An outcome that cannot be read says at least that nothing is left, or what cannot be found.
    if let Ok(Some(ended)) = kept.ended() {
        attempt.when_recorded(kept.recorder());
        return End::Ended(Box::new(told_why(ended, told)));
    }
    let left = kept.end_left(&*exec.around.backend, name, attempt.action.id, &attempt.mark, keeper).await;
    attempt.when_recorded(kept.recorder());
    lost(left.unwrap_or_else(|error| Some(format!("cannot look for its processes: {error}"))), told)
}

/// The end of an attempt whose keeper is gone without a word. If it had to end, it has: by whose hand does not matter.
fn lost(alive: Option<String>, told: Option<StopWhy>) -> End {
    match (alive, told) {
        (None, Some(why)) => {
            End::Ended(Box::new(Ended { version: VERSION, stopped: Some(why), ..Ended::default() }))
        }
        (alive, _) => End::Lost(alive),
    }
}

/// A keeper that was told to end by a signal does not know why; it may have been by this daemon.
fn told_why(ended: Ended, told: Option<StopWhy>) -> Ended {
    let by_signal = ended.stopped == Some(StopWhy::Signal);
    Ended { stopped: told.filter(|_| by_signal).or(ended.stopped), ..ended }
}

/// Passes on what the program stated. Message and result come with its end.
async fn hear(statement: Statement, attempt: &Attempt) -> Result<(), NotRecorded> {
    match statement {
        Statement::Progress { percent, message } => attempt.progress(percent, &message),
        Statement::Checkpoint(checkpoint) => {
            match attempt.checkpoint(JsonText::from_checked(checkpoint.get())).await {
                // Its keeper knows the limit; a daemon that was told a lower one since keeps the one before.
                Err(NotRecorded::TooLarge { .. }) => {}
                recorded => recorded?,
            }
        }
        Statement::Steps(steps) => {
            let steps = steps.into_iter().map(StepLine::into).collect();
            // Never more than its keeper has counted.
            if let Err(error @ NotRecorded::Stopping) = attempt.steps(steps).await {
                return Err(error);
            }
        }
        Statement::Message(_) | Statement::Result(_) => {}
    }
    Ok(())
}
