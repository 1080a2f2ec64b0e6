//! Every way in which the API says no: one table of stable types, and where each comes from.
//!
//! A problem's `type` is `urn:actiond:problem:` and the word of the table. Clients decide by the word; the title
//! is for people, the detail says what it is about this time. Words are never reused for something else.
//!
//! Used by every route; the NDJSON stream puts the same documents into its answer lines.

use super::wire;
use crate::engine::{CommandError, SubmitError};
use crate::store::StoreError;

/// What every problem's `type` begins with.
const URN: &str = "urn:actiond:problem:";

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:literal, $title:literal;)*) => {
        /// The word of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Word { $($(#[$doc])* $name,)* }

        impl Word {
            pub(super) const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub(super) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            pub(super) fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            pub(super) fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

problems! {
    // The request itself.
    BadRequest = "bad-request", 400, "the request is not one this API knows";
    BadQuery = "bad-query", 400, "a query parameter is unknown or has no such value";
    NotUtf8 = "not-utf8", 400, "the body is not UTF-8";
    NotJson = "not-json", 400, "the body is not one JSON object";
    UnknownField = "unknown-field", 400, "the object has a field that does not exist";
    MissingField = "missing-field", 400, "the object lacks a field";
    /// Wrong type, out of bounds, given twice, or with a forbidden character.
    InvalidField = "invalid-field", 400, "a field has a value that it cannot have";
    MetadataTooDeep = "metadata-too-deep", 400, "metadata is nested too deeply";
    MetadataTooLarge = "metadata-too-large", 413, "metadata is too large";
    BodyTooLarge = "body-too-large", 413, "the body, or a line of it, is too large";
    UnsupportedMediaType = "unsupported-media-type", 415, "the content type is not one this route takes";
    RequestTimeout = "request-timeout", 408, "the body did not arrive in time";
    // The submission.
    UnknownAction = "unknown-action", 422, "no handler is configured for this action";
    InvalidMetadata = "invalid-metadata", 422, "the handler does not take this metadata";
    UnknownQueue = "unknown-queue", 422, "there is no such queue to submit to";
    KeyReused = "key-reused", 422, "the idempotency key belongs to another request";
    DeadlinePassed = "deadline-passed", 422, "the deadline has passed";
    /// `on_conflict: reject`; `action_id` is the other action.
    Conflict = "conflict", 409, "another action holds or waits for the resource";
    QueueFull = "queue-full", 429, "the queue is full";
    /// `limits.waiting_max`.
    TooManyWaiting = "too-many-waiting", 429, "too many actions are unfinished";
    /// The idempotency key was used for this very request, whose action is deleted.
    Gone = "gone", 410, "the action is past its retention";
    // Commands.
    WrongState = "wrong-state", 409, "the action's state does not allow this";
    NotAllowed = "not-allowed", 403, "the caller may not do this";
    // What is asked for does not exist.
    NoSuchAction = "no-such-action", 404, "there is no such action";
    NoSuchQueue = "no-such-queue", 404, "there is no such queue";
    NoSuchPage = "no-such-page", 404, "there is nothing at this path";
    MethodNotAllowed = "method-not-allowed", 405, "the path does not take this method";
    // The TCP door.
    ReadOnly = "read-only", 405, "this door only reads; submit over the Unix socket";
    WrongHost = "wrong-host", 403, "the Host header names no host of this endpoint";
    CrossOrigin = "cross-origin", 403, "requests of web pages are refused";
    // The daemon's own state.
    TooManyConnections = "too-many-connections", 503, "too many connections";
    Draining = "draining", 503, "the daemon is stopping";
    Busy = "busy", 503, "the daemon cannot take more just now";
    Rebuilding = "rebuilding", 503, "the store is being rebuilt";
    DiskLow = "disk-low", 507, "the disk is almost full";
    /// Whether a submission was stored is unknown: submit again with the same idempotency key.
    StoreFailed = "store-failed", 500, "the store failed";
    Internal = "internal", 500, "the daemon could not answer";
}

/// One refusal.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub word: Word,
    pub detail: String,
    pub action_id: Option<u64>,
}

impl Problem {
    pub(super) fn new(word: Word, detail: impl Into<String>) -> Self {
        Self { word, detail: detail.into(), action_id: None }
    }

    /// A field with a value it cannot have; `what` follows the field's name.
    pub(super) fn field(name: &str, what: impl std::fmt::Display) -> Self {
        Self::new(Word::InvalidField, format!("{name}: {what}"))
    }

    pub(super) fn no_such_page() -> Self {
        Self::new(Word::NoSuchPage, "see /v1/openapi.json for what there is")
    }

    fn about(mut self, id: crate::action::ActionId) -> Self {
        self.action_id = Some(id.0);
        self
    }

    /// Seconds after which trying again is worth it.
    pub(super) fn retry_after(&self) -> Option<u32> {
        match self.word {
            Word::QueueFull | Word::TooManyWaiting | Word::Busy | Word::TooManyConnections => Some(1),
            Word::Rebuilding | Word::Draining => Some(5),
            Word::DiskLow => Some(60),
            _ => None,
        }
    }

    pub(super) fn to_wire(&self) -> wire::Problem {
        wire::Problem {
            kind: format!("{URN}{}", self.word.as_str()),
            title: self.word.title().to_owned(),
            status: self.word.status(),
            detail: self.detail.clone(),
            action_id: self.action_id,
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::UnknownAction { .. } => Self::new(Word::UnknownAction, detail),
            SubmitError::InvalidMetadata(_) => Self::new(Word::InvalidMetadata, detail),
            SubmitError::UnknownQueue(_) => Self::new(Word::UnknownQueue, detail),
            SubmitError::QueueFull { .. } => Self::new(Word::QueueFull, detail),
            SubmitError::TooManyWaiting { .. } => Self::new(Word::TooManyWaiting, detail),
            SubmitError::Conflict { id } => Self::new(Word::Conflict, detail).about(id),
            SubmitError::KeyReused { id } => Self::new(Word::KeyReused, detail).about(id),
            SubmitError::DeadlinePassed => Self::new(Word::DeadlinePassed, detail),
            SubmitError::Gone { id } => Self::new(Word::Gone, detail).about(id),
            SubmitError::Draining => Self::new(Word::Draining, detail),
            SubmitError::Busy => Self::new(Word::Busy, detail),
            SubmitError::DiskLow => Self::new(Word::DiskLow, detail),
            SubmitError::Unreadable { id } => Self::new(Word::StoreFailed, detail).about(id),
            SubmitError::Store => {
                let more = "whether it was stored is unknown: submit again with the same idempotency key";
                Self::new(Word::StoreFailed, format!("{detail}; {more}"))
            }
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let detail = error.to_string();
        match error {
            CommandError::NoSuchAction(_) => Self::new(Word::NoSuchAction, detail),
            CommandError::NoSuchQueue(_) => Self::new(Word::NoSuchQueue, detail),
            CommandError::WrongState { id, .. } => Self::new(Word::WrongState, detail).about(id),
            CommandError::NotAllowed { .. } => Self::new(Word::NotAllowed, detail),
            CommandError::Submit(error) => error.into(),
            CommandError::Stopping => Self::new(Word::Draining, detail),
        }
    }
}

impl From<StoreError> for Problem {
    /// For reads only. Paths and causes stay in the log: they are the operator's, not the caller's.
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Rebuilding) {
            return Self::new(Word::Rebuilding, error.to_string());
        }
        tracing::error!(error = &error as &dyn std::error::Error, "cannot read from the store");
        Self::new(Word::StoreFailed, "the store cannot be read; the daemon's log says why")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_word_of_its_own_and_an_error_status() {
        let mut words: Vec<_> = Word::ALL.iter().map(|word| word.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Word::ALL.len());
        for word in Word::ALL {
            assert!((400..600).contains(&word.status()), "{word:?}");
            assert!(
                word.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte == b'8')
            );
        }
    }

    #[test]
    fn problem_of_a_conflict_names_the_other_action() {
        let problem = Problem::from(SubmitError::Conflict { id: crate::action::ActionId(7) }).to_wire();
        assert_eq!(problem.kind, "urn:actiond:problem:conflict");
        assert_eq!((problem.status, problem.action_id), (409, Some(7)));
    }
}
