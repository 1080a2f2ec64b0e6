//! A daemon that dies on the way from its claim to the program's start: what has not begun is known not to have begun, what
//! has begun is taken up, and so nothing is left to a person and nothing is done twice.

use crate::common::daemon::{Daemon, Start, code};
use crate::common::home::{Home, exec};
use crate::common::{Connection, attempts, is_final, spec, state, until, with};

/// Kills the daemon where it passes that point while it carries out one action under `hold`, and looks after the next start
/// that its program ran once. Whether it came to that point, and whether an attempt was given up for it.
fn runs_once_although_killed(at: &str) -> (bool, bool) {
    let home = Home::new();
    let program = home.script("program", "read -r action\necho $ACTIOND_ATTEMPT >> $HOME_DIR/began");
    let home = home.with_tables(&exec("deploy", &program, "recovery = \"hold\"\nretry = { attempts = 1 }"));
    let spec = with(spec("deploy", 1), "idempotency_key", "once");
    let start = Start { environment: &[("ACTIOND_CRASH_AT", at)], ..Start::default() };
    let status = Daemon::start_as(&home, &start).map_or_else(
        |status| status,
        |daemon| {
            let ask = |method: &str, path: &str, body: Option<&[u8]>| {
                Connection::unix(&home.socket()).and_then(|mut door| door.ask(method, path, body))
            };
            let _ = ask("POST", "/v1/actions", Some(spec.to_string().as_bytes()));
            until("its end, or the daemon's", || match ask("GET", "/v1/actions/1", None) {
                Ok(answer) => (answer.status == 200 && is_final(&answer.json())).then_some(()),
                Err(_) => Some(()),
            });
            daemon.stop()
        },
    );
    let daemon = Daemon::start(&home);
    let id = daemon.submit(&spec).json()["id"].as_u64().expect("an id");
    until("its end", || {
        let action = daemon.action(id);
        assert_ne!(state(&action), "held", "{at}: {action}");
        is_final(&action).then_some(())
    });
    let action = daemon.action(id);
    assert_eq!((state(&action), &action["tries_used"]), ("succeeded", &1.into()), "{at}: {action}");
    assert_eq!(home.lines("began"), [action["attempt"].to_string()], "{at}: {action}");
    let ends = attempts(&action);
    assert!(ends[0] == "succeeded" && ends[1..].iter().all(|end| end == "interrupted"), "{at}: {action}");
    println!("{at}: {} attempts, {status}", ends.len());
    (code(status) == 137, ends.len() > 1)
}

#[test]
fn program_runs_once_under_hold_wherever_the_daemon_dies_before_it_follows_it() {
    for (at, is_given_up) in [
        ("attempt_claimed", true),
        ("program_ordered", true),
        ("program_spawned", true),
        ("program_recorded", true),
        ("program_released", false),
        ("program_ended", false),
        ("outcome_staged", false),
    ] {
        assert_eq!(runs_once_although_killed(at), (true, is_given_up), "{at}");
    }
}

#[test]
fn program_runs_once_under_hold_whichever_write_of_its_claim_or_its_keeper_is_torn() {
    let mut given_up = 0;
    for point in ["journal_write", "journal_unsynced", "journal_synced"] {
        // From the start's own group on to those of the submission, the claim, the keeper's name and the outcome.
        let killed: Vec<bool> = (1..=8)
            .map(|pass| runs_once_although_killed(&format!("{point}:{pass}")))
            .take_while(|(is_reached, _)| *is_reached)
            .map(|(_, is_given_up)| is_given_up)
            .collect();
        assert!((3..8).contains(&killed.len()), "{point}: {killed:?}");
        given_up += killed.iter().filter(|is_given_up| **is_given_up).count();
    }
    assert!(given_up >= 3, "{given_up} attempts that had not begun");
}
