//! What an attempt says of its steps, and the fences that claims get: durable, and there for the attempts after it.

use super::*;
use crate::action::{Outcome, STEPS_MAX, Step};
use crate::engine::request::Said;
use crate::handlers::NotRecorded;

pub(super) fn steps(names: &[&str]) -> Vec<Step> {
    names.iter().map(|name| Step::begun(*name, Timestamp(7)).unwrap()).collect()
}

/// Says it in the name of a running attempt.
pub(super) async fn say(
    engine: &Engine,
    id: ActionId,
    attempt: u32,
    steps: Vec<Step>,
) -> Result<(), NotRecorded> {
    let (reply, answer) = oneshot::channel();
    engine.inbox.send(Request::Attempt { id, attempt, said: Said::Steps(steps, reply) }).unwrap();
    answer.await.unwrap()
}

pub(super) fn end(engine: &Engine, id: ActionId, attempt: u32, outcome: Outcome) {
    engine.inbox.send(Request::Attempt { id, attempt, said: Said::Ended(outcome, None) }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_and_fences_outlast_a_kill_whatever_runs_the_action_again() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let mut running = Vec::new();
    for (resource, policy) in (1..).zip([Recovery::Rerun, Recovery::Resume, Recovery::Hold]) {
        let id = accepted(&engine, submission(policy.as_str(), resource, FOR_EVER)).await;
        let action = reaches(&engine, id, State::Running).await;
        assert_eq!(action.status.steps, []);
        say(&engine, id, 1, steps(&["build"])).await.unwrap();
        say(&engine, id, 1, steps(&["build", "push"])).await.unwrap();
        running.push((id, policy, action.status.claim.unwrap().fence));
    }
    assert!(running.is_sorted_by_key(|(.., fence)| *fence));
    let after = killed(dir.path());
    let later = open(after.path());
    for (id, policy, fence) in running {
        if policy == Recovery::Hold {
            assert_eq!(reaches(&later, id, State::Held).await.status.steps, steps(&["build", "push"]));
            later.command(OWNER, id, Command::Resume).await.unwrap();
        }
        let status = reaches(&later, id, State::Running).await.status;
        assert_eq!((status.attempt, status.steps), (2, steps(&["build", "push"])), "{policy:?}");
        let fence_now = status.claim.unwrap().fence;
        assert!(fence_now > fence && fence_now >> 32 > fence >> 32, "{fence_now} after {fence}");
    }
    stop(&later).await;
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_try_after_a_failure_gets_steps_and_checkpoint_alike() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let retry = Some(RetryPolicy { attempts: 2, backoff_ms: 0, backoff_max_ms: 0 });
    let id = accepted(&engine, Submission { retry, ..submission("hold", 1, FOR_EVER) }).await;
    let fence = reaches(&engine, id, State::Running).await.status.claim.unwrap().fence;
    say(&engine, id, 1, steps(&["build"])).await.unwrap();
    let (reply, answer) = oneshot::channel();
    let checkpoint = JsonText::from_checked(r#"{"at":3}"#);
    let said = Said::Checkpoint(checkpoint.clone(), reply);
    engine.inbox.send(Request::Attempt { id, attempt: 1, said }).unwrap();
    answer.await.unwrap().unwrap();
    let failed = Outcome::Failed { message: "busy".into(), result: None, retryable: true };
    end(&engine, id, 1, failed);
    let mut changes = engine.changes();
    let again = loop {
        let status = engine.read(id).unwrap().unwrap().status;
        if status.attempt == 2 {
            break status;
        }
        tokio::time::timeout(BOUND, changes.recv()).await.expect("a second attempt").unwrap();
    };
    assert_eq!((again.steps, again.checkpoint), (steps(&["build"]), Some(checkpoint)));
    assert_eq!(again.claim.unwrap().fence, fence + 1);
    assert_eq!(say(&engine, id, 1, Vec::new()).await, Err(NotRecorded::Stopping), "the first has ended");
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_steps_are_refused_and_those_before_stand() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let id = accepted(&engine, submission("rerun", 1, FOR_EVER)).await;
    reaches(&engine, id, State::Running).await;
    let many = steps(&["s"; STEPS_MAX]);
    say(&engine, id, 1, many.clone()).await.unwrap();
    let refused = say(&engine, id, 1, steps(&["s"; STEPS_MAX + 1])).await;
    assert_eq!(refused, Err(NotRecorded::TooManySteps { count: STEPS_MAX + 1 }));
    assert_eq!(engine.read(id).unwrap().unwrap().status.steps, many);
    stop(&engine).await;
}
