//! Writes an action as the wire has it, straight into a buffer.
//!
//! The same JSON as `wire::Action` would give (a test holds the two together), without making strings that are
//! only copied again: each submission is answered with the whole action, so this is on the busiest path. The
//! domain's types are taken apart without `..`: a new field does not compile until it is decided here.
//!
//! `Show::Outline` is for the TCP door without `details`: no metadata, messages, results, checkpoints or steps.

use super::time;
use crate::action::{
    Action, AttemptRecord, Body, CancelRequest, Claim, Finish, JsonText, Progress, RetryPolicy, Status, Step,
    Timestamp,
};

/// How much of an action the caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    All,
    /// States, ids, times and what was asked of which resource; no payload.
    Outline,
}

/// A field's name with what stands around it, as one piece.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
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
        steps,
        reboots,
        claim,
        attempts,
        cancel,
        ending: _,
        finish,
    } = status;
    let all = show == Show::All;

    out.extend_from_slice(b"{\"id\":");
    number(out, id.0);
    text(out, key!("user"), user);
    text(out, key!("resource_type"), resource_type);
    text(out, key!("action"), action);
    out.extend_from_slice(key!("resource_id"));
    number(out, *resource_id);
    text(out, key!("started_via"), started_via);
    instant(out, key!("started_at"), Some(*accepted_at));
    write_finish(out, finish.as_ref(), all);
    raw(out, key!("metadata"), all.then_some(metadata));

    text(out, key!("state"), state.as_str());
    maybe_text(out, key!("reason"), Some(reason).filter(|reason| all && !reason.is_empty()));
    text(out, key!("queue"), queue);
    out.extend_from_slice(key!("priority"));
    number(out, u64::from(*priority));
    out.extend_from_slice(key!("attempt"));
    number(out, u64::from(*attempt));
    out.extend_from_slice(key!("tries_used"));
    number(out, u64::from(*tries_used));
    out.extend_from_slice(key!("locks_freed"));
    boolean(out, *locks_freed);
    write_progress(out, progress.as_ref(), all);
    instant(out, key!("run_at"), *run_at);
    instant(out, key!("due_at"), *due_at);
    instant(out, key!("deadline"), *deadline);
    out.extend_from_slice(key!("timeout"));
    duration(out, *timeout_ms);
    text(out, key!("on_conflict"), on_conflict.as_str());
    maybe_text(out, key!("idempotency_key"), idempotency_key.as_ref().filter(|_| all));
    write_retry(out, retry);
    text(out, key!("recovery"), recovery.as_str());
    out.extend_from_slice(key!("retry_of"));
    maybe(out, retry_of.as_ref(), |out, id| number(out, id.0));
    out.extend_from_slice(b",\"submitter\":{\"uid\":");
    number(out, u64::from(submitter.uid));
    out.extend_from_slice(key!("gid"));
    number(out, u64::from(submitter.gid));
    out.extend_from_slice(key!("pid"));
    number(out, u64::from(submitter.pid));
    out.push(b'}');
    raw(out, key!("checkpoint"), checkpoint.as_ref().filter(|_| all));
    write_steps(out, if all { steps } else { &[] });
    out.extend_from_slice(key!("reboots"));
    number(out, u64::from(*reboots));
    out.extend_from_slice(key!("claim"));
    maybe(out, claim.as_ref(), write_claim);
    write_attempts(out, *attempt, claim.as_ref(), attempts, all);
    out.extend_from_slice(key!("cancel"));
    maybe(out, cancel.as_ref(), |out, cancel| write_cancel(out, cancel, all));
    out.extend_from_slice(key!("version"));
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
    instant(out, key!("finished_at"), Some(*at));
    out.extend_from_slice(key!("finished_success"));
    boolean(out, *success);
    maybe_text(out, key!("finished_message"), Some(message).filter(|_| all));
    raw(out, key!("finished_result"), all.then_some(result));
}

fn write_progress(out: &mut Vec<u8>, progress: Option<&Progress>, all: bool) {
    out.extend_from_slice(key!("progress"));
    maybe(out, progress, |out, Progress { percent, message, at }| {
        out.extend_from_slice(b"{\"percent\":");
        number(out, u64::from(*percent));
        text(out, key!("message"), if all { message } else { "" });
        instant(out, key!("at"), Some(*at));
        out.push(b'}');
    });
}

fn write_retry(out: &mut Vec<u8>, RetryPolicy { attempts, backoff_ms, backoff_max_ms }: &RetryPolicy) {
    out.extend_from_slice(b",\"retry\":{\"attempts\":");
    number(out, u64::from(*attempts));
    out.extend_from_slice(key!("backoff"));
    duration(out, *backoff_ms);
    out.extend_from_slice(key!("backoff_max"));
    duration(out, *backoff_max_ms);
    out.push(b'}');
}

fn write_steps(out: &mut Vec<u8>, steps: &[Step]) {
    out.extend_from_slice(b",\"steps\":[");
    for (at, Step { name, begun_at, done_at }) in steps.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b",{\"name\":" } else { b"{\"name\":" });
        string(out, name);
        instant(out, key!("begun_at"), Some(*begun_at));
        instant(out, key!("done_at"), *done_at);
        out.push(b'}');
    }
    out.push(b']');
}

fn write_claim(
    out: &mut Vec<u8>,
    Claim { incarnation: _, boot_id: _, began_at, fence, is_gated: _, program: _ }: &Claim,
) {
    out.extend_from_slice(b"{\"fence\":");
    number(out, *fence);
    instant(out, key!("began_at"), Some(*began_at));
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
    if let Some(Claim { incarnation: _, boot_id: _, began_at, fence: _, is_gated: _, program: _ }) = claim {
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
    instant(out, key!("began_at"), Some(began_at));
    instant(out, key!("ended_at"), ended_at);
    text(out, key!("outcome"), outcome);
    maybe_text(out, key!("message"), message);
    out.push(b'}');
}

fn write_cancel(out: &mut Vec<u8>, CancelRequest { uid, at, reason }: &CancelRequest, all: bool) {
    out.extend_from_slice(b"{\"uid\":");
    number(out, u64::from(*uid));
    instant(out, key!("at"), Some(*at));
    text(out, key!("reason"), if all { reason } else { "" });
    out.push(b'}');
}

fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    match u8::try_from(value) {
        Ok(digit @ 0..10) => out.push(b'0' + digit),
        // Writing into memory does not fail, and a number always has a JSON form.
        _ => _ = serde_json::to_writer(out, &value),
    }
}

pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    let is_plain = !value.bytes().any(|byte| matches!(byte, 0..b' ' | b'"' | b'\\'));
    if is_plain {
        out.reserve(value.len() + 2);
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        // As above: memory does not fail, and every string has a JSON form.
        let _ = serde_json::to_writer(out, value);
    }
}

fn text(out: &mut Vec<u8>, key: &[u8], value: &str) {
    out.extend_from_slice(key);
    string(out, value);
}

fn maybe<T>(out: &mut Vec<u8>, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => write(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn maybe_text(out: &mut Vec<u8>, key: &[u8], value: Option<&String>) {
    out.extend_from_slice(key);
    maybe(out, value, |out, value| string(out, value));
}

fn raw(out: &mut Vec<u8>, key: &[u8], value: Option<&JsonText>) {
    out.extend_from_slice(key);
    maybe(out, value, |out, value| out.extend_from_slice(value.as_str().as_bytes()));
}

fn instant(out: &mut Vec<u8>, key: &[u8], at: Option<Timestamp>) {
    out.extend_from_slice(key);
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
