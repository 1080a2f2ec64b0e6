//! How an attempt ended, as its handler tells it.

use super::JsonText;

/// The end of one attempt. What follows for the action is decided by the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Succeeded {
        message: String,
        result: Option<JsonText>,
    },
    /// `retryable`: the cause may pass; another try is worth it, if the retry policy has one left.
    Failed {
        message: String,
        result: Option<JsonText>,
        retryable: bool,
    },
    /// A failure that may pass, but not before so long: no other try is made until then, within the longest wait of the
    /// retry policy.
    TryLater {
        message: String,
        result: Option<JsonText>,
        after_ms: u64,
    },
    /// The attempt was stopped because the action was cancelled; nothing of it is alive.
    Cancelled {
        message: String,
        result: Option<JsonText>,
    },
    /// The attempt ran longer than it may and was stopped; nothing of it is alive.
    TimedOut {
        message: String,
        result: Option<JsonText>,
    },
    /// The attempt asks for a reboot of the host, after which the action is run again; nothing of it is alive.
    Reboot {
        message: String,
    },
    /// The attempt was stopped because the daemon stops; the recovery policy decides at the next start.
    Interrupted,
    /// The daemon stops and the attempt goes on: the next start takes it up.
    LeftRunning,
    /// The attempt had no effect at all: its program was not started, and never will be. Run again, whatever the policy.
    NotStarted,
    /// What carried the attempt was ended by somebody else, without a word how far it was: the recovery policy decides.
    Lost {
        message: String,
    },
    /// The attempt cannot tell what state it leaves the world in; nothing of it is alive. Held, until a person decides.
    Undecided {
        message: String,
    },
    /// Something of the attempt could not be ended. Held, with its locks, until a person decides.
    Unkillable {
        message: String,
    },
}

/// What a probe found out about an interrupted attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    Committed,
    NotCommitted,
    Unknown,
}
