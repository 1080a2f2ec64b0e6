//! The stored form of a status, version 2: frozen. To change it, add a version beside it and keep reading this one, as is
//! done with version 1 (`status_v1`). What is written is always the newest.

use serde::{Deserialize, Serialize};

use super::status_v1::{self, AttemptV1, CancelV1, FinishV1, ProgressV1, StatusV1};
use crate::action::{
    AttemptEnd, AttemptRecord, CancelRequest, Claim, Ending, Finish, JsonText, Program, Progress, State,
    Status, Step, Timestamp, Unsuccess,
};
use crate::store::codec::{Malformed, decode_versioned, encode_versioned};

const VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
pub(super) struct StatusV2<'a> {
    pub version: u64,
    pub state: u8,
    #[serde(borrow)]
    pub reason: &'a str,
    pub due_at: Option<i64>,
    pub attempt: u32,
    pub tries_used: u32,
    pub deaths: u32,
    pub locks_freed: bool,
    pub progress: Option<ProgressV1<'a>>,
    pub checkpoint: Option<&'a str>,
    pub claim: Option<ClaimV2<'a>>,
    pub attempts: Vec<AttemptV1<'a>>,
    pub cancel: Option<CancelV1<'a>>,
    pub finish: Option<FinishV1<'a>>,
    pub steps: Vec<StepV2<'a>>,
    pub reboots: u32,
    pub ending: Option<EndingV2<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ClaimV2<'a> {
    pub incarnation: u64,
    pub boot_id: &'a str,
    pub began_at: i64,
    pub fence: u64,
    pub is_gated: bool,
    /// Pid and start ticks.
    pub program: Option<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StepV2<'a> {
    name: &'a str,
    begun_at: i64,
    done_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EndingV2<'a> {
    how: u8,
    message: &'a str,
    result: Option<&'a str>,
    is_try: bool,
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
        steps,
        reboots,
        claim,
        attempts,
        cancel,
        ending,
        finish,
    } = status;
    let stored = StatusV2 {
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
        claim: claim.as_ref().map(|Claim { incarnation, boot_id, began_at, fence, is_gated, program }| {
            ClaimV2 {
                incarnation: *incarnation,
                boot_id,
                began_at: began_at.0,
                fence: *fence,
                is_gated: *is_gated,
                program: program.map(|Program { pid, start_ticks }| (pid, start_ticks)),
            }
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
        steps: steps
            .iter()
            .map(|Step { name, begun_at, done_at }| StepV2 {
                name,
                begun_at: begun_at.0,
                done_at: done_at.map(|at| at.0),
            })
            .collect(),
        reboots: *reboots,
        ending: ending.as_ref().map(|Ending { how, message, result, is_try }| EndingV2 {
            how: *how as u8,
            message,
            result: result.as_ref().map(JsonText::as_str),
            is_try: *is_try,
        }),
    };
    encode_versioned(VERSION, &stored)
}

/// What was stored, whatever its version, as the newest has it.
fn stored(bytes: &[u8]) -> Result<StatusV2<'_>, Malformed> {
    match bytes.first() {
        Some(&status_v1::VERSION) => {
            decode_versioned::<StatusV1<'_>>("a status", status_v1::VERSION, bytes).map(StatusV2::from)
        }
        _ => decode_versioned("a status", VERSION, bytes),
    }
}

/// The status that was stored.
pub(in crate::store) fn decode_status(bytes: &[u8]) -> Result<Status, Malformed> {
    let StatusV2 {
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
        steps,
        reboots,
        ending,
    } = stored(bytes)?;
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
        steps: steps
            .into_iter()
            .map(|StepV2 { name, begun_at, done_at }| Step {
                name: name.to_owned(),
                begun_at: Timestamp(begun_at),
                done_at: done_at.map(Timestamp),
            })
            .collect(),
        reboots,
        claim: claim.map(|ClaimV2 { incarnation, boot_id, began_at, fence, is_gated, program }| Claim {
            incarnation,
            boot_id: boot_id.to_owned(),
            began_at: Timestamp(began_at),
            fence,
            is_gated,
            program: program.map(|(pid, start_ticks)| Program { pid, start_ticks }),
        }),
        attempts: attempts?,
        cancel: cancel.map(|CancelV1 { uid, at, reason }| CancelRequest {
            uid,
            at: Timestamp(at),
            reason: reason.to_owned(),
        }),
        ending: ending.as_ref().map(ending_from).transpose()?,
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

fn ending_from(stored: &EndingV2<'_>) -> Result<Ending, Malformed> {
    let EndingV2 { how, message, result, is_try } = stored;
    let how = match *how {
        1 => Unsuccess::Failed,
        2 => Unsuccess::Cancelled,
        3 => Unsuccess::TimedOut,
        other => return Err(Malformed::new(format!("no end without success has number {other}"))),
    };
    let result = result.map(JsonText::from_checked);
    Ok(Ending { how, message: (*message).to_owned(), result, is_try: *is_try })
}

fn state_from(number: u8) -> Result<State, Malformed> {
    State::from_number(number).ok_or_else(|| Malformed::new(format!("no state has number {number}")))
}

/// Version and state of a stored status, without the rest.
pub(in crate::store) fn peek_status(bytes: &[u8]) -> Result<(u64, State), Malformed> {
    // A version byte, the status's own version in 8 bytes, its state in one: see `StatusV2`, and `StatusV1` alike.
    let short = || Malformed::new("a status is cut short");
    let (format, rest) = bytes.split_first().ok_or_else(short)?;
    if ![VERSION, status_v1::VERSION].contains(format) {
        return Err(Malformed::new(format!("a status has version {format}, known is {VERSION} and before")));
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
    let StatusV2 { version, state, due_at, attempt, locks_freed, claim, .. } = stored(bytes)?;
    let state = state_from(state)?;
    Ok(StatusFacts { version, state, due_at, attempt, locks_freed, has_claim: claim.is_some() })
}
