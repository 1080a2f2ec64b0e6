//! Round trips, the golden file, and hostile bytes.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::action::{
    ActionId, Actor, AttemptEnd, AttemptRecord, Body, CancelRequest, Claim, Ending, Finish, JsonText,
    LockKey, OnConflict, Program, Progress, Recovery, RetryPolicy, State, Status, Step, Timestamp, Unsuccess,
};

pub(super) fn full_body() -> Body {
    Body {
        user: "ada@example.org".to_owned(),
        resource_type: "Stack".to_owned(),
        action: "deploy".to_owned(),
        resource_id: 12_345,
        started_via: "web".to_owned(),
        metadata: JsonText::from_checked(r#"{"git_ref":"main"}"#),
        accepted_at: Timestamp(1_700_000_000_123),
        submitter: Actor { uid: 1000, gid: 100, pid: 4242 },
        queue: "default".to_owned(),
        priority: 9,
        run_at: Some(Timestamp(1_700_000_001_000)),
        deadline: Some(Timestamp(-1)),
        timeout_ms: 1_800_000,
        on_conflict: OnConflict::ReplaceQueued,
        idempotency_key: Some("key-1".to_owned()),
        request_digest: [7; 16],
        retry: RetryPolicy { attempts: 3, backoff_ms: 1_000, backoff_max_ms: 300_000 },
        recovery: Recovery::Hold,
        locks: vec![LockKey(1), LockKey(u64::MAX)],
        retry_of: Some(ActionId(17)),
    }
}

pub(super) fn full_status() -> Status {
    Status {
        version: 300,
        state: State::Running,
        reason: "why".to_owned(),
        due_at: Some(Timestamp(5)),
        attempt: 4,
        tries_used: 2,
        deaths: 1,
        locks_freed: true,
        progress: Some(Progress { percent: 40, message: "pushing".to_owned(), at: Timestamp(6) }),
        checkpoint: Some(JsonText::from_checked(r#"{"step":2}"#)),
        steps: vec![
            Step { name: "build".to_owned(), begun_at: Timestamp(3), done_at: Some(Timestamp(4)) },
            Step { name: "push".to_owned(), begun_at: Timestamp(5), done_at: None },
        ],
        reboots: 2,
        claim: Some(Claim {
            incarnation: 8,
            boot_id: "b".to_owned(),
            began_at: Timestamp(7),
            fence: (8 << 32) | 5,
            is_gated: true,
            program: Some(Program { pid: 99, start_ticks: 1 << 40 }),
        }),
        attempts: vec![AttemptRecord {
            attempt: 3,
            began_at: Timestamp(1),
            ended_at: Timestamp(2),
            end: AttemptEnd::Interrupted,
            message: "gone".to_owned(),
        }],
        cancel: Some(CancelRequest { uid: 0, at: Timestamp(9), reason: "no".to_owned() }),
        ending: Some(Ending {
            how: Unsuccess::TimedOut,
            message: "late".to_owned(),
            result: Some(JsonText::from_checked("{}")),
            is_try: true,
        }),
        finish: Some(Finish {
            at: Timestamp(10),
            success: true,
            message: "done".to_owned(),
            result: JsonText::from_checked(r#"{"url":"x"}"#),
        }),
    }
}

#[test]
fn facts_of_a_body_are_those_of_the_whole_one_and_of_nothing_less() {
    let full = full_body();
    let bare = Body {
        run_at: None,
        deadline: None,
        idempotency_key: None,
        locks: Vec::new(),
        retry_of: None,
        ..full.clone()
    };
    for body in [full, bare] {
        let bytes = encode_body(&body);
        let facts = BodyFacts {
            queue: &body.queue,
            kind: crate::action::kind_number(&body.action),
            priority: body.priority,
            deadline: body.deadline.map(|at| at.0),
            first_lock: body.locks.first().map(|lock| lock.0),
            lock_count: body.locks.len(),
        };
        assert_eq!(peek_body(&bytes).unwrap(), facts);
        for len in 0..bytes.len() {
            assert!(peek_body(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(peek_body(&[&bytes[..], &[0]].concat()).is_err());
    }
}

/// The newest form of everything. An older one is kept in the golden file of its number.
fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let (body, status) = (encode_body(&full_body()), encode_status(&full_status()));
    let meta = Meta {
        store_id: "0123456789abcdef0123456789abcdef".to_owned(),
        group: 9,
        live_count: 8,
        digest: 7,
        next_id: 6,
        incarnation: 5,
        paused_queues: vec!["slow".to_owned()],
        files: vec![FileMeta { number: 1, bytes: 2, last_id: 3, count: 4, digest: 5 }],
    };
    vec![
        ("body", body.clone()),
        ("status", status.clone()),
        ("submitted", Record::Submitted { id: 1, body: &body, status: &status }.encode()),
        ("changed", Record::Changed { id: 2, event: Event::Claim, status: &status }.encode()),
        ("deleted", Record::Deleted { actions: vec![(3, 4), (5, 6)] }.encode()),
        ("queue_paused", Record::QueuePaused { queue: "slow".to_owned(), paused: true }.encode()),
        ("started", Record::Started { incarnation: 7, boot_id: "b".to_owned() }.encode()),
        ("checkpointed", Record::Checkpointed { live_count: 8, digest: 9 }.encode()),
        ("meta", meta.encode()),
        ("key_use", StoredKeyUse { id: 1, digest: [2; 16], accepted_at: -3 }.encode()),
    ]
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn stored_forms_are_byte_for_byte_those_of_the_golden_file() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/records-v2.txt");
    let lines: Vec<_> = golden().iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
    let text = lines.concat();
    if std::env::var_os("ACTIOND_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).unwrap(),
        "a released form changed: add a version instead"
    );
}

#[test]
fn golden_bytes_give_back_their_values() {
    for (name, bytes) in golden() {
        match name {
            "body" => assert_eq!(decode_body(&bytes).unwrap(), full_body()),
            "status" => {
                assert_eq!(decode_status(&bytes).unwrap(), full_status());
                assert_eq!(peek_status(&bytes).unwrap(), (300, State::Running));
            }
            "meta" => assert_eq!(Meta::decode(&bytes).unwrap().encode(), bytes),
            "key_use" => assert_eq!(StoredKeyUse::decode(&bytes).unwrap().encode(), bytes),
            _ => assert_eq!(Record::decode(&bytes).unwrap().encode(), bytes, "{name}"),
        }
    }
}

/// The bytes under a name in the golden file of version 1.
fn of_version_1(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/records-v1.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let hex = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn status_of_version_1_is_read_without_what_it_had_not() {
    let mut status = full_status();
    status.steps.clear();
    status.reboots = 0;
    status.ending = None;
    let claim = status.claim.as_mut().unwrap();
    (claim.fence, claim.is_gated) = (0, false);
    let bytes = of_version_1("status");
    assert_eq!(decode_status(&bytes).unwrap(), status);
    assert_eq!(peek_status(&bytes).unwrap(), (300, State::Running));
    assert_eq!(peek_waiting(&bytes).unwrap(), peek_waiting(&encode_status(&status)).unwrap());
    for cut in 0..bytes.len() {
        assert!(
            decode_status(&bytes[..cut]).is_err() && peek_waiting(&bytes[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    assert!(decode_status(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn everything_else_of_version_1_is_what_it_is_now() {
    for (name, bytes) in golden() {
        let old = of_version_1(name);
        match name {
            "submitted" | "changed" => {
                // Around a status of version 1.
                let Ok(Record::Submitted { status, .. } | Record::Changed { status, .. }) =
                    Record::decode(&old)
                else {
                    panic!("{name}")
                };
                assert_eq!(status, of_version_1("status"));
            }
            "status" => {}
            _ => assert_eq!(old, bytes, "{name}"),
        }
    }
}

#[test]
fn every_choice_survives_storage() {
    for on_conflict in OnConflict::ALL {
        for recovery in Recovery::ALL {
            let body = Body { on_conflict, recovery, idempotency_key: None, ..full_body() };
            assert_eq!(decode_body(&encode_body(&body)).unwrap(), body);
        }
    }
    for state in State::ALL {
        let status = Status::accepted(state, None);
        assert_eq!(decode_status(&encode_status(&status)).unwrap(), status);
        assert_eq!(peek_status(&encode_status(&status)).unwrap(), (1, state));
    }
}

#[test]
fn cut_or_lengthened_record_is_refused() {
    for (name, bytes) in golden() {
        let refused = |bytes: &[u8]| match name {
            "body" => decode_body(bytes).is_err(),
            "status" => decode_status(bytes).is_err(),
            "meta" => Meta::decode(bytes).is_err(),
            "key_use" => StoredKeyUse::decode(bytes).is_err(),
            _ => Record::decode(bytes).is_err(),
        };
        for cut in 0..bytes.len() {
            assert!(refused(&bytes[..cut]), "{name} cut at {cut}");
        }
        assert!(refused(&[&bytes[..], &[0]].concat()), "{name} with a byte more");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..9) {
        let versioned = [&[1u8][..], &bytes].concat();
        let _ = decode_body(&versioned);
        for version in [1, 2] {
            let versioned = [&[version][..], &bytes].concat();
            let _ = decode_status(&versioned);
            let _ = peek_status(&versioned);
            let _ = peek_waiting(&versioned);
        }
        let _ = Meta::decode(&versioned);
        let _ = Record::decode(&bytes);
        let _ = Record::decode(&[&[kind][..], &versioned].concat());
    }

    #[test]
    fn flipped_byte_never_makes_decoding_panic(at in any::<prop::sample::Index>(), flip in 1u8..) {
        for (_, mut bytes) in golden() {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let _ = decode_body(&bytes);
            let _ = decode_status(&bytes);
            let _ = Meta::decode(&bytes);
            let _ = Record::decode(&bytes);
        }
    }
}
