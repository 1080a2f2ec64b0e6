//! CONTRACT SKELETON: carries one attempt: deadline, stop, panic, statements.
use std::sync::Arc;

use tokio::sync::watch;

use super::core::Core;
use crate::action::Action;
use crate::handlers::{Handler, StopReason};

pub(super) fn stop(_stop: &watch::Sender<Option<StopReason>>, _reason: StopReason) {
    todo!()
}

pub(super) fn spawn(_core: &mut Core, _action: Arc<Action>, _handler: Arc<dyn Handler>) {
    todo!()
}

pub(super) fn spawn_probe(_core: &mut Core, _action: Arc<Action>, _handler: Arc<dyn Handler>) {
    todo!()
}
