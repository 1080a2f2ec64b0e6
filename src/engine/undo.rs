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
//! How it is to end ([`Ending`]) is durable before anything is taken back, with all steps that are known by then. From there on
//! nothing goes forward any more, whoever dies: a start of the daemon, or a claim, of an action that has an ending takes
//! it back and does nothing else. What cannot be taken back is held, and taken back when a person resumes it.
//!
//! Called by `outcome`, `commands`, `recovery` and `core`.
//!
//! [`Handler::undoes`]: crate::handlers::Handler::undoes

use std::sync::Arc;

use super::commands::cancelled_text;
use super::core::{After, Core};
use super::outcome::{end_attempt, excerpt};
use super::scheduler::Input;
use super::start::{queue_index, ticket};
use crate::action::{
    Action, AttemptEnd, Ending, Event, JsonText, Outcome, State, Timestamp, Unfinished, Unsuccess,
};
use crate::handlers::{Handler, UndoReason};
use crate::store::StoreError;

/// Times that what takes something back may be killed before a person has to look.
const LOST_MAX: u32 = 5;

impl Ending {
    /// Of an action whose attempt was interrupted, or that waits.
    pub(super) fn interrupted(how: Unsuccess, message: impl Into<String>) -> Self {
        Self { how, message: message.into(), result: None, is_try: false }
    }

    /// As its attempt says it.
    pub(super) fn told(how: Unsuccess, message: String, result: Option<JsonText>) -> Self {
        Self { how, message, result, is_try: how != Unsuccess::Cancelled }
    }

    pub(super) fn why(&self) -> UndoReason {
        match self.how {
            Unsuccess::Cancelled => UndoReason::Cancelled,
            Unsuccess::TimedOut => UndoReason::TimedOut,
            Unsuccess::Failed => {
                UndoReason::Failed { message: self.message.clone(), result: self.result.clone() }
            }
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
        if self.undoer(&action, ending.result.is_some()).is_none() {
            return self.end_for_good(now, action, ending);
        }
        let action = self.change(action, Event::Note, |status| status.ending = Some(ending))?;
        self.take_back(now, action, 0)
    }

    /// Has an action taken back that has an ending. `lost`: how often what did it was killed.
    pub(super) fn take_back(
        &mut self,
        now: Timestamp,
        action: Action,
        lost: u32,
    ) -> Result<Action, StoreError> {
        let Some(handler) = self.undoer(&action, false) else {
            let reason = "what it did is to be taken back, and no handler is configured any more that does; resolve it";
            self.hold(now, action.clone(), reason)?;
            return Ok(self.tell_of(action.id)?.ok().flatten().unwrap_or(action));
        };
        let begins =
            |after: &After| matches!(after, After::Undo { action: begun, .. } if begun.id == action.id);
        // A daemon that stops leaves it for the next start.
        if !self.scheduler.is_draining() && !self.after.iter().any(begins) {
            tracing::debug!(action_id = action.id.0, "taking back what was done");
            self.after.push(After::Undo { action: Arc::new(action.clone()), handler, lost });
        }
        Ok(action)
    }

    fn end_for_good(
        &mut self,
        now: Timestamp,
        mut action: Action,
        ending: Ending,
    ) -> Result<Action, StoreError> {
        let Ending { how, message, result, is_try } = ending;
        let how = if action.status.state == State::Cancelling { Unsuccess::Cancelled } else { how };
        let message = match (how, message.as_str()) {
            (Unsuccess::Cancelled, "") => cancelled_text(&action, now),
            (Unsuccess::Cancelled, message) => format!("{}; {message}", cancelled_text(&action, now)),
            _ => message,
        };
        action.status.tries_used += u32::from(is_try);
        let (event, end, told) = match how {
            Unsuccess::Cancelled => (Event::CancelDone, AttemptEnd::Cancelled, message.as_str()),
            Unsuccess::TimedOut => (Event::TimeOut, AttemptEnd::TimedOut, message.as_str()),
            Unsuccess::Failed => (Event::Fail, AttemptEnd::Failed, message.as_str()),
        };
        let (end, told) = if is_try || how == Unsuccess::Cancelled {
            (end, told)
        } else {
            (AttemptEnd::Interrupted, "interrupted")
        };
        end_attempt(&mut action.status, now, end, told);
        self.finish(now, action, event, &message, result)
    }

    /// The handler that takes back what the action's attempts have done, if there is something. `is_told`: the last of them
    /// has given its result.
    pub(super) fn undoer(&self, action: &Action, is_told: bool) -> Option<Arc<dyn Handler>> {
        let route = self.registry.find(&action.body.action, &action.body.resource_type)?;
        route.handler.undoes(action, is_told).then(|| Arc::clone(&route.handler))
    }

    /// Has an action that waits taken back when it has its turn. Gives the action back if there is nothing to take back.
    pub(super) fn queue_undo(
        &mut self,
        now: Timestamp,
        mut action: Action,
        ending: Ending,
        why: &str,
    ) -> Result<Result<Action, Action>, StoreError> {
        if action.status.ending.is_none() && self.undoer(&action, false).is_none() {
            return Ok(Err(action));
        }
        let event = match action.status.state {
            State::RetryWait | State::Scheduled => Event::Due,
            State::Held => Event::Resume,
            State::Rebooting => Event::Rebooted,
            _ => Event::Note,
        };
        end_attempt(&mut action.status, now, AttemptEnd::Interrupted, why);
        let reason = format!("{why}; what its attempts have done is taken back when it has its turn");
        let action = self.change(action, event, |status| {
            status.due_at = None;
            status.reason = excerpt(&reason);
            status.ending.get_or_insert(ending);
        })?;
        if self.scheduler.queue_of(action.id).is_some() {
            self.step(now, Input::Queue(action.id));
        } else {
            // Its deadline was over while it waited without locks: the scheduler has forgotten it.
            let queue = queue_index(&mut self.queue_names, &action.body.queue);
            let mut ticket = ticket(&Unfinished::of(&action), queue);
            ticket.deadline = None;
            self.step(now, Input::Enter(ticket));
        }
        Ok(Ok(action))
    }

    /// What takes something back has ended.
    pub(super) fn undone(
        &mut self,
        now: Timestamp,
        mut action: Action,
        outcome: Outcome,
        lost: u32,
    ) -> Result<(), StoreError> {
        let ending = action.status.ending.clone();
        let ending = ending.unwrap_or_else(|| Ending::interrupted(Unsuccess::Failed, "interrupted"));
        let why = match outcome {
            Outcome::Failed { message, result: Some(result), retryable: false } => {
                // What the attempt itself said tells more, if it said something.
                let message = if ending.message.is_empty() { message } else { ending.message };
                let ending = Ending { message, result: Some(result), ..ending };
                return self.end_for_good(now, action, ending).map(drop);
            }
            Outcome::Interrupted | Outcome::NotStarted | Outcome::LeftRunning
                if self.scheduler.is_draining() =>
            {
                return Ok(());
            }
            Outcome::Interrupted | Outcome::NotStarted | Outcome::LeftRunning | Outcome::Lost { .. }
                if lost < LOST_MAX =>
            {
                tracing::warn!(action_id = action.id.0, ?outcome, "taking back what was done once more");
                return self.take_back(now, action, lost + 1).map(drop);
            }
            Outcome::Interrupted | Outcome::NotStarted | Outcome::LeftRunning => {
                "it was ended again and again".to_owned()
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
        if let Some(ending) = &mut action.status.ending {
            action.status.tries_used += u32::from(std::mem::take(&mut ending.is_try));
        }
        let reason = match ending.message.as_str() {
            "" => format!("what it did could not be taken back: {why}"),
            message => format!("{message}; what it did could not be taken back: {why}"),
        };
        self.hold(now, action, &format!("{reason}; look, then resume it to go on with that, or resolve it"))
    }
}
