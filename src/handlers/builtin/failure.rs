//! Why a built-in handler did not do what was asked, and what that means for the action.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// In the `error` of a result: for how long another try is of no use.
pub(super) const AFTER_MS: &str = "retry_after_ms";

/// An end without success. What is known about it is kept with the action as `error` of its result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(super) kind: Kind,
    /// A word for programs: `refused`, `unreachable`, `not_found`, ...
    code: String,
    /// For people; says what was being done and to what.
    message: String,
    /// Beside code and message: `sqlstate`, `http_status`, `hint`, ...
    detail: Map<String, Value>,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The cause may pass: another try goes on where this one was.
    Transient,
    /// Trying again would fail again.
    Permanent,
    /// It cannot be told what state the world is in: a person decides.
    Unknown,
}

impl Failure {
    fn new(kind: Kind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, code: code.to_owned(), message: message.into(), detail: Map::new() }
    }

    /// Trying again would fail again.
    pub(crate) fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Permanent, code, message)
    }

    /// The cause may pass, such as a server that does not answer.
    pub(crate) fn transient(code: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Transient, code, message)
    }

    /// It cannot be told whether the effect took place: the action is held for a person.
    pub(crate) fn unknown(code: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Unknown, code, message)
    }

    /// With a further fact.
    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(key.to_owned(), value.into());
        self
    }

    /// One that may pass, but not before so long.
    #[must_use]
    pub(crate) fn after(self, wait: Duration) -> Self {
        self.with(AFTER_MS, u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    /// As one that trying again does not help.
    #[must_use]
    pub(super) fn for_good(self) -> Self {
        Self { kind: Kind::Permanent, ..self }
    }

    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// As it stands in a result.
    pub(super) fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Value::Object(error) = &mut error {
            error.extend(self.detail.clone());
        }
        error
    }

    /// What [`Self::to_json`] made.
    pub(super) fn from_json(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut detail = value.as_object().cloned().unwrap_or_default();
        detail.retain(|key, _| key != "code" && key != "message");
        Self { kind: Kind::Permanent, code: text("code"), message: text("message"), detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_survives_its_way_through_a_step() {
        let failure = Failure::permanent("in_use", "x is in use").with("sqlstate", "55006");
        assert_eq!(Failure::from_json(&failure.to_json()), failure);
    }
}
