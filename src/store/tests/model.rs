//! Random lives against a plain map, with stops, deaths and reboots as steps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[derive(Clone, Default)]
struct Model {
    actions: BTreeMap<u64, Action>,
    keys: BTreeMap<String, u64>,
    paused: BTreeSet<String>,
    next_id: u64,
}

fn check(opened: &Opened, loaded: &[Action], model: &Model) {
    let all: Vec<Action> = model.actions.values().cloned().collect();
    assert_eq!(loaded, unfinished(&all));
    assert_eq!(everything(&opened.reader), all);
    assert_eq!(opened.reader.health().live_actions, all.len() as u64);
    assert_eq!(opened.next_id.0, model.next_id);
    assert_eq!(opened.paused_queues, model.paused.iter().cloned().collect::<Vec<_>>());
    for (key, id) in &model.keys {
        let rebuilding = !is_rebuilt(opened);
        match opened.store.key_use(1000, key) {
            Err(StoreError::Rebuilding) if rebuilding => {}
            found => assert_eq!(found.unwrap().map(|used| used.id.0), Some(*id)),
        }
    }
    for id in 0..=model.next_id {
        assert_eq!(opened.reader.get(ActionId(id)).unwrap().as_ref(), model.actions.get(&id));
    }
}

fn live(seed: u64, steps: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new();
    bench.options.memory_bytes_max = 40 << 10;
    bench.options.snapshot_after_bytes = 60 << 10;
    bench.options.retention_count = 30;
    let (mut opened, _) = bench.start();
    let mut durable = Model { next_id: 1, ..Model::default() };
    let mut staged = durable.clone();
    let mut rebuilds = 0;
    for step in 0..steps {
        match random.u32(0..100) {
            0..45 => {
                let id = staged.next_id;
                let len = if random.u8(0..20) == 0 { random.usize(0..8_000) } else { random.usize(0..300) };
                let key = random.bool().then(|| format!("key {id}"));
                let body = Arc::new(Body { idempotency_key: key.clone(), ..body(id, len) });
                let status = Status::accepted(State::Queued, None);
                opened.store.submit(ActionId(id), Arc::clone(&body), status.clone()).unwrap();
                staged.actions.insert(id, Action { id: ActionId(id), body, status });
                staged.keys.extend(key.map(|key| (key, id)));
                staged.next_id += 1;
            }
            45..75 => {
                let open: Vec<u64> = unfinished(&staged.actions.values().cloned().collect::<Vec<_>>())
                    .iter()
                    .map(|action| action.id.0)
                    .collect();
                let Some(id) = (!open.is_empty()).then(|| open[random.usize(0..open.len())]) else {
                    continue;
                };
                let action = staged.actions.get_mut(&id).unwrap();
                let legal = Event::ALL.into_iter().filter(|event| action.status.state.apply(*event).is_ok());
                let legal: Vec<_> = legal.collect();
                assert_eq!(opened.store.get(ActionId(id)).unwrap().as_ref(), Some(&*action));
                change(&mut opened.store, action, legal[random.usize(0..legal.len())]);
            }
            75..77 => {
                let (queue, paused) = (format!("q{}", random.u8(0..3)), random.bool());
                opened.store.pause_queue(&queue, paused);
                if paused {
                    staged.paused.insert(queue)
                } else {
                    staged.paused.remove(&queue)
                };
            }
            77..80 => {
                for id in opened.store.expire(Timestamp(3_000), 5).unwrap() {
                    let gone = staged.actions.remove(&id.0);
                    assert!(gone.is_some_and(|action| action.status.state.is_final()));
                }
            }
            80..97 => {
                opened.store.commit().unwrap();
                durable = staged.clone();
            }
            end => {
                // A table without a checkpoint is made anew.
                let unfinished =
                    opened.reader.health().rebuilds > 0 && opened.reader.health().checkpoints == 0;
                if end == 97 {
                    opened.store.close().unwrap();
                    durable = staged;
                    drop(opened.reader);
                } else {
                    drop(opened);
                    if end == 99 {
                        bench.boot += 1;
                    }
                }
                let (mut next, loaded) = bench.start();
                rebuilds += next.reader.health().rebuilds;
                assert!(
                    end == 99 || unfinished || next.reader.health().rebuilds == 0,
                    "seed {seed} step {step}: {:?}",
                    next.reader.health().last_rebuild_reason
                );
                check(&next, &loaded, &durable);
                if random.bool() {
                    until(&mut next, is_rebuilt);
                    check(&next, &loaded, &durable);
                }
                staged = durable.clone();
                opened = next;
            }
        }
    }
    assert!(rebuilds > 0, "seed {seed} never rebuilt");
}

#[test]
fn store_is_what_a_plain_map_says_through_stops_deaths_and_reboots() {
    for seed in 0..8 {
        live(seed, 600);
    }
}
