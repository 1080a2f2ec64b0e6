//! A data directory that an earlier release left opens, and every action in it is what it was.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::home::{NOOP, exec};
use crate::common::{Daemon, Home, attempts, spec, state, with};

/// A home with the data directory of a release (`tests/data/`), killed as that release left it.
///
/// With `same_boot` it is as if only the daemon had died here, and sled is used as it is; else the host has gone down
/// too, and sled is rebuilt from the rest.
fn home_of(release: &str, same_boot: bool) -> Home {
    let home = Home::new();
    let program = home.script("program", "cat > \"$HOME_DIR/stdin\"");
    let queues = "[[queue]]\nname = \"default\"\n[[queue]]\nname = \"slow\"\n";
    let tables = format!("{}{NOOP}{queues}", exec("deploy", &program, "recovery = \"resume\""));
    let home = home.with_tables(&tables);
    let running = home.store().join("running");
    let mut ran_at = b"another boot\nanother mount\n".to_vec();
    if same_boot {
        Daemon::start(&home).kill9();
        ran_at = std::fs::read(&running).expect("where it ran");
        std::fs::remove_dir_all(home.store()).expect("removed");
    }
    let archive = format!("{}/tests/data/{release}/store.tar.gz", env!("CARGO_MANIFEST_DIR"));
    let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(home.path("")).status();
    assert!(unpacked.expect("tar").success(), "{archive}");
    std::fs::write(&running, ran_at).expect("written");
    home
}

fn finish(action: &Value) -> [&Value; 3] {
    [&action["finished_success"], &action["finished_message"], &action["finished_result"]]
}

fn opens(same_boot: bool) {
    let home = home_of("store-v1", same_boot);
    let daemon = Daemon::start(&home);
    assert_eq!(home.log().contains("table is not trusted"), !same_boot, "{}", home.log());
    let all = daemon.all_actions();
    let states: Vec<&str> = all.iter().take(7).map(state).collect();
    assert_eq!(states, ["succeeded", "failed", "succeeded", "queued", "scheduled", "held", "cancelled"]);
    assert_eq!(all.len(), 8);
    for (id, action) in (1..).zip(&all) {
        assert_eq!((&action["id"], &action["resource_id"]), (&json!(id), &json!(id)), "{action}");
        assert_eq!(action["user"], "ada@example.org", "{action}");
        assert_eq!((&action["steps"], &action["reboots"]), (&json!([]), &json!(0)), "{action}");
    }
    assert_eq!(finish(&all[0]), [&json!(true), &json!("done"), &json!({"words": 2})]);
    assert_eq!(finish(&all[1]), [&json!(false), &json!("no such host"), &json!({})]);
    assert_eq!(attempts(&all[2]), ["succeeded", "failed"]);
    assert_eq!(all[4]["deadline"], "2100-01-01T00:00:00Z");
    assert_eq!((&all[5]["reason"], &all[5]["priority"]), (&json!("held by uid 0: not today"), &json!(7)));
    assert_eq!(all[6]["finished_message"], "[cancelled] by uid 0 before it began: wrong stack");

    // What ran goes on, with the checkpoint that it had and the first fence of a release that knows of them.
    let deploy = daemon.finished(8);
    assert_eq!(attempts(&deploy), ["succeeded", "interrupted"], "{deploy}");
    let stdin = home.lines("stdin");
    let input: Value = serde_json::from_str(stdin.first().expect("a line")).expect("JSON");
    assert_eq!(input["checkpoint"], json!({"step": 3, "of": "seven"}), "{input}");
    assert!(input["fence"].as_u64() >= Some(3 << 32), "{input}");

    // The pause has lasted, and the key stands for its first action.
    daemon.pause_queue("slow", false);
    assert_eq!(state(&daemon.finished(4)), "succeeded");
    let again = with(with(spec("restart", 1), "user", "ada@example.org"), "started_via", "cli");
    let again = with(with(again, "metadata", json!({"result": {"words": 2}})), "idempotency_key", "first");
    let again = daemon.submit(&again);
    assert_eq!((again.status, again.json()["id"].as_u64()), (200, Some(1)), "{}", again.text());
    let next = daemon.accepted(&spec("restart", 9));
    assert_eq!(next, 9);
    daemon.commanded(6, "resume");
    assert_eq!(state(&daemon.finished(6)), "succeeded");

    // And what this release has written of it is there after the next kill.
    let daemon = daemon.crash();
    assert_eq!(daemon.action(8), deploy);
    assert_eq!(daemon.action(1), all[0]);
}

#[test]
fn store_of_version_1_opens_on_another_boot() {
    opens(false);
}

#[test]
fn store_of_version_1_opens_where_it_was_killed() {
    opens(true);
}

/// A home with the first data directory of all, and beside it what a keeper left of its running attempt.
fn home_with_keeper(release: &str, files: &[&str]) -> Home {
    let home = home_of("store-v1", false);
    let attempts = home.store().join("attempts");
    std::fs::create_dir_all(&attempts).expect("a directory");
    for file in files {
        let from = format!("{}/tests/data/{release}/8.1.{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(from, attempts.join(format!("8.1.{file}"))).expect("copied");
    }
    home
}

#[test]
fn outcome_that_a_keeper_of_the_first_format_wrote_down_is_recorded() {
    let home = home_with_keeper("keeper-v1", &["owner", "statements", "outcome"]);
    let daemon = Daemon::start(&home);
    let deploy = daemon.finished(8);
    assert_eq!(attempts(&deploy), ["succeeded"], "{deploy}");
    assert_eq!(finish(&deploy), [&json!(true), &json!("deployed"), &json!({"n": [1, 2.5]})]);
    assert_eq!(deploy["steps"][1]["name"], "build", "{deploy}");
    assert!(home.lines("stdin").is_empty(), "it was not run again");
}

#[test]
fn statements_of_the_first_format_are_given_to_the_next_attempt() {
    let home = home_with_keeper("keeper-v1", &["owner", "statements"]);
    let daemon = Daemon::start(&home);
    assert_eq!(attempts(&daemon.finished(8)), ["succeeded", "interrupted"]);
    let stdin = home.lines("stdin");
    let input: Value = serde_json::from_str(stdin.first().expect("a line")).expect("JSON");
    assert_eq!(input["checkpoint"], json!({"step": 4, "of": "seven"}), "{input}");
    assert_eq!(
        (&input["steps"][0]["name"], input["steps"][0]["done_at"].is_null()),
        (&json!("fetch"), false)
    );
    assert_eq!((&input["steps"][1]["name"], input["steps"][1]["done_at"].is_null()), (&json!("build"), true));
}
