//! What the demo submits, and what must become of each.

use serde_json::value::RawValue;

use crate::api::wire;

/// One action of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub action: &'static str,
    pub stack: u64,
    pub metadata: &'static str,
    /// What it shows.
    pub shows: &'static str,
    pub state: &'static str,
    /// How often its effect must be in the ledger at the end.
    pub effects: usize,
    pub runs_in_seconds: Option<i64>,
}

const fn planned(action: &'static str, stack: u64, metadata: &'static str, shows: &'static str) -> Planned {
    Planned { action, stack, metadata, shows, state: "succeeded", effects: 1, runs_in_seconds: None }
}

/// Places in [`PLAN`] of those that the demo does something to.
pub const RUNNING: usize = 0;
pub const CANCELLED: usize = 9;
pub const HELD: usize = 10;
pub const KEYED: usize = 11;
pub const RETRIED: usize = 7;

/// The actions in the order of submission.
pub const PLAN: [Planned; 12] = [
    planned("deploy", 1, r#"{"git_ref":"refs/heads/main"}"#, "the daemon is killed in its middle"),
    planned("deploy", 1, r#"{"git_ref":"refs/tags/v1.0"}"#, "waits behind it: same stack"),
    planned("deploy", 2, r#"{"git_ref":"refs/tags/v1.0"}"#, "another stack runs beside it"),
    planned("service_restart", 3, r#"{"service_name":"web"}"#, "a restart"),
    planned("service_restart", 3, r#"{"service_name":"web"}"#, "and another, in its turn"),
    planned("service_restart", 4, r#"{"service_name":"worker"}"#, "a restart beside them"),
    Planned {
        state: "failed",
        effects: 0,
        ..planned("database_create", 5, r#"{"database":"shop"}"#, "fails, and says why")
    },
    planned("clear_caches", 6, "{}", "asks for another try, twice"),
    Planned {
        runs_in_seconds: Some(4),
        ..planned("service_restart", 7, r#"{"service_name":"mailer"}"#, "is due only after the crash")
    },
    Planned {
        state: "cancelled",
        effects: 0,
        ..planned("service_restart", 1, r#"{"service_name":"never"}"#, "is cancelled while it waits")
    },
    planned("service_restart", 1, r#"{"service_name":"cron"}"#, "is held over the crash, then resumed"),
    Planned {
        effects: 0,
        ..planned("maintenance_mode", 8, r#"{"sleep_ms":100}"#, "is submitted twice with one key")
    },
];

impl Planned {
    /// The request as it goes over the socket. `key` makes it repeatable.
    pub fn request(&self, now: crate::action::Timestamp, key: Option<&str>) -> wire::SubmitRequest {
        let run_at = self.runs_in_seconds.and_then(|seconds| {
            let at = chrono::DateTime::from_timestamp_millis(now.0 + seconds * 1_000)?;
            Some(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        });
        wire::SubmitRequest {
            user: "demo@example.com".into(),
            resource_type: "Stack".into(),
            action: self.action.into(),
            resource_id: self.stack,
            started_via: "demo".into(),
            metadata: RawValue::from_string(self.metadata.into()).ok(),
            run_at,
            idempotency_key: key.map(Into::into),
            ..wire::SubmitRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_places_are_what_they_say() {
        assert_eq!(PLAN[CANCELLED].state, "cancelled");
        assert_eq!((PLAN[RUNNING].action, PLAN[RETRIED].action), ("deploy", "clear_caches"));
        assert!(PLAN[HELD].shows.contains("held") && PLAN[KEYED].shows.contains("key"));
        for planned in PLAN {
            assert!(planned.request(crate::action::Timestamp(0), None).metadata.is_some());
        }
    }
}
