//! The Rust client: everything a program can ask of the daemon over its Unix socket.
//!
//! # Guarantees
//!
//! - Each failure is one of three kinds that a caller treats differently ([`ClientError`]).
//! - A read is repeated once when a kept connection turns out to be dead; a write never is, unless it
//!   provably did not leave. Whether a write that broke off was carried out is unknown, and said so.
//! - Every answer has a bound in bytes, and its head a bound in time.
//!
//! Surviving a restart of the daemon is the caller's decision: a call fails at once when nobody listens.
//!
//! Called by the command line and by the tests; knows the wire types and nothing else of the daemon.

mod connection;
mod stream;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::wire;
pub use connection::{BodySender, BodySource, Client, body};
pub use stream::{Events, LogLine, Records};

/// Longest time from a request to the head of its answer, beyond the wait that was asked for.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the connection broke off. Worth trying again when the daemon is back.
    #[error("cannot reach actiond at {}: {cause}", .socket.display())]
    Unreachable { socket: PathBuf, cause: String, kind: std::io::ErrorKind },
    /// The daemon said no, in its own words.
    #[error("{}", .0.detail)]
    Problem(Box<wire::Problem>),
    /// What answers does not speak this protocol.
    #[error("unexpected answer from the daemon: {0}")]
    Protocol(String),
}

/// The answer to a submission.
#[derive(Debug)]
pub struct Submitted {
    pub action: wire::Action,
    /// False if the action was there before: a repeated key, or `on_conflict: join`.
    pub fresh: bool,
}

/// Which actions `list` shows; an empty filter shows all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub states: Vec<String>,
    pub queue: Option<String>,
    pub action: Option<String>,
    pub resource_type: Option<String>,
    pub resource_id: Option<u64>,
    pub user: Option<String>,
    /// Only ids below this one.
    pub before: Option<u64>,
    pub limit: Option<u32>,
}

/// The queues, bare or in an object, as versions of the daemon answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Queues {
    Bare(Vec<wire::Queue>),
    Wrapped { queues: Vec<wire::Queue> },
}

impl Client {
    /// Submits one action; it is durable when this returns.
    pub async fn submit(&self, request: &wire::SubmitRequest) -> Result<Submitted, ClientError> {
        self.submit_json(to_json(request)?).await
    }

    /// Submits one JSON object as it stands; the daemon judges it.
    pub async fn submit_json(&self, object: Bytes) -> Result<Submitted, ClientError> {
        let (status, body) = self.post("/v1/actions", object, ANSWER_LIMIT).await?;
        Ok(Submitted { action: from_json(&body)?, fresh: status == StatusCode::ACCEPTED })
    }

    /// Submits a stream of NDJSON; its answers come in the order of the lines, while lines still go out.
    pub async fn submit_stream(&self, lines: BodySource) -> Result<Records<wire::LineAnswer>, ClientError> {
        Ok(Records::new(self.post_stream("/v1/actions", "application/x-ndjson", lines).await?))
    }

    /// One page, newest first.
    pub async fn list(&self, filter: &Filter) -> Result<wire::Page, ClientError> {
        self.read(&format!("/v1/actions{}", filter.query()), ANSWER_LIMIT).await
    }

    pub async fn action(&self, id: u64) -> Result<wire::Action, ClientError> {
        self.read(&format!("/v1/actions/{id}"), ANSWER_LIMIT).await
    }

    /// The action when it is final or becomes held, or as it stands after `wait`.
    pub async fn action_after(&self, id: u64, wait: Duration) -> Result<wire::Action, ClientError> {
        if wait.is_zero() {
            return self.action(id).await;
        }
        let millis = wait.as_millis();
        self.read(&format!("/v1/actions/{id}?wait={millis}ms"), wait + ANSWER_LIMIT).await
    }

    /// The log of an attempt, the last one if none is named. With `follow` it goes on until the attempt ends.
    pub async fn log(
        &self,
        id: u64,
        attempt: Option<u32>,
        follow: bool,
    ) -> Result<Records<LogLine>, ClientError> {
        let mut query = Query::new();
        query.add("attempt", attempt);
        query.add("follow", follow.then_some("true"));
        let lines = self.get_stream(&format!("/v1/actions/{id}/log{}", query.0)).await?;
        Ok(Records::new(lines))
    }

    /// Changes of one action, or of all, from now on.
    pub async fn events(&self, id: Option<u64>) -> Result<Events, ClientError> {
        let path = id.map_or_else(|| "/v1/events".into(), |id| format!("/v1/actions/{id}/events"));
        Ok(Events::new(self.get_stream(&path).await?))
    }

    pub async fn explain(&self, id: u64) -> Result<wire::Explanation, ClientError> {
        self.read(&format!("/v1/actions/{id}/explain"), ANSWER_LIMIT).await
    }

    /// Carries out `verb` (`cancel`, `retry`, `hold`, `resume`, `resolve`, `unlock`) on an action; the answer
    /// is the action as it is durable now, for `retry` the new one.
    pub async fn command<T: Serialize>(
        &self,
        id: u64,
        verb: &str,
        body: &T,
    ) -> Result<wire::Action, ClientError> {
        let path = format!("/v1/actions/{id}:{verb}");
        let (_, body) = self.post(&path, to_json(body)?, ANSWER_LIMIT).await?;
        from_json(&body)
    }

    pub async fn queues(&self) -> Result<Vec<wire::Queue>, ClientError> {
        Ok(match self.read("/v1/queues", ANSWER_LIMIT).await? {
            Queues::Bare(queues) | Queues::Wrapped { queues } => queues,
        })
    }

    /// Pauses a queue, or lets it go on; durable when answered.
    pub async fn pause_queue(&self, name: &str, paused: bool) -> Result<wire::Queue, ClientError> {
        let verb = if paused { "pause" } else { "resume" };
        let path = format!("/v1/queues/{}:{verb}", encode(name));
        let (_, body) = self.post(&path, Bytes::from_static(b"{}"), ANSWER_LIMIT).await?;
        from_json(&body)
    }

    pub async fn status(&self) -> Result<wire::Status, ClientError> {
        self.read("/v1/status", ANSWER_LIMIT).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, ClientError> {
        from_json(&self.get(path, limit).await?)
    }
}

impl ClientError {
    fn unreachable(socket: &Path, error: &std::io::Error) -> Self {
        Self::Unreachable { socket: socket.into(), cause: error.to_string(), kind: error.kind() }
    }

    /// Whether the same call may succeed when the daemon is back: nobody there, or not yet ready.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { kind, .. } => *kind != std::io::ErrorKind::PermissionDenied,
            Self::Problem(problem) => problem.status == 503,
            Self::Protocol(_) => false,
        }
    }
}

impl Filter {
    fn query(&self) -> String {
        let mut query = Query::new();
        query.add("state", (!self.states.is_empty()).then(|| self.states.join(",")));
        query.add("queue", self.queue.as_deref());
        query.add("action", self.action.as_deref());
        query.add("resource_type", self.resource_type.as_deref());
        query.add("resource_id", self.resource_id);
        query.add("user", self.user.as_deref());
        query.add("before", self.before);
        query.add("limit", self.limit);
        query.0
    }
}

/// A query string in the making; empty, or begins with `?`.
struct Query(String);

impl Query {
    fn new() -> Self {
        Self(String::new())
    }

    fn add(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(key);
            self.0.push('=');
            self.0.push_str(&encode(&value.to_string()));
        }
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986, and the comma.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend([format!("%{byte:02X}")]);
        }
    }
    encoded
}

fn to_json<T: Serialize>(value: &T) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| ClientError::Protocol(format!("cannot write the request as JSON: {error}")))
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Protocol(error.to_string()))
}
