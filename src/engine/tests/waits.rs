//! Who waits for an action is woken when it ends and when it becomes held.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_woken_when_the_action_becomes_held_after_what_they_saw() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let root = Actor { uid: 0, gid: 0, pid: 1 };
    engine.pause_queue(root, "default".into(), true).await.unwrap();
    let id = accepted(&engine, submission("hold", 1, "{}")).await;
    let seen = engine.read(id).unwrap().unwrap().status.version;
    let waiting = |seen| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.settled(id, seen).await })
    };
    let (for_hold, for_end) = (waiting(seen), waiting(u64::MAX));
    // Whether it waits already or comes just too late, it must learn of the hold.
    engine.command(OWNER, id, Command::Hold { reason: String::new() }).await.unwrap();
    tokio::time::timeout(BOUND, for_hold).await.unwrap().unwrap();
    tokio::time::timeout(BOUND, engine.settled(id, seen)).await.unwrap();
    let held = engine.read(id).unwrap().unwrap();
    assert_eq!(held.status.state, State::Held);
    let knows = waiting(held.status.version);
    engine.command(OWNER, id, Command::Cancel { reason: String::new() }).await.unwrap();
    for waiter in [for_end, knows] {
        tokio::time::timeout(BOUND, waiter).await.unwrap().unwrap();
    }
    assert!(engine.read(id).unwrap().unwrap().status.state.is_final());
    stop(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_that_were_given_up_are_forgotten_when_the_next_one_comes() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let root = Actor { uid: 0, gid: 0, pid: 1 };
    engine.pause_queue(root, "default".into(), true).await.unwrap();
    let id = accepted(&engine, submission("hold", 1, "{}")).await;
    for _ in 0..100 {
        let over = tokio::time::timeout(Duration::from_millis(1), engine.settled(id, u64::MAX)).await;
        assert!(over.is_err());
    }
    let waiting = unpoison(engine.shared.waiters.lock()).get(&id).map_or(0, Vec::len);
    assert!(waiting <= 1, "{waiting}");
    stop(&engine).await;
}
