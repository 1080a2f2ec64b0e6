//! Keepers in a world that is against them: no room, no directory, no daemon to be let in, a crowd at the door, and signals
//! that were meant for others. Their programs go on, and how they end is recorded.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::common::daemon::{ACTIOND, Daemon};
use crate::common::home::{Home, NOOP, exec};
use crate::common::{all_processes, is_alive, processes_of, spec, state, until};
use crate::disk_full::Disk;

const BRISK: &str = "[shutdown]\nkill_grace = \"200ms\"\n";
const QUEUE: &str = "[[queue]]\nname = \"default\"\nconcurrency = 24\n";

/// Tells its pid, its keeper's and its keeper's socket, and ends well once it may.
const WAITS: &str = "echo $$ $PPID $ACTIOND_KEEPER >> $HOME_DIR/started\n\
                     until [ -e $HOME_DIR/go ]; do sleep 0.02; done; echo $ACTIOND_ID >> $HOME_DIR/ran";

fn waiting(home: Home) -> Home {
    let script = home.script("waits", WAITS);
    let settings = "recovery = \"hold\"\nexclusive = false";
    home.with_tables(&(BRISK.to_owned() + QUEUE + &exec("wait", &script, settings) + NOOP))
}

/// Pid, keeper's pid and keeper's socket of the only program.
fn started(home: &Home) -> (u32, u32, String) {
    let line = home.await_lines("started", 1)[0].clone();
    let words: Vec<&str> = line.split(' ').collect();
    (words[0].parse().expect("a pid"), words[1].parse().expect("a pid"), words[2].to_owned())
}

fn let_go(home: &Home) {
    std::fs::write(home.path("go"), "").expect("a file");
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("a signal sent");
}

/// The process from which this daemon forks its keepers.
fn zygote(daemon: &Daemon<'_>) -> u32 {
    let parent = format!(" {} ", daemon.pid());
    let is_zygote = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let of_daemon = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest[1..].starts_with(&parent));
        words.ends_with(b"keeper\0zygote\0") && of_daemon
    };
    until("a zygote", || all_processes().into_iter().find(is_zygote))
}

/// Whether a file of that name is anywhere below.
fn has_file(dir: &Path, name: &str) -> bool {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(name) || has_file(&entry.path(), name))
}

#[test]
fn full_disk_delays_an_outcome_and_loses_none() {
    let home = Home::new();
    let disk = Disk::new(&home);
    let home = waiting(home);
    std::fs::create_dir_all(home.store()).expect("the store's directory");
    std::os::unix::fs::symlink(&disk.mount, home.store().join("attempts")).expect("a link");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("wait", 1));
    let (program, ..) = started(&home);
    daemon.kill9();
    disk.fill();
    let_go(&home);
    until("a try to write the outcome", || has_file(&disk.mount, "outcome.new").then_some(()));
    assert!(!is_alive(program));
    disk.free();
    let daemon = Daemon::start(&home);
    let action = daemon.finished(id);
    assert_eq!((state(&action), home.lines("ran").len()), ("succeeded", 1), "{action}");
}

#[test]
fn removed_directory_takes_no_outcome_with_it() {
    let home = waiting(Home::new());
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("wait", 1));
    let (program, ..) = started(&home);
    daemon.kill9();
    let attempts = home.store().join("attempts");
    std::fs::remove_dir_all(&attempts).expect("no attempts");
    let_go(&home);
    until("the program's end", || (!is_alive(program)).then_some(()));
    until("the outcome", || has_file(&attempts, ".outcome").then_some(()));
    let daemon = Daemon::start(&home);
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
}

#[test]
fn removed_directory_of_sockets_costs_no_action() {
    let home = waiting(Home::new());
    let daemon = Daemon::start(&home);
    let first = daemon.accepted(&spec("wait", 1));
    let (.., socket) = started(&home);
    std::fs::remove_dir_all(Path::new(&socket).parent().expect("a directory")).expect("no keepers");
    let second = daemon.accepted(&spec("wait", 2));
    home.await_lines("started", 2);
    let daemon = daemon.crash();
    let_go(&home);
    for id in [first, second] {
        let action = daemon.finished(id);
        assert_eq!(state(&action), "succeeded", "{action}");
    }
}

#[test]
fn signals_for_whatever_is_called_actiond_reach_no_keeper() {
    let home = waiting(Home::new());
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("wait", 1));
    let (_, keeper, _) = started(&home);
    for which in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::PIPE] {
        signal(keeper, which);
        signal(zygote(&daemon), which);
    }
    let_go(&home);
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
}

#[test]
fn keeper_that_waits_gives_memory_back_and_goes_on() {
    let home = waiting(Home::new());
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("wait", 1));
    let (_, keeper, _) = started(&home);
    // In kB, by their names in proc_pid_status(5): what it has mapped, and the most that it had.
    let kept = |name: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{keeper}/status")).expect("a keeper");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().expect("a number")
    };
    // How much that is depends on the build: `benches/run exec` has the figures of a release.
    until("a smaller keeper", || (kept("VmRSS:") < kept("VmHWM:") * 3 / 4).then_some(()));
    let_go(&home);
    let action = daemon.finished(id);
    assert_eq!((state(&action), home.lines("ran").len()), ("succeeded", 1), "{action}");
}

#[test]
fn killed_zygote_costs_no_action() {
    let home = waiting(Home::new());
    let daemon = Daemon::start(&home);
    let_go(&home);
    daemon.finished(daemon.accepted(&spec("wait", 0)));
    for round in 1..=3 {
        let zygote = zygote(&daemon);
        // So that orders wait for it and die with it.
        signal(zygote, Signal::STOP);
        let ids: Vec<u64> = (0..10).map(|at| daemon.accepted(&spec("wait", round * 100 + at))).collect();
        for id in &ids {
            daemon.in_state(*id, "running");
        }
        signal(zygote, Signal::KILL);
        for id in ids {
            let action = daemon.finished(id);
            assert_eq!(state(&action), "succeeded", "{action}");
        }
    }
    assert_eq!(home.lines("ran").len(), 31, "each once");
}

#[test]
fn action_whose_keeper_does_not_come_up_can_be_cancelled() {
    let home = waiting(Home::new());
    let daemon = Daemon::start(&home);
    let_go(&home);
    daemon.finished(daemon.accepted(&spec("wait", 0)));
    let zygote = zygote(&daemon);
    signal(zygote, Signal::STOP);
    let id = daemon.accepted(&spec("wait", 1));
    daemon.in_state(id, "running");
    daemon.commanded(id, "cancel");
    assert_eq!(state(&daemon.finished(id)), "cancelled");
    signal(zygote, Signal::CONT);
    assert_eq!(home.lines("ran").len(), 1);
}

#[test]
fn daemon_that_is_not_let_in_follows_from_outside() {
    let home = waiting(Home::new());
    let daemon = Daemon::start(&home);
    let ids = [1, 2].map(|at| daemon.accepted(&spec("wait", at)));
    home.await_lines("started", 2);
    daemon.kill9();
    let mut crowd = Vec::new();
    let keepers: Vec<u32> = home
        .lines("started")
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            crowd.extend((0..100).map(|_| UnixStream::connect(words[2]).expect("a connection")));
            words[1].parse().expect("a pid")
        })
        .collect();
    // So that the daemon believes to have been let in, until it is told otherwise.
    for keeper in &keepers {
        signal(*keeper, Signal::STOP);
    }
    let daemon = Daemon::start(&home);
    for keeper in keepers {
        signal(keeper, Signal::CONT);
    }
    daemon.assert_healthy(&spec("noop", 99), "it was not let in");
    daemon.commanded(ids[1], "cancel");
    assert_eq!(state(&daemon.finished(ids[1])), "cancelled");
    let_go(&home);
    let action = daemon.finished(ids[0]);
    assert_eq!(state(&action), "succeeded", "{action}");
    drop(crowd);
}

#[test]
fn flood_of_checkpoints_does_not_keep_a_program_from_being_ended() {
    let home = Home::new();
    let body = "trap '' TERM; echo up >> $HOME_DIR/up; exec yes '{\"checkpoint\": {\"a\": 1}}' >&3";
    let flood = home.script("flood", body);
    let home = home.with_tables(&(BRISK.to_owned() + &exec("flood", &flood, "") + NOOP));
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("flood", 1));
    home.await_lines("up", 1);
    until("a checkpoint", || daemon.action(id)["checkpoint"].is_object().then_some(()));
    daemon.commanded(id, "cancel");
    assert_eq!(state(&daemon.finished(id)), "cancelled");
    assert_eq!(processes_of(&home, daemon.pid()), Vec::<String>::new());
}

/// What is said to a keeper together with its order.
fn keeper(home: &Home, said: &str) -> (std::process::Child, UnixStream) {
    let attempts = home.path("attempts");
    std::fs::create_dir_all(&attempts).expect("a directory");
    let socket: PathBuf = home.path("keeper");
    let order = json!({
        "version": 1, "id": 7, "attempt": 1, "place": attempts.join("7.1"), "socket": socket, "log": null,
        "argv": ["/bin/sleep", "1000"], "env": [], "cwd": "/", "open_files": 1024, "kill_grace_ms": 200,
        "mark": format!("{}/7/1", home.path("").display()), "result_bytes_max": 1000, "checkpoint": null,
        "outlives_daemon": true, "input_bytes": 0,
    });
    let (mut own, its) = UnixStream::pair().expect("a stream");
    let child = Command::new(ACTIOND).arg("keeper").stdin(OwnedFd::from(its)).spawn().expect("a keeper");
    own.write_all(format!("{order}\n{said}").as_bytes()).expect("an order");
    own.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    (child, own)
}

#[test]
fn stop_that_comes_with_the_go_is_heard() {
    let home = Home::new();
    let go = "{\"word\":\"go\"}\n{\"word\":\"stop\",\"grace_ms\":100,\"why\":\"cancel\"}\n";
    let (mut child, mut stream) = keeper(&home, go);
    let mut heard = Vec::new();
    until("the end of the program", || {
        let mut text = [0; 4_096];
        let length = stream.read(&mut text).unwrap_or(0);
        heard.extend_from_slice(&text[..length]);
        // It says how the program ended, or ends itself.
        let said = String::from_utf8_lossy(&heard).matches('{').count();
        (said > 1 || child.try_wait().expect("the keeper").is_some()).then_some(())
    });
    drop(stream);
    until("the keeper's end", || child.try_wait().expect("the keeper"));
}
