//! Submissions are answered on a short way of their own: the same answers as on the long one, and no request is lost
//! where one way leads into the other.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::common::home::NOOP;
use crate::common::http::request;
use crate::common::{Connection, Daemon, Home, spec, with};

/// The same request with a header that only the long way knows.
fn long_way(bytes: &[u8]) -> Vec<u8> {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a first line") + 2;
    [&bytes[..line_end], b"X-Unusual: 1\r\n", &bytes[line_end..]].concat()
}

fn submission(number: u64) -> Vec<u8> {
    request("POST", "/v1/actions", "application/json", Some(spec("restart", number).to_string().as_bytes()))
}

#[test]
fn both_ways_answer_alike() {
    let home = Home::new().with_tables(&NOOP.replace("\"*\"", "\"restart\""));
    let daemon = Daemon::start(&home);
    let key = with(spec("restart", 1), "idempotency_key", "k");
    let other = with(key.clone(), "user", "somebody@else.example");
    for (body, status) in [
        (key.to_string(), 202),
        (key.to_string(), 200),
        (other.to_string(), 422),
        (spec("make_coffee", 1).to_string(), 422),
        ("{\"user\":7}".to_owned(), 400),
        (String::new(), 400),
    ] {
        let bytes = request("POST", "/v1/actions", "application/json", Some(body.as_bytes()));
        let mut answers = Vec::new();
        for (bytes, repeats) in [(bytes.clone(), true), (long_way(&bytes), false)] {
            let mut door = daemon.connect();
            door.send(&bytes).expect("sent");
            let answer = door.receive().expect("an answer");
            // Whoever comes second finds the key used.
            let is_first = repeats && status == 202;
            assert_eq!(answer.status, if status == 202 && !is_first { 200 } else { status }, "{answer:?}");
            let mut names: Vec<String> = answer
                .head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(':').map(|(name, _)| name.to_ascii_lowercase()))
                .collect();
            names.sort();
            let mut body: Value = answer.json();
            if answer.status < 300 {
                body = body["id"].take();
            }
            answers.push((names, body));
        }
        assert_eq!(answers[0], answers[1], "{body}");
    }
}

#[test]
fn requests_of_both_kinds_follow_each_other_on_one_connection() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let line = format!("{}\n", spec("restart", 3));
    let lines = format!(
        "POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{line}\r\n0\r\n\r\n",
        line.len()
    );
    let bytes =
        [submission(1), submission(2), lines.into_bytes(), request("GET", "/livez", "", None), submission(4)]
            .concat();
    // All at once, and in pieces that end in the middle of everything.
    for step in [bytes.len(), 7] {
        let mut door = daemon.connect();
        for piece in bytes.chunks(step) {
            door.send(piece).expect("sent");
        }
        let answers: Vec<_> = (0..5).map(|_| door.receive().expect("an answer")).collect();
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [202, 202, 200, 200, 202]);
        assert_eq!(answers[2].json()["action"]["resource_id"], 3, "{}", answers[2].text());
        assert_eq!(answers[3].text(), "ok\n");
    }
    assert_eq!(daemon.all_actions().len(), 8);
}

#[test]
fn stream_is_answered_line_by_line_while_it_is_open() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let mut door = daemon.connect();
    door.send(b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("a head");
    // Answered before any line is there.
    assert_eq!(door.receive_head().expect("a head").0, 200);
    for number in 1..=3 {
        let line = format!("{}\n", spec("restart", number));
        door.send(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).expect("a line");
        let chunk = door.receive_chunk().expect("a chunk").expect("an answer");
        let answer: Value = serde_json::from_slice(&chunk).expect("a line");
        assert_eq!((answer["line"].as_u64(), answer["status"].as_u64()), (Some(number), Some(202)));
    }
    door.send(b"0\r\n\r\n").expect("the end");
    assert_eq!(door.receive_chunk().expect("the end"), None);
    door.send(&submission(4)).expect("sent");
    assert_eq!(door.receive().expect("an answer").status, 202);
}

#[test]
fn body_that_breaks_the_coding_ends_the_stream_and_the_connection() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let line = format!("{}\n", spec("restart", 1));
    let bytes = format!(
        "POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{line}\r\nno size\r\n",
        line.len()
    );
    let mut door: Connection = daemon.connect();
    door.send(bytes.as_bytes()).expect("sent");
    let text = door.receive().expect("an answer").text();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    assert_eq!(answers[0]["status"], 202, "{text}");
    assert_eq!(answers[1]["problem"]["type"], "urn:actiond:problem:bad-request", "{text}");
    door.send(&submission(2)).ok();
    assert!(door.receive().is_err(), "nothing more is taken from it");
    assert_eq!(daemon.all_actions().len(), 1);
}

#[test]
fn body_that_ends_before_its_length_is_told_so_on_both_ways() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    for bytes in [submission(1), long_way(&submission(1))] {
        let mut door = UnixStream::connect(home.socket()).expect("a connection");
        door.write_all(&bytes[..bytes.len() - 4]).expect("sent");
        door.shutdown(Shutdown::Write).expect("half closed");
        let mut answer = String::new();
        door.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("the body broke off"), "{answer}");
    }
    assert!(daemon.all_actions().is_empty());
}
