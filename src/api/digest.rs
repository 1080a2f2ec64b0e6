//! The digest by which a repeated submission is told from a reused idempotency key.
//!
//! Over the fields as they were understood, each with its length, in a fixed order: white space and the order of
//! the request's fields do not matter, and no two different requests give the same bytes. Stored with the action
//! for as long as its key, so the order and the form below never change.

use sha2::{Digest, Sha256};

use crate::engine::Submission;

/// SHA-256 over everything but the caller, cut to 16 bytes.
pub(super) fn of(submission: &Submission) -> [u8; 16] {
    let Submission {
        actor: _,
        user,
        resource_type,
        action,
        resource_id,
        started_via,
        metadata,
        queue,
        priority,
        run_at,
        deadline,
        timeout_ms,
        on_conflict,
        idempotency_key,
        retry,
        digest: _,
    } = submission;
    let mut hash = Sha256::new();
    text(&mut hash, Some(user));
    text(&mut hash, Some(resource_type));
    text(&mut hash, Some(action));
    hash.update(resource_id.to_le_bytes());
    text(&mut hash, Some(started_via));
    text(&mut hash, Some(metadata.as_str()));
    text(&mut hash, queue.as_deref());
    number(&mut hash, priority.map(u64::from));
    number(&mut hash, run_at.map(|at| at.0.cast_unsigned()));
    number(&mut hash, deadline.map(|at| at.0.cast_unsigned()));
    number(&mut hash, *timeout_ms);
    text(&mut hash, Some(on_conflict.as_str()));
    text(&mut hash, idempotency_key.as_deref());
    number(&mut hash, retry.map(|retry| u64::from(retry.attempts)));
    number(&mut hash, retry.map(|retry| retry.backoff_ms));
    number(&mut hash, retry.map(|retry| retry.backoff_max_ms));
    let mut cut = [0; 16];
    for (to, from) in cut.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    cut
}

fn text(hash: &mut Sha256, value: Option<&str>) {
    number(hash, value.map(|value| value.len() as u64));
    hash.update(value.unwrap_or_default());
}

fn number(hash: &mut Sha256, value: Option<u64>) {
    hash.update([u8::from(value.is_some())]);
    hash.update(value.unwrap_or_default().to_le_bytes());
}
