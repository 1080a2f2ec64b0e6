use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// The locks of each action, as the scheduler would know them.
#[derive(Default)]
struct Known(BTreeMap<ActionId, Vec<LockKey>>);

impl Keys for Known {
    fn has(&self, id: ActionId, key: LockKey) -> bool {
        self.0.get(&id).is_some_and(|keys| keys.contains(&key))
    }
}

fn known(ids: impl IntoIterator<Item = u64>, key: LockKey) -> Known {
    Known(ids.into_iter().map(|id| (ActionId(id), vec![key])).collect())
}

#[test]
fn lock_shrinks_to_nothing_when_everyone_has_left() {
    let (key, ids) = (LockKey(7), [1, 2, 3].map(ActionId));
    let keys = known(1..=3, key);
    let mut table = LockTable::default();
    table.take(key, ids[0], &keys);
    assert_eq!(table.wait(key, ids[2], &keys), Turn { is_next: false, overtaken: None });
    table.plan(key, ids[1], &keys);
    assert_eq!(table.standing(key, &keys).collect::<Vec<_>>(), [ids[0], ids[2], ids[1]]);
    assert_eq!(table.leave(key, ids[0], &keys), Some(ids[2]));
    let turn = table.wait(key, ids[1], &keys);
    assert_eq!(turn, Turn { is_next: true, overtaken: Some(ids[2]) }, "the earlier one goes first");
    assert_eq!(table.in_the_way(key, ids[2], &keys), Some(ids[1]));
    assert_eq!(table.leave(key, ids[1], &keys), Some(ids[2]));
    assert_eq!(table.leave(key, ids[2], &keys), None);
    assert!(table.is_empty());
}

#[test]
fn crowd_is_one_only_while_many_stand_there() {
    let key = LockKey(7);
    let keys = known(1..=100, key);
    let mut table = LockTable::default();
    for id in 1..=100 {
        assert_eq!(table.wait(key, ActionId(id), &keys).is_next, id == 1);
        assert_eq!(table.crowds.len(), usize::from(id > FEW as u64), "{id}");
    }
    for id in 1..=100 {
        let next = (id < 100).then_some(ActionId(id + 1));
        assert_eq!(table.leave(key, ActionId(id), &keys), next);
    }
    assert!(table.is_empty());
}

#[test]
fn id_that_does_not_fit_a_bucket_stands_in_a_crowd() {
    let key = LockKey(7);
    let ids = [1 << ID_BITS, 1, ActionId::MAX.0].map(ActionId);
    let keys = known(ids.map(|id| id.0), key);
    let mut table = LockTable::default();
    for id in ids {
        table.wait(key, id, &keys);
    }
    assert_eq!(table.standing(key, &keys).collect::<Vec<_>>(), [ids[1], ids[0], ids[2]]);
    assert_eq!(table.leave(key, ids[1], &keys), Some(ids[0]));
    assert_eq!(table.leave(key, ids[0], &keys), Some(ids[2]));
    assert!(table.is_next(key, ids[2], &keys));
    table.leave(key, ids[2], &keys);
    assert!(table.is_empty());
}

#[test]
fn locks_of_a_long_backlog_cost_little_more_than_eight_bytes() {
    struct Same;
    impl Keys for Same {
        fn has(&self, id: ActionId, key: LockKey) -> bool {
            id.0 == key.0
        }
    }
    let mut table = LockTable::default();
    for id in 0..1_000_000 {
        assert!(table.wait(LockKey(id), ActionId(id), &Same).is_next);
    }
    assert!(table.heap_bytes() < 10_600_000, "{}", table.heap_bytes());
    for id in 0..1_000_000 {
        assert_eq!(table.leave(LockKey(id), ActionId(id), &Same), None);
    }
    assert!(table.heap_bytes() < 2_000_000, "{}", table.heap_bytes());
}

/// The same as plainly as it can be said.
#[derive(Default)]
struct Model(BTreeMap<u64, BTreeMap<ActionId, Role>>);

impl Model {
    fn holder(&self, key: u64) -> Option<ActionId> {
        self.with(key, Role::Holder).next()
    }

    fn first(&self, key: u64) -> Option<ActionId> {
        self.with(key, Role::Queued).next()
    }

    fn with(&self, key: u64, role: Role) -> impl Iterator<Item = ActionId> + '_ {
        let at = self.0.get(&key).into_iter().flatten();
        at.filter(move |(_, is)| **is == role).map(|(id, _)| *id)
    }

    fn put(&mut self, key: u64, id: ActionId, role: Role) {
        self.0.entry(key).or_default().insert(id, role);
    }

    fn leave(&mut self, key: u64, id: ActionId) {
        self.0.entry(key).or_default().remove(&id);
    }
}

proptest! {
    /// Few and many at a lock, ids that fit a bucket and such that do not.
    #[test]
    fn table_is_what_a_plain_map_is(
        steps in proptest::collection::vec((0u8..5, 1u64..16, 0u64..8, 0u64..3), 1..300)
    ) {
        let every: BTreeSet<ActionId> =
            (1..16).flat_map(|near| (0..8).map(move |far| spread(near, far))).collect();
        let keys = Known(every.iter().map(|id| (*id, (0..3).map(LockKey).collect())).collect());
        let (mut table, mut model) = (LockTable::default(), Model::default());
        for (what, near, far, key) in steps {
            let (id, lock) = (spread(near, far), LockKey(key));
            match what {
                0 | 1 => {
                    let waited = model.with(key, Role::Queued).any(|other| other == id);
                    let first = model.first(key).filter(|first| *first > id && !waited);
                    model.put(key, id, Role::Queued);
                    let free = model.holder(key).is_none();
                    let is_next = free && model.first(key) == Some(id);
                    let turn = table.wait(lock, id, &keys);
                    prop_assert_eq!(turn, Turn { is_next, overtaken: first.filter(|_| free) });
                }
                2 => {
                    model.put(key, id, Role::Later);
                    table.plan(lock, id, &keys);
                }
                3 => {
                    if let Some(before) = model.holder(key) {
                        model.leave(key, before);
                    }
                    model.put(key, id, Role::Holder);
                    prop_assert_eq!(table.take(lock, id, &keys), model.first(key));
                }
                _ => {
                    model.leave(key, id);
                    let first = model.first(key).filter(|_| model.holder(key).is_none());
                    prop_assert_eq!(table.leave(lock, id, &keys), first);
                }
            }
            let standing: Vec<_> = [Role::Holder, Role::Queued, Role::Later]
                .into_iter().flat_map(|role| model.with(key, role)).collect();
            prop_assert_eq!(table.standing(lock, &keys).collect::<Vec<_>>(), standing);
            let (holder, first) = (model.holder(key), model.first(key));
            prop_assert_eq!(table.is_next(lock, id, &keys), holder.is_none() && first == Some(id));
            let in_the_way = holder.or(first).filter(|other| *other != id);
            prop_assert_eq!(table.in_the_way(lock, id, &keys), in_the_way);
        }
        for id in every {
            for key in 0..3 {
                table.leave(LockKey(key), id, &keys);
            }
        }
        prop_assert!(table.is_empty());
    }
}

fn spread(near: u64, far: u64) -> ActionId {
    ActionId(match far {
        0 => ActionId::MAX.0 - near,
        1 => (1 << ID_BITS) - 8 + near,
        far => near + far * 16,
    })
}
