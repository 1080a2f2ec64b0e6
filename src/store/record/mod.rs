//! What the journal's records, the table's values and a snapshot's blocks are made of: frozen, versioned
//! structs of plain integers and text, apart from the domain's types.
//!
//! Every conversion destructures without `..`, so that a new field of the domain does not compile until
//! somebody has decided about it here. Golden files pin the bytes (`tests/golden/`).
//!
//! A journal record:
//!
//! ```text
//!  kind u8 | version u8 | header (bincode) | payloads, as long as the header says
//! ```
//!
//! Bodies and statuses carry a version byte of their own and are the same bytes wherever they are stored:
//! a checkpoint or a snapshot copies them and encodes nothing anew.

#[cfg(test)]
mod bench;
mod body;
mod status;
mod status_v1;
#[cfg(test)]
mod tests;

pub(super) use body::{BodyFacts, decode_body, encode_body, peek_body, peek_key};
use serde::{Deserialize, Serialize};
pub(super) use status::{StatusFacts, decode_status, encode_status, peek_status, peek_waiting};

use super::codec::{Malformed, decode, decode_versioned, encode_into, encode_versioned};
use crate::action::Event;

const VERSION: u8 = 1;

const SUBMITTED: u8 = 1;
const CHANGED: u8 = 2;
const DELETED: u8 = 3;
const QUEUE_PAUSED: u8 = 4;
const STARTED: u8 = 5;
const CHECKPOINTED: u8 = 6;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// A new action, as stored by [`encode_body`] and [`encode_status`].
    Submitted {
        id: u64,
        body: &'a [u8],
        status: &'a [u8],
    },
    /// The whole new status of an action, and the event that led to it.
    Changed {
        id: u64,
        event: Event,
        status: &'a [u8],
    },
    /// Ids, each with the last version it had.
    Deleted {
        actions: Vec<(u64, u64)>,
    },
    QueuePaused {
        queue: String,
        paused: bool,
    },
    /// A start of the daemon.
    Started {
        incarnation: u64,
        boot_id: String,
    },
    /// What is live after this record's group, and a digest over it: what a checkpoint of that group must hold.
    Checkpointed {
        live_count: u64,
        digest: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct SubmittedV1 {
    id: u64,
    body_len: u32,
    status_len: u32,
}

#[derive(Serialize, Deserialize)]
struct ChangedV1 {
    id: u64,
    event: u8,
    status_len: u32,
}

#[derive(Serialize, Deserialize)]
struct QueuePausedV1<'a> {
    queue: &'a str,
    paused: bool,
}

#[derive(Serialize, Deserialize)]
struct StartedV1<'a> {
    incarnation: u64,
    boot_id: &'a str,
}

#[derive(Serialize, Deserialize)]
struct CheckpointedV1 {
    live_count: u64,
    digest: u64,
}

/// Length of a payload; the limits on submissions keep every one far below 4 GiB.
fn len(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}

impl Record<'_> {
    /// Of what is stored as it is, behind the header.
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Submitted { body, status, .. } => body.len() + status.len(),
            Self::Changed { status, .. } => status.len(),
            _ => 0,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.payload_bytes());
        match self {
            Self::Submitted { id, body, status } => {
                bytes.extend([SUBMITTED, VERSION]);
                let header = SubmittedV1 { id: *id, body_len: len(body), status_len: len(status) };
                encode_into(&mut bytes, &header);
                bytes.extend_from_slice(body);
                bytes.extend_from_slice(status);
            }
            Self::Changed { id, event, status } => {
                bytes.extend([CHANGED, VERSION]);
                let header = ChangedV1 { id: *id, event: *event as u8, status_len: len(status) };
                encode_into(&mut bytes, &header);
                bytes.extend_from_slice(status);
            }
            Self::Deleted { actions } => {
                bytes.extend([DELETED, VERSION]);
                encode_into(&mut bytes, actions);
            }
            Self::QueuePaused { queue, paused } => {
                bytes.extend([QUEUE_PAUSED, VERSION]);
                encode_into(&mut bytes, &QueuePausedV1 { queue, paused: *paused });
            }
            Self::Started { incarnation, boot_id } => {
                bytes.extend([STARTED, VERSION]);
                encode_into(&mut bytes, &StartedV1 { incarnation: *incarnation, boot_id });
            }
            Self::Checkpointed { live_count, digest } => {
                bytes.extend([CHECKPOINTED, VERSION]);
                encode_into(&mut bytes, &CheckpointedV1 { live_count: *live_count, digest: *digest });
            }
        }
        bytes
    }
}

impl<'a> Record<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let Some(([kind, version], rest)) = bytes.split_first_chunk::<2>() else {
            return Err(Malformed::new("a record is cut short"));
        };
        if *version != VERSION {
            return Err(Malformed::new(format!(
                "record kind {kind} has version {version}, known is {VERSION}"
            )));
        }
        Ok(match *kind {
            SUBMITTED => {
                let (header, rest) = head(rest, 16)?;
                let SubmittedV1 { id, body_len, status_len } = decode(header)?;
                let (body, rest) = head(rest, body_len as usize)?;
                Self::Submitted { id, body, status: all(rest, status_len)? }
            }
            CHANGED => {
                let (header, rest) = head(rest, 13)?;
                let ChangedV1 { id, event, status_len } = decode(header)?;
                let event = Event::from_number(event)
                    .ok_or_else(|| Malformed::new(format!("no event has number {event}")))?;
                Self::Changed { id, event, status: all(rest, status_len)? }
            }
            DELETED => Self::Deleted { actions: decode(rest)? },
            QUEUE_PAUSED => {
                let QueuePausedV1 { queue, paused } = decode(rest)?;
                Self::QueuePaused { queue: queue.to_owned(), paused }
            }
            STARTED => {
                let StartedV1 { incarnation, boot_id } = decode(rest)?;
                Self::Started { incarnation, boot_id: boot_id.to_owned() }
            }
            CHECKPOINTED => {
                let CheckpointedV1 { live_count, digest } = decode(rest)?;
                Self::Checkpointed { live_count, digest }
            }
            other => return Err(Malformed::new(format!("no record has kind {other}"))),
        })
    }
}

fn head(bytes: &[u8], len: usize) -> Result<(&[u8], &[u8]), Malformed> {
    bytes.split_at_checked(len).ok_or_else(|| Malformed::new("a record is cut short"))
}

fn all(bytes: &[u8], len: u32) -> Result<&[u8], Malformed> {
    if bytes.len() == len as usize {
        Ok(bytes)
    } else {
        Err(Malformed::new(format!("a record has {} bytes where it says {len}", bytes.len())))
    }
}

/// What a table or a snapshot holds, beside the actions and keys themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub store_id: String,
    /// The last journal group that is contained.
    pub group: u64,
    pub live_count: u64,
    /// Sum of [`version_hash`] over all live actions.
    pub digest: u64,
    pub next_id: u64,
    pub incarnation: u64,
    pub paused_queues: Vec<String>,
    /// Where the bodies are, in the order of ids.
    pub files: Vec<FileMeta>,
}

/// A body file as of a checkpoint. What lies behind `bytes` in it is not part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileMeta {
    pub number: u64,
    pub bytes: u64,
    /// The last action in it.
    pub last_id: u64,
    /// Actions in it, deleted ones included, and the sum of [`version_hash`] over them as they are written there.
    pub count: u64,
    pub digest: u64,
}

impl Meta {
    pub fn encode(&self) -> Vec<u8> {
        encode_versioned(VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode_versioned("the description of a checkpoint", VERSION, bytes)
    }
}

/// The first use of an idempotency key, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredKeyUse {
    pub id: u64,
    pub digest: [u8; 16],
    pub accepted_at: i64,
}

impl StoredKeyUse {
    pub fn encode(&self) -> Vec<u8> {
        encode_versioned(VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode_versioned("the use of a key", VERSION, bytes)
    }
}

/// A 64-bit hash of one version of one action (the finaliser of splitmix64, twice); the same for ever.
///
/// Their wrapping sum over all live actions does not depend on order and can be kept up to date by
/// adding and taking away. It finds lost, stale and foreign actions; against bit rot there are CRCs.
pub(super) fn version_hash(id: u64, version: u64) -> u64 {
    mix(mix(id.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_add(version))
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
