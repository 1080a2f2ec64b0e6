//! Locks of a held action that a person freed, over a kill.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freed_locks_stay_freed_over_a_kill_until_the_next_claim() {
    let dir = TempDir::new().unwrap();
    let root = Actor { uid: 0, gid: 0, pid: 1 };
    let engine = open(dir.path());
    let held = accepted(&engine, submission("hold", 1, FOR_EVER)).await;
    reaches(&engine, held, State::Running).await;
    let interrupted = killed(dir.path());
    stop(&engine).await;
    let engine = open(interrupted.path());
    reaches(&engine, held, State::Held).await;
    // Nobody gets the locks before the kill, so nothing but the status can tell that they are free.
    engine.pause_queue(root, "default".into(), true).await.unwrap();
    let runs = accepted(&engine, submission("hold", 1, FOR_EVER)).await;
    let last = accepted(&engine, submission("hold", 1, "{}")).await;
    let freed = engine.command(OWNER, held, Command::Unlock).await.unwrap();
    assert!(freed.status.locks_freed);
    let again = engine.command(OWNER, held, Command::Unlock).await.unwrap();
    assert_eq!(again.status.version, freed.status.version, "once is enough");
    let unlocked = killed(interrupted.path());
    stop(&engine).await;
    let engine = open(unlocked.path());
    engine.pause_queue(root, "default".into(), false).await.unwrap();
    reaches(&engine, runs, State::Running).await;
    engine.command(OWNER, held, Command::Resume).await.unwrap();
    assert_eq!(engine.explain(held).await.unwrap().causes[0].behind, Some(runs));
    engine.command(OWNER, runs, Command::Cancel { reason: String::new() }).await.unwrap();
    // Its place is by its id again: before the last one.
    assert!(!reaches(&engine, held, State::Running).await.status.locks_freed);
    assert_eq!(engine.explain(last).await.unwrap().causes[0].behind, Some(held));
    stop(&engine).await;
}
