//! The document's example to the letter, and the hand-written form against the wire types.

use std::sync::Arc;

use super::*;
use crate::action::{ActionId, Actor, AttemptEnd, OnConflict, Recovery, State};
use crate::api::wire;

/// The user document's example, as the domain has it.
pub(in crate::api) fn example() -> Action {
    let at = |text| time::parse(text).unwrap();
    Action {
        id: ActionId(98765),
        body: Arc::new(Body {
            user: "john@example.com".into(),
            resource_type: "Stack".into(),
            action: "deploy".into(),
            resource_id: 12345,
            started_via: "api".into(),
            metadata: JsonText::from_checked(r#"{"git_ref":"main","deployment_strategy":"rolling"}"#),
            accepted_at: at("2024-01-15T10:30:00Z"),
            submitter: Actor { uid: 1000, gid: 100, pid: 42 },
            queue: "default".into(),
            priority: 5,
            run_at: None,
            deadline: None,
            timeout_ms: 1_800_000,
            on_conflict: OnConflict::Queue,
            idempotency_key: None,
            request_digest: [0; 16],
            retry: RetryPolicy { attempts: 3, backoff_ms: 1_000, backoff_max_ms: 300_000 },
            recovery: Recovery::Hold,
            locks: Vec::new(),
            retry_of: None,
        }),
        status: Status {
            finish: Some(Finish {
                at: at("2024-01-15T10:45:00Z"),
                success: true,
                message: "Deployment completed successfully".into(),
                result: JsonText::from_checked(
                    r#"{"deploy_session":"deploy-session-123","git_hash":"a1b2c3d4e5f6","servers_deployed":3}"#,
                ),
            }),
            ..Status::accepted(State::Succeeded, None)
        },
    }
}

/// An action with something in every field.
fn full() -> Action {
    let mut action = example();
    let body = Arc::make_mut(&mut action.body);
    body.user = "quote \" and \\ and \u{1F600}".into();
    body.run_at = Some(Timestamp(1_700_000_000_001));
    body.deadline = Some(Timestamp(1_800_000_000_000));
    body.timeout_ms = 61_005;
    body.idempotency_key = Some("secret-key".into());
    body.retry_of = Some(ActionId(9));
    let record = |attempt, message: &str| AttemptRecord {
        attempt,
        began_at: Timestamp(1),
        ended_at: Timestamp(2),
        end: AttemptEnd::Interrupted,
        message: message.into(),
    };
    action.status.reason = "secret reason".into();
    action.status.due_at = Some(Timestamp(5));
    action.status.attempt = 3;
    action.status.locks_freed = true;
    action.status.progress = Some(Progress { percent: 40, message: "secret step".into(), at: Timestamp(6) });
    action.status.checkpoint = Some(JsonText::from_checked(r#"{"secret":1}"#));
    let step = |name: &str, done_at| Step { name: name.into(), begun_at: Timestamp(3), done_at };
    action.status.steps = vec![step("secret-build", Some(Timestamp(4))), step("secret-push", None)];
    action.status.reboots = 2;
    action.status.claim = Some(Claim {
        incarnation: 1,
        boot_id: "b".into(),
        began_at: Timestamp(7),
        fence: 8,
        is_gated: true,
        program: None,
    });
    action.status.attempts = vec![record(1, ""), record(2, "secret end")];
    action.status.cancel = Some(CancelRequest { uid: 0, at: Timestamp(8), reason: "secret cancel".into() });
    action
}

fn written(action: &Action, show: Show) -> String {
    let mut out = Vec::new();
    write_action(&mut out, action, show);
    String::from_utf8(out).unwrap()
}

#[test]
fn document_example_begins_with_its_twelve_fields_to_the_letter() {
    let expected = concat!(
        r#"{"id":98765,"user":"john@example.com","resource_type":"Stack","action":"deploy","resource_id":12345,"#,
        r#""started_via":"api","started_at":"2024-01-15T10:30:00Z","finished_at":"2024-01-15T10:45:00Z","#,
        r#""finished_success":true,"finished_message":"Deployment completed successfully","finished_result":"#,
        r#"{"deploy_session":"deploy-session-123","git_hash":"a1b2c3d4e5f6","servers_deployed":3},"#,
        r#""metadata":{"git_ref":"main","deployment_strategy":"rolling"},"state":"succeeded","#,
    );
    let written = written(&example(), Show::All);
    assert!(written.starts_with(expected), "{written}");
}

#[test]
fn hand_written_form_is_what_the_wire_types_give() {
    let mut fresh = example();
    fresh.status = Status::accepted(State::Queued, None);
    for action in [example(), full(), fresh] {
        for show in [Show::All, Show::Outline] {
            let written = written(&action, show);
            let read: wire::Action = serde_json::from_str(&written).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), written);
        }
    }
}

#[test]
fn outline_tells_no_payload() {
    let action = full();
    assert!(written(&action, Show::All).matches("secret").count() >= 6);
    let outline = written(&action, Show::Outline);
    for hidden in ["secret", "git_ref", "deploy_session", "completed"] {
        assert!(!outline.contains(hidden), "{outline}");
    }
    assert!(outline.contains(r#""state":"succeeded""#));
}

#[test]
fn durations_read_back_as_they_were() {
    for ms in [1, 999, 1_000, 1_500, 59_000, 60_000, 61_000, 3_600_000, 7_200_000, 86_400_000, 2_592_000_000]
    {
        let mut out = Vec::new();
        duration(&mut out, ms);
        let text: String = serde_json::from_slice(&out).unwrap();
        assert_eq!(time::parse_duration_ms(&text), Ok(ms), "{text}");
    }
}
