//! CONTRACT SKELETON: ends every program that an earlier run of the daemon left behind.
use std::collections::HashMap;

use crate::action::{ActionId, Program};

/// The environment variable that every process of an attempt carries: `STORE_ID/ACTION/ATTEMPT`.
pub const MARK: &str = "ACTIOND_MARK";

/// The value of [`MARK`] for one attempt.
#[must_use]
pub fn mark(store_id: &str, id: ActionId, attempt: u32) -> String {
    format!("{store_id}/{id}/{attempt}")
}

/// Ends all programs that carry this store's mark, or are `known` to belong to an action, with all their
/// descendants. Returns the actions of which something is still alive after `patience_ms`, with what.
///
/// Blocks. Called once at a start, before anything is claimed.
#[must_use]
pub fn end_all(
    _store_id: &str,
    _known: &[(ActionId, Program)],
    _patience_ms: u64,
) -> HashMap<ActionId, String> {
    todo!()
}
