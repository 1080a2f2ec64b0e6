//! CONTRACT SKELETON: what becomes of a command on an action or a queue.
use std::sync::Arc;

use super::core::Core;
use super::request::{Command, CommandError, QueueStatus};
use crate::action::{Action, ActionId, Actor, Timestamp};
use crate::store::StoreError;

impl Core {
    pub(super) fn command(
        &mut self,
        _now: Timestamp,
        _actor: Actor,
        _id: ActionId,
        _command: Command,
    ) -> Result<Result<Arc<Action>, CommandError>, StoreError> {
        todo!()
    }

    pub(super) fn pause(
        &mut self,
        _now: Timestamp,
        _actor: Actor,
        _queue: &str,
        _paused: bool,
    ) -> Result<QueueStatus, CommandError> {
        todo!()
    }
}
