//! CONTRACT SKELETON: says why an action waits.
use super::core::Core;
use super::request::{CommandError, Explanation};
use crate::action::ActionId;
use crate::store::StoreError;

impl Core {
    pub(super) fn explain(&self, _id: ActionId) -> Result<Result<Explanation, CommandError>, StoreError> {
        todo!()
    }
}
