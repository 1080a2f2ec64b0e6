//! `POST /v1/actions`: takes one object, or hands a stream of lines to `stream`.
//!
//! Answers 202 with the whole action once it is durable; 200 if an idempotency key or `on_conflict: join` led to
//! an action that exists.

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};

use super::convert::{self, Show};
use super::parse::{self, Limits};
use super::problem::{Problem, Word};
use super::reply::{self, Reply};
use super::routes::Call;
use super::{Api, stream};
use crate::action::{Action, Actor};
use crate::engine::{Accepted, Submission};

/// Bytes that an action takes beside its metadata, roughly: one allocation for most answers.
const ANSWER_BYTES: usize = 1_024;

pub(super) async fn actions(call: &Call<'_>, actor: Actor, body: Incoming) -> Result<Reply, Problem> {
    match reply::media_type(call.headers).as_str() {
        "" | "application/json" => one(call, actor, body).await,
        "application/x-ndjson" => Ok(stream::lines(call.api, &call.settings, actor, body)),
        other => Err(Problem::new(
            Word::UnsupportedMediaType,
            format!("{:?}; send application/json or application/x-ndjson", parse::shortened(other)),
        )),
    }
}

async fn one(call: &Call<'_>, actor: Actor, body: Incoming) -> Result<Reply, Problem> {
    let bytes = reply::collect(body, call.settings.body_bytes_max, call.pause()).await?;
    let submission = parse::submission(&bytes, actor, Limits::from(&*call.settings))?;
    let accepted = answered(call.api, submission).await?;
    let (status, action) = outcome(&accepted);
    let mut out = Vec::with_capacity(ANSWER_BYTES + action.body.metadata.as_str().len());
    convert::write_action(&mut out, action, Show::All);
    let mut reply = reply::full(status, reply::JSON, out);
    reply.headers_mut().insert(LOCATION, location(action));
    Ok(reply)
}

/// What the engine says to one submission.
pub(super) async fn answered(api: &Api, submission: Submission) -> Result<Accepted, Problem> {
    match api.engine.submit(vec![submission]).await.pop() {
        Some(answer) => Ok(answer?),
        None => Err(Problem::new(Word::Internal, "the engine gave no answer")),
    }
}

/// The status of an answer, and its action.
pub(super) fn outcome(accepted: &Accepted) -> (StatusCode, &Action) {
    match accepted {
        Accepted::New(action) => (StatusCode::ACCEPTED, action),
        Accepted::Repeated(action) | Accepted::Joined(action) => (StatusCode::OK, action),
    }
}

/// Where an action is found.
pub(super) fn location(action: &Action) -> HeaderValue {
    let mut path = Vec::new();
    write_location(&mut path, action);
    HeaderValue::try_from(path).unwrap_or_else(|_| HeaderValue::from_static("/v1/actions"))
}

pub(super) fn write_location(out: &mut Vec<u8>, action: &Action) {
    out.extend_from_slice(b"/v1/actions/");
    convert::number(out, action.id.0);
}
