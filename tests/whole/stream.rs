//! Two thousand realistic actions as one NDJSON stream, undisturbed and under `kill -9`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::home::{NOOP, SMALL_STORE, exec};
use crate::common::sender::{run_with_kills, stream};
use crate::common::{Daemon, Home, attempts, state};

fn actions() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/actions.ndjson");
    let lines: Vec<String> =
        std::fs::read_to_string(path).expect("the data").lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2_000);
    lines
}

#[test]
fn two_thousand_actions_are_acknowledged_in_order_and_finish() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    let sent = actions();
    let mut answers = Vec::new();
    stream(&home, &sent, |answer| {
        answers.push(answer);
        true
    });
    assert_eq!(answers.len(), 2_000);
    for (at, answer) in (0_usize..).zip(&answers) {
        let (line, id) = (&answer["line"], &answer["action"]["id"]);
        assert_eq!((line.as_u64(), id.as_u64()), (Some(at as u64 + 1), Some(at as u64 + 1)), "{answer}");
        assert_eq!(answer["status"], 202);
        let sent: Value = serde_json::from_str(&sent[at]).expect("a line");
        for name in ["user", "resource_type", "action", "resource_id", "started_via", "metadata"] {
            assert_eq!(answer["action"][name], sent[name], "{name} of line {line}");
        }
    }
    for id in 1..=2_000 {
        let action = daemon.finished(id);
        assert_eq!((state(&action), &action["finished_success"]), ("succeeded", &Value::Bool(true)));
        assert_eq!(attempts(&action), ["succeeded"]);
    }
}

#[test]
fn no_acknowledged_action_is_lost_or_ends_twice_whatever_the_moment_of_the_kill() {
    let home = Home::new();
    let ledger = home.script(
        "ledger",
        "echo \"$ACTIOND_ID $ACTIOND_ATTEMPT\" >> \"$HOME_DIR/began\"\ncat > /dev/null\nexec sleep 0.02",
    );
    // Two at a time, each a while, so that the work lasts as long as the kills.
    let queue = "[[queue]]\nname = \"default\"\nconcurrency = 2\n";
    let tables = format!("{queue}{}{NOOP}", exec("clear_caches", &ledger, "recovery = \"rerun\""));
    let home = home.configure(SMALL_STORE, &tables);
    let lines: Vec<String> = (1..)
        .zip(actions())
        .map(|(number, line)| {
            let mut spec: Value = serde_json::from_str(&line).expect("a line");
            spec["idempotency_key"] = format!("line-{number}").into();
            spec.to_string()
        })
        .collect();
    let run = run_with_kills(&home, &lines, 24, 1, 2_026);

    assert_eq!(run.ids.iter().collect::<BTreeSet<_>>().len(), 2_000, "each line became one action");
    assert!(run.kills.hits() >= 20, "a kill that hits nothing shows nothing: {:?}", run.kills);
    assert!(run.kills.while_acknowledging > 0 && run.kills.of_running > 0, "{:?}", run.kills);
    let all = run.all;
    assert_eq!(all.len(), 2_000, "no line became two actions");
    for action in &all {
        assert_eq!(state(action), "succeeded", "{action}");
        let ended = attempts(action);
        assert_eq!(ended[0], "succeeded", "{action}");
        assert!(ended[1..].iter().all(|end| end == "interrupted"), "an outcome was recorded twice: {action}");
        let tries = if ended.len() < 10 { ended.len() as u64 } else { action["attempt"].as_u64().unwrap() };
        assert_eq!(action["attempt"].as_u64(), Some(tries), "every claim is accounted for: {action}");
    }
    let began = home.lines("began");
    assert!(began.len() >= 50, "the part with real programs ran: {}", began.len());
    let different: BTreeSet<&String> = began.iter().collect();
    assert_eq!(different.len(), began.len(), "an attempt was started twice");
}
