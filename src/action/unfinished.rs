//! An unfinished action as scheduling needs it: without its body, so that a start has not to read a million of them.

use super::lock::fnv1a_of;
use super::{Action, ActionId, Claim, LockKey, State, Timestamp};

/// What the scheduler must know of an unfinished action, and who carries it out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished<'a> {
    pub id: ActionId,
    pub queue: &'a str,
    /// See [`kind_number`].
    pub kind: u16,
    pub priority: u8,
    pub deadline: Option<Timestamp>,
    pub locks: &'a [LockKey],
    pub state: State,
    pub attempt: u32,
    pub locks_freed: bool,
    pub due_at: Option<Timestamp>,
    pub claim: Option<&'a Claim>,
}

impl<'a> Unfinished<'a> {
    #[must_use]
    pub fn of(action: &'a Action) -> Self {
        let Action { id, body, status } = action;
        Self {
            id: *id,
            queue: &body.queue,
            kind: kind_number(&body.action),
            priority: body.priority,
            deadline: body.deadline,
            locks: &body.locks,
            state: status.state,
            attempt: status.attempt,
            locks_freed: status.locks_freed,
            due_at: status.due_at,
            claim: status.claim.as_ref(),
        }
    }
}

/// A number that tells most action types apart, the same for ever: it may be stored. Two types may share one: whoever
/// finds them equal compares the names.
#[must_use]
pub fn kind_number(action: &str) -> u16 {
    let hash = fnv1a_of(action.as_bytes());
    let folded = (hash >> 48) ^ (hash >> 32) ^ (hash >> 16) ^ hash;
    u16::try_from(folded & u64::from(u16::MAX)).unwrap_or(0)
}
