//! Bad bodies and the problem each gets; good ones and what is kept of them.

use super::*;

const LIMITS: Limits = Limits { metadata_bytes_max: 1_000, metadata_depth_max: 8 };
const ACTOR: Actor = Actor { uid: 1, gid: 2, pid: 3 };

const GOOD: &str = r#"{"user":"john@example.com","resource_type":"Stack","action":"deploy","resource_id":12345,
    "started_via":"api","metadata":{"git_ref":"main","deployment_strategy":"rolling"}}"#;

fn parsed(body: &str) -> Result<Submission, Problem> {
    submission(body.as_bytes(), ACTOR, LIMITS)
}

/// The good body with one field's text replaced, or one put in front.
fn with(field: &str, value: &str) -> String {
    let mut object: std::collections::BTreeMap<String, Box<RawValue>> = serde_json::from_str(GOOD).unwrap();
    object.remove(field);
    let rest = serde_json::to_string(&object).unwrap();
    format!("{{\"{field}\":{value},{}", &rest[1..])
}

#[test]
fn bad_body_gets_the_problem_that_names_its_fault() {
    let long = format!("\"{}\"", "x".repeat(257));
    let nested = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1_000));
    let cases: &[(String, Word, &str)] = &[
        (String::new(), Word::NotJson, "EOF"),
        ("deploy!".into(), Word::NotJson, "expected value"),
        ("[1]".into(), Word::NotJson, "object"),
        ("17".into(), Word::NotJson, "object"),
        ("[".repeat(10_000), Word::NotJson, ""),
        (format!("{GOOD} {GOOD}"), Word::NotJson, "trailing"),
        (GOOD.replace('}', ""), Word::NotJson, "EOF"),
        ("{\"user\":\"a\u{1}\"}".into(), Word::NotJson, "control"),
        ("{}".into(), Word::MissingField, "user"),
        (GOOD.replace("\"resource_id\":12345,", ""), Word::MissingField, "resource_id"),
        (with("colour", "1"), Word::UnknownField, "colour"),
        (with("colour", &nested), Word::UnknownField, "colour"),
        (with("id", "1"), Word::UnknownField, "id"),
        (format!("{{\"user\":\"a\",{}", &GOOD[1..]), Word::InvalidField, "user: is given twice"),
        (with("action", "5"), Word::InvalidField, "action: invalid type"),
        (with("action", "\"Deploy\""), Word::InvalidField, "action"),
        (with("action", "\"../../etc/passwd\""), Word::InvalidField, "action"),
        (with("action", "\"-rf\""), Word::InvalidField, "action"),
        (with("action", "\"\""), Word::InvalidField, "action"),
        (with("action", "null"), Word::MissingField, "action"),
        (with("user", "\"\""), Word::InvalidField, "user"),
        (with("user", &long), Word::InvalidField, "user"),
        (with("user", "\"a\\u0000b\""), Word::InvalidField, "user: has a control"),
        (with("user", "\"a\\r\\nb\""), Word::InvalidField, "user: has a control"),
        (with("user", "\"\\ud800\""), Word::InvalidField, "escape"),
        (with("user", &nested), Word::InvalidField, "user"),
        (with("resource_id", "-1"), Word::InvalidField, "resource_id"),
        (with("resource_id", "-0"), Word::InvalidField, "resource_id"),
        (with("resource_id", "1.5"), Word::InvalidField, "resource_id"),
        (with("resource_id", "1e400"), Word::InvalidField, "resource_id"),
        (with("resource_id", "9007199254740992"), Word::InvalidField, "resource_id"),
        (with("resource_id", "18446744073709551616"), Word::InvalidField, "resource_id"),
        (with("resource_id", "NaN"), Word::NotJson, ""),
        (with("resource_id", "\"7\""), Word::InvalidField, "resource_id"),
        (with("metadata", "[]"), Word::InvalidField, "metadata: must be an object"),
        (with("metadata", "\"x\""), Word::InvalidField, "metadata"),
        (with("metadata", &nested), Word::MetadataTooDeep, "8 levels"),
        (with("metadata", &large), Word::MetadataTooLarge, "1000"),
        (with("metadata", "{\"a\":\"\\u0000\"}"), Word::InvalidField, "NUL"),
        (with("metadata", "{\"a\":1,\"a\":2}"), Word::InvalidField, "twice"),
        (with("priority", "10"), Word::InvalidField, "priority"),
        (with("priority", "300"), Word::InvalidField, "priority"),
        (with("run_at", "\"tomorrow\""), Word::InvalidField, "run_at"),
        (with("deadline", "1705314600"), Word::InvalidField, "deadline"),
        (with("timeout", "\"0s\""), Word::InvalidField, "timeout"),
        (with("timeout", "\"31days\""), Word::InvalidField, "timeout"),
        (with("timeout", "30"), Word::InvalidField, "timeout"),
        (with("on_conflict", "\"fight\""), Word::InvalidField, "replace_queued"),
        (with("queue", "\"a b\""), Word::InvalidField, "queue"),
        (with("idempotency_key", "\"\""), Word::InvalidField, "idempotency_key"),
        (with("idempotency_key", "\"ä\""), Word::InvalidField, "idempotency_key"),
        (with("retry", "3"), Word::InvalidField, "retry"),
        (with("retry", "{\"attempts\":0}"), Word::InvalidField, "retry.attempts"),
        (with("retry", "{\"attempts\":2,\"colour\":1}"), Word::InvalidField, "colour"),
        (
            with("retry", "{\"attempts\":2,\"backoff\":\"9m\",\"backoff_max\":\"1s\"}"),
            Word::InvalidField,
            "backoff_max",
        ),
    ];
    for (body, word, part) in cases {
        let shown = shortened(body);
        match parsed(body) {
            Ok(_) => panic!("taken: {shown}"),
            Err(problem) => {
                assert_eq!(problem.word, *word, "{shown}: {}", problem.detail);
                assert!(problem.detail.contains(part), "{shown}: {}", problem.detail);
                assert!(problem.detail.len() < 600, "{shown}: {}", problem.detail.len());
            }
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_are_told_by_their_offset() {
    let problem = submission(b"{\"user\":\"\xff\"}", ACTOR, LIMITS).unwrap_err();
    assert_eq!(problem.word, Word::NotUtf8);
    assert!(problem.detail.contains("offset 9"), "{}", problem.detail);
}

#[test]
fn document_example_is_taken_as_it_stands() {
    let submission = parsed(GOOD).unwrap();
    assert_eq!(submission.user, "john@example.com");
    assert_eq!(submission.resource_id, 12345);
    assert_eq!(submission.metadata.as_str(), r#"{"git_ref":"main","deployment_strategy":"rolling"}"#);
    assert_eq!((submission.actor, submission.digest), (ACTOR, [0; 16]));
    assert_eq!(submission.on_conflict, OnConflict::Queue);
}

#[test]
fn every_option_reaches_the_engine() {
    let body = r#"{"user":"\u0061","resource_type":"Server","action":"restart","resource_id":0,"started_via":"hook",
        "queue":"slow","priority":9,"run_at":"2030-01-01T00:00:00+01:00","deadline":"2030-01-02T00:00:00Z",
        "timeout":"1h 30m","on_conflict":"join","idempotency_key":"k-1","metadata":null,
        "retry":{"attempts":4,"backoff":"10m"}}"#;
    let submission = parsed(body).unwrap();
    assert_eq!(submission.user, "a");
    assert_eq!(submission.metadata, JsonText::empty());
    assert_eq!((submission.queue.as_deref(), submission.priority), (Some("slow"), Some(9)));
    assert_eq!(submission.run_at, Some(Timestamp(1_893_452_400_000)));
    assert_eq!(submission.timeout_ms, Some(5_400_000));
    assert_eq!(submission.on_conflict, OnConflict::Join);
    let retry = RetryPolicy { attempts: 4, backoff_ms: 600_000, backoff_max_ms: 600_000 };
    assert_eq!(submission.retry, Some(retry));
}

#[test]
fn digest_ignores_order_and_white_space_of_the_object_but_nothing_else() {
    let one = parsed(&with("idempotency_key", "\"k\"")).unwrap();
    let same = r#"{ "metadata": {"git_ref" : "main", "deployment_strategy":"rolling" },
        "started_via":"api","resource_id":12345,"action":"deploy","resource_type":"Stack",
        "user":"john@example.com","idempotency_key":"k"}"#;
    assert_ne!(one.digest, [0; 16]);
    assert_eq!(parsed(same).unwrap().digest, one.digest);
    for (from, to) in [("main", "next"), ("12345", "12346"), ("api", "web"), ("john", "jane")] {
        assert_ne!(parsed(&same.replace(from, to)).unwrap().digest, one.digest, "{from}");
    }
    let more = same.replacen('{', "{\"priority\":0,", 1);
    assert_ne!(parsed(&more).unwrap().digest, one.digest);
}
