//! The stored form of a status, version 1: frozen. To change it, add a version beside it and keep reading this one.

use serde::{Deserialize, Serialize};

use crate::action::{
    AttemptEnd, AttemptRecord, CancelRequest, Claim, Finish, JsonText, Program, Progress, State, Status,
    Timestamp,
};
use crate::store::codec::{Malformed, decode_versioned, encode_versioned};

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct StatusV1<'a> {
    version: u64,
    state: u8,
    #[serde(borrow)]
    reason: &'a str,
    due_at: Option<i64>,
    attempt: u32,
    tries_used: u32,
    deaths: u32,
    locks_freed: bool,
    progress: Option<ProgressV1<'a>>,
    checkpoint: Option<&'a str>,
    claim: Option<ClaimV1<'a>>,
    attempts: Vec<AttemptV1<'a>>,
    cancel: Option<CancelV1<'a>>,
    finish: Option<FinishV1<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ProgressV1<'a> {
    percent: u8,
    message: &'a str,
    at: i64,
}

#[derive(Serialize, Deserialize)]
struct ClaimV1<'a> {
    incarnation: u64,
    boot_id: &'a str,
    began_at: i64,
    /// Pid and start ticks.
    program: Option<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
struct AttemptV1<'a> {
    attempt: u32,
    began_at: i64,
    ended_at: i64,
    end: u8,
    message: &'a str,
}

#[derive(Serialize, Deserialize)]
struct CancelV1<'a> {
    uid: u32,
    at: i64,
    reason: &'a str,
}

#[derive(Serialize, Deserialize)]
struct FinishV1<'a> {
    at: i64,
    success: bool,
    message: &'a str,
    result: &'a str,
}

/// The status as it is stored.
pub(in crate::store) fn encode_status(status: &Status) -> Vec<u8> {
    let Status {
        version,
        state,
        reason,
        due_at,
        attempt,
        tries_used,
        deaths,
        locks_freed,
        progress,
        checkpoint,
        claim,
        attempts,
        cancel,
        finish,
    } = status;
    let stored = StatusV1 {
        version: *version,
        state: *state as u8,
        reason,
        due_at: due_at.map(|at| at.0),
        attempt: *attempt,
        tries_used: *tries_used,
        deaths: *deaths,
        locks_freed: *locks_freed,
        progress: progress.as_ref().map(|Progress { percent, message, at }| ProgressV1 {
            percent: *percent,
            message,
            at: at.0,
        }),
        checkpoint: checkpoint.as_ref().map(JsonText::as_str),
        claim: claim.as_ref().map(|Claim { incarnation, boot_id, began_at, program }| ClaimV1 {
            incarnation: *incarnation,
            boot_id,
            began_at: began_at.0,
            program: program.map(|Program { pid, start_ticks }| (pid, start_ticks)),
        }),
        attempts: attempts
            .iter()
            .map(|AttemptRecord { attempt, began_at, ended_at, end, message }| AttemptV1 {
                attempt: *attempt,
                began_at: began_at.0,
                ended_at: ended_at.0,
                end: match end {
                    AttemptEnd::Succeeded => 1,
                    AttemptEnd::Failed => 2,
                    AttemptEnd::Cancelled => 3,
                    AttemptEnd::TimedOut => 4,
                    AttemptEnd::Interrupted => 5,
                },
                message,
            })
            .collect(),
        cancel: cancel.as_ref().map(|CancelRequest { uid, at, reason }| CancelV1 {
            uid: *uid,
            at: at.0,
            reason,
        }),
        finish: finish.as_ref().map(|Finish { at, success, message, result }| FinishV1 {
            at: at.0,
            success: *success,
            message,
            result: result.as_str(),
        }),
    };
    encode_versioned(VERSION, &stored)
}

/// The status that was stored.
pub(in crate::store) fn decode_status(bytes: &[u8]) -> Result<Status, Malformed> {
    let StatusV1 {
        version,
        state,
        reason,
        due_at,
        attempt,
        tries_used,
        deaths,
        locks_freed,
        progress,
        checkpoint,
        claim,
        attempts,
        cancel,
        finish,
    } = decode_versioned("a status", VERSION, bytes)?;
    let attempts: Result<Vec<_>, Malformed> = attempts.iter().map(attempt_from).collect();
    Ok(Status {
        version,
        state: state_from(state)?,
        reason: reason.to_owned(),
        due_at: due_at.map(Timestamp),
        attempt,
        tries_used,
        deaths,
        locks_freed,
        progress: progress.map(|ProgressV1 { percent, message, at }| Progress {
            percent,
            message: message.to_owned(),
            at: Timestamp(at),
        }),
        checkpoint: checkpoint.map(JsonText::from_checked),
        claim: claim.map(|ClaimV1 { incarnation, boot_id, began_at, program }| Claim {
            incarnation,
            boot_id: boot_id.to_owned(),
            began_at: Timestamp(began_at),
            program: program.map(|(pid, start_ticks)| Program { pid, start_ticks }),
        }),
        attempts: attempts?,
        cancel: cancel.map(|CancelV1 { uid, at, reason }| CancelRequest {
            uid,
            at: Timestamp(at),
            reason: reason.to_owned(),
        }),
        finish: finish.map(|FinishV1 { at, success, message, result }| Finish {
            at: Timestamp(at),
            success,
            message: message.to_owned(),
            result: JsonText::from_checked(result),
        }),
    })
}

fn attempt_from(stored: &AttemptV1<'_>) -> Result<AttemptRecord, Malformed> {
    let AttemptV1 { attempt, began_at, ended_at, end, message } = stored;
    Ok(AttemptRecord {
        attempt: *attempt,
        began_at: Timestamp(*began_at),
        ended_at: Timestamp(*ended_at),
        end: match end {
            1 => AttemptEnd::Succeeded,
            2 => AttemptEnd::Failed,
            3 => AttemptEnd::Cancelled,
            4 => AttemptEnd::TimedOut,
            5 => AttemptEnd::Interrupted,
            other => return Err(Malformed::new(format!("no end of an attempt has number {other}"))),
        },
        message: (*message).to_owned(),
    })
}

fn state_from(number: u8) -> Result<State, Malformed> {
    State::from_number(number).ok_or_else(|| Malformed::new(format!("no state has number {number}")))
}

/// Version and state of a stored status, without the rest.
pub(in crate::store) fn peek_status(bytes: &[u8]) -> Result<(u64, State), Malformed> {
    // A version byte, the status's own version in 8 bytes, its state in one: see `StatusV1`.
    let short = || Malformed::new("a status is cut short");
    let (format, rest) = bytes.split_first().ok_or_else(short)?;
    if *format != VERSION {
        return Err(Malformed::new(format!("a status has version {format}, known is {VERSION}")));
    }
    let (version, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    Ok((u64::from_le_bytes(*version), state_from(*rest.first().ok_or_else(short)?)?))
}

/// What scheduling needs of a stored status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct StatusFacts {
    pub version: u64,
    pub state: State,
    pub due_at: Option<i64>,
    pub attempt: u32,
    pub locks_freed: bool,
    pub has_claim: bool,
}

/// The facts of a stored status, without building it.
pub(in crate::store) fn peek_waiting(bytes: &[u8]) -> Result<StatusFacts, Malformed> {
    let StatusV1 { version, state, due_at, attempt, locks_freed, claim, .. } =
        decode_versioned("a status", VERSION, bytes)?;
    let state = state_from(state)?;
    Ok(StatusFacts { version, state, due_at, attempt, locks_freed, has_claim: claim.is_some() })
}
