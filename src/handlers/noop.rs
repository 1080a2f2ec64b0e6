//! `noop`: does nothing, for benchmarks and trials.
//!
//! Metadata: `sleep_ms` (0 to 86,400,000) waits that long; `fail` makes it fail: `true` or a message for good, a
//! number `n` only the first `n` attempts, each worth another try; `result` is the object to answer with. Other
//! keys are accepted, so that any action of another handler can be tried with this one. `sleep_ms` and `fail` in
//! the `[[handler]]` table are what holds where the metadata does not say. Only that table has `reboot`: so many of an
//! action's attempts ask for a reboot of the host, and that is not for whoever may submit. No effect else: always safe
//! to rerun.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Asked, Attempt, BoxFuture, Handler, InvalidMetadata, StopReason};
use crate::action::{Action, JsonText, LockKey, Outcome, ProbeAnswer};

const SLEEP_MS_MAX: u64 = 86_400_000;

/// The handler with its settings.
#[derive(Debug, Default)]
pub struct Noop {
    sleep_ms: u64,
    fail: Fail,
    reboot: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Fail {
    #[default]
    Never,
    Always(Option<String>),
    /// Only the attempts up to this one.
    First(u64),
}

#[derive(Deserialize)]
struct Metadata<'a> {
    sleep_ms: Option<Value>,
    fail: Option<Value>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// What one action asks for.
#[derive(Debug)]
struct Order {
    sleep_ms: u64,
    fail: Fail,
    result: Option<JsonText>,
}

impl Noop {
    /// Reads the handler's own keys of its `[[handler]]` table: `sleep_ms`, `fail`, `reboot`.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each naming the key.
    pub fn new(own: &toml::Table) -> Result<Self, Vec<String>> {
        let (mut noop, mut problems) = (Self::default(), Vec::new());
        for (key, value) in own {
            // The two forms agree in all that these keys can hold.
            let value = serde_json::to_value(value).unwrap_or_default();
            let read = match key.as_str() {
                "sleep_ms" => sleep_ms(&value).map(|sleep_ms| noop.sleep_ms = sleep_ms),
                "fail" => fail(&value).map(|fail| noop.fail = fail),
                "reboot" => match value.as_u64() {
                    Some(count) => {
                        noop.reboot = count;
                        Ok(())
                    }
                    None => Err("reboot must be a number of attempts".to_owned()),
                },
                _ => Err(format!("{key} is not a key of noop")),
            };
            problems.extend(read.err());
        }
        if problems.is_empty() { Ok(noop) } else { Err(problems) }
    }

    fn order(&self, metadata: &JsonText) -> Result<Order, String> {
        // The commonest case by far, in benchmarks above all.
        if metadata.as_str() == "{}" {
            return Ok(Order { sleep_ms: self.sleep_ms, fail: self.fail.clone(), result: None });
        }
        let metadata: Metadata<'_> =
            serde_json::from_str(metadata.as_str()).map_err(|error| format!("metadata: {error}"))?;
        let result = match metadata.result.map(RawValue::get) {
            Some(text) if !text.starts_with('{') => return Err("result must be an object".to_owned()),
            text => text.map(JsonText::from_checked),
        };
        Ok(Order {
            sleep_ms: metadata.sleep_ms.as_ref().map_or(Ok(self.sleep_ms), sleep_ms)?,
            fail: metadata.fail.as_ref().map_or_else(|| Ok(self.fail.clone()), fail)?,
            result,
        })
    }
}

fn sleep_ms(value: &Value) -> Result<u64, String> {
    value
        .as_u64()
        .filter(|ms| *ms <= SLEEP_MS_MAX)
        .ok_or_else(|| format!("sleep_ms must be a whole number from 0 to {SLEEP_MS_MAX}"))
}

fn fail(value: &Value) -> Result<Fail, String> {
    match value {
        Value::Bool(false) => Ok(Fail::Never),
        Value::Bool(true) => Ok(Fail::Always(None)),
        Value::String(message) => Ok(Fail::Always(Some(message.clone()))),
        value => value
            .as_u64()
            .map(Fail::First)
            .ok_or_else(|| "fail must be true, false, a message or a number of attempts".to_owned()),
    }
}

impl Handler for Noop {
    fn validate(&self, asked: &Asked<'_>) -> Result<Vec<LockKey>, InvalidMetadata> {
        self.order(asked.metadata).map(|_| Vec::new()).map_err(InvalidMetadata)
    }

    fn in_process(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let action = &attempt.action;
            let order = match self.order(&action.body.metadata) {
                Ok(order) => order,
                // Accepted under other settings, of another release perhaps.
                Err(message) => return Outcome::Failed { message, result: None, retryable: false },
            };
            if order.sleep_ms > 0 {
                tokio::select! {
                    biased;
                    reason = attempt.stopped() => return stopped(reason),
                    () = tokio::time::sleep(Duration::from_millis(order.sleep_ms)) => {}
                }
            }
            let attempt = u64::from(action.status.attempt);
            if attempt <= self.reboot {
                return Outcome::Reboot {
                    message: format!("attempt {attempt} of {} asks for it", self.reboot),
                };
            }
            let result = order.result;
            match order.fail {
                Fail::Always(message) => {
                    let message = message.unwrap_or_else(|| "failed as asked".to_owned());
                    Outcome::Failed { message, result, retryable: false }
                }
                Fail::First(count) if attempt <= count => {
                    let message = format!("attempt {attempt} of {count} failed as asked");
                    Outcome::Failed { message, result, retryable: true }
                }
                Fail::First(_) | Fail::Never => Outcome::Succeeded { message: "done".to_owned(), result },
            }
        })
    }

    /// It has no effect, so none was committed.
    fn probe<'a>(&'a self, _action: &'a Action, _mark: &'a str) -> BoxFuture<'a, ProbeAnswer> {
        Box::pin(async { ProbeAnswer::NotCommitted })
    }
}

fn stopped(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Cancel => {
            Outcome::Cancelled { message: "stopped while it slept".to_owned(), result: None }
        }
        StopReason::TimeOut => {
            Outcome::TimedOut { message: "ran out of time while it slept".to_owned(), result: None }
        }
        StopReason::Shutdown => Outcome::Interrupted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(own: &str, metadata: &str) -> Result<Order, String> {
        Noop::new(&own.parse().unwrap()).unwrap().order(&JsonText::from_checked(metadata))
    }

    #[test]
    fn metadata_beats_the_handlers_table_and_unknown_keys_are_accepted() {
        let of_table = order("sleep_ms = 5\nfail = \"no\"", r#"{"git_ref": "main"}"#).unwrap();
        assert_eq!((of_table.sleep_ms, of_table.fail), (5, Fail::Always(Some("no".to_owned()))));
        let metadata = r#"{"sleep_ms": 0, "fail": 2, "result": {"a": 1.10}}"#;
        let of_metadata = order("sleep_ms = 5\nfail = true", metadata).unwrap();
        assert_eq!((of_metadata.sleep_ms, of_metadata.fail), (0, Fail::First(2)));
        assert_eq!(of_metadata.result.unwrap().as_str(), r#"{"a": 1.10}"#);
        assert_eq!(order("", "{}").unwrap().fail, Fail::Never);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_key() {
        for (metadata, key) in [
            (r#"{"sleep_ms": -1}"#, "sleep_ms"),
            (r#"{"sleep_ms": 86400001}"#, "sleep_ms"),
            (r#"{"fail": {}}"#, "fail"),
            (r#"{"result": 3}"#, "result"),
        ] {
            let error = order("", metadata).unwrap_err();
            assert!(error.starts_with(key), "{error}");
        }
        let problems = Noop::new(&"sleep = 1\nfail = 1.5\nreboot = true".parse().unwrap()).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
