//! What a program says of its own action with `actiond step` and the like: on disk when the command returns, whoever dies
//! next, and only the program's to say.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::daemon::{ACTIOND, cli, code};
use crate::common::home::exec;
use crate::common::{Daemon, Home, demand_root, is_alive, spec, state, until};

const BRISK: &str = "[shutdown]\nkill_grace = \"200ms\"\n";
const DIRECT: &str = "adopt = false\nrecovery = \"rerun\"";
const RESUME: &str = "recovery = \"resume\"";

/// A script of bash whose `actiond` is the binary under test; it leaves the address of its keeper behind.
fn bash(home: &Home, name: &str, body: &str) -> PathBuf {
    let path = home.path(name);
    let home_dir = home.path("");
    let text = format!(
        "#!/bin/bash\nset -eu\nHOME_DIR='{}'\nactiond() {{ '{ACTIOND}' \"$@\"; }}\n\
         echo $$ ${{ACTIOND_KEEPER:-none}} >> $HOME_DIR/started\n{body}\n",
        home_dir.display()
    );
    std::fs::write(&path, text).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}

/// A home with one handler, `script`.
fn home(body: &str, settings: &str) -> Home {
    home_with(body, settings, "")
}

fn home_with(body: &str, settings: &str, tables: &str) -> Home {
    let home = Home::new();
    let script = bash(&home, "script", body);
    home.with_tables(&(BRISK.to_owned() + tables + &exec("script", &script, settings)))
}

/// Pid of the program that was started `nth`, and its keeper's socket.
fn started(home: &Home, nth: usize) -> (u32, String) {
    let line = home.await_lines("started", nth + 1)[nth].clone();
    let (pid, keeper) = line.split_once(' ').expect("two words");
    (pid.parse().expect("a pid"), keeper.to_owned())
}

fn steps(action: &Value) -> Vec<(String, bool)> {
    let steps = action["steps"].as_array().unwrap_or_else(|| panic!("no steps: {action}"));
    let step =
        |step: &Value| (step["name"].as_str().expect("a name").to_owned(), step["done_at"].is_string());
    steps.iter().map(step).collect()
}

fn allow(home: &Home, what: &str) {
    std::fs::write(home.path(what), "").expect("a file");
}

/// Says something as a process that is not of the program.
fn say_to(keeper: &str, words: &[&str]) -> Output {
    let mut command = Command::new(ACTIOND);
    command.args(words).env("ACTIOND_KEEPER", keeper).env("NO_COLOR", "1").stdin(Stdio::null());
    command.output().expect("the command line")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Each step waits at its middle until it may go on, and after its end before the next.
const FIVE_STEPS: &str = r#"
    echo "attempt $ACTIOND_ATTEMPT found $(actiond checkpoint last || echo nothing)" >> $HOME_DIR/found
    for step in fetch build test push switch; do
        if actiond step begin $step; then
            echo "begun $step" >> $HOME_DIR/reached
            until [ -e $HOME_DIR/go-$step ]; do sleep 0.02; done
            echo $step >> $HOME_DIR/effects
            actiond checkpoint last=$step "by=attempt $ACTIOND_ATTEMPT"
            actiond step done $step
            echo "done $step" >> $HOME_DIR/reached
        else
            echo "passed $step" >> $HOME_DIR/reached
        fi
    done
    actiond message "all five"
    actiond result "{\"last\": \"$(actiond checkpoint last)\", \"by\": \"$(actiond checkpoint by)\"}"
"#;

#[test]
fn script_that_is_interrupted_goes_on_at_its_step() {
    let home = home(FIVE_STEPS, RESUME);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("script", 1));
    for step in ["fetch", "build"] {
        allow(&home, &format!("go-{step}"));
    }
    // Two are done, the third has begun.
    home.await_lines("reached", 5);
    let (program, _) = started(&home, 0);
    let daemon = daemon.crash_with_keepers();
    home.await_lines("reached", 8);
    assert!(!is_alive(program), "the first attempt is ended before the second begins");
    let seen = daemon.action(id);
    let expected = [("fetch", true), ("build", true), ("test", false)];
    assert_eq!(steps(&seen), expected.map(|(name, done)| (name.to_owned(), done)), "{seen}");
    // A second time, at another step.
    for step in ["test", "push"] {
        allow(&home, &format!("go-{step}"));
    }
    home.await_lines("reached", 12);
    let daemon = daemon.crash_with_keepers();
    allow(&home, "go-switch");
    let action = daemon.finished(id);
    assert_eq!((state(&action), &action["finished_message"]), ("succeeded", &json!("all five")), "{action}");
    assert_eq!(home.lines("effects"), ["fetch", "build", "test", "push", "switch"], "each exactly once");
    let found = ["attempt 1 found nothing", "attempt 2 found build", "attempt 3 found push"];
    assert_eq!(home.lines("found"), found);
    let passed = home.lines("reached").iter().filter(|line| line.starts_with("passed")).count();
    assert_eq!(passed, 2 + 4, "{:?}", home.lines("reached"));
    assert_eq!(action["finished_result"], json!({ "last": "switch", "by": "attempt 3" }), "{action}");
    assert_eq!(action["checkpoint"], json!({ "last": "switch", "by": "attempt 3" }), "{action}");
    assert_eq!(steps(&action).len(), 5);
    assert!(steps(&action).iter().all(|(_, is_done)| *is_done), "{action}");
}

#[test]
fn what_is_said_while_no_daemon_runs_is_recorded_by_the_next_one() {
    let body = r#"
        until [ -e $HOME_DIR/go ]; do sleep 0.02; done
        for step in 1 2 3 4 5; do actiond step begin $step && actiond step done $step; done
        actiond checkpoint at=5
        actiond progress 70 "nobody listens"
        actiond message "said it anyway"
        actiond result '{"n": 5}'
        echo up >> $HOME_DIR/said
        until [ -e $HOME_DIR/end ]; do sleep 0.02; done"#;
    for end_without_daemon in [false, true] {
        let home = home(body, "recovery = \"hold\"");
        let daemon = Daemon::start(&home);
        let id = daemon.accepted(&spec("script", 1));
        let (program, _) = started(&home, 0);
        daemon.kill9();
        allow(&home, "go");
        home.await_lines("said", 1);
        if end_without_daemon {
            allow(&home, "end");
            until("the program's end", || (!is_alive(program)).then_some(()));
        }
        let daemon = Daemon::start(&home);
        if !end_without_daemon {
            let running =
                until("five steps", || Some(daemon.action(id)).filter(|action| steps(action).len() == 5));
            assert_eq!(state(&running), "running", "{running}");
            until("progress", || (daemon.action(id)["progress"]["percent"] == 70).then_some(()));
            allow(&home, "end");
        }
        let action = daemon.finished(id);
        assert_eq!(state(&action), "succeeded", "{action}");
        assert_eq!(action["finished_message"], "said it anyway", "{action}");
        assert_eq!(action["finished_result"], json!({ "n": 5 }), "{action}");
        assert_eq!(action["checkpoint"], json!({ "at": "5" }), "{action}");
        assert!(steps(&action).len() == 5 && steps(&action).iter().all(|(_, done)| *done), "{action}");
        assert_eq!(action["attempt"], 1, "{action}");
    }
}

#[test]
fn strangers_may_not_speak_for_the_program() {
    demand_root("become another user");
    let home = home("until [ -e $HOME_DIR/end ]; do sleep 0.02; done", RESUME);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("script", 1));
    let (_, keeper) = started(&home, 0);
    until("the keeper's socket", || Path::new(&keeper).exists().then_some(()));
    let sentences: [&[&str]; 8] = [
        &["step", "begin", "mine"],
        &["step", "done", "mine"],
        &["step", "run", "mine", "--", "touch", "ran"],
        &["checkpoint", "a=b"],
        &["checkpoint", "a"],
        &["redact", "secret"],
        &["message", "mine"],
        &["result", "{}"],
    ];
    for words in sentences {
        let output = say_to(&keeper, words);
        assert_eq!(code(output.status), 77, "{words:?}: {}", told(&output));
        assert!(told(&output).contains("only the program of this action may say that"), "{}", told(&output));
    }
    // Another user is kept out, wherever the way is open.
    let copy = home.path("copy");
    std::fs::copy(ACTIOND, &copy).expect("a copy");
    std::fs::set_permissions(home.path(""), std::fs::Permissions::from_mode(0o711)).expect("a mode");
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy).args(words);
        command.env("ACTIOND_KEEPER", &keeper).stdin(Stdio::null()).output().expect("setpriv")
    };
    let output = as_nobody(&["step", "done", "mine"]);
    assert_eq!(code(output.status), 77, "{}", told(&output));
    let open_to_all = std::fs::Permissions::from_mode(0o777);
    for path in Path::new(&keeper).ancestors().take_while(|path| *path != Path::new("/")) {
        if path.starts_with(home.path("")) || path == Path::new(&keeper) {
            std::fs::set_permissions(path, open_to_all.clone()).expect("a mode");
        }
    }
    let output = as_nobody(&["step", "done", "mine"]);
    assert_eq!(code(output.status), 77, "{}", told(&output));
    allow(&home, "end");
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
    assert!(steps(&action).is_empty() && action["checkpoint"].is_null(), "{action}");
}

#[test]
fn redacted_values_are_nowhere_to_be_found() {
    let body = r#"
        secret=hunter2; echo $secret | actiond redact -
        actiond redact 'quo"ted'
        echo "out $secret"; echo "err $secret" >&2
        printf '{"message": "line %s"}\n' $secret >&3
        actiond progress 10 "at $secret"
        actiond checkpoint "token=$secret" 'other=a quo"ted one'
        actiond step begin one; actiond step done one
        printf '{"token": "%s", "other": "quo\\"ted"}' $secret | actiond result -
        actiond message "used $secret"
        echo 'two words' | actiond redact - ; echo "two words"
        printf 'last %s' $secret >&2
        until [ -e $HOME_DIR/end ]; do sleep 0.02; done"#;
    let home = home(body, RESUME);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("script", 1));
    until("the end of the words", || steps(&daemon.action(id)).first()?.1.then_some(()));
    // After it nothing says it in the attempt's own files either.
    let attempts = home.store().join("attempts");
    assert_eq!(secrets_in(&attempts), "");
    allow(&home, "end");
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
    assert_eq!(action["finished_message"], "used [redacted]", "{action}");
    assert_eq!(
        action["finished_result"],
        json!({ "token": "[redacted]", "other": "[redacted]" }),
        "{action}"
    );
    assert_eq!(action["checkpoint"]["other"], "a [redacted] one", "{action}");
    let log = daemon.ask("GET", &format!("/v1/actions/{id}/log"), None).text();
    for line in ["out [redacted]", "err [redacted]", "last [redacted]"] {
        assert!(log.contains(&format!("\"line\":\"{line}\"")), "{line} is not in {log}");
    }
    daemon.stop();
    assert_eq!(secrets_in(home.store()), "");
}

/// Where in the files below it one of the values of that test stands.
fn secrets_in(path: &Path) -> String {
    let mut search = Command::new("grep");
    search.args(["-r", "-e", "hunter2", "-e", "two words", "-e", "quo.*ted"]).arg(path);
    String::from_utf8_lossy(&search.output().expect("grep").stdout).into_owned()
}

#[test]
fn limits_say_why_and_a_step_that_was_refused_is_no_success() {
    let body = r#"
        said() { "$@" > /dev/null 2> $HOME_DIR/err && code=0 || code=$?; echo "$code $(cat $HOME_DIR/err)" >> $HOME_DIR/said; }
        for n in $(seq 64); do actiond step done s$n; done
        said actiond step begin s65
        said actiond step begin s64
        said actiond step run s64 -- false
        said actiond checkpoint "big=$(printf '%0300d' 0)"
        said actiond checkpoint "a b=1"
        said actiond checkpoint none
        said actiond checkpoint a=1 b
        said actiond step begin "two words"
        said actiond result '[1]'
        said actiond result '{'
        said actiond result "{\"a\": \"$(printf '%0300d' 0)\"}"
        said actiond redact abc
        said actiond progress 101"#;
    let home = home_with(body, RESUME, "[limits]\nresult_bytes_max = \"256B\"\n");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("script", 1));
    let action = daemon.finished(id);
    let expected = [
        "65 actiond: an action has at most 64 steps",
        "3 ",
        "0 ",
        "65 actiond: a checkpoint is left out, the one before stands: 310 bytes are more than",
        "65 actiond: \"a b\" is not 1 to 64 of",
        "1 ",
        "64 actiond: b is no KEY=VALUE",
        "65 actiond: \"two words\" is not 1 to 64 of",
        "65 actiond: a checkpoint and a result must be objects",
        "65 actiond: is not JSON: ",
        "65 actiond: 308 bytes are more than limits.result_bytes_max, 256",
        "65 actiond: a value to redact must be one line of at least 4 bytes",
        "64 error: ",
    ];
    let said = home.lines("said");
    assert_eq!(said.iter().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count(), 13);
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}, and not {expected}");
    }
    assert_eq!(state(&action), "failed", "{action}");
    let message = action["finished_message"].as_str().expect("a message");
    assert!(message.contains("could not begin: "), "{message}");
    assert_eq!(steps(&action).len(), 64);
}

#[test]
fn command_of_a_step_decides_whether_it_is_done() {
    let body = r#"
        exit_of() { "$@" && code=0 || code=$?; echo $code >> $HOME_DIR/codes; }
        exit_of actiond step run one -- sh -c 'exit 7'
        exit_of actiond step run one -- sh -c 'kill -9 $$'
        exit_of actiond step run one -- /nonexistent/program
        exit_of actiond step run one -- /etc/passwd
        exit_of actiond step run one -- sh -c 'echo did it >> '$HOME_DIR/effects
        exit_of actiond step run one -- sh -c 'echo did it again >> '$HOME_DIR/effects
        exit_of actiond step begin one
        printf '%s' "$(actiond checkpoint --json none || true)" >> $HOME_DIR/values
        actiond checkpoint $'text=a \e[1m"b"\n c' eq=a=b empty=
        actiond checkpoint text >> $HOME_DIR/values
        actiond checkpoint eq >> $HOME_DIR/values; actiond checkpoint empty >> $HOME_DIR/values
        actiond checkpoint --json text >> $HOME_DIR/values"#;
    let home = home(body, RESUME);
    let daemon = Daemon::start(&home);
    let action = daemon.finished(daemon.accepted(&spec("script", 1)));
    assert_eq!(state(&action), "succeeded", "{action}");
    assert_eq!(home.lines("codes"), ["7", "137", "127", "126", "0", "0", "3"]);
    assert_eq!(home.lines("effects"), ["did it"]);
    assert_eq!(steps(&action), [("one".to_owned(), true)]);
    let values = std::fs::read_to_string(home.path("values")).expect("values");
    let json = r#""a \u001b[1m\"b\"\n c""#;
    assert_eq!(values, format!("nulla \u{1b}[1m\"b\"\n c\na=b\n\n{json}\n"));
}

#[test]
fn many_may_speak_at_once_and_long_values_come_back_whole() {
    // Longer than what a socket holds.
    let body = r#"
        big=$(head -c 600000 /dev/zero | tr '\0' x)
        printf '{"checkpoint": {"big": "%s"}}\n' "$big" >&3
        until [ "$(actiond checkpoint big | wc -c)" = 600001 ]; do sleep 0.02; done
        for n in $(seq 96); do actiond step done "s$((n % 60))" & pids="${pids:-} $!"; done
        for pid in $pids; do wait $pid; done"#;
    let home = home_with(body, RESUME, "[limits]\nresult_bytes_max = \"1MiB\"\n");
    let daemon = Daemon::start(&home);
    let action = daemon.finished(daemon.accepted(&spec("script", 1)));
    assert_eq!(state(&action), "succeeded", "{action}");
    assert_eq!(steps(&action).len(), 60);
}

#[test]
fn without_a_keeper_a_program_reports_and_nothing_is_remembered() {
    let body = r#"
        said() { "$@" > /dev/null 2> $HOME_DIR/err && code=0 || code=$?; echo "$code $(cat $HOME_DIR/err)" >> $HOME_DIR/said; }
        said actiond step begin one
        said actiond checkpoint a=1
        said actiond redact secret
        said actiond result '[1]'
        actiond progress 50 half
        actiond result '{"n": 1}'
        actiond message reported
        actiond message lost 3>&- || echo "$?" >> $HOME_DIR/closed
        actiond message lost 3> $HOME_DIR/file || echo "$?" >> $HOME_DIR/closed"#;
    let home = home(body, DIRECT);
    let daemon = Daemon::start(&home);
    let action = daemon.finished(daemon.accepted(&spec("script", 1)));
    assert_eq!((state(&action), &action["finished_message"]), ("succeeded", &json!("reported")), "{action}");
    assert_eq!(action["finished_result"], json!({ "n": 1 }));
    let said = home.lines("said");
    for line in &said[..3] {
        assert!(line.starts_with("69 actiond: this program has no keeper (adopt = false)"), "{line}");
    }
    assert!(said[3].starts_with("65 actiond: a checkpoint and a result must be objects"), "{}", said[3]);
    assert_eq!(home.lines("closed"), ["69", "69"]);
    assert_eq!(home.lines("file"), Vec::<String>::new());
}

#[test]
fn outside_of_a_program_there_is_nobody_to_speak_to() {
    let home = Home::new().with_tables("");
    for words in [&["step", "begin", "a"][..], &["checkpoint", "a=1"], &["progress", "4"], &["result", "{}"]]
    {
        let output = cli(&home, words);
        assert_eq!(code(output.status), 64, "{}", told(&output));
        assert!(told(&output).contains("only a program that actiond has started can say that"));
    }
    let output = say_to("/nonexistent/keeper", &["step", "begin", "a"]);
    assert_eq!(code(output.status), 69, "{}", told(&output));
    assert!(told(&output).contains("cannot reach the keeper of this program at /nonexistent/keeper"));
}
