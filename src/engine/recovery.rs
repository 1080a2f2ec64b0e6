//! CONTRACT SKELETON: decides about attempts that an earlier run of the daemon left unfinished.
use std::collections::HashMap;

use super::core::Core;
use crate::action::{ActionId, ProbeAnswer, Timestamp};
use crate::store::StoreError;

/// An attempt whose in-process handler took the daemon down (panic or fatal signal), as the daemon's last
/// words say it (`daemon::last_words`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub id: ActionId,
    pub attempt: u32,
}

impl Core {
    pub(super) fn recover(
        &mut self,
        _interrupted: &[ActionId],
        _survivors: &HashMap<ActionId, String>,
        _death: Option<Death>,
    ) -> Result<(), StoreError> {
        todo!()
    }

    pub(super) fn probed(
        &mut self,
        _now: Timestamp,
        _id: ActionId,
        _answer: ProbeAnswer,
    ) -> Result<(), StoreError> {
        todo!()
    }
}
