//! The command line as scripts see it: exit codes, data on stdout, talk on stderr.

use std::process::{Command, Output};

use serde_json::Value;

use crate::common::daemon::{ACTIOND, cli, code};
use crate::common::home::{NOOP, exec};
use crate::common::{Daemon, Home, state};

const BASE: [&str; 9] = [
    "submit",
    "--user",
    "john@example.com",
    "--resource-type",
    "Stack",
    "--resource-id",
    "1",
    "--started-via",
    "cli",
];

fn submit<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&BASE[..], words].concat()
}

fn stdout(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "stdout is no JSON ({error}): {}\nstderr: {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

fn exit(output: &Output) -> i32 {
    code(output.status)
}

fn home() -> Home {
    let home = Home::new();
    let fails = home.script("fails", "echo 'no luck' >&2\nexit 1");
    let stays = home.script("stays", "read -r action\nexec sleep 1000");
    let tables = [
        exec("database_create", &fails, ""),
        exec("deploy", &stays, "timeout = \"1s\""),
        exec("stack_reboot", &stays, ""),
        NOOP.to_owned(),
    ];
    home.with_tables(&tables.concat())
}

#[test]
fn submit_and_wait_exit_as_the_action_ended() {
    let home = home();
    let daemon = Daemon::start(&home);
    for (action, expected) in [("restart", 0), ("database_create", 1), ("deploy", 4)] {
        let output = daemon.cli(&submit(&["--action", action, "--wait", "--json"]));
        assert_eq!(exit(&output), expected, "{action}: {}", String::from_utf8_lossy(&output.stderr));
        let id = stdout(&output)["id"].to_string();
        assert_eq!(exit(&daemon.cli(&["wait", &id])), expected, "wait for {action}");
    }
    let output = daemon.cli(&submit(&["--action", "stack_reboot", "--json"]));
    assert_eq!(exit(&output), 0);
    let id = stdout(&output)["id"].to_string();
    assert_eq!(exit(&daemon.cli(&["wait", "--timeout", "100ms", &id])), 124, "the client's own wait ran out");
    assert_eq!(exit(&daemon.cli(&["cancel", &id])), 0);
    assert_eq!(exit(&daemon.cli(&["wait", &id])), 3);
}

#[test]
fn unreachable_daemon_is_sixty_nine_and_says_where_it_was_looked_for() {
    let home = home();
    for words in [&["list"][..], &["show", "1"], &["wait", "1"], &["status"]] {
        let output = cli(&home, words);
        assert_eq!(exit(&output), 69, "{words:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("actiond.sock"), "{told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn wrong_words_are_a_usage_error() {
    let home = home();
    for words in [&["submitt"][..], &["show"], &["show", "abc"], &["list", "--no-such-flag"]] {
        assert!([2, 64].contains(&exit(&cli(&home, words))), "{words:?}");
    }
}

#[test]
fn check_config_reports_every_problem_and_exits_seventy_eight() {
    let home = home();
    let config = home.config();
    let check = |path: &std::path::Path| {
        Command::new(ACTIOND).args(["check-config", "--config"]).arg(path).output().expect("check-config")
    };
    assert_eq!(exit(&check(&config)), 0);
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/actiond.toml");
    assert_eq!(exit(&check(std::path::Path::new(shipped))), 0);
    let bad = home.path("bad.toml");
    std::fs::write(&bad, "[store]\ndirr = \"/x\"\n[[handler]]\naction = \"deploy\"\nuse = \"magic\"\n")
        .unwrap();
    let output = check(&bad);
    assert_eq!(exit(&output), 78);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("dirr") && told.contains("magic"), "all problems are reported: {told}");
    assert!(told.contains("line 3: handler for deploy"), "{told}");
    let serve = Command::new(ACTIOND).args(["serve", "--config"]).arg(&bad).output().expect("serve");
    assert_eq!(exit(&serve), 78);
}

#[cfg(feature = "databases")]
#[test]
fn metadata_is_written_key_by_key_and_a_refusal_says_what_is_needed() {
    let home = Home::new().with_tables(
        "[[handler]]\naction = \"database_create\"\nuse = \"builtin\"\n[[handler]]\naction = \"*\"\nuse = \"noop\"\n\
         [targets.pg]\nengine = \"postgresql\"\nsocket = \"/nowhere\"\nuser = \"nobody\"\n",
    );
    let daemon = Daemon::start(&home);
    let words = [
        "--action",
        "deploy",
        "--metadata",
        "{\"git_ref\":\"a\",\"b\":1}",
        "--set",
        "git_ref=1",
        "--set",
        "c=2",
    ];
    let output = daemon.cli(&submit(&[&words[..], &["--wait", "--json"]].concat()));
    // A word is a word, by its type; the type of what is no key of deploy is what it looks like. Here nobody judges it.
    assert_eq!(stdout(&output)["metadata"], serde_json::json!({ "git_ref": "1", "b": 1, "c": 2 }));
    let refused = |set: &str| {
        let output = daemon.cli(&submit(&["--action", "database_create", "--set", set]));
        assert_ne!(exit(&output), 0);
        assert!(output.stdout.is_empty());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = refused("encoding=UTF8");
    assert!(told.contains("missing field `database`") && told.contains("\n  database: "), "{told}");
    let told = refused("timeout_s=soon");
    assert!(told.contains("timeout_s: invalid type"), "the key is named: {told}");
    assert_eq!(
        daemon.get("/v1/actions")["actions"].as_array().map(Vec::len),
        Some(1),
        "something was stored"
    );
}

#[test]
fn json_is_the_only_thing_on_stdout() {
    let home = home();
    let daemon = Daemon::start(&home);
    let output =
        daemon.cli(&submit(&["--action", "restart", "--metadata", "{\"a\": 1}", "--wait", "--json"]));
    let action = stdout(&output);
    assert_eq!((state(&action), &action["metadata"]["a"]), ("succeeded", &Value::from(1)));
    assert_eq!(stdout(&daemon.cli(&["show", "1", "--json"]))["id"], 1);
    assert_eq!(stdout(&daemon.cli(&["list", "--json"]))["actions"][0]["id"], 1);
    assert!(stdout(&daemon.cli(&["queue", "list", "--json"])).to_string().contains("default"));
    assert!(stdout(&daemon.cli(&["explain", "1", "--json"]))["causes"].is_array());
    let status = stdout(&daemon.cli(&["status", "--json"]));
    assert_eq!(status["status_address"].as_str(), Some(daemon.status_address().as_str()));
    assert_eq!(exit(&daemon.cli(&["queue", "pause", "default"])), 0);
    assert!(daemon.get("/v1/queues").to_string().contains("\"paused\":true"));
    assert_eq!(exit(&daemon.cli(&["queue", "resume", "default"])), 0);
    let log = daemon.cli(&submit(&["--action", "database_create", "--wait", "--json"]));
    let id = stdout(&log)["id"].to_string();
    assert!(String::from_utf8_lossy(&daemon.cli(&["logs", &id]).stdout).contains("no luck"));
    assert_eq!(exit(&daemon.cli(&["retry", &id])), 0);
}

#[test]
fn submission_comes_from_a_file_or_stdin_too() {
    use std::io::Write as _;
    use std::process::Stdio;

    let home = home();
    let daemon = Daemon::start(&home);
    let spec = crate::common::spec("restart", 5).to_string();
    std::fs::write(home.path("action.json"), &spec).unwrap();
    let file = home.path("action.json");
    let output = daemon.cli(&["submit", "--file", file.to_str().unwrap(), "--wait", "--json"]);
    assert_eq!((exit(&output), stdout(&output)["resource_id"].as_u64()), (0, Some(5)));
    let mut child = Command::new(ACTIOND)
        .args(["submit", "--file", "-", "--json"])
        .env("ACTIOND_SOCKET", home.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(spec.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((exit(&output), stdout(&output)["resource_id"].as_u64()), (0, Some(5)));
}

#[test]
fn refused_submission_tells_the_problem_and_fails() {
    let home = home();
    let daemon = Daemon::start(&home);
    let output = daemon.cli(&submit(&["--action", "restart", "--queue", "nowhere"]));
    assert_ne!(exit(&output), 0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere"));
    assert!(output.stdout.is_empty());
    daemon.assert_healthy(&crate::common::spec("restart", 1), "a refused submission");
}

#[test]
fn demo_kills_its_daemon_and_ends_well() {
    let home = Home::new();
    let output = Command::new(ACTIOND)
        .arg("demo")
        .env("TMPDIR", home.path(""))
        .env("NO_COLOR", "1")
        .env_remove("NOTIFY_SOCKET")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the demo");
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(exit(&output), 0, "{told}");
    for word in ["kill -9", "succeeded", "failed", "127.0.0.1:"] {
        assert!(told.contains(word), "the demo shows {word}: {told}");
    }
}
