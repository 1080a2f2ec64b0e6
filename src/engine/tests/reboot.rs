//! Reboots of the host that actions ask for, on a host that only says that it was asked.

use std::sync::atomic::AtomicUsize;

use super::steps::{end, say, steps};
use super::*;
use crate::action::{AttemptEnd, Outcome};
use crate::handlers::BoxFuture;

/// A host that nobody can reboot.
pub(super) struct NoHost;

impl Host for NoHost {
    fn cannot_reboot(&self) -> Option<String> {
        Some("there is no host".into())
    }

    fn reboot(&self) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// A host that counts how often it was asked, and answers.
struct FakeHost {
    asked: AtomicUsize,
    answer: Result<(), String>,
}

impl FakeHost {
    fn new(answer: Result<(), String>) -> Arc<Self> {
        Arc::new(Self { asked: AtomicUsize::new(0), answer })
    }

    async fn was_asked(&self, times: usize) {
        let asked = async {
            while self.asked.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(BOUND, asked).await.expect("it was asked");
        assert_eq!(self.asked.load(Ordering::SeqCst), times);
    }
}

impl Host for FakeHost {
    fn cannot_reboot(&self) -> Option<String> {
        None
    }

    fn reboot(&self) -> BoxFuture<'static, Result<(), String>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.clone();
        Box::pin(async move { answer })
    }
}

fn open_beside(dir: &Path, host: &Arc<FakeHost>) -> Engine {
    let clock = || Timestamp(chrono::Utc::now().timestamp_millis());
    open_on(dir, clock, 16 << 20, Arc::<FakeHost>::clone(host))
}

fn reboot() -> Outcome {
    Outcome::Reboot { message: "kernel installed".into() }
}

async fn running(engine: &Engine, policy: Recovery, resource_id: u64) -> ActionId {
    let id = accepted(engine, submission(policy.as_str(), resource_id, FOR_EVER)).await;
    reaches(engine, id, State::Running).await;
    id
}

fn cancel() -> Command {
    Command::Cancel { reason: String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_is_rebooted_when_nothing_runs_and_nothing_begins_before() {
    let dir = TempDir::new().unwrap();
    let host = FakeHost::new(Ok(()));
    let engine = open_beside(dir.path(), &host);
    let asks = running(&engine, Recovery::Resume, 1).await;
    let runs = running(&engine, Recovery::Hold, 2).await;
    say(&engine, asks, 1, steps(&["kernel"])).await.unwrap();
    end(&engine, asks, 1, reboot());
    let status = reaches(&engine, asks, State::Rebooting).await.status;
    assert_eq!((status.reboots, status.tries_used, status.steps), (1, 0, steps(&["kernel"])));
    assert!(status.claim.is_some_and(|claim| claim.program.is_none()), "the boot of its claim is needed");
    let reason =
        "asked for reboot 1 of 3 of the host, which comes when what runs has ended: kernel installed";
    assert_eq!(status.reason, reason);

    let waits = accepted(&engine, submission("rerun", 3, "{}")).await;
    let why = engine.explain(waits).await.unwrap().causes;
    assert_eq!(why[0].code, "reboot_due", "{why:?}");
    assert!(why[0].text.contains(&format!("(action {runs}), or in ")), "{}", why[0].text);
    let why = engine.explain(asks).await.unwrap().causes;
    assert!(why[0].code == "rebooting" && why[0].text.starts_with(reason), "{}", why[0].text);
    assert_eq!(host.asked.load(Ordering::SeqCst), 0);

    engine.command(OWNER, runs, cancel()).await.unwrap();
    reaches(&engine, runs, State::Cancelled).await;
    host.was_asked(1).await;
    let why = engine.explain(asks).await.unwrap().causes;
    assert!(why[0].text.contains("it was asked for"), "{}", why[0].text);
    assert_eq!(engine.read(waits).unwrap().unwrap().status.state, State::Queued);

    // The daemon is killed before the host goes down: on the same boot it is asked for again, and nothing else begins.
    let after = killed(dir.path());
    let again = FakeHost::new(Ok(()));
    let later = open_beside(after.path(), &again);
    again.was_asked(1).await;
    assert_eq!(later.read(asks).unwrap().unwrap().status.state, State::Rebooting);
    assert_eq!(later.explain(waits).await.unwrap().causes[0].code, "reboot_due");
    stop(&later).await;
    stop(&engine).await;

    // If that goes on, the boots may just not be told apart: the host is not rebooted for ever.
    let host = FakeHost::new(Ok(()));
    let third = open_beside(after.path(), &host);
    host.was_asked(1).await;
    stop(&third).await;
    let last = open_beside(after.path(), &host);
    let held = reaches(&last, asks, State::Held).await.status;
    assert!(held.reason.contains("started 3 times since, on the same boot"), "{}", held.reason);
    reaches(&last, waits, State::Succeeded).await;
    assert_eq!(host.asked.load(Ordering::SeqCst), 1);
    stop(&last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_before_it_is_asked_for_the_reboot_does_not_come() {
    let dir = TempDir::new().unwrap();
    let host = FakeHost::new(Ok(()));
    let engine = open_beside(dir.path(), &host);
    let asks = running(&engine, Recovery::Rerun, 1).await;
    let runs = running(&engine, Recovery::Rerun, 2).await;
    let soon = Some(Timestamp(chrono::Utc::now().timestamp_millis() + 1_500));
    let late = accepted(&engine, Submission { deadline: soon, ..submission("rerun", 3, FOR_EVER) }).await;
    reaches(&engine, late, State::Running).await;
    end(&engine, asks, 1, reboot());
    end(&engine, late, 1, reboot());
    reaches(&engine, asks, State::Rebooting).await;
    let waits = accepted(&engine, submission("rerun", 4, "{}")).await;
    let timed_out = reaches(&engine, late, State::TimedOut).await.status.finish.unwrap();
    assert!(timed_out.message.contains("deadline"), "{}", timed_out.message);
    assert_eq!(engine.read(waits).unwrap().unwrap().status.state, State::Queued);
    engine.command(OWNER, asks, cancel()).await.unwrap();
    assert_eq!(engine.read(asks).unwrap().unwrap().status.state, State::Cancelled);
    reaches(&engine, waits, State::Succeeded).await;
    engine.command(OWNER, runs, cancel()).await.unwrap();
    reaches(&engine, runs, State::Cancelled).await;
    assert_eq!(host.asked.load(Ordering::SeqCst), 0);
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reboot_that_fails_holds_the_action_and_a_fourth_fails_it() {
    let dir = TempDir::new().unwrap();
    let host = FakeHost::new(Err("reboot ended with exit code 1: not today".into()));
    let engine = open_beside(dir.path(), &host);
    let id = running(&engine, Recovery::Rerun, 1).await;
    for count in 1..=3 {
        end(&engine, id, count, reboot());
        let held = reaches(&engine, id, State::Held).await.status;
        assert!(held.reason.contains("reboot ended with exit code 1: not today"), "{}", held.reason);
        assert_eq!(held.reboots, count);
        host.was_asked(count as usize).await;
        if count == 1 {
            // Nobody waits for a reboot any more.
            let beside = accepted(&engine, submission("rerun", 2, "{}")).await;
            reaches(&engine, beside, State::Succeeded).await;
        }
        engine.command(OWNER, id, Command::Resume).await.unwrap();
        reaches(&engine, id, State::Running).await;
    }
    end(&engine, id, 4, reboot());
    let failed = reaches(&engine, id, State::Failed).await.status;
    assert_eq!(failed.finish.unwrap().message, "asked for a reboot a fourth time; kernel installed");
    assert_eq!((failed.reboots, failed.attempts.last().map(|last| last.end)), (3, Some(AttemptEnd::Failed)));
    assert_eq!(host.asked.load(Ordering::SeqCst), 3);
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_host_cannot_be_rebooted_the_action_fails_at_once() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let id = running(&engine, Recovery::Rerun, 1).await;
    end(&engine, id, 1, reboot());
    let failed = reaches(&engine, id, State::Failed).await.status;
    assert_eq!(failed.finish.unwrap().message, "asked for a reboot: there is no host; kernel installed");
    assert_eq!(failed.reboots, 0);
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_that_stops_leaves_the_reboot_to_its_next_start() {
    let dir = TempDir::new().unwrap();
    let host = FakeHost::new(Ok(()));
    let engine = open_beside(dir.path(), &host);
    let asks = running(&engine, Recovery::Rerun, 1).await;
    let runs = running(&engine, Recovery::Rerun, 2).await;
    end(&engine, asks, 1, reboot());
    reaches(&engine, asks, State::Rebooting).await;
    stop(&engine).await;
    assert_eq!(host.asked.load(Ordering::SeqCst), 0);
    let later = open_beside(dir.path(), &host);
    host.was_asked(1).await;
    assert_eq!(later.read(runs).unwrap().unwrap().status.state, State::Queued);
    later.command(OWNER, asks, cancel()).await.unwrap();
    assert_eq!(later.explain(runs).await.unwrap().causes[0].code, "reboot_due", "it cannot be called back");
    stop(&later).await;
}
