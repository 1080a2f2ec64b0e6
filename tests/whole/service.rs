//! The daemon as a service: what it tells systemd, how it takes a new configuration, whom it lets in.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::common::daemon::{ACTIOND, code};
use crate::common::home::{NOOP, exec};
use crate::common::http::request;
use crate::common::{Connection, Daemon, Home, PATIENCE, spec, state, until};

#[test]
fn reload_takes_a_good_file_and_keeps_the_old_one_for_a_bad_file() {
    let home = Home::new().with_tables(&NOOP.replace("\"*\"", "\"restart\""));
    let mut daemon = Daemon::start(&home);
    let refused = daemon.submit(&spec("deploy", 1));
    assert_eq!((refused.status, refused.problem().as_str()), (422, "unknown-action"));
    let told = refused.json()["detail"].as_str().expect("a detail").to_owned();
    let file = home.config().display().to_string();
    for words in ["[[handler]]", "action = \"deploy\"", file.as_str()] {
        assert!(told.contains(words), "it says how to mend it: {told}");
    }
    let before = fs::read_to_string(home.config()).unwrap();

    fs::write(home.config(), format!("{before}\n[[handler]]\naction = \"deploy\"\nuse = \"noop\"\n"))
        .unwrap();
    daemon.signal(Signal::HUP);
    daemon.told("RELOADING=1").expect("a reload");
    daemon.ready().expect("ready again");
    daemon.assert_healthy(&spec("deploy", 1), "a reload");

    let said = home.log().len();
    fs::write(home.config(), format!("{before}\n[[handler]]\naction = \"deploy\"\nuse = \"magic\"\n"))
        .unwrap();
    daemon.signal(Signal::HUP);
    until("the complaint", || home.log()[said..].contains("magic").then_some(()));
    daemon.assert_healthy(&spec("deploy", 2), "a bad reload");
}

#[test]
fn stop_is_announced_and_new_work_is_refused_meanwhile() {
    let home = Home::new();
    let script = home.script(
        "program",
        "read -r action\necho began >> \"$HOME_DIR/began\"\nwhile [ ! -e \"$HOME_DIR/go\" ]; do sleep 0.01; done",
    );
    let home = home
        .with_tables(&format!("{}{NOOP}", exec("deploy", &script, "recovery = \"rerun\"\nadopt = false")));
    let mut daemon = Daemon::start(&home);
    let mut door = daemon.connect();
    let id = daemon.accepted(&spec("deploy", 1));
    home.await_lines("began", 1);
    daemon.signal(Signal::TERM);
    daemon.told("STOPPING=1").expect("the stop");
    // An open connection may be closed by now; if it is answered, then with a refusal.
    if let Ok(answer) = door.ask("POST", "/v1/actions", Some(spec("restart", 1).to_string().as_bytes())) {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    fs::write(home.path("go"), "").unwrap();
    assert_eq!(code(daemon.ended()), 0);
    let daemon = Daemon::start(&home);
    assert_eq!(state(&daemon.action(id)), "succeeded");
}

#[test]
fn connection_that_was_there_before_the_stop_gets_a_last_answer() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let tcp = daemon.status_address();
    let connect = || [Connection::unix(&home.socket()).unwrap(), Connection::tcp(&tcp).unwrap()];
    // Connections are accepted in their order: when the later ones are answered, the earlier ones are in.
    let fresh = connect();
    let mut kept = connect();
    for door in &mut kept {
        assert_eq!(door.ask("GET", "/livez", None).unwrap().status, 200);
    }
    let mut doors: Vec<Connection> = fresh.into_iter().chain(kept).collect();
    daemon.signal(Signal::TERM);
    until("both doors to close", || Connection::tcp(&tcp).is_err().then_some(()));
    until("both doors to close", || Connection::unix(&home.socket()).is_err().then_some(()));
    for door in &mut doors {
        door.send(&request("GET", "/livez", "", None)).unwrap();
    }
    for door in &mut doors {
        let answer = door.receive().expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{}", answer.head);
    }
    assert_eq!(code(daemon.ended()), 0);
}

#[test]
fn socket_and_store_are_closed_to_strangers() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let socket = fs::symlink_metadata(home.socket()).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(
        socket.permissions().mode() & 0o007,
        0,
        "others may not submit: {:o}",
        socket.permissions().mode()
    );
    let store = fs::metadata(home.store()).unwrap().permissions().mode();
    assert_eq!(store & 0o077, 0, "the store is the daemon's alone: {store:o}");
    drop(daemon);
    // What a killed daemon leaves behind does not stop the next one.
    assert!(home.socket().exists());
    Daemon::start(&home).assert_healthy(&spec("restart", 1), "a socket left over");
}

#[test]
fn events_of_an_action_are_told_as_they_happen() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let id = daemon.accepted(&spec("restart", 1));
    let mut stream = UnixStream::connect(home.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(format!("GET /v1/actions/{id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .unwrap();
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line of the stream"));
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head[0].starts_with("HTTP/1.1 200"), "{head:?}");
    assert!(head.join("\n").to_ascii_lowercase().contains("text/event-stream"), "{head:?}");
    daemon.pause_queue("default", false);
    let last = lines.find(|line| line.contains("succeeded"));
    assert!(last.is_some(), "the stream ended before the action did");
}

#[test]
fn version_and_help_need_no_daemon() {
    for word in ["--version", "--help"] {
        let output = std::process::Command::new(ACTIOND).arg(word).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{word}");
    }
}
