//! A rebuild beside a store that is in use already.

use std::sync::atomic::Ordering;

use super::*;

/// A store of which sled is gone, closed after a snapshot and some changes behind it.
fn without_table(bench: &Bench) -> Vec<Action> {
    let (mut opened, _) = bench.start();
    let mut actions: Vec<_> = (1..=400).map(|id| submit(&mut opened.store, id, 200)).collect();
    keyed(&mut opened.store, &mut actions, "in the snapshot");
    snapshot(&mut opened);
    for action in actions.iter_mut().step_by(4) {
        change(&mut opened.store, action, Event::Claim);
        change(&mut opened.store, action, Event::Succeed);
    }
    actions.extend((402..=450).map(|id| submit(&mut opened.store, id, 5_000)));
    keyed(&mut opened.store, &mut actions, "in the journal");
    opened.store.commit().unwrap();
    opened.store.close().unwrap();
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    actions
}

fn keyed(store: &mut Store, actions: &mut Vec<Action>, key: &str) {
    let id = actions.len() as u64 + 1;
    let body = Arc::new(Body { idempotency_key: Some(key.to_owned()), ..body(id, 10) });
    let action = Action { id: ActionId(id), body, status: Status::accepted(State::Queued, None) };
    store.submit(action.id, Arc::clone(&action.body), action.status.clone()).unwrap();
    actions.push(action);
}

/// Holds a rebuild back at its beginning until it is dropped.
struct Gate(Arc<shared::Shared>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.rebuild_held.store(false, Ordering::Release);
    }
}

fn held_back(bench: &mut Bench) -> (Opened, Vec<Action>, Gate) {
    bench.rebuild_held = true;
    let (opened, loaded) = bench.start();
    bench.rebuild_held = false;
    let gate = Gate(Arc::clone(&opened.store.shared));
    (opened, loaded, gate)
}

#[test]
fn everything_is_read_and_changed_while_the_table_is_rebuilt() {
    let mut bench = Bench::new();
    let mut actions = without_table(&bench);
    let (mut opened, loaded, gate) = held_back(&mut bench);
    assert_eq!(loaded, unfinished(&actions));
    assert!(opened.reader.health().rebuilding.is_some());
    assert_eq!(everything(&opened.reader), actions, "read by place");
    for action in &actions {
        assert_eq!(opened.reader.get(action.id).unwrap().as_ref(), Some(action));
    }
    for at in [1, 2, 420] {
        change(&mut opened.store, &mut actions[at], Event::Claim);
    }
    let id = opened.next_id.0;
    actions.push(submit(&mut opened.store, id, 10));
    opened.store.commit().unwrap();
    assert_eq!(everything(&opened.reader), actions, "with what changed since");
    assert!(!is_rebuilt(&opened) && opened.reader.health().checkpoints == 0);
    drop(gate);
    until(&mut opened, is_rebuilt);
    assert_eq!(everything(&opened.reader), actions, "from the new table");
    checkpoint(&mut opened);
    assert_eq!(everything(&opened.reader), actions);
    let health = opened.reader.health();
    assert_eq!(health.rebuilds, 1);
    assert!(health.last_rebuild_reason.is_some());
    opened.store.close().unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!((loaded, opened.reader.health().rebuilds), (unfinished(&actions), 0), "it is trusted");
}

#[test]
fn key_is_never_said_to_be_unused_while_it_cannot_be_looked_up() {
    let mut bench = Bench::new();
    without_table(&bench);
    let (mut opened, _, gate) = held_back(&mut bench);
    for key in ["in the snapshot", "in the journal", "never used"] {
        assert!(matches!(opened.store.key_use(1000, key), Err(StoreError::Rebuilding)), "{key}");
    }
    let mut since = (0..opened.next_id.0 - 1).map(|_| submit_nothing()).collect::<Vec<_>>();
    keyed(&mut opened.store, &mut since, "since the start");
    opened.store.commit().unwrap();
    assert!(opened.store.key_use(1000, "since the start").unwrap().is_some());
    drop(gate);
    until(&mut opened, is_rebuilt);
    for key in ["in the snapshot", "in the journal", "since the start"] {
        assert!(opened.store.key_use(1000, key).unwrap().is_some(), "{key}");
    }
    assert_eq!(opened.store.key_use(1000, "never used").unwrap(), None);
}

/// Takes the place of an action whose number alone counts.
fn submit_nothing() -> Action {
    Action { id: ActionId(0), body: Arc::new(body(0, 0)), status: Status::accepted(State::Queued, None) }
}

#[test]
fn key_of_an_action_that_is_deleted_is_found_after_the_rebuild() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    let mut actions = Vec::new();
    keyed(&mut opened.store, &mut actions, "once");
    change(&mut opened.store, &mut actions[0], Event::Expire);
    checkpoint(&mut opened);
    assert_eq!(opened.store.expire(Timestamp(5_000_000), 9).unwrap(), [ActionId(1)]);
    opened.store.commit().unwrap();
    opened.store.close().unwrap();
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    let (mut opened, loaded) = bench.start();
    assert!(loaded.is_empty());
    until(&mut opened, is_rebuilt);
    assert_eq!(opened.store.key_use(1000, "once").unwrap().map(|used| used.id), Some(ActionId(1)));
}

#[test]
fn full_memory_presses_submissions_and_nothing_else_until_the_table_is_there() {
    let mut bench = Bench::new();
    let mut actions = without_table(&bench);
    bench.options.memory_bytes_max = 64 << 10;
    let (mut opened, _, gate) = held_back(&mut bench);
    while opened.store.pressure() == Pressure::None {
        let id = opened.store.ledger.next_id;
        actions.push(submit(&mut opened.store, id, 1_000));
        opened.store.commit().unwrap();
    }
    assert_eq!(opened.store.pressure(), Pressure::MemoryFull);
    for at in (1..300).step_by(4) {
        change(&mut opened.store, &mut actions[at], Event::Claim);
        opened.store.commit().unwrap();
        change(&mut opened.store, &mut actions[at], Event::Succeed);
        opened.store.commit().unwrap();
    }
    assert_eq!(everything(&opened.reader), actions);
    drop(gate);
    until(&mut opened, |opened| opened.store.pressure() == Pressure::None);
    assert_eq!(everything(&opened.reader), actions);
}

#[test]
fn stop_during_a_rebuild_is_quick_and_has_the_next_start_begin_again() {
    let mut bench = Bench::new();
    let mut actions = without_table(&bench);
    let (mut opened, _, _gate) = held_back(&mut bench);
    change(&mut opened.store, &mut actions[1], Event::Claim);
    opened.store.commit().unwrap();
    opened.store.close().unwrap();
    assert!(!bench.path("clean").exists());
    let (mut opened, loaded) = bench.start();
    assert_eq!(loaded, unfinished(&actions));
    until(&mut opened, is_rebuilt);
    assert_eq!(everything(&opened.reader), actions);
}

#[test]
fn grown_table_is_made_anew_under_load_and_takes_the_place_of_the_old_one() {
    let mut bench = Bench::new();
    bench.options.retention_count = 0;
    let (mut opened, _) = bench.start();
    let (mut actions, mut keys) = (Vec::new(), 0u64);
    let mut submit_some = |opened: &mut Opened, actions: &mut Vec<Action>| {
        for _ in 0..100 {
            let id = opened.store.ledger.next_id;
            actions.push(submit(&mut opened.store, id, 100));
        }
        keyed(&mut opened.store, actions, &format!("key {keys}"));
        keys += 1;
        opened.store.commit().unwrap();
        until(opened, |opened| opened.store.pressure() == Pressure::None);
        keys
    };
    for _ in 0..100 {
        submit_some(&mut opened, &mut actions);
    }
    checkpoint(&mut opened);
    // Most of it goes, and sled keeps its place.
    let mut gone: Vec<_> = actions.iter_mut().filter(|action| action.id.0 % 100 != 0).collect();
    churn(&mut opened, &mut gone);
    snapshot(&mut opened);
    let mut rounds = 0;
    while opened.reader.health().rebuilds == 0 {
        assert!(rounds < 1_000, "it never grew");
        rounds += 1;
        for action in actions.iter_mut().filter(|action| action.id.0 % 700 == rounds % 700) {
            if action.status.state == State::Queued {
                change(&mut opened.store, action, Event::Claim);
            }
        }
        opened.store.checkpoint_now = true;
        submit_some(&mut opened, &mut actions);
    }
    let keys = submit_some(&mut opened, &mut actions);
    let health = opened.reader.health();
    assert!(health.last_rebuild_reason.is_some_and(|why| why.contains("grown")));
    assert!(health.rebuilding.is_none());
    checkpoint(&mut opened);
    let left = everything(&opened.reader);
    assert_eq!(unfinished(&left), unfinished(&actions));
    opened.store.close().unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!((loaded, opened.reader.health().rebuilds), (unfinished(&actions), 0), "it is trusted");
    assert_eq!(everything(&opened.reader), left);
    assert!(bench.path("table.2").exists() && !bench.path("table").exists());
    for key in 0..keys {
        assert!(opened.store.key_use(1000, &format!("key {key}")).unwrap().is_some(), "key {key}");
    }
}
