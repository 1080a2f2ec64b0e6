//! The whole engine over a real store: what a client sees, and what a killed daemon leaves behind.
//!
//! A kill is a copy of the store's directory while the engine runs: the files as the page cache has them.

mod damage;
mod locks;
mod reboot;
mod steps;
mod waits;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::action::{JsonText, OnConflict, Recovery, RetryPolicy, State, Timestamp};
use crate::handlers::exec::Exec;
use crate::handlers::registry::{RouteSettings, Surroundings};
use crate::runner::adoption::Survey;
use crate::runner::logs::Logs;
use crate::store;

const BOUND: Duration = Duration::from_secs(20);
const FOR_EVER: &str = r#"{"sleep_ms":3600000}"#;
const OWNER: Actor = Actor { uid: 1000, gid: 1000, pid: 1 };
/// A clock that goes on by a millisecond whenever it is read: due times and deadlines fall into every turn.
static NOW: AtomicI64 = AtomicI64::new(1);
const STRANGER: Actor = Actor { uid: 1001, gid: 1001, pid: 2 };

/// One handler, `noop`, for each recovery policy: the action's type is the policy's word.
fn registry() -> Arc<Registry> {
    let routes: Vec<RouteSettings> = Recovery::ALL
        .into_iter()
        .map(|recovery| RouteSettings {
            action: recovery.as_str().into(),
            resource_type: None,
            handler: "noop".into(),
            queue: "default".into(),
            recovery: Some(recovery),
            timeout_ms: 3_600_000,
            retry: RetryPolicy::default(),
            exclusive: Some(true),
            own: toml::Table::new(),
        })
        .collect();
    let around = Surroundings::of_tests(1_000);
    Arc::new(Registry::build(&routes, &around).unwrap())
}

fn open(dir: &Path) -> Engine {
    open_under(dir, || Timestamp(chrono::Utc::now().timestamp_millis()))
}

fn open_under(dir: &Path, clock: fn() -> Timestamp) -> Engine {
    open_with(dir, clock, 16 << 20)
}

fn open_with(dir: &Path, clock: fn() -> Timestamp, memory_bytes_max: u64) -> Engine {
    open_on(dir, clock, memory_bytes_max, Arc::new(reboot::NoHost))
}

fn open_on(dir: &Path, clock: fn() -> Timestamp, memory_bytes_max: u64, host: Arc<dyn Host>) -> Engine {
    let options = store::Options {
        dir: dir.join("store"),
        segment_bytes: 1 << 20,
        memory_bytes_max,
        cache_bytes: 4 << 20,
        snapshot_after_bytes: 8 << 20,
        disk_reserve_bytes: 0,
        retention_age_ms: 86_400_000,
        retention_count: 10_000,
        key_age_ms: 7 * 86_400_000,
    };
    let queue = QueueSettings { name: "default".into(), concurrency: 4, length_max: 100 };
    let settings = Settings {
        queues: vec![queue],
        running_max: 8,
        waiting_max: 100,
        result_bytes_max: 1_024,
        reboot_wait_ms: 600_000,
        operator_uids: vec![],
        operator_gids: vec![],
        config_file: "/etc/actiond.toml".into(),
    };
    std::fs::create_dir_all(dir.join("store")).unwrap();
    let started = start(Start {
        store: options,
        settings,
        registry: registry(),
        adopter: Arc::new(Exec::only_adopting(&Surroundings::of_tests(1_000))),
        logs: Logs::new(dir.join("logs"), 1 << 16),
        runtime: tokio::runtime::Handle::current(),
        faces: tokio::runtime::Handle::current(),
        clock,
        own_uid: 999,
        host,
        death: None,
    })
    .unwrap();
    drop(started.begin.run(&Survey::default(), &HashMap::new()).unwrap());
    started.engine
}

fn submission(action: &str, resource_id: u64, metadata: &str) -> Submission {
    Submission {
        actor: OWNER,
        user: "user@example.org".into(),
        resource_type: "Stack".into(),
        action: action.into(),
        resource_id,
        started_via: "test".into(),
        metadata: JsonText::from_checked(metadata),
        queue: None,
        priority: None,
        run_at: None,
        deadline: None,
        timeout_ms: None,
        on_conflict: OnConflict::Queue,
        idempotency_key: None,
        retry: None,
        digest: [0; 16],
    }
}

async fn submit(engine: &Engine, submission: Submission) -> Result<Accepted, SubmitError> {
    engine.submit(vec![submission]).await.pop().unwrap()
}

async fn accepted(engine: &Engine, submission: Submission) -> ActionId {
    match submit(engine, submission).await.unwrap() {
        Accepted::New(action) => action.id,
        other => panic!("{other:?}"),
    }
}

/// Waits until the action is in that state.
async fn reaches(engine: &Engine, id: ActionId, state: State) -> Action {
    let mut changes = engine.changes();
    let reached = async {
        loop {
            let action = engine.read(id).unwrap().unwrap();
            if action.status.state == state {
                return action;
            }
            // A lagging follower looks again all the same.
            let _ = changes.recv().await;
        }
    };
    tokio::time::timeout(BOUND, reached).await.unwrap_or_else(|_| panic!("{id} never became {state}"))
}

fn killed(dir: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let copied = TempDir::new().unwrap();
    copy(dir, copied.path());
    copied
}

async fn stop(engine: &Engine) {
    let ended = async {
        tokio::join!(engine.drain(), async { engine.stop_attempts() });
        engine.close().await;
    };
    tokio::time::timeout(BOUND, ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn action_runs_to_its_end_and_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let id = accepted(&engine, submission("rerun", 1, "{}")).await;
    tokio::time::timeout(BOUND, engine.settled(id, u64::MAX)).await.unwrap();
    let ended = engine.read(id).unwrap().unwrap();
    assert_eq!((ended.status.state, ended.status.attempt), (State::Succeeded, 1));
    assert!(!ended.status.finish.as_ref().unwrap().message.is_empty());
    stop(&engine).await;
    assert!(matches!(submit(&engine, submission("rerun", 1, "{}")).await, Err(SubmitError::Store)));
    assert_eq!(open(dir.path()).read(id).unwrap(), Some(ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_action_on_a_resource_waits_until_the_first_is_cancelled() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let first = accepted(&engine, submission("hold", 1, FOR_EVER)).await;
    let second = accepted(&engine, submission("hold", 1, "{}")).await;
    reaches(&engine, first, State::Running).await;
    let why = engine.explain(second).await.unwrap();
    assert_eq!((why.causes[0].code, why.causes[0].behind), ("behind_resource", Some(first)));
    let cancel = || Command::Cancel { reason: "no longer wanted".into() };
    let refused = engine.command(STRANGER, first, cancel()).await;
    assert!(matches!(refused, Err(CommandError::NotAllowed { uid: 1001, owner: 1000 })));
    let cancelling = engine.command(OWNER, first, cancel()).await.unwrap();
    assert_eq!(cancelling.status.state, State::Cancelling);
    let message = reaches(&engine, first, State::Cancelled).await.status.finish.unwrap().message;
    assert!(message.starts_with("[cancelled] by uid 1000 after"), "{message}");
    reaches(&engine, second, State::Succeeded).await;
    let again = engine.command(OWNER, first, Command::Retry).await.unwrap();
    assert_eq!(again.body.retry_of, Some(first));
    assert!(matches!(engine.command(OWNER, first, cancel()).await, Err(CommandError::WrongState { .. })));
    engine.command(OWNER, again.id, cancel()).await.unwrap();
    reaches(&engine, again.id, State::Cancelled).await;
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_key_stands_for_its_first_action() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let keyed = |digest| Submission {
        idempotency_key: Some("k".into()),
        digest: [digest; 16],
        ..submission("rerun", 1, "{}")
    };
    // Both in one batch: the first is staged, not yet durable, when the second is decided.
    let answers = engine.submit(vec![keyed(1), keyed(1), keyed(2)]).await;
    let [Ok(Accepted::New(new)), Ok(Accepted::Repeated(same)), Err(SubmitError::KeyReused { id })] =
        &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((new.id, new.id), (same.id, *id));
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_answered_as_asked() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let with = |on_conflict| Submission { on_conflict, ..submission("hold", 1, FOR_EVER) };
    let first = accepted(&engine, with(OnConflict::Queue)).await;
    reaches(&engine, first, State::Running).await;
    let refused = submit(&engine, with(OnConflict::Reject)).await;
    assert!(matches!(refused, Err(SubmitError::Conflict { id }) if id == first));
    let joined = submit(&engine, with(OnConflict::Join)).await;
    assert!(matches!(joined, Ok(Accepted::Joined(action)) if action.id == first));
    let second = accepted(&engine, with(OnConflict::Queue)).await;
    let third = accepted(&engine, with(OnConflict::ReplaceQueued)).await;
    let replaced = reaches(&engine, second, State::Superseded).await.status.finish.unwrap();
    assert!(replaced.message.starts_with("[superseded]"), "{}", replaced.message);
    assert_eq!(engine.read(third).unwrap().unwrap().status.state, State::Queued);
    let beside = accepted(&engine, with(OnConflict::Parallel)).await;
    reaches(&engine, beside, State::Running).await;
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_recovery_policy_decides_about_an_attempt_that_was_killed() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let mut ids = HashMap::new();
    for (resource, policy) in (1..).zip([Recovery::Rerun, Recovery::Resume, Recovery::Fail, Recovery::Hold]) {
        let id = accepted(&engine, submission(policy.as_str(), resource, FOR_EVER)).await;
        reaches(&engine, id, State::Running).await;
        ids.insert(policy, id);
    }
    let after = killed(dir.path());
    let later = open(after.path());
    for policy in [Recovery::Rerun, Recovery::Resume] {
        let action = reaches(&later, ids[&policy], State::Running).await;
        assert_eq!((action.status.attempt, action.status.tries_used), (2, 0), "{policy:?}");
        assert_eq!(action.status.attempts[0].end, crate::action::AttemptEnd::Interrupted);
    }
    let failed = reaches(&later, ids[&Recovery::Fail], State::Failed).await;
    assert!(failed.status.finish.unwrap().message.starts_with("interrupted"));
    let held = reaches(&later, ids[&Recovery::Hold], State::Held).await;
    assert_eq!(held.status.attempt, 1, "nothing was run again");
    let resolve = Command::Resolve { success: true, message: "done by hand".into() };
    let settled = later.command(OWNER, held.id, resolve).await.unwrap();
    assert_eq!(settled.status.finish.as_ref().unwrap().message, "done by hand (settled by uid 1000)");
    stop(&later).await;
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_interrupts_an_attempt_without_using_up_a_try() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let id = accepted(&engine, submission("rerun", 1, FOR_EVER)).await;
    reaches(&engine, id, State::Running).await;
    stop(&engine).await;
    let later = open(dir.path());
    let action = reaches(&later, id, State::Running).await;
    assert_eq!((action.status.attempt, action.status.tries_used), (2, 0));
    stop(&later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_queue_stays_paused_over_a_restart_and_a_hold_lasts() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let root = Actor { uid: 0, gid: 0, pid: 1 };
    assert!(matches!(
        engine.pause_queue(OWNER, "default".into(), true).await,
        Err(CommandError::NotAllowed { .. })
    ));
    assert!(engine.pause_queue(root, "default".into(), true).await.unwrap().paused);
    let id = accepted(&engine, submission("rerun", 1, "{}")).await;
    let held = accepted(&engine, submission("rerun", 2, "{}")).await;
    engine.command(OWNER, held, Command::Hold { reason: "not today".into() }).await.unwrap();
    stop(&engine).await;
    let later = open(dir.path());
    assert_eq!(later.explain(id).await.unwrap().causes[0].code, "queue_paused");
    later.pause_queue(root, "default".into(), false).await.unwrap();
    reaches(&later, id, State::Succeeded).await;
    assert_eq!(later.read(held).unwrap().unwrap().status.reason, "held by uid 1000: not today");
    later.command(OWNER, held, Command::Resume).await.unwrap();
    reaches(&later, held, State::Succeeded).await;
    stop(&later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadline_ends_what_waits_and_what_runs() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let soon = || Some(Timestamp(chrono::Utc::now().timestamp_millis() + 300));
    let runs = accepted(&engine, Submission { deadline: soon(), ..submission("rerun", 1, FOR_EVER) }).await;
    let waits = accepted(&engine, Submission { deadline: soon(), ..submission("rerun", 1, "{}") }).await;
    let message = reaches(&engine, runs, State::TimedOut).await.status.finish.unwrap().message;
    assert!(message.starts_with("[timed_out] its deadline was over"), "{message}");
    // Whichever is first: it expires, or the resource is free just before and it runs.
    tokio::time::timeout(BOUND, engine.settled(waits, u64::MAX)).await.unwrap();
    let state = engine.read(waits).unwrap().unwrap().status.state;
    assert!(matches!(state, State::Expired | State::Succeeded), "{state}");
    stop(&engine).await;
}

/// Commands in any order, on actions that end at any moment, never make the engine ask for an illegal
/// transition (which would end it), and in the end every action is final.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_of_commands_leaves_every_action_in_a_final_state() {
    let dir = TempDir::new().unwrap();
    let engine = open_under(dir.path(), || Timestamp(NOW.fetch_add(1, Ordering::Relaxed)));
    let mut random = fastrand::Rng::with_seed(7);
    let soon = |ms: u64| Timestamp(NOW.load(Ordering::Relaxed)).plus_ms(ms);
    let mut last = 0;
    for _ in 0..1_500 {
        let on_conflict = OnConflict::ALL[random.usize(..OnConflict::ALL.len())];
        let request = Submission {
            on_conflict,
            run_at: random.bool().then(|| soon(random.u64(..20))),
            deadline: (random.u8(..4) == 0).then(|| soon(1 + random.u64(..30))),
            timeout_ms: Some(1 + random.u64(..4)),
            retry: Some(RetryPolicy { attempts: 3, backoff_ms: 2, backoff_max_ms: 4 }),
            priority: Some(random.u8(..10)),
            ..submission("rerun", random.u64(1..20), if random.bool() { "{}" } else { FOR_EVER })
        };
        match submit(&engine, request).await {
            Ok(Accepted::New(action)) => last = action.id.0,
            Err(SubmitError::Store) => panic!("the engine has ended"),
            Ok(_) | Err(_) => {}
        }
        let text = String::new;
        let command = match random.u8(..10) {
            0..=2 => Command::Cancel { reason: text() },
            3 => Command::Retry,
            4 => Command::Hold { reason: text() },
            5 | 8 | 9 => Command::Resume,
            6 => Command::Resolve { success: random.bool(), message: text() },
            _ => Command::Unlock,
        };
        let id = ActionId(random.u64(last.saturating_sub(30)..=last).max(1));
        if let Err(CommandError::Stopping) = engine.command(OWNER, id, command).await {
            panic!("the engine has ended")
        }
    }
    let mut left = Vec::new();
    engine
        .scan_back(None, &mut |action| {
            left.push(action.id);
            true
        })
        .unwrap();
    for id in left {
        let _ = engine.command(OWNER, id, Command::Cancel { reason: "the test is over".into() }).await;
        tokio::time::timeout(BOUND, engine.settled(id, u64::MAX))
            .await
            .unwrap_or_else(|_| panic!("{id} never ended"));
    }
    let status = engine.status();
    assert_eq!(status.by_state[..State::Succeeded as usize], [0; State::Succeeded as usize]);
    let queue = &status.queues[0];
    assert_eq!((queue.waiting, queue.running), (0, 0));
    stop(&engine).await;
}
