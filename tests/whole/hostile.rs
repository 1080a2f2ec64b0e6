//! Everything a client should not do, at both doors: each gets its documented answer, and the daemon stays healthy.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::common::home::{NOOP, exec};
use crate::common::http::request;
use crate::common::{Connection, Daemon, Home, PATIENCE, Response, spec, until, with};

/// With 200 clients that send streams and read nothing: less than three MiB for each, the rest for the daemon.
const RESIDENT_MAX_MIB: u64 = 600;

fn good() -> Value {
    spec("restart", 1)
}

fn nested(levels: usize) -> String {
    let mut text = String::new();
    for _ in 0..levels {
        text.push_str("{\"a\":");
    }
    text.push('1');
    text.push_str(&"}".repeat(levels));
    text
}

/// An object with a string of that many bytes.
fn object_of(bytes: usize) -> String {
    format!("{{\"a\":\"{}\"}}", "x".repeat(bytes))
}

/// The good submission with this text for one member.
fn with_text(member: &str, text: &str) -> Vec<u8> {
    let marker = "\"@@\"";
    with(good(), member, "@@").to_string().replace(marker, text).into_bytes()
}

fn without(member: &str) -> Vec<u8> {
    let mut spec = good();
    spec.as_object_mut().expect("an object").remove(member);
    spec.to_string().into_bytes()
}

/// What is sent, the status and the problem's word.
fn bad_submissions() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let mut invalid_utf8 = with(good(), "user", "@@").to_string().into_bytes();
    let at = invalid_utf8.windows(2).position(|pair| pair == b"@@").expect("the marker");
    invalid_utf8[at] = 0xFF;
    let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
    let lists = format!("{{\"a\":{open}{close}}}");
    let attempts = format!("{{\"attempts\":{}}}", nested(10_000));
    let endless = format!("\"{}\"", "x".repeat(100_000));
    vec![
        ("nothing", Vec::new(), 400, "not-json"),
        ("not JSON", b"deploy, please".to_vec(), 400, "not-json"),
        ("half an object", good().to_string().as_bytes()[..40].to_vec(), 400, "not-json"),
        ("two objects", format!("{0}{0}", good()).into_bytes(), 400, "not-json"),
        ("an array", b"[1]".to_vec(), 400, "not-json"),
        ("null", b"null".to_vec(), 400, "not-json"),
        ("invalid UTF-8", invalid_utf8, 400, "not-utf8"),
        ("JSON of 10 MB", with_text("metadata", &object_of(10_000_000)), 413, "body-too-large"),
        ("10,000 levels of nesting", with_text("metadata", &nested(10_000)), 400, "metadata-too-deep"),
        ("10,000 levels of arrays", with_text("metadata", &lists), 400, "metadata-too-deep"),
        ("10,000 levels in an unknown field", with_text("colour", &nested(10_000)), 400, "unknown-field"),
        ("10,000 levels for a name", with_text("user", &nested(10_000)), 400, "invalid-field"),
        ("10,000 levels in the retry policy", with_text("retry", &nested(10_000)), 400, "invalid-field"),
        ("10,000 levels for attempts", with_text("retry", &attempts), 400, "invalid-field"),
        ("10,000 levels for the whole", nested(10_000).into_bytes(), 400, "unknown-field"),
        ("10,000 levels of arrays alone", format!("{open}{close}").into_bytes(), 400, "not-json"),
        ("a million brackets", "[".repeat(1_000_000).into_bytes(), 400, "not-json"),
        ("a number for action", with_text("action", "7"), 400, "invalid-field"),
        ("a missing field", without("user"), 400, "missing-field"),
        ("a missing resource", without("resource_id"), 400, "missing-field"),
        ("an unknown field", with_text("colour", "1"), 400, "unknown-field"),
        ("an own id", with_text("id", "5"), 400, "unknown-field"),
        ("a field twice", with_text("user", "\"a@b.c\",\"user\":\"d@e.f\""), 400, "invalid-field"),
        ("a huge resource id", with_text("resource_id", &"123456789".repeat(4)), 400, "invalid-field"),
        ("a resource id above 2^53", with_text("resource_id", "9007199254740993"), 400, "invalid-field"),
        ("a negative resource id", with_text("resource_id", "-1"), 400, "invalid-field"),
        ("a fractional resource id", with_text("resource_id", "1.5"), 400, "invalid-field"),
        ("a NUL character", with_text("user", "\"a\\u0000b@example.com\""), 400, "invalid-field"),
        ("a NUL in metadata", with_text("metadata", "{\"a\":\"\\u0000\"}"), 400, "invalid-field"),
        ("control characters", with_text("user", "\"a\\u001b[31m@example.com\""), 400, "invalid-field"),
        ("a raw control character", with_text("user", "\"a\u{1}b\""), 400, "not-json"),
        ("an empty action", with_text("action", "\"\""), 400, "invalid-field"),
        ("an endless name", with_text("resource_type", &endless), 400, "invalid-field"),
        ("metadata that is no object", with_text("metadata", "[1]"), 400, "invalid-field"),
        ("large metadata", with_text("metadata", &object_of(500_000)), 413, "metadata-too-large"),
        ("priority 10", with_text("priority", "10"), 400, "invalid-field"),
        ("a time that is none", with_text("run_at", "\"tomorrow\""), 400, "invalid-field"),
        ("a duration that is none", with_text("timeout", "\"soon\""), 400, "invalid-field"),
        ("an unknown choice", with_text("on_conflict", "\"fight\""), 400, "invalid-field"),
        ("no tries at all", with_text("retry", "{\"attempts\":0}"), 400, "invalid-field"),
        ("a deadline in the past", with_text("deadline", "\"2001-01-01T00:00:00Z\""), 422, "deadline-passed"),
        ("an unknown queue", with_text("queue", "\"nowhere\""), 422, "unknown-queue"),
        ("an action without a handler", with_text("action", "\"make_coffee\""), 422, "unknown-action"),
    ]
}

/// Handlers for two types only, so that others are unknown.
fn tables() -> String {
    NOOP.replace("\"*\"", "\"restart\"")
}

/// The answer to bytes, however the server closes on them.
fn answer(door: io::Result<Connection>, bytes: &[u8]) -> io::Result<Response> {
    let mut door = door?;
    // A server that refuses by the head alone may close before it has read all.
    let _ = door.send(bytes);
    door.receive()
}

#[test]
fn every_bad_submission_gets_its_problem_and_stores_nothing() {
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let mut wrong = String::new();
    let mut good_ones = 0;
    for (what, body, status, word) in bad_submissions() {
        let bytes = request("POST", "/v1/actions", "application/json", Some(&body));
        match answer(Connection::unix(&home.socket()), &bytes) {
            Ok(answer) if answer.status == status => {
                let problem = answer.json();
                if answer.problem() != word
                    || problem["status"] != status
                    || problem["detail"].as_str().is_none()
                {
                    let _ = writeln!(wrong, "{what}: expected {word}, got {problem}");
                }
                assert!(
                    answer.head.to_ascii_lowercase().contains("content-type: application/problem+json"),
                    "{what}: {}",
                    answer.head
                );
            }
            other => {
                let _ = writeln!(wrong, "{what}: expected {status} {word}, got {other:?}");
            }
        }
        daemon.assert_healthy(&good(), what);
        good_ones += 1;
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert_eq!(daemon.all_actions().len(), good_ones, "a refused submission was stored");
}

#[test]
fn bad_lines_of_a_stream_are_answered_in_order_and_do_not_stop_it() {
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let mut body = Vec::new();
    let mut expected = Vec::new();
    for (what, line, status, word) in bad_submissions() {
        if line.is_empty() || line.contains(&b'\n') {
            continue;
        }
        body.extend(good().to_string().into_bytes());
        body.push(b'\n');
        body.extend(line);
        body.push(b'\n');
        expected.push((what, status, word));
    }
    let bytes = request("POST", "/v1/actions", "application/x-ndjson", Some(&body));
    let text = answer(Connection::unix(&home.socket()), &bytes).expect("an answer").text();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    assert_eq!(answers.len(), 2 * expected.len());
    for (at, pair) in answers.chunks(2).enumerate() {
        let (what, status, word) = expected[at];
        assert_eq!(pair[0]["status"], 202, "before {what}: {}", pair[0]);
        assert_eq!(pair[1]["line"].as_u64(), Some(2 * at as u64 + 2));
        assert_eq!(pair[1]["status"], status, "{what}: {}", pair[1]);
        assert_eq!(pair[1]["problem"]["type"], format!("urn:actiond:problem:{word}"), "{what}");
    }
    daemon.assert_healthy(&good(), "a stream of bad lines");
}

#[test]
fn bad_requests_are_answered_at_both_doors() {
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let tcp = daemon.status_address();
    daemon.assert_healthy(&good(), "nothing yet");
    for (method, path, status, word) in [
        ("GET", "/v9/everything", 404, "no-such-page"),
        ("GET", "/v1/actions/999999", 404, "no-such-action"),
        ("GET", "/v1/actions/-1", 404, "no-such-action"),
        ("GET", "/v1/actions/99999999999999999999999999", 404, "no-such-action"),
        ("GET", "/v1/actions?colour=red", 400, "bad-query"),
        ("GET", "/v1/actions?limit=many", 400, "bad-query"),
        ("GET", "/v1/actions?limit=1001", 400, "bad-query"),
        ("GET", "/v1/actions/1?wait=forever", 400, "bad-query"),
        ("DELETE", "/v1/actions/1", 405, "method-not-allowed"),
    ] {
        let bytes = request(method, path, "", None);
        let on_socket = answer(Connection::unix(&home.socket()), &bytes).expect("an answer");
        assert_eq!((on_socket.status, on_socket.problem().as_str()), (status, word), "{method} {path}");
        let on_status = answer(Connection::tcp(&tcp), &bytes).expect("an answer");
        let word = if method == "GET" { word } else { "read-only" };
        assert_eq!((on_status.status, on_status.problem().as_str()), (status, word), "{method} {path}");
        daemon.assert_healthy(&good(), path);
    }
    let mut door = Connection::unix(&home.socket()).expect("a connection");
    door.send(&request("POST", "/v1/actions", "text/plain", Some(b"hello"))).expect("sent");
    assert_eq!(door.receive().expect("an answer").problem(), "unsupported-media-type");
    let foreign = b"GET /v1/status HTTP/1.1\r\nHost: evil.example.com\r\n\r\n";
    assert_eq!(answer(Connection::tcp(&tcp), foreign).expect("an answer").problem(), "wrong-host");
}

#[test]
fn what_is_hardly_http_is_refused_or_cut_off_at_both_doors() {
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let tcp = daemon.status_address();
    let head = |rest: &str| format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{rest}\r\n").into_bytes();
    for (what, bytes, statuses) in [
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello\r\n\r\n".to_vec(), &[400_u16][..]),
        ("an endless path", request("GET", &format!("/{}", "a".repeat(1_000_000)), "", None), &[414, 431]),
        ("an endless head", head(&format!("X-A: {}\r\n", "b".repeat(2_000_000))), &[431]),
        ("ten thousand headers", head(&"X-B: c\r\n".repeat(10_000)), &[431]),
        ("two lengths", head("Content-Length: 3\r\nContent-Length: 4\r\n"), &[400]),
    ] {
        for door in [Connection::unix(&home.socket()), Connection::tcp(&tcp)] {
            // It may be closed on without a word, or before all of it was read; a word, if one comes, is right.
            match answer(door, &bytes) {
                Ok(answer) => assert!(statuses.contains(&answer.status), "{what}: {answer:?}"),
                Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{what} is left hanging"),
            }
        }
        daemon.assert_healthy(&good(), what);
    }
}

#[test]
fn client_that_goes_away_in_the_middle_stores_a_whole_line_or_none() {
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let one = good().to_string();
    let mut bytes = b"POST /v1/actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n".to_vec();
    bytes.extend(format!("{one}\n{one}\n{}", &one[..one.len() / 2]).into_bytes());
    let mut door = daemon.connect();
    door.send(&bytes).expect("sent");
    until("two actions", || (daemon.all_actions().len() == 2).then_some(()));
    drop(door);
    daemon.assert_healthy(&good(), "a client that went away");
    assert_eq!(daemon.all_actions().len(), 3);
}

#[test]
fn reports_of_a_hostile_program_hurt_nobody() {
    let home = Home::new();
    let script = home.script(
        "program",
        "read -r action\n\
         printf 'no JSON\\n{\"progress\": \"many\"}\\n{\"progress\": -5}\\n[]\\n{\"unknown\": 1}\\n\\n' >&3\n\
         head -c 200000 /dev/zero | tr '\\0' '[' >&3\n\
         printf '\\n{\"result\": [1]}\\n{\"message\": \"\\\\u0000 still here\"}\\n' >&3\n\
         head -c 100000 /dev/urandom >&3; head -c 100000 /dev/urandom; printf '\\n' >&3",
    );
    let home = home.with_tables(&format!("{}{}", exec("deploy", &script, ""), tables()));
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let action = daemon.finished(id);
    assert_eq!(action["state"], "succeeded", "{action}");
    assert!(action["finished_result"].is_object(), "{action}");
    daemon.assert_healthy(&good(), "a hostile program");
    assert_eq!(json!(daemon.crash().action(id)), action);
}

/// Resident memory of the daemon in MiB.
fn resident_mib(daemon: &Daemon<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1_024
}

/// Sends `piece` over and over on every stream until none of them has taken a byte for five seconds. How many bytes
/// each took.
fn flood(streams: &mut [UnixStream], piece: &[u8]) -> Vec<usize> {
    let since = Instant::now();
    let mut sent = vec![0; streams.len()];
    while since.elapsed() < PATIENCE {
        let mut wanted: Vec<_> = streams.iter().map(|stream| PollFd::new(stream, PollFlags::OUT)).collect();
        let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
        if poll(&mut wanted, Some(&patience)).expect("poll") == 0 {
            break;
        }
        let ready: Vec<bool> = wanted.iter().map(|wanted| !wanted.revents().is_empty()).collect();
        for ((stream, sent), _) in streams.iter_mut().zip(&mut sent).zip(ready).filter(|(_, ready)| *ready) {
            match stream.write(&piece[*sent % piece.len()..]) {
                Ok(count) => *sent += count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
        }
    }
    sent
}

#[test]
fn clients_that_never_read_their_answers_cost_a_bounded_amount_of_memory() {
    const CLIENTS: usize = 200;
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let head = "POST /v1/actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                Content-Length: 1000000000000\r\n\r\n";
    let mut streams: Vec<UnixStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = UnixStream::connect(home.socket()).expect("a connection");
            stream.write_all(head.as_bytes()).expect("a head sent");
            stream.set_nonblocking(true).expect("nonblocking");
            stream
        })
        .collect();
    // Short lines cost the most for their bytes.
    let sent = flood(&mut streams, format!("{}\n", good()).repeat(64).as_bytes());
    let (least, resident) = (sent.iter().min().expect("clients"), resident_mib(&daemon));
    println!("{resident} MiB with {CLIENTS} clients; the least of them sent {least} bytes");
    assert!(*least > 50_000, "a client was hardly read from: {least} bytes");
    assert!(resident < RESIDENT_MAX_MIB, "{resident} MiB");
    drop(streams);
    daemon.assert_healthy(&spec("restart", 2), "clients that never read");
}

#[test]
fn ten_thousand_connections_leave_no_descriptor_behind() {
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let tcp = daemon.status_address();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("its descriptors").count();
    daemon.assert_healthy(&good(), "nothing yet");
    let before = open();
    let whole = request("GET", "/livez", "", None);
    for at in 0..10_000 {
        let connected = if at % 2 == 0 { Connection::unix(&home.socket()) } else { Connection::tcp(&tcp) };
        let mut door = connected.expect("a connection");
        match at % 5 {
            0 => {}
            1 => door.send(&whole[..whole.len() / 2]).expect("half a request sent"),
            2 => door.send(&whole).expect("a request sent"),
            3 => door.send(&request("GET", "/v1/events", "", None)).expect("a request sent"),
            _ => assert_eq!(door.ask("GET", "/livez", None).expect("an answer").status, 200),
        }
    }
    until("no more descriptors than before", || (open() <= before + 2).then_some(()));
    daemon.assert_healthy(&good(), "ten thousand connections");
}
