//! Effects on the world: the trait every handler implements, and what an attempt gives it.
//!
//! A handler is one file and one line in [`registry`]. It knows its settings, the action and the
//! [`Attempt`]; it knows neither the engine nor the store. Called by `engine::worker` only.
//!
//! # Contract
//!
//! - `run` is called after the claim of the attempt is durable, and at most once per claim.
//! - When [`Attempt::stopped`] resolves, the handler ends what it started and returns; it returns only
//!   when nothing of the attempt is alive, or [`Outcome::Unkillable`]. What outlives the daemon is not ended because the
//!   daemon stops: [`Outcome::LeftRunning`].
//! - A panic in `run` is an outcome (failed), not the end of the daemon.

pub mod builtin;
pub mod exec;
pub mod in_process;
pub mod noop;
pub mod registry;
pub mod targets;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::action::{Action, JsonText, LockKey, Outcome, ProbeAnswer, Program, STEPS_MAX, Step};
pub use crate::runner::backend::BoxFuture;
use crate::runner::logs::LogWriter;

/// Why an action is refused at submission: its metadata does not fit its handler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMetadata(pub String);

/// What a submission asks for, as far as its handler has a say in it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub action: &'a str,
    pub resource_type: &'a str,
    pub resource_id: u64,
    pub metadata: &'a JsonText,
}

/// The engine did not make a statement of the attempt durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRecorded {
    /// The daemon is going down: the attempt has to end.
    #[error("the daemon is stopping; nothing more of this attempt can be recorded")]
    Stopping,
    /// The statement is refused, and the one before stands: the attempt may go on.
    #[error("{bytes} bytes are more than limits.result_bytes_max, {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// As above.
    #[error("{count} steps are more than an action may have, {STEPS_MAX}")]
    TooManySteps { count: usize },
}

/// Why an attempt has to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled the action: return [`Outcome::Cancelled`].
    Cancel,
    /// Its timeout or deadline is over: return [`Outcome::TimedOut`].
    TimeOut,
    /// The daemon stops: return [`Outcome::Interrupted`].
    Shutdown,
}

/// Why what an action did is taken back.
#[derive(Clone, Debug, PartialEq)]
pub enum UndoReason {
    Cancelled,
    /// Its timeout or deadline is over.
    TimedOut,
    /// It has failed for good, as its last attempt says it.
    Failed {
        message: String,
        result: Option<JsonText>,
    },
}

/// What really does an action.
pub trait Handler: Send + Sync {
    /// Whether the action's metadata fits; called before anything is stored. Gives what the action has to have for itself
    /// while it runs, beside its resource.
    ///
    /// # Errors
    ///
    /// [`InvalidMetadata`] names the key and what is wrong with it; the submission is refused.
    fn validate(&self, asked: &Asked<'_>) -> Result<Vec<LockKey>, InvalidMetadata>;

    /// Whether `run` works inside the daemon's own process, so that a fatal signal there is its doing.
    fn in_process(&self) -> bool;

    /// Carries out one attempt to its end.
    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Outcome>;

    /// Whether `run` has no effect before [`Attempt::program_started`] has returned `Ok`. The claim says so, and a start that
    /// finds it without a program knows that the attempt has not begun.
    fn is_gated(&self, _action: &Action) -> bool {
        false
    }

    /// Whether what `run` starts for this action goes on when the daemon stops or dies: then `run` returns
    /// [`Outcome::LeftRunning`] at once when the daemon stops, and `adopt` takes the attempt up.
    fn outlives_daemon(&self, _action: &Action) -> bool {
        false
    }

    /// Takes up an attempt that an earlier run of the daemon left running, or that ended while there was none, and
    /// carries it to its end. Called instead of `run`, for what `runner::adoption` found.
    fn adopt<'a>(&'a self, _attempt: &'a Attempt) -> BoxFuture<'a, Outcome> {
        Box::pin(async { Outcome::Interrupted })
    }

    /// Whether the attempts so far, of which nothing is alive, may have done something that [`Self::undo`] takes back; or have
    /// taken it back, and the result that says so is lost: `is_told` is whether the last one has given its own.
    fn undoes(&self, _action: &Action, _is_told: bool) -> bool {
        false
    }

    /// Takes back what the attempts so far have done, since the action ends without success. Called when
    /// [`Self::undoes`], and again if the daemon dies meanwhile or [`Outcome::Lost`] is returned. It is told to stop only
    /// when the daemon stops, or when it takes far too long.
    ///
    /// What is taken back is [`Outcome::Failed`] with a result, which is the action's. Anything else is for a person.
    fn undo<'a>(&'a self, _attempt: &'a Attempt, _why: UndoReason) -> BoxFuture<'a, Outcome> {
        Box::pin(async { Outcome::Undecided { message: "its handler takes nothing back".to_owned() } })
    }

    /// Finds out whether an interrupted attempt took effect. Asked only under `recovery = "probe"`, when nothing
    /// of that attempt is alive; so what it starts carries the attempt's `mark`, and is ended like an attempt's own
    /// programs if the daemon dies meanwhile.
    fn probe<'a>(&'a self, action: &'a Action, mark: &'a str) -> BoxFuture<'a, ProbeAnswer>;
}

/// Where an attempt's statements go; implemented by the engine.
pub trait Port: Send + Sync {
    /// Shows how far the attempt is. Not durable: lost if the daemon dies.
    fn progress(&self, percent: u8, message: &str);

    /// Returns when the checkpoint is durable; it replaces the one before.
    fn checkpoint(&self, checkpoint: JsonText) -> BoxFuture<'_, Result<(), NotRecorded>>;

    /// Returns when the steps are durable; they are all of the action's, and replace those before.
    fn steps(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<(), NotRecorded>>;

    /// Returns when the program's identity is durable; only then may it get its go.
    fn program_started(&self, program: Program) -> BoxFuture<'_, Result<(), NotRecorded>>;
}

/// The port of a program beside an attempt's own.
struct Beside(Arc<dyn Port>);

impl Port for Beside {
    fn progress(&self, percent: u8, message: &str) {
        self.0.progress(percent, message);
    }

    fn checkpoint(&self, checkpoint: JsonText) -> BoxFuture<'_, Result<(), NotRecorded>> {
        self.0.checkpoint(checkpoint)
    }

    fn steps(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<(), NotRecorded>> {
        self.0.steps(steps)
    }

    /// The claim goes on to name the attempt's own: by it that is found, and this one by its mark.
    fn program_started(&self, _program: Program) -> BoxFuture<'_, Result<(), NotRecorded>> {
        Box::pin(async { Ok(()) })
    }
}

/// What is done once what became of an attempt is durable. Must not block: the engine does it.
pub type Afterwards = Box<dyn FnOnce() + Send>;

/// One attempt at an action, as its handler sees it.
pub struct Attempt {
    /// The action as claimed: `status.attempt` is this attempt's number, `status.checkpoint` and `status.steps` what
    /// earlier ones left, `status.claim` has its fence.
    pub action: Arc<Action>,
    /// Lines of the action's log.
    pub log: LogWriter,
    /// What every process of the attempt carries in its environment (`runner::leftovers::MARK`).
    pub mark: String,
    port: Arc<dyn Port>,
    stop: watch::Receiver<Option<StopReason>>,
    afterwards: Mutex<Option<Afterwards>>,
}

impl Attempt {
    #[must_use]
    pub fn new(
        action: Arc<Action>,
        log: LogWriter,
        mark: String,
        port: Arc<dyn Port>,
        stop: watch::Receiver<Option<StopReason>>,
    ) -> Self {
        Self { action, log, mark, port, stop, afterwards: Mutex::default() }
    }

    /// The same attempt for another program than its own, which is over: who that one is is not recorded.
    #[must_use]
    pub(crate) fn beside(&self, action: Arc<Action>) -> Self {
        Self {
            action,
            log: self.log.clone(),
            mark: self.mark.clone(),
            port: Arc::new(Beside(Arc::clone(&self.port))),
            stop: self.stop.clone(),
            afterwards: Mutex::default(),
        }
    }

    /// Shows how far the attempt is, 0 to 100. Not durable.
    pub fn progress(&self, percent: u8, message: &str) {
        self.port.progress(percent.min(100), message);
    }

    /// Makes a checkpoint durable; the next attempt gets it back.
    ///
    /// # Errors
    ///
    /// [`NotRecorded`] if the daemon stops, and then the caller ends its work; or if it is too large.
    pub async fn checkpoint(&self, checkpoint: JsonText) -> Result<(), NotRecorded> {
        self.port.checkpoint(checkpoint).await
    }

    /// Makes the action's steps durable, all of them as they stand; further attempts get them back.
    ///
    /// # Errors
    ///
    /// [`NotRecorded`] if the daemon stops, and then the caller ends its work; or if they are too many.
    pub async fn steps(&self, steps: Vec<Step>) -> Result<(), NotRecorded> {
        self.port.steps(steps).await
    }

    /// Makes the identity of the attempt's program durable.
    ///
    /// # Errors
    ///
    /// [`NotRecorded`] if the daemon stops; the program must not get its go.
    pub async fn program_started(&self, program: Program) -> Result<(), NotRecorded> {
        self.port.program_started(program).await
    }

    /// Has this done once what became of the attempt is durable. Dropped undone if the daemon dies before, or if that is
    /// still to be found out (a probe, a reboot).
    pub fn when_recorded(&self, work: impl FnOnce() + Send + 'static) {
        *self.afterwards.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(work));
    }

    /// What [`Self::when_recorded`] was given.
    pub fn take_afterwards(&self) -> Option<Afterwards> {
        self.afterwards.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Resolves when the attempt has to end, with the reason; never before.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.stop.clone();
        match stop.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or(StopReason::Shutdown),
            // The engine is gone: the daemon is going down.
            Err(_) => StopReason::Shutdown,
        }
    }
}
