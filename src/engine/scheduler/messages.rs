//! What the scheduler is told and what it asks for. Used by the engine's decisions.

use std::borrow::Cow;

use crate::action::{ActionId, LockKey, State, Timestamp};

/// Number of a queue, in the order of the configuration.
pub type QueueIndex = u16;

/// An unfinished action as the scheduler knows it.
#[derive(Clone, Debug)]
pub struct Ticket<'a> {
    pub id: ActionId,
    pub queue: QueueIndex,
    pub priority: u8,
    /// A number for the action type, for `Scheduler::same_kind`.
    pub kind: u16,
    pub locks: Cow<'a, [LockKey]>,
    /// Any unfinished state. `Held`, `RetryWait` and the active ones hold their locks, unless `attempt` is 0 or
    /// a person freed them.
    pub state: State,
    pub attempt: u32,
    pub locks_freed: bool,
    pub due_at: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// An action was accepted, or found at a start.
    Enter(Ticket<'a>),
    /// It reached a final state.
    Leave(ActionId),
    /// Its attempt failed; it waits, with its locks, for another try.
    RetryAt(ActionId, Timestamp),
    /// It waits for a person, with the locks it has.
    Hold(ActionId),
    /// It waits, with its locks, for a reboot of the host.
    Reboot(ActionId),
    /// Whether nothing is started, because a reboot of the host is due.
    StartNothing(bool),
    /// It may be claimed (again).
    Queue(ActionId),
    /// A person frees the locks of a held action.
    Unlock(ActionId),
    PauseQueue(QueueIndex, bool),
    /// Nothing more is started.
    Drain,
    /// Time has passed.
    Tick,
}

/// What has to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Claim it and run it; the scheduler counts it as running from now on.
    Start(ActionId),
    /// Its time has come: it is queued now.
    Due(ActionId),
    /// Its deadline was over while it waited. The scheduler has forgotten it; but one that holds locks, and so has begun,
    /// starts no more until it is queued again, and keeps them until it leaves.
    Expire(ActionId),
}
