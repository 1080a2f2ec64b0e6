//! What follows from what an attempt says, and how an action ends.
//!
//! A statement counts only if its attempt still owns the action; any other is answered "not recorded" and
//! changes nothing. [`what_follows`] decides, without side effects; `Core` carries it out. The four
//! `finished_*` fields are set in one place, [`Core::finish`]. Called by `engine::core`; `commands` and
//! `recovery` end actions through it.

use super::core::{After, Core};
use super::recovery::{Decision, by_policy};
use super::request::Said;
use super::scheduler::Input;
use super::unpoison;
use crate::action::{
    ATTEMPTS_KEPT, Action, ActionId, AttemptEnd, AttemptRecord, Ending, Event, Finish, JsonText, Outcome,
    STEPS_MAX, State, Status, Timestamp, Unsuccess, backoff_ms,
};
use crate::crash_point::crash_point;
use crate::handlers::{Afterwards, NotRecorded};
use crate::store::StoreError;

/// Longest `reason` and longest message of a past attempt, in bytes.
const EXCERPT_BYTES: usize = 1_024;
/// Interruptions in a row after which an attempt whose keeper is ended once more is not repeated.
const LOST_MAX: usize = 5;
/// Longest `finished_message`, in bytes.
const MESSAGE_BYTES: usize = 16 * 1_024;

/// What follows for the action when its attempt has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    Succeed,
    Fail,
    TimeOut,
    CancelDone,
    /// Another try at that time; the locks are kept.
    RetryAt(Timestamp),
    /// When the host has rebooted, it is run again.
    Reboot,
    /// The daemon stops: the recovery policy has decided.
    Interrupted(Decision),
    /// Something of it is alive and cannot be ended, or it cannot tell how far it came.
    Hold,
}

/// Decides what follows from an outcome.
///
/// - What was cancelled ends as cancelled, unless it was faster and succeeded.
/// - A timeout of the attempt is a failure like any other that may pass, so it is tried again if a try is
///   left; the deadline of the action is final.
/// - Another try is only made if it can begin before the deadline.
/// - An interruption uses up no try; but an attempt that says so while the daemon does not `stop` is not
///   run again for nothing, over and over: it counts as a failure.
pub(super) fn what_follows(
    action: &Action,
    outcome: &Outcome,
    now: Timestamp,
    jitter: f64,
    stopping: bool,
) -> Next {
    let cancelling = action.status.state == State::Cancelling;
    let over = action.body.deadline.is_some_and(|deadline| deadline <= now);
    match outcome {
        Outcome::Succeeded { .. } => Next::Succeed,
        // Cancelled or not: its resource is not free while nobody knows what state it is in.
        Outcome::Unkillable { .. } | Outcome::Undecided { .. } => Next::Hold,
        _ if cancelling => Next::CancelDone,
        Outcome::Failed { retryable: false, .. } | Outcome::Cancelled { .. } => Next::Fail,
        Outcome::Failed { .. } => next_try(action, now, jitter, 0).map_or(Next::Fail, Next::RetryAt),
        Outcome::TryLater { after_ms, .. } => {
            next_try(action, now, jitter, *after_ms).map_or(Next::Fail, Next::RetryAt)
        }
        Outcome::TimedOut { .. } | Outcome::Reboot { .. } if over => Next::TimeOut,
        Outcome::TimedOut { .. } => next_try(action, now, jitter, 0).map_or(Next::TimeOut, Next::RetryAt),
        Outcome::Reboot { .. } => Next::Reboot,
        Outcome::Interrupted => match by_policy(action.body.recovery) {
            Decision::Requeue if over => Next::Interrupted(Decision::TimeOut),
            Decision::Requeue if !stopping => {
                next_try(action, now, jitter, 0).map_or(Next::Fail, Next::RetryAt)
            }
            decision => Next::Interrupted(decision),
        },
        Outcome::NotStarted if over => Next::Interrupted(Decision::TimeOut),
        Outcome::NotStarted => Next::Interrupted(Decision::Requeue),
        Outcome::Lost { .. } if lost_in_a_row(&action.status) >= LOST_MAX => Next::Fail,
        Outcome::Lost { .. } => match by_policy(action.body.recovery) {
            Decision::Requeue if over => Next::Interrupted(Decision::TimeOut),
            decision => Next::Interrupted(decision),
        },
        // Not an end at all: never asked about.
        Outcome::LeftRunning => Next::Interrupted(Decision::Wait),
    }
}

/// How many attempts in a row ended by an interruption: what ends a keeper again and again is not bad luck.
fn lost_in_a_row(status: &Status) -> usize {
    status.attempts.iter().rev().take_while(|attempt| attempt.end == AttemptEnd::Interrupted).count()
}

/// When the next try begins, if one is left and can begin before the deadline. `after_ms` is for how long there is no use in it,
/// as far as the policy has such long waits.
fn next_try(action: &Action, now: Timestamp, jitter: f64, after_ms: u64) -> Option<Timestamp> {
    let tries_used = action.status.tries_used + 1;
    let retry = &action.body.retry;
    let wait_ms = backoff_ms(retry, tries_used, jitter).max(after_ms.min(retry.backoff_max_ms));
    let due = now.plus_ms(wait_ms);
    let in_time = action.body.deadline.is_none_or(|deadline| due < deadline);
    (tries_used < action.body.retry.attempts && in_time).then_some(due)
}

impl Core {
    pub(super) fn attempt_said(
        &mut self,
        now: Timestamp,
        id: ActionId,
        attempt: u32,
        said: Said,
    ) -> Result<(), StoreError> {
        let owner = self.unfinished(now, id)?.filter(|action| {
            action.status.attempt == attempt
                && action.status.claim.is_some()
                // One that waits for a reboot has said all.
                && matches!(action.status.state, State::Running | State::Cancelling)
        });
        match said {
            Said::Ended(outcome, afterwards) => {
                let is_current = self.live.get(&id).is_some_and(|live| live.attempt == attempt);
                let live = if is_current { self.live.remove(&id) } else { None };
                if outcome == Outcome::LeftRunning {
                    return Ok(());
                }
                if is_current {
                    unpoison(self.shared.progress.lock()).remove(&id);
                }
                let Some(action) = owner else {
                    tracing::warn!(action_id = id.0, attempt, "an attempt that is not current ended");
                    return Ok(());
                };
                match live.and_then(|live| live.undo) {
                    Some(lost) => self.undone(now, action, outcome, lost)?,
                    None => self.ended(now, action, outcome)?,
                }
                crash_point("outcome_staged");
                self.do_afterwards(now, id, afterwards)?;
            }
            Said::Program(program, reply) => {
                let noted = match owner {
                    Some(action) => {
                        self.change(action, Event::Note, |status| {
                            if let Some(claim) = &mut status.claim {
                                claim.program = Some(program);
                            }
                        })?;
                        Ok(())
                    }
                    None => Err(NotRecorded::Stopping),
                };
                self.then(move || _ = reply.send(noted));
            }
            Said::Checkpoint(checkpoint, reply) => {
                let (bytes, limit) = (checkpoint.as_str().len(), self.settings.result_bytes_max);
                let noted = match owner {
                    Some(_) if bytes > limit => Err(NotRecorded::TooLarge { bytes, limit }),
                    Some(action) => {
                        self.change(action, Event::Note, |status| status.checkpoint = Some(checkpoint))?;
                        Ok(())
                    }
                    None => Err(NotRecorded::Stopping),
                };
                self.then(move || _ = reply.send(noted));
            }
            Said::Steps(steps, reply) => {
                let count = steps.len();
                let noted = match owner {
                    Some(_) if count > STEPS_MAX => Err(NotRecorded::TooManySteps { count }),
                    Some(action) => {
                        self.change(action, Event::Note, |status| status.steps = steps)?;
                        Ok(())
                    }
                    None => Err(NotRecorded::Stopping),
                };
                self.then(move || _ = reply.send(noted));
            }
        }
        Ok(())
    }

    /// Lets the attempt's handler know that what became of it is durable, unless that is still to be found out.
    fn do_afterwards(
        &mut self,
        now: Timestamp,
        id: ActionId,
        afterwards: Option<Afterwards>,
    ) -> Result<(), StoreError> {
        let Some(afterwards) = afterwards else { return Ok(()) };
        if self.unfinished(now, id)?.is_none_or(|action| action.status.claim.is_none()) {
            self.then(afterwards);
        }
        Ok(())
    }

    fn ended(&mut self, now: Timestamp, mut action: Action, outcome: Outcome) -> Result<(), StoreError> {
        let outcome = match outcome {
            Outcome::Reboot { message } => self.reboot_or_failure(action.status.reboots, message),
            outcome => outcome,
        };
        let next = what_follows(&action, &outcome, now, fastrand::f64(), self.scheduler.is_draining());
        let is_undecided = matches!(outcome, Outcome::Undecided { .. });
        let (end, message, result) = told(&action, outcome, now);
        let id = action.id;
        match next {
            Next::Reboot => return self.await_reboot(now, action, &message),
            Next::Interrupted(decision) => return self.carry_out(now, action, decision),
            Next::Hold => {
                end_attempt(&mut action.status, now, end, &message);
                let reason = if is_undecided {
                    format!("{message}; look, then resume it to go on, or resolve or cancel it")
                } else {
                    format!("something of it is alive and could not be ended: {message}")
                };
                return self.hold(now, action, &reason);
            }
            Next::RetryAt(due) => {
                let tries = action.status.tries_used + 1;
                let reason = format!("try {tries} of {} failed: {message}", action.body.retry.attempts);
                tracing::debug!(action_id = id.0, attempt = action.status.attempt, "attempt failed");
                end_attempt(&mut action.status, now, end, &message);
                self.step(now, Input::RetryAt(id, due));
                self.change(action, Event::Retry, |status| {
                    status.tries_used = tries;
                    status.due_at = Some(due);
                    status.reason = excerpt(&reason);
                })?;
            }
            Next::Succeed => {
                action.status.tries_used += 1;
                end_attempt(&mut action.status, now, end, &message);
                self.finish(now, action, Event::Succeed, &message, result)?;
            }
            Next::Fail => {
                self.end(now, action, Ending::told(Unsuccess::Failed, message, result))?;
            }
            Next::TimeOut => {
                self.end(now, action, Ending::told(Unsuccess::TimedOut, message, result))?;
            }
            Next::CancelDone => {
                self.end(now, action, Ending::told(Unsuccess::Cancelled, message, result))?;
            }
        }
        Ok(())
    }

    /// Ends an action: the four `finished_*` fields together, its locks freed, its attempt in the history.
    pub(super) fn finish(
        &mut self,
        now: Timestamp,
        mut action: Action,
        event: Event,
        message: &str,
        result: Option<JsonText>,
    ) -> Result<Action, StoreError> {
        let id = action.id;
        let end = match event {
            Event::Succeed => AttemptEnd::Succeeded,
            Event::Fail => AttemptEnd::Failed,
            Event::TimeOut => AttemptEnd::TimedOut,
            Event::Cancel | Event::CancelDone => AttemptEnd::Cancelled,
            _ => AttemptEnd::Interrupted,
        };
        end_attempt(&mut action.status, now, end, message);
        let state = action.status.state.apply(event).map_err(|source| StoreError::Illegal { id, source })?;
        let finish = finish_fields(state, now, message, result, self.settings.result_bytes_max);
        self.step(now, Input::Leave(id));
        let action = self.change(action, event, |status| {
            status.due_at = None;
            status.progress = None;
            status.reason.clear();
            status.ending = None;
            status.finish = Some(finish);
        })?;
        let duration_ms = now.ms_since(action.body.accepted_at);
        tracing::info!(action_id = id.0, %state, attempt = action.status.attempt, duration_ms, "action finished");
        Ok(action)
    }

    /// Carries out what the recovery policy says about an attempt that was interrupted.
    pub(super) fn carry_out(
        &mut self,
        now: Timestamp,
        mut action: Action,
        decision: Decision,
    ) -> Result<(), StoreError> {
        let id = action.id;
        match decision {
            Decision::Requeue => {
                let text = "interrupted: its attempt ended with the daemon; it is run again";
                end_attempt(&mut action.status, now, AttemptEnd::Interrupted, text);
                self.step(now, Input::Queue(id));
                self.change(action, Event::Requeue, |status| text.clone_into(&mut status.reason))?;
            }
            Decision::Fail => {
                let text = "interrupted: its attempt ended with the daemon, and it may not be run again";
                self.end(now, action, Ending::interrupted(Unsuccess::Failed, text))?;
            }
            Decision::Hold(reason) => self.hold(now, action, &reason)?,
            Decision::TimeOut => {
                let text = "its deadline was over after its attempt was interrupted";
                self.end(now, action, Ending::interrupted(Unsuccess::TimedOut, text))?;
            }
            Decision::CancelDone => {
                self.end(now, action, Ending::interrupted(Unsuccess::Cancelled, ""))?;
            }
            Decision::Rebooted => {
                end_attempt(&mut action.status, now, AttemptEnd::Interrupted, "the host has rebooted");
                self.step(now, Input::Queue(id));
                self.change(action, Event::Rebooted, |status| status.reason.clear())?;
            }
            // A daemon that stops leaves the claim as it is, and its next start asks.
            Decision::Probe if self.scheduler.is_draining() => {}
            Decision::Probe => {
                let route = self.registry.find(&action.body.action, &action.body.resource_type);
                if let Some(handler) = route.map(|route| std::sync::Arc::clone(&route.handler)) {
                    self.after.push(After::Probe(std::sync::Arc::new(action), handler));
                } else {
                    self.hold(now, action, super::recovery::NO_HANDLER)?;
                }
            }
            // Perhaps asked for already; but the host is still here.
            Decision::Wait => self.reboot.wanted(now, id, action.body.deadline),
        }
        Ok(())
    }
}

/// How an attempt ended, in words, with its result. The message is empty only for what was cancelled.
fn told(action: &Action, outcome: Outcome, now: Timestamp) -> (AttemptEnd, String, Option<JsonText>) {
    let or =
        |message: String, other: &str| if message.trim().is_empty() { other.to_owned() } else { message };
    match outcome {
        Outcome::Succeeded { message, result } => (AttemptEnd::Succeeded, or(message, "succeeded"), result),
        Outcome::Failed { message, result, .. } | Outcome::TryLater { message, result, .. } => {
            (AttemptEnd::Failed, or(message, "failed without a message"), result)
        }
        Outcome::Cancelled { message, result } if action.status.state == State::Cancelling => {
            (AttemptEnd::Cancelled, message, result)
        }
        Outcome::Cancelled { message, result } => {
            (AttemptEnd::Failed, or(message, "its handler stopped although nobody cancelled it"), result)
        }
        Outcome::TimedOut { message, result } => {
            let over = action.body.deadline.is_some_and(|deadline| deadline <= now);
            let limit = if over { "deadline" } else { "timeout" };
            let began = action.status.claim.as_ref().map_or(now, |claim| claim.began_at);
            let text = format!("its {limit} was over after {}", ago(now.ms_since(began)));
            let text = if message.trim().is_empty() { text } else { format!("{text}; {message}") };
            (AttemptEnd::TimedOut, text, result)
        }
        Outcome::Reboot { message } => {
            let over = action.body.deadline.is_some_and(|deadline| deadline <= now);
            if over {
                let text = "its deadline was over when it asked for a reboot of the host";
                return (AttemptEnd::TimedOut, text.to_owned(), None);
            }
            (AttemptEnd::Interrupted, or(message, "it did not say why"), None)
        }
        Outcome::Interrupted | Outcome::NotStarted | Outcome::LeftRunning => {
            (AttemptEnd::Interrupted, "interrupted".to_owned(), None)
        }
        Outcome::Lost { message } => (AttemptEnd::Interrupted, or(message, "its keeper was killed"), None),
        Outcome::Undecided { message } => {
            (AttemptEnd::Interrupted, or(message, "its handler does not say why"), None)
        }
        Outcome::Unkillable { message } => {
            (AttemptEnd::Interrupted, or(message, "its handler does not say what"), None)
        }
    }
}

/// The fields that change together at the end. A result that is too large is left out, and the message says
/// so.
fn finish_fields(
    state: State,
    now: Timestamp,
    message: &str,
    result: Option<JsonText>,
    result_bytes_max: usize,
) -> Finish {
    let success = state == State::Succeeded;
    let prefix =
        if matches!(state, State::Succeeded | State::Failed) { String::new() } else { format!("[{state}] ") };
    let mut message = prefix + cut(message, MESSAGE_BYTES);
    let bytes = result.as_ref().map_or(0, |result| result.as_str().len());
    if bytes > result_bytes_max {
        message =
            format!("{message} [its result of {bytes} bytes is left out: the limit is {result_bytes_max}]");
    }
    let result = result.filter(|_| bytes <= result_bytes_max).unwrap_or_else(JsonText::empty);
    Finish { at: now, success, message, result }
}

/// Moves the running attempt, if there is one, into the bounded history.
pub(super) fn end_attempt(status: &mut Status, now: Timestamp, end: AttemptEnd, message: &str) {
    let Some(claim) = status.claim.take() else { return };
    let record = AttemptRecord {
        attempt: status.attempt,
        began_at: claim.began_at,
        ended_at: now,
        end,
        message: excerpt(message),
    };
    let surplus = (status.attempts.len() + 1).saturating_sub(ATTEMPTS_KEPT);
    status.attempts.drain(..surplus);
    status.attempts.push(record);
}

/// The beginning of a text, short enough to be kept with the action.
pub(super) fn excerpt(text: &str) -> String {
    cut(text, EXCERPT_BYTES).to_owned()
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

/// A length of time for people.
pub(super) fn ago(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
pub(super) mod tests;
