//! What a start does with what a killed daemon left: each policy, each kind of leftover.

use std::fs;

use serde_json::{Value, json};

use crate::common::daemon::{Start, code};
use crate::common::home::{NOOP, exec};
use crate::common::{Daemon, Home, attempts, is_alive, spec, state, until, with};

/// Says that it began and stays until it is ended; from the second attempt on it succeeds at once.
const STAYS_ONCE: &str = r#"
read -r action
echo "$ACTIOND_ATTEMPT $$" >> "$HOME_DIR/began"
[ "$ACTIOND_ATTEMPT" -gt 1 ] && exit 0
exec sleep 1000
"#;

fn home_of(script: &str, settings: &str) -> Home {
    let home = Home::new();
    let path = home.script("program", script);
    home.with_tables(&format!("{}{NOOP}", exec("deploy", &path, settings)))
}

fn pid_of(line: &str) -> u32 {
    line.rsplit(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("no pid in {line:?}"))
}

/// Submits a deploy, waits until its program runs, kills the daemon and its keeper, and starts the daemon again.
fn interrupted(home: &Home) -> (Daemon<'_>, u64) {
    let daemon = Daemon::start(home);
    let id = daemon.accepted(&spec("deploy", 1));
    home.await_lines("began", 1);
    (daemon.crash_with_keepers(), id)
}

#[test]
fn rerun_makes_a_new_attempt_that_costs_no_try() {
    let home = home_of(STAYS_ONCE, "recovery = \"rerun\"\nretry = { attempts = 1 }");
    let (daemon, id) = interrupted(&home);
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
    assert_eq!(attempts(&action), ["succeeded", "interrupted"]);
    assert_eq!((action["attempt"].as_u64(), action["tries_used"].as_u64()), (Some(2), Some(1)), "{action}");
}

#[test]
fn resume_gives_the_last_durable_checkpoint_back() {
    let home = home_of(
        r#"
read -r action
echo "$action" >> "$HOME_DIR/stdin"
if [ "$ACTIOND_ATTEMPT" -gt 1 ]; then exit 0; fi
printf '%s\n' '{"checkpoint": {"step": 3, "of": "seven"}}' >&3
echo "$ACTIOND_ATTEMPT $$" >> "$HOME_DIR/began"
exec sleep 1000
"#,
        "recovery = \"resume\"",
    );
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let checkpoint = json!({"step": 3, "of": "seven"});
    until("the checkpoint", || (daemon.action(id)["checkpoint"] == checkpoint).then_some(()));
    let daemon = daemon.crash_with_keepers();
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
    let stdin: Vec<Value> =
        home.lines("stdin").iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(stdin.len(), 2);
    assert!(stdin[0]["checkpoint"].is_null(), "{}", stdin[0]);
    assert_eq!(stdin[1]["checkpoint"], checkpoint);
}

#[test]
fn fail_ends_the_action_as_interrupted() {
    let home = home_of(STAYS_ONCE, "recovery = \"fail\"\nretry = { attempts = 5 }");
    let (daemon, id) = interrupted(&home);
    let action = daemon.finished(id);
    assert_eq!((state(&action), &action["finished_success"]), ("failed", &Value::Bool(false)));
    assert!(action.to_string().contains("interrupted"), "{action}");
    assert_eq!(attempts(&action), ["interrupted"]);
    assert_eq!(home.lines("began").len(), 1, "it was not run again");
}

#[test]
fn hold_leaves_it_to_a_person_and_keeps_the_resource() {
    let home = home_of(STAYS_ONCE, "recovery = \"hold\"");
    let (daemon, id) = interrupted(&home);
    assert_eq!(state(&daemon.in_state(id, "held")), "held");
    let behind = daemon.accepted(&spec("restart", 1));
    let beside = daemon.accepted(&spec("restart", 2));
    assert_eq!(state(&daemon.finished(beside)), "succeeded");
    assert_eq!(state(&daemon.action(behind)), "queued", "the resource is not free while a person decides");
    daemon.commanded(id, "resume");
    assert_eq!(state(&daemon.finished(id)), "succeeded");
    assert_eq!(state(&daemon.finished(behind)), "succeeded");
}

#[test]
fn probe_asks_the_world_first() {
    for (answer, end) in [(0, "succeeded"), (1, "succeeded"), (2, "held")] {
        let home = Home::new();
        let program = home.script("program", STAYS_ONCE);
        let probe = home.script("probe", &format!("echo asked >> \"$HOME_DIR/asked\"\nexit {answer}"));
        let settings = format!("recovery = \"probe\"\nprobe = [{probe:?}]");
        let home = home.with_tables(&exec("deploy", &program, &settings));
        let (daemon, id) = interrupted(&home);
        let action = daemon.in_state(id, end);
        assert_eq!(home.lines("asked").len(), 1);
        let runs = if answer == 1 { 2 } else { 1 };
        assert_eq!(home.lines("began").len(), runs, "probe said {answer}: {action}");
    }
}

/// Leaves processes of every kind behind; from the second attempt on it looks whether one of them is still there.
const LEAVES_MUCH: &str = r#"
read -r action
if [ "$ACTIOND_ATTEMPT" -gt 1 ]; then
    # What the first attempt left must be gone by now.
    while read -r pid; do [ -d "/proc/$pid" ] && read -r stat < "/proc/$pid/stat" && case ${stat##*) } in
        Z*|X*) ;; *) echo "$pid" >> "$HOME_DIR/survived" ;; esac; done < "$HOME_DIR/pids"
    exit 0
fi
echo $$ >> "$HOME_DIR/pids"
trap '' TERM HUP
sh -c 'echo $$ >> "$1/pids"; exec sleep 1000' sh "$HOME_DIR" &
# Double fork into a session of its own: neither child nor in the process group any more.
setsid sh -c 'trap "" TERM; (echo $$ >> "$1/pids"; sleep 1000 & echo $! >> "$1/pids"; wait) & wait' sh "$HOME_DIR" &
(setsid sh -c 'echo $$ >> "$1/pids"; exec sleep 1000' sh "$HOME_DIR" &) &
while [ "$(wc -l < "$HOME_DIR/pids")" -lt 5 ]; do :; done
echo "$ACTIOND_ATTEMPT $$" >> "$HOME_DIR/began"
wait
sleep 1000
"#;

fn ends_what_outlived_the_daemon(settings: &str) {
    let home = home_of(LEAVES_MUCH, settings);
    let (daemon, id) = interrupted(&home);
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
    assert_eq!(home.lines("survived"), [""; 0]);
    for pid in home.lines("pids") {
        assert!(!is_alive(pid.parse().expect("a pid")), "{pid} is alive");
    }
    let left = crate::common::processes_of(&home, daemon.pid());
    assert!(left.is_empty(), "a keeper or program is left: {left:?}");
}

#[test]
fn program_that_outlived_daemon_and_keeper_is_ended_with_its_descendants_before_its_resource_is_free() {
    ends_what_outlived_the_daemon("recovery = \"rerun\"");
}

#[test]
fn directly_started_program_that_outlived_the_daemon_is_ended_just_so() {
    ends_what_outlived_the_daemon("recovery = \"rerun\"\nadopt = false");
}

#[test]
fn interrupted_twice_is_still_not_a_try() {
    let home = home_of(
        r#"
read -r action
echo "$ACTIOND_ATTEMPT $$" >> "$HOME_DIR/began"
[ "$ACTIOND_ATTEMPT" -gt 4 ] && exit 0
exec sleep 1000
"#,
        "recovery = \"rerun\"\nretry = { attempts = 1 }",
    );
    let mut daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    for kills in 1..=4 {
        home.await_lines("began", kills);
        daemon = daemon.crash_with_keepers();
    }
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "a kill from outside never holds an action: {action}");
    assert_eq!(attempts(&action).len(), 5);
    for line in &home.lines("began")[..4] {
        assert!(!is_alive(pid_of(line)));
    }
}

#[test]
fn waiting_actions_survive_with_all_their_options() {
    let home = home_of(STAYS_ONCE, "");
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let mut spec = spec("restart", 9);
    for (key, value) in [
        ("priority", json!(7)),
        ("deadline", json!("2100-01-01T00:00:00Z")),
        ("run_at", json!("2099-01-01T00:00:00Z")),
        ("timeout", json!("90s")),
        ("on_conflict", json!("parallel")),
        ("idempotency_key", json!("key")),
        ("retry", json!({"attempts": 4, "backoff": "2s", "backoff_max": "1m"})),
    ] {
        spec[key] = value;
    }
    let id = daemon.accepted(&spec);
    let before = daemon.action(id);
    assert_eq!((state(&before), before["priority"].as_u64()), ("scheduled", Some(7)), "{before}");
    let daemon = daemon.crash();
    assert_eq!(daemon.action(id), before);
    assert_eq!(code(daemon.stop()), 0);
    let daemon = Daemon::start(&home);
    assert_eq!(daemon.action(id), before, "also after a clean stop");
}

#[test]
fn stopped_daemon_leaves_its_programs_alone_and_the_next_one_takes_them_up() {
    for policy in ["rerun", "probe", "resume", "fail", "hold"] {
        let script = "read -r action\necho \"$ACTIOND_ATTEMPT $$\" >> \"$HOME_DIR/began\"\necho before\n\
            while [ ! -e \"$HOME_DIR/go\" ]; do sleep 0.01; done\necho after";
        let home = home_of(script, &format!("recovery = \"{policy}\"\nretry = {{ attempts = 1 }}"));
        let mut daemon = Daemon::start(&home);
        let id = daemon.accepted(&spec("deploy", 1));
        let began = home.await_lines("began", 1);
        for _ in 0..2 {
            assert_eq!(code(daemon.stop()), 0);
            assert!(is_alive(pid_of(&began[0])));
            daemon = Daemon::start(&home).crash();
            assert_eq!(state(&daemon.action(id)), "running");
        }
        daemon.kill9();
        fs::write(home.path("go"), "").expect("a go");
        until("its end while there is no daemon", || (!is_alive(pid_of(&began[0]))).then_some(()));
        let daemon = Daemon::start(&home);
        let action = daemon.finished(id);
        assert_eq!(
            (state(&action), attempts(&action)),
            ("succeeded", vec!["succeeded".to_owned()]),
            "{action}"
        );
        let log = daemon.ask("GET", &format!("/v1/actions/{id}/log"), None).text();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let lines: Vec<&Value> = lines.iter().map(|line| &line["line"]).collect();
        assert_eq!(lines, ["before", "after"]);
        assert_eq!(home.lines("began").len(), 1);
    }
}

#[test]
fn cancel_and_timeout_reach_a_program_that_was_taken_up() {
    let script = "trap '' TERM\nread -r action\necho \"$ACTIOND_ID $$\" >> \"$HOME_DIR/began\"\nwhile :; do sleep 1000; done";
    let home = home_of(script, "timeout = \"3s\"\nkill_grace = \"200ms\"\nexclusive = false");
    let daemon = Daemon::start(&home);
    let (cancelled, late) = (daemon.accepted(&spec("deploy", 1)), daemon.accepted(&spec("deploy", 2)));
    let began = home.await_lines("began", 2);
    let daemon = daemon.crash();
    daemon.commanded(cancelled, "cancel");
    assert_eq!(state(&daemon.finished(cancelled)), "cancelled");
    assert_eq!(state(&daemon.finished(late)), "timed_out");
    assert!(!began.iter().any(|line| is_alive(pid_of(line))));
}

#[test]
fn cancel_in_which_the_daemon_dies_is_carried_out_by_the_next_one() {
    let script = "trap '' TERM\nread -r action\necho \"$ACTIOND_ID $$\" >> \"$HOME_DIR/began\"\nwhile :; do sleep 1000; done";
    let home = home_of(script, "kill_grace = \"1s\"");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let began = home.await_lines("began", 1);
    daemon.commanded(id, "cancel");
    daemon.kill9();
    let daemon = Daemon::start(&home);
    let action = daemon.finished(id);
    assert!(!is_alive(pid_of(&began[0])));
    assert_eq!((state(&action), attempts(&action)), ("cancelled", vec!["cancelled".to_owned()]), "{action}");
}

#[test]
fn terminated_daemon_ends_its_direct_programs_and_exits_with_zero() {
    let home = home_of(STAYS_ONCE, "recovery = \"rerun\"\nadopt = false");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let began = home.await_lines("began", 1);
    // The first asks to drain, the second to end what still runs.
    daemon.signal(rustix::process::Signal::TERM);
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(code(daemon.ended()), 0);
    assert!(!is_alive(pid_of(&began[0])));
    let daemon = Daemon::start(&home);
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded");
    assert_eq!(attempts(&action), ["succeeded", "interrupted"], "a stop costs no try");
}

#[test]
fn draining_daemon_lets_a_short_program_end_and_starts_no_other() {
    let home = home_of(
        "read -r action\necho \"$ACTIOND_ID $$\" >> \"$HOME_DIR/began\"\nwhile [ ! -e \"$HOME_DIR/go\" ]; do sleep 0.01; done",
        "recovery = \"hold\"",
    );
    let daemon = Daemon::start(&home);
    let first = daemon.accepted(&spec("deploy", 1));
    home.await_lines("began", 1);
    let second = daemon.accepted(&spec("deploy", 1));
    daemon.signal(rustix::process::Signal::TERM);
    until("the drain", || home.log().contains("stopping: nothing more is started").then_some(()));
    fs::write(home.path("go"), "").expect("a go");
    assert_eq!(code(daemon.ended()), 0);
    assert_eq!(home.lines("began").len(), 1);
    let daemon = Daemon::start(&home);
    assert_eq!(attempts(&daemon.finished(first)), ["succeeded"]);
    assert_eq!(state(&daemon.finished(second)), "succeeded");
}

#[test]
fn second_daemon_on_the_same_store_is_refused() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let status = Daemon::start_as(&home, &Start::default()).err().expect("two daemons on one store");
    assert_ne!(code(status), 0);
    daemon.assert_healthy(&spec("restart", 1), "a second daemon's try");
    let idempotent = with(spec("restart", 2), "idempotency_key", "k");
    assert_eq!(daemon.submit(&idempotent).status, 202);
}

/// At every crash point the daemon ends itself as `kill -9` would; the test then starts it again and looks whether
/// the promise holds. A point that is not reached fails the test.
#[cfg(feature = "crash-points")]
#[test]
fn promise_holds_at_every_named_crash_point() {
    use std::sync::Mutex;

    let names = crash_points();
    assert!(names.len() >= 25, "crash points found in src: {names:?}");
    let mut all: Vec<(String, u64)> = Vec::new();
    // Reached only by a table that has grown over hours, by body files of which most is dead, by a full disk, or by a stop within the moments of a
    // rebuild: `store::tests::kill` has those that a process can be killed at.
    let elsewhere = |name: &str| {
        name.starts_with("refill_")
            || name.starts_with("reclaim_")
            // On hosts that may be rebooted: `reboot`.
            || name.starts_with("reboot_")
            || ["ballast_given_up", "close_rebuilding"].contains(&name)
            // In the keeper: below.
            || name.starts_with("keeper_")
    };
    for name in names.iter().filter(|name| !elsewhere(name)) {
        let passes: &[u64] = match name.split_once('_').map_or("", |(part, _)| part) {
            // Passed once in a start, or once in a stop.
            "create" | "open" | "recovery" | "rebuild" | "close" => &[1],
            "snapshot" => &[1, 2],
            _ if matches!(name.as_str(), "quarantined" | "rebuilt") => &[1],
            // A small store has one body file.
            _ if name == "bodies_file" => &[1],
            _ if ["journal_release", "bodies_removed"].contains(&name.as_str()) => &[1, 2],
            _ => &[1, 3],
        };
        all.extend(passes.iter().map(|pass| (name.clone(), *pass)));
    }
    let runs = all.len();
    let waiting = Mutex::new(all);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no other failed").pop();
                    let Some((name, pass)) = next else { break };
                    let since = std::time::Instant::now();
                    crash_at(&name, pass);
                    println!("{name}:{pass} {:?}", since.elapsed());
                }
            });
        }
    });
    println!("{} crash points, each reached: {runs} runs, each killed", names.len());
}

/// With programs under keepers and without.
#[cfg(feature = "crash-points")]
fn home_to_crash_in(name: &str) -> Home {
    let home = Home::new();
    let program = home.script(
        "program",
        "read -r action\necho \"$ACTIOND_ID $ACTIOND_ATTEMPT $$\" >> \"$HOME_DIR/began\"\n\
         while [ -e \"$HOME_DIR/block\" ]; do sleep 0.01; done",
    );
    // Keepers are killed beside the daemon only where a start is to find something to recover.
    let policy = if name.starts_with("recovery_") { "rerun" } else { "hold" };
    let direct = exec("direct", &program, "recovery = \"rerun\"\nadopt = false");
    let kept = exec("deploy", &program, &format!("recovery = \"{policy}\""));
    home.configure(crate::common::home::SMALL_STORE, &(direct + &kept + NOOP))
}

#[cfg(feature = "crash-points")]
fn crash_at(name: &str, pass: u64) {
    use crate::common::sender::stream;

    let at = format!("{name}:{pass}");
    let home = home_to_crash_in(name);
    let padding = "x".repeat(20_000);
    let lines: Vec<String> = (0..200)
        .map(|number: u64| {
            let kind = match number % 20 {
                7 => "deploy",
                13 => "direct",
                _ => "restart",
            };
            let line = with(spec(kind, number % 20), "metadata", json!({"padding": padding}));
            with(line, "idempotency_key", format!("n{number}")).to_string()
        })
        .collect();
    let mut acknowledged = std::collections::BTreeMap::new();
    let mut send = |home: &Home| {
        stream(home, &lines, |answer| {
            assert!(matches!(answer["status"].as_u64(), Some(200 | 202)), "{at}: {answer}");
            acknowledged.insert(answer["line"].as_u64().expect("a line"), answer["action"]["id"].clone());
            true
        });
    };
    // What some points need to be reached at a start.
    if name.starts_with("recovery_") {
        let daemon = Daemon::start(&home);
        fs::write(home.path("block"), "").expect("a file");
        daemon.accepted(&with(spec("deploy", 99), "idempotency_key", "first"));
        home.await_lines("began", 1);
        daemon.kill9();
        home.kill_keepers();
        fs::remove_file(home.path("block")).expect("removed");
    } else if name.starts_with("rebu") || name == "quarantined" {
        let daemon = Daemon::start(&home);
        send(&home);
        until("a snapshot", || {
            (daemon.get("/v1/status")["store"]["snapshots"].as_u64() > Some(0)).then_some(())
        });
        assert_eq!(code(daemon.stop()), 0);
        fs::write(home.store().join("table/db"), [0xA5; 10_000]).expect("damage");
    }

    let start = Start { environment: &[("ACTIOND_CRASH_AT", &at)], ..Start::default() };
    let status = match Daemon::start_as(&home, &start) {
        Err(status) => status,
        Ok(daemon) => {
            send(&home);
            // Until all is done, or the daemon is gone.
            until("the end of the work", || {
                let answer = crate::common::Connection::unix(&home.socket())
                    .and_then(|mut door| door.ask("GET", "/v1/status", None));
                let Ok(answer) = answer else { return Some(()) };
                let queues = answer.json()["queues"].take();
                let counts = |queue: &Value| queue["waiting"].as_u64() == Some(0) && queue["running"] == 0;
                queues.as_array().expect("queues").iter().all(counts).then_some(())
            });
            daemon.stop()
        }
    };
    assert_eq!(code(status), 137, "{at} was not reached: the daemon ended by itself");

    let daemon = Daemon::start(&home);
    let before = acknowledged.clone();
    let mut again = std::collections::BTreeMap::new();
    stream(&home, &lines, |answer| {
        assert!(matches!(answer["status"].as_u64(), Some(200 | 202)), "{at}: {answer}");
        again.insert(answer["line"].as_u64().expect("a line"), answer["action"]["id"].clone());
        true
    });
    assert_eq!(again.len(), lines.len(), "{at}");
    for (line, id) in &before {
        assert_eq!(again[line], *id, "{at}: line {line} was acknowledged and is lost or another action now");
    }
    until("the end of all", || (daemon.unfinished() == 0).then_some(()));
    let all = daemon.all_actions();
    let first = usize::from(name.starts_with("recovery_"));
    assert_eq!(all.len(), lines.len() + first, "{at}: a line became two actions, or an action is lost");
    for action in &all {
        assert_eq!(state(action), "succeeded", "{at}: {action}");
        let ends = attempts(action);
        assert!(
            ends[0] == "succeeded" && ends[1..].iter().all(|end| end == "interrupted"),
            "{at}: an outcome was recorded twice, or forgotten: {action}"
        );
    }
    let mut starts: Vec<String> = home
        .lines("began")
        .iter()
        .map(|line| line.rsplit_once(' ').expect("three words").0.to_owned())
        .collect();
    let count = starts.len();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), count, "{at}: an attempt was started twice");
    assert_eq!(crate::common::processes_of(&home, daemon.pid()), [""; 0], "{at}: programs are left");
}

/// The names in the sources, so that a new crash point is tested without being listed again.
#[cfg(feature = "crash-points")]
fn crash_points() -> Vec<String> {
    fn search(dir: &std::path::Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                search(&entry, names);
            } else {
                let text = fs::read_to_string(&entry).expect("a source file");
                let after = text.split("crash_point(\"");
                names.extend(after.filter_map(|rest| rest.split_once("\")")).filter_map(|(name, _)| {
                    let is_name =
                        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
                    is_name.then(|| name.to_owned())
                }));
            }
        }
    }
    let mut names = Vec::new();
    search(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut names);
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn locks_that_were_freed_stay_freed_over_kill_9() {
    let home = home_of(STAYS_ONCE, "recovery = \"hold\"");
    let (daemon, id) = interrupted(&home);
    daemon.in_state(id, "held");
    daemon.pause_queue("default", true);
    let other = daemon.accepted(&spec("restart", 1));
    assert_eq!(daemon.commanded(id, "unlock")["locks_freed"], true);
    let daemon = daemon.crash();
    let held = daemon.action(id);
    assert_eq!((state(&held), &held["locks_freed"]), ("held", &Value::Bool(true)), "{held}");
    daemon.pause_queue("default", false);
    assert_eq!(state(&daemon.finished(other)), "succeeded");
    daemon.commanded(id, "resume");
    let action = daemon.finished(id);
    assert_eq!((state(&action), &action["locks_freed"]), ("succeeded", &Value::Bool(false)), "{action}");
}

/// At every crash point of a keeper it ends itself as `kill -9` would.
#[cfg(feature = "crash-points")]
#[test]
fn keeper_killed_at_every_named_point_leaves_nothing_and_is_found_out() {
    let names: Vec<String> = crash_points().into_iter().filter(|name| name.starts_with("keeper_")).collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let script = "read -r action\necho \"$ACTIOND_ATTEMPT $$\" >> \"$HOME_DIR/began\"\n\
            while [ -e \"$HOME_DIR/block\" ]; do sleep 0.01; done\nexit 3";
        let home = home_of(script, "recovery = \"hold\"");
        // An outcome is only written down where no daemon is there to hear it.
        let is_alone = name.starts_with("keeper_outcome_");
        if is_alone {
            fs::write(home.path("block"), "").expect("a file");
        }
        let start = Start { environment: &[("ACTIOND_CRASH_AT", &name)], ..Start::default() };
        let mut daemon = Daemon::start_as(&home, &start).expect("a daemon");
        let id = daemon.accepted(&spec("deploy", 1));
        if is_alone {
            let began = home.await_lines("began", 1);
            daemon.kill9();
            fs::remove_file(home.path("block")).expect("removed");
            until("the program's end", || (!is_alive(pid_of(&began[0]))).then_some(()));
            until("the keeper's end", || home.keepers().is_empty().then_some(()));
            daemon = Daemon::start(&home);
        }
        let (expected, began) = match name.as_str() {
            "keeper_at_gate" | "keeper_released" | "keeper_owner" => ("held", 0),
            // That is known, whoever dies.
            "keeper_told_end" | "keeper_outcome_renamed" => ("failed", 1),
            _ => ("held", 1),
        };
        let action = daemon.in_state(id, expected);
        // The program may be killed before its first line.
        assert!(home.lines("began").len() <= began, "{name}: {action}");
        let left = crate::common::processes_of(&home, daemon.pid());
        assert!(left.is_empty(), "{name}: {left:?}");
        let daemon = daemon.crash();
        assert_eq!(daemon.action(id), action, "{name}");
    }
}
