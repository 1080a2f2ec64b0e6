//! The stored form of a body, version 1: frozen. To change it, add a version beside it and keep reading this one.

use serde::{Deserialize, Serialize};

use super::StoredKeyUse;
use crate::action::{
    ActionId, Actor, Body, JsonText, LockKey, OnConflict, Recovery, RetryPolicy, Timestamp, kind_number,
};
use crate::store::codec::{Malformed, decode_versioned, encode_versioned};

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct BodyV1<'a> {
    user: &'a str,
    resource_type: &'a str,
    action: &'a str,
    resource_id: u64,
    started_via: &'a str,
    metadata: &'a str,
    accepted_at: i64,
    uid: u32,
    gid: u32,
    pid: u32,
    queue: &'a str,
    priority: u8,
    run_at: Option<i64>,
    deadline: Option<i64>,
    timeout_ms: u64,
    on_conflict: u8,
    idempotency_key: Option<&'a str>,
    request_digest: [u8; 16],
    attempts: u32,
    backoff_ms: u64,
    backoff_max_ms: u64,
    recovery: u8,
    locks: Vec<u64>,
    retry_of: Option<u64>,
}

/// The body as it is stored.
pub(in crate::store) fn encode_body(body: &Body) -> Vec<u8> {
    let Body {
        user,
        resource_type,
        action,
        resource_id,
        started_via,
        metadata,
        accepted_at,
        submitter: Actor { uid, gid, pid },
        queue,
        priority,
        run_at,
        deadline,
        timeout_ms,
        on_conflict,
        idempotency_key,
        request_digest,
        retry: RetryPolicy { attempts, backoff_ms, backoff_max_ms },
        recovery,
        locks,
        retry_of,
    } = body;
    let stored = BodyV1 {
        user,
        resource_type,
        action,
        resource_id: *resource_id,
        started_via,
        metadata: metadata.as_str(),
        accepted_at: accepted_at.0,
        uid: *uid,
        gid: *gid,
        pid: *pid,
        queue,
        priority: *priority,
        run_at: run_at.map(|at| at.0),
        deadline: deadline.map(|at| at.0),
        timeout_ms: *timeout_ms,
        on_conflict: match on_conflict {
            OnConflict::Queue => 1,
            OnConflict::Reject => 2,
            OnConflict::Join => 3,
            OnConflict::ReplaceQueued => 4,
            OnConflict::Parallel => 5,
        },
        idempotency_key: idempotency_key.as_deref(),
        request_digest: *request_digest,
        attempts: *attempts,
        backoff_ms: *backoff_ms,
        backoff_max_ms: *backoff_max_ms,
        recovery: match recovery {
            Recovery::Rerun => 1,
            Recovery::Probe => 2,
            Recovery::Resume => 3,
            Recovery::Fail => 4,
            Recovery::Hold => 5,
        },
        locks: locks.iter().map(|lock| lock.0).collect(),
        retry_of: retry_of.map(|id| id.0),
    };
    encode_versioned(VERSION, &stored)
}

/// The body that was stored.
pub(in crate::store) fn decode_body(bytes: &[u8]) -> Result<Body, Malformed> {
    let BodyV1 {
        user,
        resource_type,
        action,
        resource_id,
        started_via,
        metadata,
        accepted_at,
        uid,
        gid,
        pid,
        queue,
        priority,
        run_at,
        deadline,
        timeout_ms,
        on_conflict,
        idempotency_key,
        request_digest,
        attempts,
        backoff_ms,
        backoff_max_ms,
        recovery,
        locks,
        retry_of,
    } = decode_versioned("a body", VERSION, bytes)?;
    Ok(Body {
        user: user.to_owned(),
        resource_type: resource_type.to_owned(),
        action: action.to_owned(),
        resource_id,
        started_via: started_via.to_owned(),
        metadata: JsonText::from_checked(metadata),
        accepted_at: Timestamp(accepted_at),
        submitter: Actor { uid, gid, pid },
        queue: queue.to_owned(),
        priority,
        run_at: run_at.map(Timestamp),
        deadline: deadline.map(Timestamp),
        timeout_ms,
        on_conflict: match on_conflict {
            1 => OnConflict::Queue,
            2 => OnConflict::Reject,
            3 => OnConflict::Join,
            4 => OnConflict::ReplaceQueued,
            5 => OnConflict::Parallel,
            other => return Err(Malformed::new(format!("no conflict choice has number {other}"))),
        },
        idempotency_key: idempotency_key.map(str::to_owned),
        request_digest,
        retry: RetryPolicy { attempts, backoff_ms, backoff_max_ms },
        recovery: match recovery {
            1 => Recovery::Rerun,
            2 => Recovery::Probe,
            3 => Recovery::Resume,
            4 => Recovery::Fail,
            5 => Recovery::Hold,
            other => return Err(Malformed::new(format!("no recovery policy has number {other}"))),
        },
        locks: locks.into_iter().map(LockKey).collect(),
        retry_of: retry_of.map(ActionId),
    })
}

/// What scheduling needs of a stored body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct BodyFacts<'a> {
    pub queue: &'a str,
    pub kind: u16,
    pub priority: u8,
    pub deadline: Option<i64>,
    pub first_lock: Option<u64>,
    pub lock_count: usize,
}

/// The facts of a stored body, without building it: a checkpoint asks for those of every action. Texts that are not among
/// them are passed over, not checked.
pub(in crate::store) fn peek_body(bytes: &[u8]) -> Result<BodyFacts<'_>, Malformed> {
    let mut fields = Fields(bytes);
    let [version] = fields.bytes()?;
    if version != VERSION {
        return Err(Malformed::new(format!("a body has version {version}, known is {VERSION}")));
    }
    // As they stand in `BodyV1`.
    let [_user, _resource_type, action] = [fields.text()?, fields.text()?, fields.text()?];
    let _resource_id = fields.bytes::<8>()?;
    let [_started_via, _metadata] = [fields.text()?, fields.text()?];
    let _accepted_at_and_submitter = fields.bytes::<{ 8 + 3 * 4 }>()?;
    let queue = fields.text()?;
    let [priority] = fields.bytes()?;
    let _run_at = fields.optional(Fields::bytes::<8>)?;
    let deadline = fields.optional(Fields::bytes)?.map(i64::from_le_bytes);
    let _timeout_ms_and_on_conflict = fields.bytes::<{ 8 + 1 }>()?;
    let _idempotency_key = fields.optional(Fields::text)?;
    let _digest_retry_and_recovery = fields.bytes::<{ 16 + 4 + 8 + 8 + 1 }>()?;
    let lock_count = fields.len()?;
    let mut first_lock = None;
    for _ in 0..lock_count {
        let lock = u64::from_le_bytes(fields.bytes()?);
        first_lock.get_or_insert(lock);
    }
    let _retry_of = fields.optional(Fields::bytes::<8>)?;
    if !fields.0.is_empty() {
        return Err(Malformed::new("a body has something behind its end"));
    }
    let text = |bytes| std::str::from_utf8(bytes).map_err(|error| Malformed::new(error.to_string()));
    let (queue, kind) = (text(queue)?, kind_number(text(action)?));
    Ok(BodyFacts { queue, kind, priority, deadline, first_lock, lock_count })
}

/// What is left of a stored form, taken apart as the codec has put it together: lengths in 8 bytes, a byte before what
/// may be missing.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn len(&mut self) -> Result<usize, Malformed> {
        usize::try_from(u64::from_le_bytes(self.bytes()?)).map_err(|_| cut_short())
    }

    fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.len()?;
        let (text, rest) = self.0.split_at_checked(len).ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(text)
    }

    fn optional<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.bytes()? {
            [0] => Ok(None),
            [1] => value(self).map(Some),
            [other] => Err(Malformed::new(format!("{other} does not say whether a value is there"))),
        }
    }
}

fn cut_short() -> Malformed {
    Malformed::new("a body is cut short")
}

/// Uid, idempotency key and its use by action `id`, if the stored body has a key.
pub(in crate::store) fn peek_key(
    id: u64,
    bytes: &[u8],
) -> Result<Option<(u32, &str, StoredKeyUse)>, Malformed> {
    let BodyV1 { uid, idempotency_key, request_digest, accepted_at, .. } =
        decode_versioned("a body", VERSION, bytes)?;
    Ok(idempotency_key.map(|key| (uid, key, StoredKeyUse { id, digest: request_digest, accepted_at })))
}
