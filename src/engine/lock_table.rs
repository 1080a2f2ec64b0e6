//! Who holds each lock, and who waits for it in order of acceptance.
//!
//! An action takes all its locks or none. It may begin when, for each of them, nobody holds it and no
//! earlier action waits for it; so nobody overtakes on a resource and nobody waits in a circle.
//! Used by the scheduler only.

use std::collections::{BTreeSet, HashMap};

use crate::action::{ActionId, LockKey};

/// The actions that stand at one lock. Almost always none or one, so one costs no allocation.
#[derive(Default)]
enum Waiters {
    #[default]
    None,
    One(ActionId),
    #[expect(clippy::box_collection, reason = "a million locks with one waiter each must stay small")]
    Many(Box<BTreeSet<ActionId>>),
}

impl Waiters {
    fn first(&self) -> Option<ActionId> {
        match self {
            Self::None => None,
            Self::One(id) => Some(*id),
            Self::Many(ids) => ids.first().copied(),
        }
    }

    fn insert(&mut self, id: ActionId) {
        match self {
            Self::None => *self = Self::One(id),
            Self::One(other) if *other == id => {}
            Self::One(other) => *self = Self::Many(Box::new(BTreeSet::from([*other, id]))),
            Self::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    fn remove(&mut self, id: ActionId) {
        match self {
            Self::One(other) if *other == id => *self = Self::None,
            Self::Many(ids) => {
                ids.remove(&id);
                if ids.is_empty() {
                    *self = Self::None;
                }
            }
            Self::None | Self::One(_) => {}
        }
    }

    fn iter(&self) -> Box<dyn Iterator<Item = ActionId> + '_> {
        match self {
            Self::None => Box::new(std::iter::empty()),
            Self::One(id) => Box::new(std::iter::once(*id)),
            Self::Many(ids) => Box::new(ids.iter().copied()),
        }
    }
}

#[derive(Default)]
struct Lock {
    holder: Option<ActionId>,
    /// Due and waiting for this lock.
    queued: Waiters,
    /// Not due yet; takes its place among `queued` when it is.
    later: Waiters,
}

impl Lock {
    fn is_unused(&self) -> bool {
        self.holder.is_none() && matches!((&self.queued, &self.later), (Waiters::None, Waiters::None))
    }
}

/// See the module.
#[derive(Default)]
pub struct LockTable {
    locks: HashMap<LockKey, Lock>,
}

impl LockTable {
    /// Lets a due action wait. Says who stood first at this lock before and no longer does.
    pub fn wait(&mut self, key: LockKey, id: ActionId) -> Option<ActionId> {
        let lock = self.locks.entry(key).or_default();
        let first = lock.queued.first();
        lock.queued.insert(id);
        first.filter(|first| *first > id)
    }

    /// Notes an action that will wait for this lock when it is due.
    pub fn plan(&mut self, key: LockKey, id: ActionId) {
        self.locks.entry(key).or_default().later.insert(id);
    }

    /// Takes the lock; the caller made sure that it [`Self::is_next`], or restores what a claim says.
    pub fn take(&mut self, key: LockKey, id: ActionId) {
        let lock = self.locks.entry(key).or_default();
        lock.queued.remove(id);
        lock.holder = Some(id);
    }

    /// Ends all that `id` has to do with this lock. Says who stands first now.
    pub fn leave(&mut self, key: LockKey, id: ActionId) -> Option<ActionId> {
        let lock = self.locks.get_mut(&key)?;
        lock.queued.remove(id);
        lock.later.remove(id);
        if lock.holder == Some(id) {
            lock.holder = None;
        }
        if lock.is_unused() {
            self.locks.remove(&key);
            return None;
        }
        lock.queued.first()
    }

    /// Whether the lock is free and `id` the first that waits for it.
    pub fn is_next(&self, key: LockKey, id: ActionId) -> bool {
        self.locks.get(&key).is_some_and(|lock| lock.holder.is_none() && lock.queued.first() == Some(id))
    }

    /// Everyone that stands at this lock: its holder, then who waits, then who will.
    pub fn standing(&self, key: LockKey) -> impl Iterator<Item = ActionId> + '_ {
        self.locks
            .get(&key)
            .into_iter()
            .flat_map(|lock| lock.holder.into_iter().chain(lock.queued.iter()).chain(lock.later.iter()))
    }

    /// Whom `id` waits for at this lock: the holder, or the one that stands first.
    pub fn in_the_way(&self, key: LockKey, id: ActionId) -> Option<ActionId> {
        let lock = self.locks.get(&key)?;
        lock.holder.or_else(|| lock.queued.first()).filter(|other| *other != id)
    }
}
