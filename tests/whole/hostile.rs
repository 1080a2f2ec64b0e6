//! Everything a client should not do, at both doors: each gets its documented answer, and the daemon stays healthy.

use std::fmt::Write as _;
use std::io;
use std::time::Instant;

use serde_json::{Value, json};

use crate::common::home::{NOOP, exec};
use crate::common::http::request;
use crate::common::{Connection, Daemon, Home, PATIENCE, Response, is_final, spec, until, with};

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
    vec![
        ("nothing", Vec::new(), 400, "invalid-json"),
        ("not JSON", b"deploy, please".to_vec(), 400, "invalid-json"),
        ("half an object", good().to_string().as_bytes()[..40].to_vec(), 400, "invalid-json"),
        ("two objects", format!("{0}{0}", good()).into_bytes(), 400, "invalid-json"),
        ("an array", b"[1]".to_vec(), 400, "invalid-action"),
        ("null", b"null".to_vec(), 400, "invalid-action"),
        ("invalid UTF-8", invalid_utf8, 400, "invalid-json"),
        (
            "JSON of 10 MB",
            with_text("metadata", &format!("{{\"a\":\"{}\"}}", "x".repeat(10_000_000))),
            413,
            "body-too-large",
        ),
        ("10,000 levels of nesting", with_text("metadata", &nested(10_000)), 400, "metadata-too-deep"),
        (
            "10,000 levels of arrays",
            with_text("metadata", &format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000))),
            400,
            "metadata-too-deep",
        ),
        ("a number for action", with_text("action", "7"), 400, "invalid-action"),
        ("a missing field", without("user"), 400, "invalid-action"),
        ("a missing resource", without("resource_id"), 400, "invalid-action"),
        ("an unknown field", with_text("colour", "1"), 400, "invalid-action"),
        ("an own id", with_text("id", "5"), 400, "invalid-action"),
        ("a field twice", with_text("user", "\"a@b.c\",\"user\":\"d@e.f\""), 400, "invalid-action"),
        (
            "a huge resource id",
            with_text("resource_id", "123456789012345678901234567890"),
            400,
            "invalid-action",
        ),
        ("a resource id above 2^53", with_text("resource_id", "9007199254740993"), 400, "invalid-action"),
        ("a negative resource id", with_text("resource_id", "-1"), 400, "invalid-action"),
        ("a fractional resource id", with_text("resource_id", "1.5"), 400, "invalid-action"),
        ("a NUL character", with_text("user", "\"a\\u0000b@example.com\""), 400, "invalid-action"),
        ("control characters", with_text("user", "\"a\\u001b[31m@example.com\""), 400, "invalid-action"),
        ("a raw control character", with_text("user", "\"a\u{1}b\""), 400, "invalid-json"),
        ("an empty action", with_text("action", "\"\""), 400, "invalid-action"),
        (
            "an endless name",
            with_text("resource_type", &format!("\"{}\"", "x".repeat(100_000))),
            400,
            "invalid-action",
        ),
        ("metadata that is no object", with_text("metadata", "[1]"), 400, "invalid-action"),
        (
            "large metadata",
            with_text("metadata", &format!("{{\"a\":\"{}\"}}", "x".repeat(500_000))),
            413,
            "metadata-too-large",
        ),
        ("priority 10", with_text("priority", "10"), 400, "invalid-action"),
        ("a time that is none", with_text("run_at", "\"tomorrow\""), 400, "invalid-action"),
        ("a duration that is none", with_text("timeout", "\"soon\""), 400, "invalid-action"),
        ("an unknown choice", with_text("on_conflict", "\"fight\""), 400, "invalid-action"),
        ("no tries at all", with_text("retry", "{\"attempts\":0}"), 400, "invalid-action"),
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
    for (what, bytes, statuses) in [
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello\r\n\r\n".to_vec(), &[400_u16][..]),
        ("an unknown path", request("GET", "/v9/everything", "", None), &[404]),
        ("an unknown action", request("GET", "/v1/actions/999999", "", None), &[404]),
        ("an id that is none", request("GET", "/v1/actions/-1", "", None), &[400, 404]),
        ("a huge id", request("GET", "/v1/actions/99999999999999999999999999", "", None), &[400, 404]),
        ("an unknown filter", request("GET", "/v1/actions?colour=red", "", None), &[400]),
        ("a filter that is none", request("GET", "/v1/actions?limit=many", "", None), &[400]),
        ("a wait that is none", request("GET", "/v1/actions/1?wait=forever", "", None), &[400, 404]),
        ("another method", request("DELETE", "/v1/actions/1", "", None), &[404, 405]),
        ("an endless path", request("GET", &format!("/{}", "a".repeat(1_000_000)), "", None), &[404, 414, 431]),
        ("an endless head", format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", "b".repeat(2_000_000)).into_bytes(), &[431]),
        ("ten thousand headers", format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-B: c\r\n".repeat(10_000)).into_bytes(), &[431]),
        ("two lengths", b"POST /v1/actions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc".to_vec(), &[400]),
    ] {
        for door in [Connection::unix(&home.socket()), Connection::tcp(&tcp)] {
            // hyper may close on what is not HTTP without a word; an answer, if one comes, must be right.
            if let Ok(answer) = answer(door, &bytes) {
                assert!(statuses.contains(&answer.status), "{what}: {answer:?}");
            }
        }
        daemon.assert_healthy(&good(), what);
    }
    let mut door = Connection::unix(&home.socket()).expect("a connection");
    door.send(&request("POST", "/v1/actions", "text/plain", Some(b"hello"))).expect("sent");
    assert_eq!(door.receive().expect("an answer").status, 415);
    let foreign = b"GET /v1/status HTTP/1.1\r\nHost: evil.example.com\r\n\r\n";
    let rebound = answer(Connection::tcp(&tcp), foreign).expect("an answer");
    assert!((400..500).contains(&rebound.status), "a foreign name for this host is refused: {rebound:?}");
}

#[test]
fn half_a_request_is_ended_in_time_and_stores_nothing() {
    let home = Home::new().with_tables(&format!("[limits]\nheader_timeout = \"500ms\"\n{}", tables()));
    let daemon = Daemon::start(&home);
    let whole = request("POST", "/v1/actions", "application/json", Some(good().to_string().as_bytes()));
    for length in [1, 20, whole.len() / 2, whole.len() - 1] {
        for door in [Connection::unix(&home.socket()), Connection::tcp(&daemon.status_address())] {
            let mut door = door.expect("a connection");
            door.send(&whole[..length]).expect("half sent");
            let since = Instant::now();
            // Either an answer (408) or the end of the connection, but not for ever.
            if let Ok(answer) = door.receive() {
                assert!((400..500).contains(&answer.status), "{answer:?}");
            }
            assert!(since.elapsed() < PATIENCE / 2);
        }
    }
    daemon.assert_healthy(&good(), "half a request");
    assert_eq!(daemon.all_actions().len(), 1);
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
fn two_thousand_idle_connections_leave_room_for_work() {
    let (soft, hard) = {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
    };
    if soft < 3_000 {
        assert!(hard >= 3_000, "this test needs 3,000 open files; ulimit -Hn says {hard}");
        let wanted = rustix::process::Rlimit { current: Some(hard.min(10_000)), maximum: Some(hard) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).expect("a higher limit");
    }
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let mut first = daemon.connect();
    let mut idle = Vec::new();
    for _ in 0..2_000 {
        // Those above the limit may be refused or closed; what matters is who still gets through.
        idle.extend(Connection::unix(&home.socket()));
    }
    assert!(idle.len() >= 1_000, "{} connections", idle.len());
    let spec = good().to_string();
    let answer =
        first.ask("POST", "/v1/actions", Some(spec.as_bytes())).expect("an answer on the open connection");
    assert_eq!(answer.status, 202);
    assert_eq!(daemon_livez(&daemon), 200, "the other door is open");
    // A new connection works at once, or is told why not.
    if let Ok(answer) =
        Connection::unix(&home.socket()).and_then(|mut door| door.ask("GET", "/v1/status", None))
    {
        assert!([200, 503].contains(&answer.status), "{answer:?}");
    }
    drop(idle);
    until("the connections' end", || {
        let answer =
            Connection::unix(&home.socket()).and_then(|mut door| door.ask("GET", "/v1/status", None));
        answer.ok().filter(|answer| answer.status == 200)
    });
    daemon.assert_healthy(&good(), "2,000 idle connections");
}

fn daemon_livez(daemon: &Daemon<'_>) -> u16 {
    // The address is in the log too, but asking over the socket needs a free connection.
    let log = daemon.home.log();
    let address = log.split("127.0.0.1:").skip(1).find_map(|rest| {
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        port.parse::<u16>().ok().filter(|port| *port > 0)
    });
    let address = format!("127.0.0.1:{}", address.expect("the status address in the log"));
    Connection::tcp(&address)
        .and_then(|mut door| door.ask("GET", "/livez", None))
        .map_or(0, |answer| answer.status)
}

#[test]
fn client_that_never_reads_stops_nobody_else() {
    let home = Home::new().with_tables(&tables());
    let daemon = Daemon::start(&home);
    let mut deaf = daemon.connect();
    let head = b"POST /v1/actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    deaf.send(head).expect("a head");
    // More answers than the socket's buffers hold; the daemon must not collect them without bound.
    let line = format!("{}\n", good());
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let home = &home;
        scope.spawn(move || {
            let mut deaf = deaf;
            for _ in 0..20_000 {
                if stopped.try_recv().is_ok() || deaf.send(chunk.as_bytes()).is_err() {
                    break;
                }
            }
        });
        until("work of the deaf client", || (daemon.action_count() > 10).then_some(()));
        for number in 0..20 {
            let id = daemon.accepted(&spec("restart", 1_000 + number));
            let action = daemon.finished(id);
            assert!(is_final(&action));
        }
        let rss = resident_bytes(daemon.pid());
        assert!(rss < 400_000_000, "{rss} bytes resident");
        drop(stop);
        let _ = home;
        // Ends the blocked writer: its peer is gone.
        daemon.kill9();
    });
}

impl Daemon<'_> {
    fn action_count(&self) -> usize {
        self.get("/v1/actions?limit=100")["actions"].as_array().map_or(0, Vec::len)
    }
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon's status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("kB") * 1_024
}

#[test]
fn full_queue_refuses_with_its_own_problem_and_takes_again_when_there_is_room() {
    let queue = "[[queue]]\nname = \"default\"\nconcurrency = 2\nlength_max = 3\n";
    let home = Home::new().with_tables(&format!("{queue}{}", tables()));
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    for number in 0..3 {
        daemon.accepted(&spec("restart", number));
    }
    let full = daemon.submit(&good());
    assert_eq!((full.status, full.problem().as_str()), (503, "queue-full"), "{}", full.text());
    daemon.pause_queue("default", false);
    for id in 1..=3 {
        daemon.finished(id);
    }
    daemon.assert_healthy(&good(), "a full queue");
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
