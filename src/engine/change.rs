//! How one action is looked up to be changed, and changed: its state by the transition function and nothing else, staged in
//! the store, counted, and told to whoever waits once the turn is durable.
//!
//! One whose stored body is damaged is handed to a person instead; everything else goes on. Used by all decisions.

use std::sync::Arc;

use super::core::{After, Core};
use super::outcome::{end_attempt, excerpt};
use super::request::{Change, SubmitError};
use super::scheduler::Input;
use crate::action::{Action, ActionId, AttemptEnd, Event, State, Status, Timestamp};
use crate::store::StoreError;

/// The body of the action is damaged: it is held now.
pub(super) struct Held;

impl Core {
    /// Hands an action to a person, with the locks it has. Its claim, if any, is given up.
    pub fn hold(&mut self, now: Timestamp, mut action: Action, reason: &str) -> Result<(), StoreError> {
        let id = action.id;
        tracing::warn!(action_id = id.0, attempt = action.status.attempt, reason, "action held");
        end_attempt(&mut action.status, now, AttemptEnd::Interrupted, reason);
        self.step(now, Input::Hold(id));
        self.change(action, Event::Hold, |status| status.reason = excerpt(reason))?;
        Ok(())
    }

    /// Stages one change of an action: its state by the transition function, the rest by `edit`.
    pub fn change(
        &mut self,
        mut action: Action,
        event: Event,
        edit: impl FnOnce(&mut Status),
    ) -> Result<Action, StoreError> {
        self.change_status(action.id, &mut action.status, event, edit)?;
        Ok(action)
    }

    fn change_status(
        &mut self,
        id: ActionId,
        status: &mut Status,
        event: Event,
        edit: impl FnOnce(&mut Status),
    ) -> Result<(), StoreError> {
        let before = status.state;
        let state = before.apply(event).map_err(|source| StoreError::Illegal { id, source })?;
        edit(status);
        status.state = state;
        if before == State::Rebooting && state != State::Rebooting {
            self.reboot.not_wanted(id);
        }
        status.version += 1;
        self.store.change(id, event, status)?;
        self.count(before, state);
        self.after.push(After::Changed(Change { id, state, version: status.version }));
        Ok(())
    }

    pub fn count(&mut self, before: State, after: State) {
        if let Some(count) = self.by_state.get_mut(before as usize) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.by_state.get_mut(after as usize) {
            *count += 1;
        }
    }

    /// The action, if it is unfinished. Asks the disk only for those: a finished one may be out of reach while
    /// sled is rebuilt.
    pub fn unfinished(&mut self, now: Timestamp, id: ActionId) -> Result<Option<Action>, StoreError> {
        if self.scheduler.queue_of(id).is_none() {
            return Ok(None);
        }
        // A body never changes, and that of an attempt that runs is at hand. A status without the claim of that attempt is
        // what was left of a damaged one.
        if let Some(live) = self.live.get(&id) {
            let body = Arc::clone(&live.body);
            if let Some(status) = self.store.status(id)?.filter(|status| status.claim.is_some()) {
                return Ok(Some(Action { id, body, status }));
            }
        }
        Ok(self.look_up(now, id)?.unwrap_or(None))
    }

    /// The action, which something is to be done with now. One whose body is damaged is handed to a person instead:
    /// everything else goes on.
    pub fn look_up(
        &mut self,
        now: Timestamp,
        id: ActionId,
    ) -> Result<Result<Option<Action>, Held>, StoreError> {
        match self.store.get(id) {
            Ok(action) => Ok(Ok(action)),
            Err(error @ StoreError::Damaged { .. }) => {
                self.hold_damaged(now, id, &error)?;
                Ok(Err(Held))
            }
            Err(error) => Err(error),
        }
    }

    fn hold_damaged(&mut self, now: Timestamp, id: ActionId, error: &StoreError) -> Result<(), StoreError> {
        let Some(mut status) = self.store.status(id)?.filter(|status| !status.state.is_final()) else {
            self.step(now, Input::Leave(id));
            return Ok(());
        };
        let reason = format!("its stored body cannot be read: {error}");
        tracing::error!(action_id = id.0, error = %error, "action held: its stored body is damaged");
        end_attempt(&mut status, now, AttemptEnd::Interrupted, &reason);
        self.step(now, Input::Hold(id));
        let event = if status.state == State::Held { Event::Note } else { Event::Hold };
        self.change_status(id, &mut status, event, |status| status.reason = excerpt(&reason))
    }

    /// The action, for whoever asked about it; or why it cannot be told now.
    pub fn tell_of(&self, id: ActionId) -> Result<Result<Option<Action>, SubmitError>, StoreError> {
        match self.store.get(id) {
            Ok(action) => Ok(Ok(action)),
            // It is finished, and can be read again in a while.
            Err(StoreError::Rebuilding) => Ok(Err(SubmitError::Busy)),
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(action_id = id.0, %error, "a stored body is damaged");
                Ok(Err(SubmitError::Unreadable { id }))
            }
            Err(error) => Err(error),
        }
    }
}
