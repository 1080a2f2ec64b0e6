//! The action as a program gets it on standard input: one JSON object, then end of file.
//!
//! The document's twelve fields in their order, then ours. Times are RFC 3339 in UTC with milliseconds. Names are
//! kept for ever; further ones may be added.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::action::{Action, JsonText, Step, Timestamp};

#[derive(Serialize)]
struct Input<'a> {
    id: u64,
    user: &'a str,
    resource_type: &'a str,
    action: &'a str,
    resource_id: u64,
    started_via: &'a str,
    started_at: String,
    // Null while it runs, by the document; kept so that a program reads the same record as a client.
    finished_at: Option<String>,
    finished_success: Option<bool>,
    finished_message: Option<&'a str>,
    finished_result: Option<&'a RawValue>,
    metadata: &'a RawValue,
    attempt: u32,
    fence: Option<u64>,
    checkpoint: Option<&'a RawValue>,
    steps: Vec<InputStep<'a>>,
    retry_of: Option<u64>,
    idempotency_key: Option<&'a str>,
    queue: &'a str,
    priority: u8,
    deadline: Option<String>,
}

#[derive(Serialize)]
struct InputStep<'a> {
    name: &'a str,
    begun_at: String,
    done_at: Option<String>,
}

/// The input of the program for this attempt, newline included.
pub(super) fn json(action: &Action) -> serde_json::Result<Vec<u8>> {
    let (body, status) = (&action.body, &action.status);
    let finish = status.finish.as_ref();
    let input = Input {
        id: action.id.0,
        user: &body.user,
        resource_type: &body.resource_type,
        action: &body.action,
        resource_id: body.resource_id,
        started_via: &body.started_via,
        started_at: time(body.accepted_at),
        finished_at: finish.map(|finish| time(finish.at)),
        finished_success: finish.map(|finish| finish.success),
        finished_message: finish.map(|finish| finish.message.as_str()),
        finished_result: finish.map(|finish| raw(&finish.result)).transpose()?,
        metadata: raw(&body.metadata)?,
        attempt: status.attempt,
        fence: status.claim.as_ref().map(|claim| claim.fence),
        checkpoint: status.checkpoint.as_ref().map(raw).transpose()?,
        steps: status.steps.iter().map(step).collect(),
        retry_of: body.retry_of.map(|id| id.0),
        idempotency_key: body.idempotency_key.as_deref(),
        queue: &body.queue,
        priority: body.priority,
        deadline: body.deadline.map(time),
    };
    let mut text = serde_json::to_vec(&input)?;
    text.push(b'\n');
    Ok(text)
}

fn step(Step { name, begun_at, done_at }: &Step) -> InputStep<'_> {
    InputStep { name, begun_at: time(*begun_at), done_at: done_at.map(time) }
}

fn raw(text: &JsonText) -> serde_json::Result<&RawValue> {
    serde_json::from_str(text.as_str())
}

fn time(at: Timestamp) -> String {
    let at = chrono::DateTime::from_timestamp_millis(at.0).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
