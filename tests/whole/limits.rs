//! Every limit of the configuration: what is just within it goes through, what is beyond it gets the documented
//! answer, and the daemon stays healthy.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::common::daemon::Start;
use crate::common::home::{NOOP, exec};
use crate::common::http::request;
use crate::common::{Connection, Daemon, Home, PATIENCE, Response, spec, state, until, with};

const STAYS: &str = "read -r action\necho \"$ACTIOND_ID\" >> \"$HOME_DIR/began\"\nexec sleep 1000";

fn limited(limits: &str) -> Home {
    Home::new().with_tables(&format!("[limits]\n{limits}\n{NOOP}"))
}

fn good() -> Value {
    spec("restart", 1)
}

#[track_caller]
fn assert_refused(answer: &Response, status: u16, word: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (status, word), "{}", answer.text());
    let told = answer.head.to_ascii_lowercase();
    assert_eq!(told.contains("\r\nretry-after:"), [429, 503, 507].contains(&status), "{told}");
}

#[test]
fn every_limit_of_the_shipped_file_is_in_the_readme() {
    let root = env!("CARGO_MANIFEST_DIR");
    let shipped = fs::read_to_string(format!("{root}/config/actiond.toml")).expect("the shipped file");
    let readme = fs::read_to_string(format!("{root}/README.md")).expect("the README");
    let limits = readme.split("\n## Limits\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let limits = limits.expect("a section on limits");
    let table = shipped.split("\n[limits]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    let keys: Vec<&str> = table
        .expect("[limits]")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    assert!(keys.len() >= 11, "{keys:?}");
    for key in keys.iter().chain(&["length_max", "memory_bytes_max", "disk_reserve_bytes"]) {
        assert!(limits.contains(&format!("`{key}`")), "the README's limits do not name {key}");
    }
}

#[test]
fn body_and_line_are_taken_up_to_the_limit() {
    let home = limited("body_bytes_max = \"1KiB\"\nmetadata_bytes_max = \"1KiB\"");
    let daemon = Daemon::start(&home);
    let padded = |bytes: usize| {
        let empty = with(good(), "metadata", json!({"a": ""})).to_string();
        let pad = "x".repeat(bytes - empty.len());
        with(good(), "metadata", json!({ "a": pad })).to_string().into_bytes()
    };
    let mut door = daemon.connect();
    assert_eq!(door.ask("POST", "/v1/actions", Some(&padded(1_024))).unwrap().status, 202);
    assert_refused(&door.ask("POST", "/v1/actions", Some(&padded(1_025))).unwrap(), 413, "body-too-large");
    let lines = [padded(1_025), padded(1_024), padded(5_000), padded(200)].join(&b'\n');
    let mut door = daemon.connect();
    door.send(&request("POST", "/v1/actions", "application/x-ndjson", Some(&lines))).unwrap();
    let answers = door.receive().unwrap().text();
    let statuses: Vec<u64> = answers
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [413, 202, 413, 202], "{answers}");
    daemon.assert_healthy(&good(), "bodies that are too large");
}

#[test]
fn metadata_is_taken_up_to_its_size_and_depth() {
    let home = limited("metadata_bytes_max = \"64B\"\nmetadata_depth_max = 3");
    let daemon = Daemon::start(&home);
    let metadata = |value: Value| daemon.submit(&with(good(), "metadata", value));
    // {"a":""} is 8 bytes.
    assert_eq!(metadata(json!({"a": "x".repeat(56)})).status, 202);
    assert_refused(&metadata(json!({"a": "x".repeat(57)})), 413, "metadata-too-large");
    assert_eq!(metadata(json!({"a": [{}]})).status, 202);
    assert_refused(&metadata(json!({"a": [{"b": []}]})), 400, "metadata-too-deep");
}

#[test]
fn connection_beyond_the_limit_is_told_so_at_each_door() {
    let home = limited("connections_max = 2");
    let daemon = Daemon::start(&home);
    let address = daemon.status_address();
    let doors: [&dyn Fn() -> io::Result<Connection>; 2] =
        [&|| Connection::unix(&home.socket()), &|| Connection::tcp(&address)];
    for connect in doors {
        // Asked once, so that they are accepted; a connection that was just closed may still be counted.
        let open: [Connection; 2] = std::array::from_fn(|_| {
            until("a place", || {
                let mut door = connect().ok()?;
                door.ask("GET", "/livez", None).ok().filter(|answer| answer.status == 200).map(|_| door)
            })
        });
        let answer = connect().and_then(|mut door| door.receive()).expect("a refusal");
        assert_refused(&answer, 503, "too-many-connections");
        drop(open);
    }
    until("the connections' end", || {
        let answer = daemon.connect().ask("GET", "/livez", None);
        answer.ok().filter(|answer| answer.status == 200)
    });
    daemon.assert_healthy(&good(), "too many connections");
}

/// Lets this process have 3,000 open files.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(hard >= 6_000, "this test needs 6,000 open files; ulimit -Hn says {hard}");
    if limit.current.is_some_and(|soft| soft < 6_000) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(6_000), ..limit }).expect("a higher limit");
    }
}

#[test]
fn two_thousand_idle_connections_leave_room_for_work() {
    allow_open_files();
    let home = Home::new();
    let script = home.script("program", "ulimit -Sn > \"$HOME_DIR/open-files\"");
    // Long enough that none of them is ended for its silence meanwhile.
    let limits = "[limits]\nheader_timeout = \"2m\"\n";
    let home = home.with_tables(&format!("{limits}{}{NOOP}", exec("deploy", &script, "")));
    // The daemon helps itself to what the hard limit allows, and its programs get what it was started with.
    let start = Start { wrapper: &["sh", "-c", "ulimit -Sn 256; exec \"$@\"", "sh"], ..Start::default() };
    let daemon = Daemon::start_as(&home, &start).expect("a daemon");
    let address = daemon.status_address();
    let mut first = daemon.connect();
    assert_eq!(first.ask("GET", "/v1/status", None).unwrap().status, 200);
    for connect in
        [&|| Connection::unix(&home.socket()) as io::Result<Connection>, &|| Connection::tcp(&address)]
            as [&dyn Fn() -> io::Result<Connection>; 2]
    {
        let mut idle: Vec<Connection> = (0..2_000).map(|_| connect().expect("a connection")).collect();
        // Beyond the 1,200 of the default each is told why, or closed.
        let refused: Vec<io::Result<Response>> = idle[1_200..].iter_mut().map(Connection::receive).collect();
        let told: Vec<&Response> = refused.iter().flatten().collect();
        assert!(!told.is_empty(), "nobody was told why");
        for answer in told {
            assert_refused(answer, 503, "too-many-connections");
        }
        let spec = good().to_string();
        let answer = first.ask("POST", "/v1/actions", Some(spec.as_bytes()));
        assert_eq!(answer.expect("an answer on the open connection").status, 202);
        drop(idle);
        until("the connections' end", || {
            let answer = connect().and_then(|mut door| door.ask("GET", "/livez", None));
            answer.ok().filter(|answer| answer.status == 200)
        });
    }
    let id = daemon.accepted(&spec("deploy", 1));
    assert_eq!(state(&daemon.finished(id)), "succeeded");
    assert_eq!(home.lines("open-files"), ["256"]);
    assert!(!home.log().contains("cannot accept"), "it never ran out of descriptors:\n{}", home.log());
}

#[test]
fn half_a_request_is_ended_in_time_and_stores_nothing() {
    let home = limited("header_timeout = \"1s\"");
    let daemon = Daemon::start(&home);
    let address = daemon.status_address();
    let whole = request("POST", "/v1/actions", "application/json", Some(good().to_string().as_bytes()));
    let head = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    for length in [0, 1, head / 2, head - 1, head, whole.len() - 1] {
        // Opened one after the other: the second would be ended for its silence while the first is waited for.
        for is_tcp in [false, true] {
            let door = if is_tcp { Connection::tcp(&address) } else { Connection::unix(&home.socket()) };
            let mut door = door.expect("a connection");
            door.send(&whole[..length]).expect("half sent");
            let since = Instant::now();
            let answer = door.receive();
            assert!(since.elapsed() < PATIENCE / 4, "{length} bytes were waited for");
            match answer {
                Ok(answer) if answer.status == 408 => assert_refused(&answer, 408, "request-timeout"),
                // The status endpoint sees by the head alone that it does not take this.
                Ok(answer) if is_tcp => assert_refused(&answer, 405, "read-only"),
                Ok(answer) => panic!("{length} bytes: {answer:?}"),
                Err(error) => {
                    assert!(
                        length < head,
                        "a body that stays away is told: {error} ({length} of {head} bytes, after {:?})",
                        since.elapsed()
                    );
                    assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "the connection is closed");
                }
            }
        }
    }
    daemon.assert_healthy(&good(), "half a request");
    assert_eq!(daemon.all_actions().len(), 1);
}

#[test]
fn client_that_never_reads_is_cut_off_and_stops_nobody_else() {
    let home = limited("write_timeout = \"1s\"");
    let daemon = Daemon::start(&home);
    let mut deaf = daemon.connect();
    let head = b"POST /v1/actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    deaf.send(head).expect("a head");
    // More answers than the socket's buffers hold; the daemon must not collect them without bound.
    let line = format!("{}\n", with(good(), "on_conflict", "parallel"));
    let chunk = format!("{:x}\r\n{line}\r\n", line.len()).repeat(10);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            loop {
                if let Err(error) = deaf.send(chunk.as_bytes()) {
                    break error.kind();
                }
            }
        });
        until("work of the deaf client", || {
            (daemon.get("/v1/status")["accepted"].as_u64().unwrap() > 10).then_some(())
        });
        for number in 0..20 {
            let id = daemon.accepted(&with(spec("restart", 1_000 + number), "priority", 9));
            assert_eq!(state(&daemon.finished(id)), "succeeded");
        }
        let ended = writer.join().expect("the writer");
        assert!([io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&ended), "{ended:?}");
    });
    let rss = resident_bytes(daemon.pid());
    assert!(rss < 400_000_000, "{rss} bytes resident");
    // Before what the deaf client has left to do.
    daemon.assert_healthy(&with(spec("restart", 2_000), "priority", 9), "a client that never reads");
}

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon's status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("kB") * 1_024
}

#[test]
fn blocking_read_ends_at_its_limit_however_long_was_asked_for() {
    let home = limited("wait_max = \"1s\"");
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let id = daemon.accepted(&good());
    let since = Instant::now();
    let action = daemon.get(&format!("/v1/actions/{id}?wait=1h"));
    assert_eq!(state(&action), "queued");
    let waited = since.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < PATIENCE / 4, "{waited:?}");
}

#[test]
fn full_queue_refuses_with_its_own_problem_and_takes_again_when_there_is_room() {
    let queue = "[[queue]]\nname = \"default\"\nconcurrency = 2\nlength_max = 3\n";
    let home = Home::new().with_tables(&format!("{queue}{NOOP}"));
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    for number in 0..3 {
        daemon.accepted(&spec("restart", number));
    }
    assert_refused(&daemon.submit(&good()), 429, "queue-full");
    daemon.pause_queue("default", false);
    for id in 1..=3 {
        daemon.finished(id);
    }
    daemon.assert_healthy(&good(), "a full queue");
}

#[test]
fn unfinished_actions_are_bounded_over_all_queues() {
    let queues = "[[queue]]\nname = \"default\"\n[[queue]]\nname = \"other\"\n";
    let home = Home::new().with_tables(&format!("[limits]\nwaiting_max = 2\n{queues}{NOOP}"));
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    daemon.pause_queue("other", true);
    daemon.accepted(&spec("restart", 1));
    daemon.accepted(&with(spec("restart", 2), "queue", "other"));
    assert_refused(&daemon.submit(&spec("restart", 3)), 429, "too-many-waiting");
    daemon.commanded(1, "cancel");
    daemon.pause_queue("default", false);
    daemon.assert_healthy(&spec("restart", 3), "too many actions");
}

#[test]
fn attempts_that_run_at_once_are_bounded_over_all_queues() {
    let home = Home::new();
    let script = home.script("program", STAYS);
    let home = home.with_tables(&format!("[limits]\nrunning_max = 2\n{}{NOOP}", exec("deploy", &script, "")));
    let daemon = Daemon::start(&home);
    let ids: Vec<u64> = (1..=3).map(|number| daemon.accepted(&spec("deploy", number))).collect();
    home.await_lines("began", 2);
    let why = daemon.get(&format!("/v1/actions/{}/explain", ids[2]));
    assert_eq!(why["causes"][0]["code"], "running_limit", "{why}");
    assert_eq!(state(&daemon.action(ids[2])), "queued");
    daemon.commanded(ids[0], "cancel");
    home.await_lines("began", 3);
    assert_eq!(state(&daemon.action(ids[2])), "running");
}

#[test]
fn log_keeps_head_and_tail_within_its_limit() {
    let home = Home::new();
    let script = home.script("program", "echo first; seq 1 100000; echo last");
    let limits = "[limits]\nlog_bytes_max = \"16KiB\"\n";
    let home = home.with_tables(&format!("{limits}{}{NOOP}", exec("deploy", &script, "")));
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    assert_eq!(state(&daemon.finished(id)), "succeeded");
    let log = daemon.ask("GET", &format!("/v1/actions/{id}/log"), None).text();
    assert!(log.contains("\"first\"") && log.contains("\"last\""), "head and tail are kept: {log}");
    // A line of its own says what was left out.
    assert!((8_192..16_384 + 512).contains(&log.len()), "{} bytes are kept", log.len());
}

#[test]
fn result_beyond_the_limit_is_left_out_and_the_message_says_so() {
    let home = Home::new();
    let script = home.script(
        "program",
        "read -r action\nlong=$(head -c \"$ACTIOND_ID\" /dev/zero | tr '\\0' x)\n\
         pad=$(head -c 90 /dev/zero | tr '\\0' x)\n\
         printf '{\"result\": {\"a\":\"%s\"}}\\n{\"message\": \"deployed\"}\\n' \"$pad$long\" >&3",
    );
    let limits = "[limits]\nresult_bytes_max = \"100B\"\n";
    let home = home.with_tables(&format!("{limits}{}{NOOP}", exec("deploy", &script, "")));
    let daemon = Daemon::start(&home);
    // {"a":""} is 8 bytes: action 2 is at the limit, action 3 beyond it.
    for _ in 0..3 {
        daemon.accepted(&spec("deploy", 1));
    }
    let within = daemon.finished(2);
    assert_eq!(within["finished_result"]["a"].as_str().map(str::len), Some(92), "{within}");
    assert_eq!(within["finished_message"], "deployed");
    let beyond = daemon.finished(3);
    assert_eq!((state(&beyond), &beyond["finished_result"]), ("succeeded", &json!({})), "{beyond}");
    let told = beyond["finished_message"].as_str().unwrap();
    assert!(told.starts_with("deployed [its result of 101 bytes is left out"), "{told}");
}

#[test]
fn low_disk_refuses_new_work_and_lets_the_accepted_finish() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let id = daemon.accepted(&good());
    let free = daemon.get("/v1/status")["store"]["disk_free_bytes"].as_u64().expect("free bytes");
    assert!(free < 1 << 40, "this test needs a disk with less than 1 TiB free, the largest reserve");
    daemon.stop();
    let home = home.configure("disk_reserve_bytes = \"1TiB\"", NOOP);
    let daemon = Daemon::start(&home);
    until("the refusal", || (daemon.submit(&spec("restart", 2)).status == 507).then_some(()));
    assert_refused(&daemon.submit(&spec("restart", 2)), 507, "disk-low");
    daemon.pause_queue("default", false);
    assert_eq!(state(&daemon.finished(id)), "succeeded");
    assert_eq!(daemon.all_actions().len(), 1);
}
