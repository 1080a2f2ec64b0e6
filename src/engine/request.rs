//! What the faces of the daemon ask of the engine, what it answers, and the messages that carry both.
//!
//! [`Request`] is private to the engine: everything that wants something of the engine's thread, be it a
//! client or a running attempt, becomes one, so that there is one way in.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Settings;
use crate::action::{
    Action, ActionId, Actor, JsonText, OnConflict, Outcome, ProbeAnswer, Program, RetryPolicy, State, Step,
    Timestamp,
};
use crate::handlers::registry::Registry;
use crate::handlers::{Afterwards, NotRecorded};

/// One submission as the wire gave it, with the caller's identity; defaults not yet filled in.
#[derive(Clone, Debug)]
pub struct Submission {
    pub actor: Actor,
    pub user: String,
    pub resource_type: String,
    pub action: String,
    pub resource_id: u64,
    pub started_via: String,
    pub metadata: JsonText,
    pub queue: Option<String>,
    pub priority: Option<u8>,
    pub run_at: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
    pub timeout_ms: Option<u64>,
    pub on_conflict: OnConflict,
    pub idempotency_key: Option<String>,
    pub retry: Option<RetryPolicy>,
    /// Digest of the request (all fields above but the actor), computed only when a key is given.
    pub digest: [u8; 16],
}

/// The answer to a submission.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// A new action, durable: 202.
    New(Arc<Action>),
    /// The key was used for the same request before: the first action, 200.
    Repeated(Arc<Action>),
    /// `on_conflict: join` found one: that action, 200.
    Joined(Arc<Action>),
}

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(
        "no handler is configured for action {action} on {resource_type}; next: add a [[handler]] with action = \
         {action:?} to {config_file} and reload the daemon (SIGHUP)"
    )]
    UnknownAction { action: String, resource_type: String, config_file: String },
    #[error("metadata: {0}")]
    InvalidMetadata(String),
    #[error("there is no queue {0}")]
    UnknownQueue(String),
    #[error("queue {queue} already holds {limit} actions")]
    QueueFull { queue: String, limit: u64 },
    /// `limits.waiting_max`: over all queues, what runs included.
    #[error("{limit} actions are unfinished already, in all queues together")]
    TooManyWaiting { limit: u64 },
    #[error("action {id} already holds or waits for this resource")]
    Conflict { id: ActionId },
    #[error("this idempotency key was used for another request, which became action {id}")]
    KeyReused { id: ActionId },
    #[error("the deadline has passed")]
    DeadlinePassed,
    /// The key was used for this very request; its action is past retention.
    #[error("this was accepted before as action {id}, which is past its retention and deleted")]
    Gone { id: ActionId },
    #[error("the daemon is stopping and takes no more actions")]
    Draining,
    /// The memory table is full, or what is asked for cannot be read until sled is rebuilt.
    #[error("the store is busy; try again in a while")]
    Busy,
    #[error("the disk is below its reserve; no new actions are taken")]
    DiskLow,
    #[error("the body of action {id} is damaged on the disk; the daemon's log says where")]
    Unreadable { id: ActionId },
    /// Whether the action was stored is unknown: submit again with the same key.
    #[error("cannot store the action")]
    Store,
}

/// Why a command on an action (or queue) was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("there is no action {0}")]
    NoSuchAction(ActionId),
    #[error("there is no queue {0}")]
    NoSuchQueue(String),
    /// The action's state does not allow it.
    #[error("action {id} is {state}: {detail}")]
    WrongState { id: ActionId, state: State, detail: &'static str },
    #[error("uid {uid} may not do this; uid {owner}, root, the daemon's user and those in [access] may")]
    NotAllowed { uid: u32, owner: u32 },
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error("the daemon is stopping")]
    Stopping,
}

/// A command on one action.
#[derive(Clone, Debug)]
pub enum Command {
    Cancel {
        reason: String,
    },
    /// Makes a new action with `retry_of`; the answer is the new one.
    Retry,
    Hold {
        reason: String,
    },
    Resume,
    /// Settles a held action by hand.
    Resolve {
        success: bool,
        message: String,
    },
    /// Frees the locks of a held action.
    Unlock,
}

/// A queue as it stands.
#[derive(Clone, Debug)]
pub struct QueueStatus {
    pub name: String,
    pub concurrency: u32,
    pub paused: bool,
    pub waiting: u64,
    pub running: u64,
    pub length_max: u64,
}

/// Why an action waits, for people: one sentence for each cause.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub state: State,
    pub causes: Vec<Cause>,
}

/// One cause of waiting: a stable code, a sentence, and the action it waits for, if any.
#[derive(Clone, Debug)]
pub struct Cause {
    pub code: &'static str,
    pub text: String,
    pub behind: Option<ActionId>,
}

/// A durable change, told to whoever follows.
#[derive(Clone, Debug)]
pub struct Change {
    pub id: ActionId,
    pub state: State,
    pub version: u64,
}

/// Counts for `/readyz`, `/metrics` and the page.
#[derive(Clone, Debug, Default)]
pub struct EngineStatus {
    pub incarnation: u64,
    pub draining: bool,
    /// Nothing is started until the host has rebooted.
    pub reboot_due: bool,
    /// Number of actions by state; index is `State as usize`; finished ones since the start only.
    pub by_state: [u64; 14],
    pub accepted: u64,
    pub recovered: u64,
    pub queues: Vec<QueueStatus>,
}

/// A batch of submissions with who waits for its answer.
pub(super) struct Submitted {
    pub batch: Vec<Submission>,
    pub reply: oneshot::Sender<Vec<Result<Accepted, SubmitError>>>,
    /// When it came in: one that finds the memory table full waits for a bounded time.
    pub since: Instant,
}

/// Everything that the engine's thread takes in.
pub(super) enum Request {
    Submit(Submitted),
    Command {
        actor: Actor,
        id: ActionId,
        command: Command,
        reply: oneshot::Sender<Result<Arc<Action>, CommandError>>,
    },
    PauseQueue {
        actor: Actor,
        queue: String,
        paused: bool,
        reply: oneshot::Sender<Result<QueueStatus, CommandError>>,
    },
    Explain {
        id: ActionId,
        reply: oneshot::Sender<Result<Explanation, CommandError>>,
    },
    /// An attempt says something about itself.
    Attempt {
        id: ActionId,
        attempt: u32,
        said: Said,
    },
    /// A probe of an interrupted attempt has its answer.
    Probed {
        id: ActionId,
        answer: ProbeAnswer,
    },
    /// The reboot of the host was asked for, or could not be.
    RebootAsked(Result<(), String>),
    Reload {
        settings: Box<Settings>,
        registry: Arc<Registry>,
        reply: oneshot::Sender<()>,
    },
    /// Start nothing more; answer when nothing runs.
    Drain {
        reply: oneshot::Sender<()>,
    },
    /// End the attempts that still run.
    StopAttempts,
    /// Close the store and end the thread.
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// What a running attempt has to say.
pub(super) enum Said {
    Program(Program, oneshot::Sender<Result<(), NotRecorded>>),
    Checkpoint(JsonText, oneshot::Sender<Result<(), NotRecorded>>),
    Steps(Vec<Step>, oneshot::Sender<Result<(), NotRecorded>>),
    /// With what is to be done once what follows from it is durable.
    Ended(Outcome, Option<Afterwards>),
}
