//! Writes an action as the wire has it, straight into a buffer.
//!
//! The same JSON as `wire::Action` would give (a test holds the two together), without making strings that are
//! only copied again: each submission is answered with the whole action, so this is on the busiest path. The
//! domain's types are taken apart without `..`: a new field does not compile until it is decided here.
//!
//! `Show::Outline` is for the TCP door without `details`: no metadata, messages, results or checkpoints.

use super::time;
use crate::action::{
    Action, AttemptRecord, Body, CancelRequest, Claim, Finish, JsonText, Progress, RetryPolicy, Status,
    Timestamp,
};

/// How much of an action the caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    All,
    /// States, ids, times and what was asked of which resource; no payload.
    Outline,
}

/// Appends the action as one JSON object without line breaks.
pub(super) fn write_action(out: &mut Vec<u8>, action: &Action, show: Show) {
    let Action { id, body, status } = action;
    let Body {
        user,
        resource_type,
        action,
        resource_id,
        started_via,
        metadata,
        accepted_at,
        submitter,
        queue,
        priority,
        run_at,
        deadline,
        timeout_ms,
        on_conflict,
        idempotency_key,
        request_digest: _,
        retry,
        recovery,
        locks: _,
        retry_of,
    } = &**body;
    let Status {
        version,
        state,
        reason,
        due_at,
        attempt,
        tries_used,
        deaths: _,
        locks_freed,
        progress,
        checkpoint,
        claim,
        attempts,
        cancel,
        finish,
    } = status;
    let all = show == Show::All;

    out.extend_from_slice(b"{\"id\":");
    number(out, id.0);
    text(out, "user", user);
    text(out, "resource_type", resource_type);
    text(out, "action", action);
    key(out, "resource_id");
    number(out, *resource_id);
    text(out, "started_via", started_via);
    instant(out, "started_at", Some(*accepted_at));
    write_finish(out, finish.as_ref(), all);
    raw(out, "metadata", all.then_some(metadata));

    text(out, "state", state.as_str());
    maybe_text(out, "reason", Some(reason).filter(|reason| all && !reason.is_empty()));
    text(out, "queue", queue);
    key(out, "priority");
    number(out, u64::from(*priority));
    key(out, "attempt");
    number(out, u64::from(*attempt));
    key(out, "tries_used");
    number(out, u64::from(*tries_used));
    key(out, "locks_freed");
    boolean(out, *locks_freed);
    write_progress(out, progress.as_ref(), all);
    instant(out, "run_at", *run_at);
    instant(out, "due_at", *due_at);
    instant(out, "deadline", *deadline);
    key(out, "timeout");
    duration(out, *timeout_ms);
    text(out, "on_conflict", on_conflict.as_str());
    maybe_text(out, "idempotency_key", idempotency_key.as_ref().filter(|_| all));
    write_retry(out, retry);
    text(out, "recovery", recovery.as_str());
    key(out, "retry_of");
    maybe(out, retry_of.as_ref(), |out, id| number(out, id.0));
    out.extend_from_slice(b",\"submitter\":{\"uid\":");
    number(out, u64::from(submitter.uid));
    key(out, "gid");
    number(out, u64::from(submitter.gid));
    key(out, "pid");
    number(out, u64::from(submitter.pid));
    out.push(b'}');
    raw(out, "checkpoint", checkpoint.as_ref().filter(|_| all));
    write_attempts(out, *attempt, claim.as_ref(), attempts, all);
    key(out, "cancel");
    maybe(out, cancel.as_ref(), |out, cancel| write_cancel(out, cancel, all));
    key(out, "version");
    number(out, *version);
    out.push(b'}');
}

/// The four `finished_*` fields change together.
fn write_finish(out: &mut Vec<u8>, finish: Option<&Finish>, all: bool) {
    let Some(Finish { at, success, message, result }) = finish else {
        out.extend_from_slice(
            b",\"finished_at\":null,\"finished_success\":null,\"finished_message\":null,\"finished_result\":null",
        );
        return;
    };
    instant(out, "finished_at", Some(*at));
    key(out, "finished_success");
    boolean(out, *success);
    maybe_text(out, "finished_message", Some(message).filter(|_| all));
    raw(out, "finished_result", all.then_some(result));
}

fn write_progress(out: &mut Vec<u8>, progress: Option<&Progress>, all: bool) {
    key(out, "progress");
    maybe(out, progress, |out, Progress { percent, message, at }| {
        out.extend_from_slice(b"{\"percent\":");
        number(out, u64::from(*percent));
        text(out, "message", if all { message } else { "" });
        instant(out, "at", Some(*at));
        out.push(b'}');
    });
}

fn write_retry(out: &mut Vec<u8>, RetryPolicy { attempts, backoff_ms, backoff_max_ms }: &RetryPolicy) {
    out.extend_from_slice(b",\"retry\":{\"attempts\":");
    number(out, u64::from(*attempts));
    key(out, "backoff");
    duration(out, *backoff_ms);
    key(out, "backoff_max");
    duration(out, *backoff_max_ms);
    out.push(b'}');
}

/// The attempt that runs now, then the ended ones, newest first.
fn write_attempts(
    out: &mut Vec<u8>,
    attempt: u32,
    claim: Option<&Claim>,
    ended: &[AttemptRecord],
    all: bool,
) {
    out.extend_from_slice(b",\"attempts\":[");
    if let Some(Claim { incarnation: _, boot_id: _, began_at, program: _ }) = claim {
        write_attempt(out, attempt, *began_at, None, "running", None);
    }
    for (at, record) in ended.iter().rev().enumerate() {
        let AttemptRecord { attempt, began_at, ended_at, end, message } = record;
        if at > 0 || claim.is_some() {
            out.push(b',');
        }
        let message = Some(message).filter(|message| all && !message.is_empty());
        write_attempt(out, *attempt, *began_at, Some(*ended_at), end.as_str(), message);
    }
    out.push(b']');
}

fn write_attempt(
    out: &mut Vec<u8>,
    attempt: u32,
    began_at: Timestamp,
    ended_at: Option<Timestamp>,
    outcome: &str,
    message: Option<&String>,
) {
    out.extend_from_slice(b"{\"attempt\":");
    number(out, u64::from(attempt));
    instant(out, "began_at", Some(began_at));
    instant(out, "ended_at", ended_at);
    text(out, "outcome", outcome);
    maybe_text(out, "message", message);
    out.push(b'}');
}

fn write_cancel(out: &mut Vec<u8>, CancelRequest { uid, at, reason }: &CancelRequest, all: bool) {
    out.extend_from_slice(b"{\"uid\":");
    number(out, u64::from(*uid));
    instant(out, "at", Some(*at));
    text(out, "reason", if all { reason } else { "" });
    out.push(b'}');
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    // Writing into memory does not fail, and a number always has a JSON form.
    let _ = serde_json::to_writer(out, &value);
}

pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    // As above: memory does not fail, and every string has a JSON form.
    let _ = serde_json::to_writer(out, value);
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    string(out, value);
}

fn maybe<T>(out: &mut Vec<u8>, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => write(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn maybe_text(out: &mut Vec<u8>, name: &str, value: Option<&String>) {
    key(out, name);
    maybe(out, value, |out, value| string(out, value));
}

fn raw(out: &mut Vec<u8>, name: &str, value: Option<&JsonText>) {
    key(out, name);
    maybe(out, value, |out, value| out.extend_from_slice(value.as_str().as_bytes()));
}

fn instant(out: &mut Vec<u8>, name: &str, at: Option<Timestamp>) {
    key(out, name);
    maybe(out, at, |out, at| {
        out.push(b'"');
        time::write(out, at);
        out.push(b'"');
    });
}

/// The usual whole seconds, minutes and hours without an allocation.
fn duration(out: &mut Vec<u8>, ms: u64) {
    const HOUR_MS: u64 = 3_600_000;
    let (count, unit) = match ms {
        1_000..60_000 if ms.is_multiple_of(1_000) => (ms / 1_000, "s"),
        60_000..HOUR_MS if ms.is_multiple_of(60_000) => (ms / 60_000, "m"),
        HOUR_MS..86_400_000 if ms.is_multiple_of(HOUR_MS) => (ms / HOUR_MS, "h"),
        _ => {
            string(out, &time::duration_text(ms));
            return;
        }
    };
    out.push(b'"');
    number(out, count);
    out.extend_from_slice(unit.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
#[path = "convert_tests.rs"]
pub(super) mod tests;
