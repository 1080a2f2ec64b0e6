//! The life of an action while the daemon lives: retries, time limits, cancelling, holding, conflicts, keys.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::home::{NOOP, exec};
use crate::common::{Daemon, Home, attempts, is_alive, spec, state, until, with};

const STAYS: &str = "read -r action\necho \"$ACTIOND_ID $$\" >> \"$HOME_DIR/began\"\nexec sleep 1000";

fn home_of(script: &str, settings: &str) -> Home {
    let home = Home::new();
    let path = home.script("program", script);
    home.with_tables(&format!("{}{NOOP}", exec("deploy", &path, settings)))
}

fn pid_of(line: &str) -> u32 {
    line.rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")
}

#[test]
fn exit_seventy_five_is_tried_again_and_anything_else_is_not() {
    let retry = "retry = { attempts = 3, backoff = \"10ms\", backoff_max = \"50ms\" }";
    for (exit, end, tries) in [("exit 75", "failed", 3), ("exit 3", "failed", 1), ("exit 0", "succeeded", 1)]
    {
        let home = home_of(exit, retry);
        let daemon = Daemon::start(&home);
        let id = daemon.accepted(&spec("deploy", 1));
        let action = daemon.finished(id);
        assert_eq!((state(&action), attempts(&action).len()), (end, tries), "{exit}: {action}");
        assert_eq!(action["tries_used"], tries);
    }
}

#[test]
fn retried_action_succeeds_at_last_and_keeps_its_resource_meanwhile() {
    let home = home_of(
        "echo \"$ACTIOND_ID\" >> \"$HOME_DIR/order\"\n[ \"$ACTIOND_ID\" = 2 ] || [ \"$ACTIOND_ATTEMPT\" = 3 ] || exit 75",
        "retry = { attempts = 5, backoff = \"50ms\", backoff_max = \"100ms\" }",
    );
    let daemon = Daemon::start(&home);
    let first = daemon.accepted(&spec("deploy", 1));
    let second = daemon.accepted(&spec("deploy", 1));
    assert_eq!(attempts(&daemon.finished(first)), ["succeeded", "failed", "failed"]);
    assert_eq!(attempts(&daemon.finished(second)), ["succeeded"]);
    assert_eq!(home.lines("order"), ["1", "1", "1", "2"]);
}

#[test]
fn cancel_of_a_waiting_action_ends_it_at_once() {
    let home = home_of(STAYS, "");
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let id = daemon.accepted(&spec("deploy", 1));
    daemon.commanded(id, "cancel");
    let action = daemon.finished(id);
    assert_eq!((state(&action), attempts(&action).len()), ("cancelled", 0));
    assert!(action["finished_message"].as_str().unwrap().starts_with("[cancelled]"), "{action}");
    assert_eq!(action["finished_success"], false);
    let again = daemon.command(id, "cancel");
    assert_eq!(again.status, 409, "a final state never changes: {}", again.text());
}

#[test]
fn cancel_of_a_running_action_ends_its_whole_tree() {
    let home = home_of(
        "read -r action\ntrap '' TERM\nsetsid sh -c 'echo \"child $$\" >> \"$1/began\"; exec sleep 1000' sh \"$HOME_DIR\" &\n\
         while [ ! -s \"$HOME_DIR/began\" ]; do :; done\necho \"self $$\" >> \"$HOME_DIR/began\"\nwait\nsleep 1000",
        "",
    );
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let began = home.await_lines("began", 2);
    daemon.commanded(id, "cancel");
    assert_eq!(state(&daemon.finished(id)), "cancelled");
    for line in began {
        assert!(!is_alive(pid_of(&line)), "{line} is alive");
    }
}

#[test]
fn attempt_that_runs_too_long_times_out() {
    let home = home_of(STAYS, "timeout = \"1s\"");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let action = daemon.finished(id);
    assert_eq!(state(&action), "timed_out", "{action}");
    assert!(action["finished_message"].as_str().unwrap().starts_with("[timed_out]"), "{action}");
    assert!(!is_alive(pid_of(&home.await_lines("began", 1)[0])));
}

#[test]
fn deadline_expires_what_waits_and_ends_what_runs() {
    let home = home_of(STAYS, "");
    let daemon = Daemon::start(&home);
    let within = |ms| {
        let at = chrono::Utc::now() + Duration::from_millis(ms);
        at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let running = daemon.accepted(&with(spec("deploy", 1), "deadline", within(2_500)));
    home.await_lines("began", 1);
    let waiting = daemon.accepted(&with(spec("deploy", 1), "deadline", within(200)));
    let (waiting, running) = (daemon.finished(waiting), daemon.finished(running));
    assert_eq!(state(&running), "timed_out", "{running}");
    assert_eq!(state(&waiting), "expired", "{waiting}");
    let past = daemon.submit(&with(spec("deploy", 1), "deadline", "2020-01-01T00:00:00Z"));
    assert!((400..500).contains(&past.status), "{}", past.text());
}

#[test]
fn same_key_and_same_body_is_the_first_action_again() {
    let home = home_of(STAYS, "");
    let daemon = Daemon::start(&home);
    let keyed = with(spec("restart", 1), "idempotency_key", "order-66");
    let first = daemon.accepted(&keyed);
    let again = daemon.submit(&keyed);
    assert_eq!((again.status, again.json()["id"].as_u64()), (200, Some(first)));
    let other = daemon.submit(&with(keyed.clone(), "resource_id", 2));
    assert_eq!(other.status, 422, "{}", other.text());
    daemon.finished(first);
    let daemon = daemon.crash();
    let again = daemon.submit(&keyed);
    assert_eq!((again.status, again.json()["id"].as_u64()), (200, Some(first)), "also after a crash");
    assert_eq!(daemon.submit(&with(keyed, "resource_id", 2)).status, 422);
    assert_eq!(daemon.all_actions().len(), 1);
}

#[test]
fn paused_queue_stays_paused_over_a_crash_and_a_stop() {
    let home = home_of(STAYS, "");
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let id = daemon.accepted(&spec("restart", 1));
    let daemon = daemon.crash();
    assert_eq!(daemon.get("/v1/queues").to_string().matches("\"paused\":true").count(), 1);
    assert_eq!(state(&daemon.action(id)), "queued");
    daemon.stop();
    let daemon = Daemon::start(&home);
    assert_eq!(state(&daemon.action(id)), "queued");
    let why = daemon.get(&format!("/v1/actions/{id}/explain"));
    assert!(why["causes"].to_string().contains("paused"), "{why}");
    daemon.pause_queue("default", false);
    assert_eq!(state(&daemon.finished(id)), "succeeded");
}

#[test]
fn held_action_waits_for_a_person_and_explain_says_so() {
    let home = home_of(STAYS, "");
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let id = daemon.accepted(&spec("restart", 1));
    daemon.commanded(id, "hold");
    daemon.pause_queue("default", false);
    let daemon = daemon.crash();
    assert_eq!(state(&daemon.action(id)), "held");
    assert!(daemon.get(&format!("/v1/actions/{id}/explain")).to_string().contains("held"));
    daemon.commanded(id, "resume");
    assert_eq!(state(&daemon.finished(id)), "succeeded");
}

#[test]
fn retry_makes_a_new_action_and_leaves_the_old_one_alone() {
    let home = home_of("[ -e \"$HOME_DIR/fixed\" ]", "");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let before = daemon.finished(id);
    assert_eq!(state(&before), "failed");
    std::fs::write(home.path("fixed"), "").unwrap();
    let new = daemon.commanded(id, "retry");
    assert_eq!((new["retry_of"].as_u64(), new["id"].as_u64()), (Some(id), Some(id + 1)), "{new}");
    assert_eq!(state(&daemon.finished(id + 1)), "succeeded");
    assert_eq!(daemon.action(id), before);
}

#[test]
fn conflicts_are_settled_as_the_submission_says() {
    let home = home_of(STAYS, "");
    let daemon = Daemon::start(&home);
    let runs = daemon.accepted(&spec("deploy", 1));
    home.await_lines("began", 1);
    let by = |choice: &str| daemon.submit(&with(spec("deploy", 1), "on_conflict", choice));

    let rejected = by("reject");
    assert_eq!((rejected.status, rejected.json()["action_id"].as_u64()), (409, Some(runs)));
    let joined = by("join");
    assert_eq!((joined.status, joined.json()["id"].as_u64()), (200, Some(runs)));

    let first = by("queue").json()["id"].as_u64().unwrap();
    let second = by("queue").json()["id"].as_u64().unwrap();
    let replacing = by("replace_queued");
    assert_eq!(replacing.status, 202, "{}", replacing.text());
    for id in [first, second] {
        assert_eq!(state(&daemon.finished(id)), "superseded");
    }
    assert_eq!(state(&daemon.action(runs)), "running", "what has begun is not superseded");
    assert_eq!(state(&daemon.action(replacing.json()["id"].as_u64().unwrap())), "queued");

    let parallel = by("parallel").json()["id"].as_u64().unwrap();
    assert!(home.await_lines("began", 2)[1].starts_with(&format!("{parallel} ")));
}

#[test]
fn priority_acts_between_resources_and_run_at_waits() {
    let home = home_of("echo \"$ACTIOND_ID\" >> \"$HOME_DIR/order\"", "");
    let home = {
        let program = home.path("program");
        let queue = "[[queue]]\nname = \"default\"\nconcurrency = 1\n";
        home.with_tables(&format!("{queue}{}", exec("deploy", &program, "")))
    };
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let low = daemon.accepted(&with(spec("deploy", 1), "priority", 1));
    let high = daemon.accepted(&with(spec("deploy", 2), "priority", 9));
    let behind_low = daemon.accepted(&with(spec("deploy", 1), "priority", 9));
    let later = chrono::Utc::now() + Duration::from_millis(400);
    let late = daemon.accepted(&with(spec("deploy", 3), "run_at", later.to_rfc3339()));
    assert_eq!(state(&daemon.action(late)), "scheduled");
    daemon.pause_queue("default", false);
    for id in [low, high, behind_low, late] {
        daemon.finished(id);
    }
    assert!(chrono::Utc::now() >= later);
    let order: Vec<u64> = home.lines("order").iter().map(|id| id.parse().unwrap()).collect();
    assert_eq!(order, [high, low, behind_low, late]);
}

#[test]
fn log_keeps_what_a_program_prints_and_is_only_ever_log() {
    let home = home_of("echo 'to stdout'\necho 'to stderr' >&2\necho '{\"message\": \"not a report\"}'", "");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let action = daemon.finished(id);
    assert_ne!(action["finished_message"], "not a report");
    let log = daemon.ask("GET", &format!("/v1/actions/{id}/log"), None);
    assert_eq!(log.status, 200);
    for line in ["to stdout", "to stderr", "not a report"] {
        assert!(log.text().contains(line), "{line}: {}", log.text());
    }
}

#[test]
fn flood_of_output_is_cut_in_the_middle_and_hurts_nobody() {
    let home = home_of("echo first; head -c 50000000 /dev/zero | tr '\\0' 'y'; echo; echo last", "");
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    assert_eq!(state(&daemon.finished(id)), "succeeded");
    let log = daemon.ask("GET", &format!("/v1/actions/{id}/log"), None).text();
    assert!(log.contains("first") && log.contains("last"), "head and tail are kept");
    assert!(log.len() < 2_000_000, "{} bytes are kept", log.len());
}

#[test]
fn progress_is_shown_while_it_runs() {
    let home = home_of(
        "read -r action\nprintf '%s\\n' '{\"progress\": 40, \"message\": \"pushing the image\"}' >&3\nexec sleep 1000",
        "",
    );
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let progress = until("progress", || {
        let progress = daemon.action(id)["progress"].take();
        (progress["percent"] == 40).then_some(progress)
    });
    assert_eq!(progress["message"], "pushing the image");
}

#[test]
fn list_filters_and_pages_with_a_cursor() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    for number in 0..10 {
        let kind = if number % 2 == 0 { "restart" } else { "deploy" };
        let id = daemon.accepted(&spec(kind, number));
        daemon.finished(id);
    }
    let ids = |page: &Value| -> Vec<u64> {
        page["actions"].as_array().unwrap().iter().map(|action| action["id"].as_u64().unwrap()).collect()
    };
    let first = daemon.get("/v1/actions?limit=4");
    assert_eq!(ids(&first), [10, 9, 8, 7]);
    let second = daemon.get(&format!("/v1/actions?limit=4&before={}", first["next"]));
    assert_eq!(ids(&second), [6, 5, 4, 3]);
    assert_eq!(ids(&daemon.get("/v1/actions?action=deploy&limit=3")), [10, 8, 6]);
    assert_eq!(ids(&daemon.get("/v1/actions?resource_type=Stack&resource_id=3")), [4]);
    assert_eq!(ids(&daemon.get("/v1/actions?state=failed")), [0; 0]);
    assert_eq!(ids(&daemon.get("/v1/actions?state=succeeded&limit=1")), [10]);
}

#[test]
fn submitter_is_who_the_kernel_says() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("restart", 1));
    let submitter = daemon.action(id)["submitter"].take();
    let own = json!({
        "uid": rustix::process::geteuid().as_raw(),
        "gid": rustix::process::getegid().as_raw(),
        "pid": std::process::id(),
    });
    assert_eq!(submitter, own);
}

#[test]
fn status_endpoint_reads_only_and_shows_no_details() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&with(spec("restart", 1), "metadata", json!({"password": "hunter2"})));
    daemon.finished(id);
    for path in ["/livez", "/readyz", "/metrics", "/", "/v1/status", "/v1/queues", "/v1/actions"] {
        let answer = daemon.status_get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(!answer.text().contains("hunter2"), "{path} shows metadata");
    }
    let one = daemon.status_get(&format!("/v1/actions/{id}"));
    assert!(one.status == 200 && !one.text().contains("hunter2"), "{}", one.text());
    assert!(daemon.status_get(&format!("/v1/actions/{id}/log")).status >= 400);
    let mut door = crate::common::Connection::tcp(&daemon.status_address()).unwrap();
    let body = spec("restart", 1).to_string();
    let write = door.ask("POST", "/v1/actions", Some(body.as_bytes())).unwrap();
    assert!((400..500).contains(&write.status), "{}", write.text());
    assert_eq!(daemon.all_actions().len(), 1);
}
