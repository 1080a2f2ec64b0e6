//! The domain: what an action is, which states it passes through, and what follows from an event.
//!
//! Pure: no I/O, no serde, no tokio, no clock. Everything here can be tested with plain values. The
//! wire form (`api::wire`) and the stored form (`store::record`) are types of their own that convert
//! to and from these, so that neither can change the other by accident.
//!
//! Used by every other part; uses none of them.

mod body;
mod catalogue;
mod lock;
mod outcome;
mod retry;
mod state;
mod status;
mod step;
mod time;
mod unfinished;

pub use body::{Actor, Body, JsonText, OnConflict, RetryPolicy};
pub use catalogue::{ACTION_TYPES, ActionType, action_type};
pub use lock::LockKey;
pub use outcome::{Outcome, ProbeAnswer};
pub use retry::backoff_ms;
pub use state::{Event, IllegalTransition, State};
pub use status::{
    ATTEMPTS_KEPT, AttemptEnd, AttemptRecord, CancelRequest, Claim, Ending, Finish, Program, Progress,
    REBOOTS_MAX, Status, Unsuccess,
};
pub use step::{InvalidStepName, STEP_NAME_BYTES_MAX, STEPS_MAX, Step};
pub use time::Timestamp;
pub use unfinished::{Unfinished, kind_number};

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The identity of an action on this host: counts up from 1 by one for each accepted action.
///
/// Below 2^53, so that it is exact as a JSON number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub u64);

impl ActionId {
    /// The largest integer that every JSON reader keeps exact (RFC 8259, section 6).
    pub const MAX: Self = Self((1 << 53) - 1);
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ActionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One action as it stands: what was asked (never changes) and what became of it so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub id: ActionId,
    pub body: Arc<Body>,
    pub status: Status,
}

/// What the recovery of an interrupted attempt may do, when nothing of the attempt is alive any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// Safe to repeat: a new attempt.
    Rerun,
    /// Ask the world first; rerun only if it says that nothing was done.
    Probe,
    /// Run again; the handler gets the last durable checkpoint and continues from there.
    Resume,
    /// Never again: the action fails as interrupted.
    Fail,
    /// A person decides.
    Hold,
}

impl Recovery {
    pub const ALL: [Self; 5] = [Self::Rerun, Self::Probe, Self::Resume, Self::Fail, Self::Hold];

    /// The word used in the configuration and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rerun => "rerun",
            Self::Probe => "probe",
            Self::Resume => "resume",
            Self::Fail => "fail",
            Self::Hold => "hold",
        }
    }

    /// The policy named by a word of the configuration, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == word)
    }
}
