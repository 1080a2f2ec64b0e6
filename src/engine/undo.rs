//! Takes back what the attempts of an action have done, before it ends without success.
//!
//! Whether there is something to take back is for the action's handler to say ([`Handler::undoes`]); it is asked wherever
//! an action would end as failed, timed out, cancelled or expired. Until it is taken back the action keeps its locks:
//!
//! | it would end | it is taken back |
//! | --- | --- |
//! | while an attempt owns it | within that attempt, which ends with it |
//! | between two attempts (cancelled, or its deadline is over) | by an attempt of its own, when it has its turn |
//!
//! How it is to end is kept in memory only. A daemon that dies meanwhile finds the outcome of the attempt again, or the cancel
//! request, or that the deadline is over, or the handler's own trace of what it was taking back, and goes on from there.
//!
//! What cannot be taken back is held for a person. Called by `outcome`, `commands` and `core`.
//!
//! [`Handler::undoes`]: crate::handlers::Handler::undoes

use std::sync::Arc;

use super::commands::cancelled_text;
use super::core::{After, Core};
use super::outcome::{end_attempt, excerpt};
use super::scheduler::Input;
use crate::action::{Action, AttemptEnd, Event, JsonText, Outcome, State, Timestamp};
use crate::handlers::{Handler, UndoReason};
use crate::store::StoreError;

/// Times that what takes something back may be killed before a person has to look.
const LOST_MAX: u32 = 5;

/// How an action ends without success, once what it did is taken back.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// `Fail`, `TimeOut` or `CancelDone`.
    pub event: Event,
    pub message: String,
    pub result: Option<JsonText>,
    /// The attempt has come to an end, and counts as a try; otherwise it was interrupted.
    pub is_try: bool,
    /// How often what takes it back was killed.
    pub lost: u32,
}

impl Ending {
    pub(super) fn new(event: Event, message: impl Into<String>) -> Self {
        Self { event, message: message.into(), result: None, is_try: false, lost: 0 }
    }

    pub(super) fn why(&self) -> UndoReason {
        match self.event {
            Event::CancelDone => UndoReason::Cancelled,
            Event::TimeOut => UndoReason::TimedOut,
            _ => UndoReason::Failed { message: self.message.clone(), result: self.result.clone() },
        }
    }
}

impl Core {
    /// Ends an action whose attempt is over, without success; what was done is taken back first. Gives the action as it stands
    /// now.
    pub(super) fn end(
        &mut self,
        now: Timestamp,
        action: Action,
        ending: Ending,
    ) -> Result<Action, StoreError> {
        let is_told = ending.result.is_some();
        let Some(handler) = self.undoer(&action, is_told) else {
            return self.end_for_good(now, action, ending);
        };
        let begins = |after: &After| matches!(after, After::Undo(begun, ..) if begun.id == action.id);
        // A daemon that stops leaves the claim as it is, and its next start finds out again.
        if !self.scheduler.is_draining() && !self.after.iter().any(begins) {
            tracing::debug!(action_id = action.id.0, event = ?ending.event, "taking back what was done");
            self.after.push(After::Undo(Arc::new(action.clone()), handler, ending));
        }
        Ok(action)
    }

    fn end_for_good(
        &mut self,
        now: Timestamp,
        mut action: Action,
        ending: Ending,
    ) -> Result<Action, StoreError> {
        let Ending { event, message, result, is_try, lost: _ } = ending;
        let event = if action.status.state == State::Cancelling { Event::CancelDone } else { event };
        let message = match (event, message.as_str()) {
            (Event::CancelDone, "") => cancelled_text(&action, now),
            (Event::CancelDone, message) => format!("{}; {message}", cancelled_text(&action, now)),
            _ => message,
        };
        action.status.tries_used += u32::from(is_try);
        let (end, told) = match event {
            Event::CancelDone => (AttemptEnd::Cancelled, message.as_str()),
            _ if !is_try => (AttemptEnd::Interrupted, "interrupted"),
            Event::TimeOut => (AttemptEnd::TimedOut, message.as_str()),
            _ => (AttemptEnd::Failed, message.as_str()),
        };
        end_attempt(&mut action.status, now, end, told);
        self.finish(now, action, event, &message, result)
    }

    /// The handler that takes back what the action's attempts have done, if there is something. `is_told`: the last of them
    /// has given its result.
    fn undoer(&self, action: &Action, is_told: bool) -> Option<Arc<dyn Handler>> {
        let route = self.registry.find(&action.body.action, &action.body.resource_type)?;
        route.handler.undoes(action, is_told).then(|| Arc::clone(&route.handler))
    }

    /// Has an action that waits taken back when it has its turn. Gives the action back if there is nothing to take back.
    pub(super) fn queue_undo(
        &mut self,
        now: Timestamp,
        mut action: Action,
        why: &str,
    ) -> Result<Result<Action, Action>, StoreError> {
        if self.undoer(&action, false).is_none() {
            return Ok(Err(action));
        }
        let event = match action.status.state {
            State::RetryWait | State::Scheduled => Event::Due,
            State::Held => Event::Resume,
            State::Rebooting => Event::Rebooted,
            _ => Event::Note,
        };
        end_attempt(&mut action.status, now, AttemptEnd::Interrupted, why);
        self.step(now, Input::Queue(action.id));
        let reason = format!("{why}; what its attempts have done is taken back when it has its turn");
        let action = self.change(action, event, |status| {
            status.due_at = None;
            status.reason = excerpt(&reason);
        })?;
        Ok(Ok(action))
    }

    /// Why an action that has its turn is only taken back, if it is.
    pub(super) fn undone_only(&self, now: Timestamp, action: &Action) -> Option<Ending> {
        self.undoer(action, false)?;
        if action.status.cancel.is_some() {
            return Some(Ending::new(Event::CancelDone, ""));
        }
        let is_over = action.body.deadline.is_some_and(|deadline| deadline <= now);
        is_over.then(|| Ending::new(Event::TimeOut, "its deadline was over before it ran to an end"))
    }

    /// What takes something back has ended.
    pub(super) fn undone(
        &mut self,
        now: Timestamp,
        mut action: Action,
        outcome: Outcome,
        ending: Ending,
    ) -> Result<(), StoreError> {
        let why = match outcome {
            Outcome::Failed { message, result: Some(result), retryable: false } => {
                // What the attempt itself said tells more, if it said something.
                let message = if ending.message.is_empty() { message } else { ending.message };
                let ending = Ending { message, result: Some(result), ..ending };
                return self.end_for_good(now, action, ending).map(drop);
            }
            // The daemon stops.
            Outcome::Interrupted | Outcome::NotStarted | Outcome::LeftRunning => return Ok(()),
            Outcome::Lost { message } if ending.lost < LOST_MAX => {
                tracing::warn!(action_id = action.id.0, message, "taking back what was done once more");
                return self.end(now, action, Ending { lost: ending.lost + 1, ..ending }).map(drop);
            }
            Outcome::Unkillable { message } => {
                format!("something of it is alive and could not be ended: {message}")
            }
            Outcome::Succeeded { message, .. }
            | Outcome::Failed { message, .. }
            | Outcome::TryLater { message, .. }
            | Outcome::Cancelled { message, .. }
            | Outcome::TimedOut { message, .. }
            | Outcome::Reboot { message }
            | Outcome::Lost { message }
            | Outcome::Undecided { message } => message,
        };
        action.status.tries_used += u32::from(ending.is_try);
        let reason = match ending.message.as_str() {
            "" => format!("what it did could not be taken back: {why}"),
            message => format!("{message}; what it did could not be taken back: {why}"),
        };
        self.hold(now, action, &format!("{reason}; look, then resume it to go on with that, or resolve it"))
    }
}
