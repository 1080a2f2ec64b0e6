//! CONTRACT SKELETON: what follows from what an attempt says.
use super::core::Core;
use super::request::Said;
use crate::action::{Action, ActionId, Event, JsonText, Timestamp};
use crate::store::StoreError;

impl Core {
    pub(super) fn attempt_said(
        &mut self,
        _now: Timestamp,
        _id: ActionId,
        _attempt: u32,
        _said: Said,
    ) -> Result<(), StoreError> {
        todo!()
    }

    pub(super) fn finish(
        &mut self,
        _now: Timestamp,
        _action: Action,
        _event: Event,
        _message: &str,
        _result: Option<JsonText>,
    ) -> Result<(), StoreError> {
        todo!()
    }
}
