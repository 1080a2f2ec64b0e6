//! The stored form of a status, version 1: frozen, and only read. It had no steps, no reboots and no fences,
//! and did not say which attempts are gated.

use serde::{Deserialize, Serialize};

use super::status::{ClaimV2, StatusV2};

pub(super) const VERSION: u8 = 1;

#[derive(Deserialize)]
pub(super) struct StatusV1<'a> {
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
    pub claim: Option<ClaimV1<'a>>,
    pub attempts: Vec<AttemptV1<'a>>,
    pub cancel: Option<CancelV1<'a>>,
    pub finish: Option<FinishV1<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ProgressV1<'a> {
    pub percent: u8,
    pub message: &'a str,
    pub at: i64,
}

#[derive(Deserialize)]
pub(super) struct ClaimV1<'a> {
    pub incarnation: u64,
    pub boot_id: &'a str,
    pub began_at: i64,
    /// Pid and start ticks.
    pub program: Option<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct AttemptV1<'a> {
    pub attempt: u32,
    pub began_at: i64,
    pub ended_at: i64,
    pub end: u8,
    pub message: &'a str,
}

#[derive(Serialize, Deserialize)]
pub(super) struct CancelV1<'a> {
    pub uid: u32,
    pub at: i64,
    pub reason: &'a str,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FinishV1<'a> {
    pub at: i64,
    pub success: bool,
    pub message: &'a str,
    pub result: &'a str,
}

impl<'a> From<StatusV1<'a>> for StatusV2<'a> {
    fn from(stored: StatusV1<'a>) -> Self {
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
        } = stored;
        Self {
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
            // Smaller than every fence: whoever was told none has shown none.
            claim: claim.map(|ClaimV1 { incarnation, boot_id, began_at, program }| ClaimV2 {
                incarnation,
                boot_id,
                began_at,
                fence: 0,
                is_gated: false,
                program,
            }),
            attempts,
            cancel,
            finish,
            steps: Vec::new(),
            reboots: 0,
            ending: None,
        }
    }
}
