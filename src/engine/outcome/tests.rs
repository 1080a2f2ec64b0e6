use super::*;
use crate::action::{Actor, Body, Claim, OnConflict, Recovery, RetryPolicy};
use std::sync::Arc;

/// An action with one attempt that began at 0, as other tests use it too.
pub fn action(state: State) -> Action {
    let body = Body {
        user: "user@example.org".into(),
        resource_type: "Stack".into(),
        action: "deploy".into(),
        resource_id: 7,
        started_via: "web".into(),
        metadata: JsonText::empty(),
        accepted_at: Timestamp(0),
        submitter: Actor { uid: 1000, gid: 1000, pid: 1 },
        queue: "default".into(),
        priority: 5,
        run_at: None,
        deadline: None,
        timeout_ms: 60_000,
        on_conflict: OnConflict::Queue,
        idempotency_key: None,
        request_digest: [0; 16],
        retry: RetryPolicy { attempts: 3, backoff_ms: 1_000, backoff_max_ms: 10_000 },
        recovery: Recovery::Rerun,
        locks: Vec::new(),
        retry_of: None,
    };
    let mut status = Status::accepted(state, None);
    status.attempt = 1;
    if state.is_active() {
        let claim = Claim {
            incarnation: 1,
            boot_id: "b".into(),
            began_at: Timestamp(0),
            fence: 1,
            is_gated: false,
            program: None,
        };
        status.claim = Some(claim);
    }
    Action { id: ActionId(1), body: Arc::new(body), status }
}

fn edit(mut action: Action, edit: impl FnOnce(&mut Body, &mut Status)) -> Action {
    edit(Arc::make_mut(&mut action.body), &mut action.status);
    action
}

fn outcomes() -> [Outcome; 8] {
    let message = String::new();
    [
        Outcome::Succeeded { message: message.clone(), result: None },
        Outcome::Failed { message: message.clone(), result: None, retryable: true },
        Outcome::Failed { message: message.clone(), result: None, retryable: false },
        Outcome::Cancelled { message: message.clone(), result: None },
        Outcome::TimedOut { message: message.clone(), result: None },
        Outcome::Interrupted,
        Outcome::Unkillable { message: message.clone() },
        Outcome::Reboot { message },
    ]
}

fn next(action: &Action) -> [Next; 8] {
    outcomes().map(|outcome| what_follows(action, &outcome, Timestamp(500), 1.0, true))
}

#[test]
fn each_outcome_of_a_running_attempt_gives_what_its_table_says() {
    let rerun = Next::Interrupted(Decision::Requeue);
    let retry = Next::RetryAt(Timestamp(1_500));
    let first = action(State::Running);
    let expected = [
        Next::Succeed,
        retry.clone(),
        Next::Fail,
        Next::Fail,
        retry.clone(),
        rerun.clone(),
        Next::Hold,
        Next::Reboot,
    ];
    assert_eq!(next(&first), expected);

    let last = edit(action(State::Running), |_, status| status.tries_used = 2);
    let expected = [
        Next::Succeed,
        Next::Fail,
        Next::Fail,
        Next::Fail,
        Next::TimeOut,
        rerun.clone(),
        Next::Hold,
        Next::Reboot,
    ];
    assert_eq!(next(&last), expected);

    let late = edit(action(State::Running), |body, _| body.deadline = Some(Timestamp(500)));
    let timed_out = Next::Interrupted(Decision::TimeOut);
    let expected = [
        Next::Succeed,
        Next::Fail,
        Next::Fail,
        Next::Fail,
        Next::TimeOut,
        timed_out,
        Next::Hold,
        Next::TimeOut,
    ];
    assert_eq!(next(&late), expected);

    let soon = edit(action(State::Running), |body, _| body.deadline = Some(Timestamp(1_500)));
    assert_eq!(next(&soon)[1], Next::Fail, "a try that cannot begin before the deadline is not promised");
}

#[test]
fn cancelled_action_ends_as_cancelled_unless_it_was_faster() {
    let mut expected = [const { Next::CancelDone }; 8];
    expected[0] = Next::Succeed;
    expected[6] = Next::Hold;
    assert_eq!(next(&action(State::Cancelling)), expected);
}

#[test]
fn attempt_that_claims_a_shutdown_uses_up_a_try() {
    let action = action(State::Running);
    let follows = what_follows(&action, &Outcome::Interrupted, Timestamp(500), 1.0, false);
    assert_eq!(follows, Next::RetryAt(Timestamp(1_500)));
    for policy in [Recovery::Probe, Recovery::Fail, Recovery::Hold] {
        let action = edit(action.clone(), |body, _| body.recovery = policy);
        let follows = what_follows(&action, &Outcome::Interrupted, Timestamp(500), 1.0, false);
        assert_eq!(follows, Next::Interrupted(by_policy(policy)));
    }
}

#[test]
fn wait_for_the_next_try_doubles() {
    let second = edit(action(State::Running), |_, status| status.tries_used = 1);
    assert_eq!(next(&second)[1], Next::RetryAt(Timestamp(2_500)));
}

#[test]
fn no_try_is_made_before_the_attempt_says_within_the_longest_wait() {
    let later = |action: &Action, after_ms| {
        let outcome = Outcome::TryLater { message: String::new(), result: None, after_ms };
        what_follows(action, &outcome, Timestamp(500), 1.0, true)
    };
    let first = action(State::Running);
    for (after_ms, due) in [(0, 1_500), (999, 1_500), (7_000, 7_500), (60_000, 10_500)] {
        assert_eq!(later(&first, after_ms), Next::RetryAt(Timestamp(due)), "{after_ms}");
    }
    let soon = edit(action(State::Running), |body, _| body.deadline = Some(Timestamp(7_000)));
    assert_eq!(later(&soon, 7_000), Next::Fail);
    let last = edit(action(State::Running), |_, status| status.tries_used = 2);
    assert_eq!(later(&last, 7_000), Next::Fail);
    assert_eq!(later(&action(State::Cancelling), 7_000), Next::CancelDone);
}

#[test]
fn every_end_has_a_message() {
    for state in [State::Running, State::Cancelling] {
        for outcome in outcomes() {
            let (end, message, _) = told(&action(state), outcome, Timestamp(12_000));
            assert!(!message.is_empty() || (end == AttemptEnd::Cancelled && state == State::Cancelling));
        }
    }
    let timed_out = Outcome::TimedOut { message: "killed".into(), result: None };
    let (_, message, _) = told(&action(State::Running), timed_out, Timestamp(60_000));
    assert_eq!(message, "its timeout was over after 60 s; killed");
}

#[test]
fn finished_fields_say_the_state_where_the_message_is_ours() {
    let fields = |state| finish_fields(state, Timestamp(9), "by uid 1000 after 12 s", None, 10);
    assert_eq!(fields(State::Cancelled).message, "[cancelled] by uid 1000 after 12 s");
    assert_eq!(fields(State::TimedOut).message, "[timed_out] by uid 1000 after 12 s");
    assert_eq!(fields(State::Failed).message, "by uid 1000 after 12 s");
    assert!(fields(State::Succeeded).success);
    assert!(!fields(State::Expired).success);
}

#[test]
fn result_that_is_too_large_is_left_out_and_named() {
    let result = |text: &str| Some(JsonText::from_checked(text));
    let fields = finish_fields(State::Succeeded, Timestamp(9), "done", result("{\"a\":12345}"), 10);
    assert_eq!(fields.message, "done [its result of 11 bytes is left out: the limit is 10]");
    assert_eq!(fields.result, JsonText::empty());
    assert!(fields.success);
    let fields = finish_fields(State::Succeeded, Timestamp(9), "done", result("{\"a\":1234}"), 10);
    assert_eq!((fields.message.as_str(), fields.result.as_str()), ("done", "{\"a\":1234}"));
}

#[test]
fn history_keeps_the_last_attempts_and_short_messages() {
    let mut status = action(State::Running).status;
    let claim = status.claim.clone();
    for attempt in 1..=25 {
        status.attempt = attempt;
        status.claim.clone_from(&claim);
        end_attempt(&mut status, Timestamp(7), AttemptEnd::Failed, &"é".repeat(10_000));
    }
    end_attempt(&mut status, Timestamp(8), AttemptEnd::Failed, "no attempt runs");
    let numbers: Vec<u32> = status.attempts.iter().map(|record| record.attempt).collect();
    assert_eq!(numbers, (16..=25).collect::<Vec<u32>>());
    assert!(status.attempts.iter().all(|record| record.message.len() == EXCERPT_BYTES));
}

#[test]
fn text_is_cut_between_characters() {
    assert_eq!(cut("aéé", 4), "aé");
    assert_eq!(cut("aéé", 5), "aéé");
    assert_eq!(cut("abc", 100), "abc");
    assert_eq!(cut("é", 1), "");
}
