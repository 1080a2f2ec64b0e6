//! What a submitter asked for, with every default filled in: fixed at acceptance, never changed after.

use super::{ActionId, LockKey, Recovery, Timestamp};

/// A JSON object as compact text, checked by whoever built it. Kept as text so that numbers and key
/// order come back exactly as they were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(Box<str>);

impl JsonText {
    /// Takes text that the caller has already checked to be one JSON object.
    #[must_use]
    pub fn from_checked(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The empty object, `{}`.
    #[must_use]
    pub fn empty() -> Self {
        Self("{}".into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The process that submitted or changed an action, as the kernel told it (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    pub uid: u32,
    pub gid: u32,
    /// For people who read logs; a pid is reused and proves nothing.
    pub pid: u32,
}

/// What to do at submission if another unfinished action holds or waits for the same resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnConflict {
    /// Wait behind it.
    #[default]
    Queue,
    /// Refuse the submission.
    Reject,
    /// Answer with the other action if it is of the same type; else wait behind it.
    Join,
    /// Supersede those of the same type that have not begun; then wait behind what runs.
    ReplaceQueued,
    /// Take no lock: run beside whatever runs.
    Parallel,
}

impl OnConflict {
    pub const ALL: [Self; 5] = [Self::Queue, Self::Reject, Self::Join, Self::ReplaceQueued, Self::Parallel];

    /// The word used in the configuration and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Reject => "reject",
            Self::Join => "join",
            Self::ReplaceQueued => "replace_queued",
            Self::Parallel => "parallel",
        }
    }

    /// The choice named by a word on the wire, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.as_str() == word)
    }
}

/// How often, and after which waits, a failed attempt is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included; 1 means no retry. Interruptions do not count.
    pub attempts: u32,
    /// Wait before the second try; doubles with each further one.
    pub backoff_ms: u64,
    /// Longest wait between two tries.
    pub backoff_max_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 1, backoff_ms: 1_000, backoff_max_ms: 300_000 }
    }
}

/// What was asked. The first six fields and `accepted_at` are the user document's.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// Email address of the user on whose behalf this runs. A label, never an identity.
    pub user: String,
    pub resource_type: String,
    pub action: String,
    pub resource_id: u64,
    pub started_via: String,
    pub metadata: JsonText,
    /// `started_at` on the wire: when the action was accepted.
    pub accepted_at: Timestamp,
    pub submitter: Actor,
    pub queue: String,
    /// 0 to 9; 9 is served first, between resources only.
    pub priority: u8,
    pub run_at: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
    /// Longest time for one attempt.
    pub timeout_ms: u64,
    pub on_conflict: OnConflict,
    pub idempotency_key: Option<String>,
    /// Digest of the request as sent: tells a repeated submission from a reused key.
    pub request_digest: [u8; 16],
    pub retry: RetryPolicy,
    pub recovery: Recovery,
    /// Locks taken all or none before it runs; empty if it runs beside others.
    pub locks: Vec<LockKey>,
    /// The final action of which this one is a repetition.
    pub retry_of: Option<ActionId>,
}
