//! The JSON of the API: what clients send and what they get. Types of their own, so that neither the
//! domain nor the store can change the wire by accident.
//!
//! Used by the API's routes and by the Rust client. Times are RFC 3339 in UTC, with milliseconds
//! unless they are zero; durations are words such as `30m` or `1s 500ms`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// `POST /v1/actions`. Unknown fields are refused.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    pub user: String,
    pub resource_type: String,
    pub action: String,
    pub resource_id: u64,
    pub started_via: String,
    /// An object; `{}` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// `retry` of a submission and of an action.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_max: Option<String>,
}

/// One action. The first twelve fields are the user document's, in its order and with its types.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Action {
    pub id: u64,
    pub user: String,
    pub resource_type: String,
    pub action: String,
    pub resource_id: u64,
    pub started_via: String,
    pub started_at: String,
    pub finished_at: Option<String>,
    pub finished_success: Option<bool>,
    pub finished_message: Option<String>,
    pub finished_result: Option<Box<RawValue>>,
    pub metadata: Option<Box<RawValue>>,
    pub state: String,
    pub reason: Option<String>,
    pub queue: String,
    pub priority: u8,
    pub attempt: u32,
    pub tries_used: u32,
    /// A person freed its locks while it was held: others on its resource go first.
    #[serde(default)]
    pub locks_freed: bool,
    pub progress: Option<Progress>,
    pub run_at: Option<String>,
    /// When a `retry_wait` or `scheduled` action becomes due.
    pub due_at: Option<String>,
    pub deadline: Option<String>,
    pub timeout: String,
    pub on_conflict: String,
    pub idempotency_key: Option<String>,
    pub retry: Retry,
    pub recovery: String,
    pub retry_of: Option<u64>,
    pub submitter: Option<Submitter>,
    pub checkpoint: Option<Box<RawValue>>,
    /// In the order in which they began.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Reboots of the host that it has asked for.
    #[serde(default)]
    pub reboots: u32,
    #[serde(default)]
    pub claim: Option<Claim>,
    /// The attempt that runs now, then the ended ones, newest first.
    pub attempts: Vec<Attempt>,
    pub cancel: Option<Cancel>,
    pub version: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    pub percent: u8,
    pub message: String,
    pub at: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submitter {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub begun_at: String,
    pub done_at: Option<String>,
}

/// The attempt that owns an action now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// Larger than that of every earlier claim, whatever its resource.
    pub fence: u64,
    pub began_at: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    pub began_at: String,
    pub ended_at: Option<String>,
    /// `running` or how it ended.
    pub outcome: String,
    pub message: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cancel {
    pub uid: u32,
    pub at: String,
    pub reason: String,
}

/// `GET /v1/actions`: newest first; `next` is the value for `?before=` of the following page.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page {
    pub actions: Vec<Action>,
    pub next: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Queue {
    pub name: String,
    pub concurrency: u32,
    pub paused: bool,
    pub waiting: u64,
    pub running: u64,
    pub length_max: u64,
}

/// `GET /v1/actions/{id}/explain`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Explanation {
    pub id: u64,
    pub state: String,
    pub causes: Vec<Cause>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Cause {
    pub code: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// `GET /v1/status`: what the daemon says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub incarnation: u64,
    pub draining: bool,
    /// An action has asked for a reboot of the host, and nothing is started before.
    #[serde(default)]
    pub reboot_due: bool,
    /// Address of the status endpoint over TCP, with the port really bound.
    pub status_address: Option<String>,
    pub accepted: u64,
    pub recovered: u64,
    /// Count of actions by state.
    pub states: std::collections::BTreeMap<String, u64>,
    pub queues: Vec<Queue>,
    pub store: StoreStatus,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    pub rebuilding: Option<String>,
    pub rebuilds: u64,
    pub last_rebuild_reason: Option<String>,
    pub live_actions: u64,
    pub journal_groups: u64,
    pub journal_bytes: u64,
    pub checkpoints: u64,
    pub snapshots: u64,
    pub memory_bytes: u64,
    pub disk_free_bytes: u64,
}

/// An RFC 9457 problem document. `type` is stable: `urn:actiond:problem:` and a word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// The action that stands in the way, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action_id: Option<u64>,
}

/// One answer line of an NDJSON submission, in the order of the lines sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct LineAnswer {
    pub line: u64,
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}
