//! One promise a test, without damage.

use super::*;

#[test]
fn new_store_is_empty_and_counts_its_starts() {
    let bench = Bench::new();
    let (opened, loaded) = bench.start();
    assert_eq!((opened.incarnation, opened.next_id, loaded.len()), (1, ActionId(1), 0));
    assert_eq!(opened.reader.health().rebuilds, 0);
    let id = opened.store_id.clone();
    drop(opened);
    let (opened, _) = bench.start();
    assert_eq!((opened.incarnation, &opened.store_id), (2, &id));
    assert_eq!(opened.reader.health().rebuilds, 0, "there was nothing to rebuild");
    opened.store.close().unwrap();
    let (opened, _) = bench.start();
    assert_eq!((opened.incarnation, &opened.store_id), (3, &id));
    assert_eq!(opened.boot_id, "boot 1");
}

#[test]
fn incarnation_begun_within_a_run_is_durable_and_counted_on() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    assert_eq!(opened.store.begin_incarnation("boot 1"), 2);
    opened.store.commit().unwrap();
    drop(opened);
    let (opened, _) = bench.start();
    assert_eq!(opened.incarnation, 3);
}

#[test]
fn reader_sees_what_is_committed_and_the_owner_what_is_staged() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    let mut action = submit(&mut opened.store, 1, 10);
    assert_eq!(opened.reader.get(action.id).unwrap(), None);
    assert_eq!(opened.store.get(action.id).unwrap(), Some(action.clone()));
    opened.store.commit().unwrap();
    assert_eq!(opened.reader.get(action.id).unwrap(), Some(action.clone()));
    let committed = action.clone();
    change(&mut opened.store, &mut action, Event::Claim);
    assert_eq!(opened.reader.get(action.id).unwrap(), Some(committed));
    assert_eq!(opened.store.get(action.id).unwrap(), Some(action));
}

#[test]
fn illegal_or_out_of_order_change_is_refused_and_stores_nothing() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    let action = submit(&mut opened.store, 1, 10);
    let mut running = after(&action.status, Event::Claim, Timestamp(0));
    let change = opened.store.change(action.id, Event::Succeed, &running);
    assert!(matches!(change, Err(StoreError::Illegal { .. })));
    running.version = 7;
    assert!(opened.store.change(action.id, Event::Claim, &running).is_err());
    assert!(opened.store.change(ActionId(9), Event::Claim, &running).is_err());
    let again = Status::accepted(State::Queued, None);
    assert!(opened.store.submit(ActionId(1), Arc::new(body(1, 1)), again).is_err());
    opened.store.commit().unwrap();
    assert_eq!(opened.store.get(action.id).unwrap(), Some(action));
}

#[test]
fn action_survives_a_stop_and_a_death_with_its_last_status() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    let mut first = submit(&mut opened.store, 1, 10);
    let second = submit(&mut opened.store, 2, 20_000);
    opened.store.pause_queue("slow", true);
    opened.store.commit().unwrap();
    opened.store.close().unwrap();

    let (mut opened, loaded) = bench.start();
    assert_eq!(loaded, [first.clone(), second.clone()]);
    assert_eq!(opened.paused_queues, ["slow"]);
    change(&mut opened.store, &mut first, Event::Claim);
    opened.store.pause_queue("slow", false);
    opened.store.commit().unwrap();
    let third = submit(&mut opened.store, 3, 5);
    drop(opened);

    let (mut opened, loaded) = bench.start();
    assert_eq!(loaded, [first.clone(), second.clone()], "the third was never committed: {third:?}");
    assert!(opened.paused_queues.is_empty());
    assert_eq!(opened.next_id, ActionId(3));
    change(&mut opened.store, &mut first, Event::Succeed);
    opened.store.commit().unwrap();
    opened.store.close().unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!(loaded, std::slice::from_ref(&second));
    assert_eq!(everything(&opened.reader), [first, second]);
    assert_eq!(opened.reader.health().rebuilds, 0);
}

#[test]
fn second_opener_is_refused() {
    let bench = Bench::new();
    let (opened, _) = bench.start();
    assert!(matches!(bench.open(), Err(StoreError::Locked { .. })));
    drop(opened);
    assert!(bench.open().is_ok());
}

#[test]
fn full_memory_table_presses_until_a_checkpoint_relieves_it() {
    let mut bench = Bench::new();
    bench.options.memory_bytes_max = 64 << 10;
    let (mut opened, _) = bench.start();
    let mut id = 0;
    while opened.store.pressure() == Pressure::None {
        id += 1;
        submit(&mut opened.store, id, 1_000);
    }
    assert_eq!(opened.store.pressure(), Pressure::MemoryFull);
    assert!((30..64).contains(&id), "{id}");
    opened.store.commit().unwrap();
    until(&mut opened, |opened| opened.store.pressure() == Pressure::None);
    assert!(opened.reader.health().memory_bytes < 64 << 10);
    assert_eq!(everything(&opened.reader).len() as u64, id);
}

#[test]
fn disk_below_its_reserve_presses() {
    let mut bench = Bench::new();
    bench.options.disk_reserve_bytes = u64::MAX;
    let (opened, _) = bench.start();
    assert_eq!(opened.store.pressure(), Pressure::DiskLow);
    assert!(opened.reader.health().disk_free_bytes > 0);
}

#[test]
fn retention_deletes_finished_actions_by_age_and_by_count_and_nothing_else() {
    let mut bench = Bench::new();
    bench.options.retention_count = 15;
    let (mut opened, _) = bench.start();
    let mut actions: Vec<_> = (1..=40).map(|id| submit(&mut opened.store, id, 300)).collect();
    for action in actions.iter_mut().skip(10).step_by(1).take(20) {
        change(&mut opened.store, action, Event::Expire);
    }
    checkpoint(&mut opened);
    let gone = opened.store.expire(Timestamp(3_000), 100).unwrap();
    assert_eq!(gone, (11..=15).map(ActionId).collect::<Vec<_>>(), "the oldest above the count");
    assert_eq!(opened.store.get(ActionId(11)).unwrap(), None);
    opened.store.commit().unwrap();
    assert!(opened.store.expire(Timestamp(3_001), 100).unwrap().is_empty());
    let mut late = Vec::new();
    for _ in 0..20 {
        late.extend(opened.store.expire(Timestamp(2_000 + 1_000_000), 4).unwrap());
        opened.store.commit().unwrap();
    }
    assert_eq!(late, (16..=30).map(ActionId).collect::<Vec<_>>(), "by age, a few at a time");
    let left: Vec<_> = unfinished(&actions);
    assert_eq!(everything(&opened.reader), left);
    opened.store.close().unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!((loaded, opened.reader.health().live_actions), (left, 20));
    assert_eq!(opened.reader.health().rebuilds, 0);
}

#[test]
fn idempotency_key_outlives_its_action_until_it_is_old() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    let keyed = Body { idempotency_key: Some("once".to_owned()), ..body(1, 10) };
    opened.store.submit(ActionId(1), Arc::new(keyed), Status::accepted(State::Queued, None)).unwrap();
    let used = Some(KeyUse { id: ActionId(1), digest: [3; 16] });
    assert_eq!(opened.store.key_use(1000, "once").unwrap(), used, "staged");
    assert_eq!(opened.store.key_use(1001, "once").unwrap(), None);
    let mut action = opened.store.get(ActionId(1)).unwrap().unwrap();
    change(&mut opened.store, &mut action, Event::Expire);
    checkpoint(&mut opened);
    assert_eq!(opened.store.expire(Timestamp(5_000_000), 9).unwrap(), [ActionId(1)]);
    opened.store.commit().unwrap();
    assert_eq!(opened.store.key_use(1000, "once").unwrap(), used);
    snapshot(&mut opened);
    drop(opened);
    let rebooted = Bench { boot: 2, ..bench };
    let (mut opened, _) = rebooted.start();
    assert_eq!(opened.reader.health().rebuilds, 1);
    until(&mut opened, is_rebuilt);
    assert_eq!(opened.store.key_use(1000, "once").unwrap(), used, "from the snapshot");
    checkpoint(&mut opened);
    opened.store.expire(Timestamp(1_000 + 10_000_001), 9).unwrap();
    checkpoint(&mut opened);
    assert_eq!(opened.store.key_use(1000, "once").unwrap(), None, "old enough");
}

#[test]
fn walk_back_begins_and_ends_where_it_is_told() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    for id in 1..=500 {
        submit(&mut opened.store, id, 50);
        if id == 300 {
            checkpoint(&mut opened);
        }
    }
    opened.store.commit().unwrap();
    let mut ids = Vec::new();
    let visit = &mut |action: Action| {
        ids.push(action.id.0);
        ids.len() < 200
    };
    opened.reader.scan_back(Some(ActionId(401)), visit).unwrap();
    assert_eq!(ids, (201..=400).rev().collect::<Vec<_>>());
}

#[test]
fn reader_of_a_closed_store_gets_an_error() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    submit(&mut opened.store, 1, 10);
    opened.store.commit().unwrap();
    opened.store.close().unwrap();
    assert!(opened.reader.get(ActionId(1)).is_err());
}
