//! Who holds each lock, and who waits for it in order of acceptance.
//!
//! An action takes all its locks or none. It may begin when, for each of them, nobody holds it and no
//! earlier action waits for it; so nobody overtakes on a resource and nobody waits in a circle.
//! A lock at which one action stands, which is almost every lock of a long backlog, costs its key and 16
//! bytes. Used by the scheduler only.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{ActionId, LockKey};

/// What an action has to do with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Holder,
    /// Due and waiting for this lock.
    Queued,
    /// Not due yet; takes its place among the queued when it is.
    Later,
}

/// The actions that stand at one lock; never nobody.
enum Lock {
    Holder(ActionId),
    Queued(ActionId),
    Later(ActionId),
    Crowd(Box<Crowd>),
}

#[derive(Default)]
struct Crowd {
    holder: Option<ActionId>,
    queued: BTreeSet<ActionId>,
    later: BTreeSet<ActionId>,
}

impl Lock {
    fn alone(id: ActionId, role: Role) -> Self {
        match role {
            Role::Holder => Self::Holder(id),
            Role::Queued => Self::Queued(id),
            Role::Later => Self::Later(id),
        }
    }

    fn holder(&self) -> Option<ActionId> {
        match self {
            Self::Holder(id) => Some(*id),
            Self::Crowd(crowd) => crowd.holder,
            Self::Queued(_) | Self::Later(_) => None,
        }
    }

    fn first_queued(&self) -> Option<ActionId> {
        match self {
            Self::Queued(id) => Some(*id),
            Self::Crowd(crowd) => crowd.queued.first().copied(),
            Self::Holder(_) | Self::Later(_) => None,
        }
    }

    #[expect(clippy::unnecessary_box_returns, reason = "a crowd that is boxed stays where it is")]
    fn into_crowd(self) -> Box<Crowd> {
        let mut crowd = Box::<Crowd>::default();
        match self {
            Self::Holder(id) => crowd.add(id, Role::Holder),
            Self::Queued(id) => crowd.add(id, Role::Queued),
            Self::Later(id) => crowd.add(id, Role::Later),
            Self::Crowd(crowd) => return crowd,
        }
        crowd
    }
}

impl Crowd {
    fn add(&mut self, id: ActionId, role: Role) {
        match role {
            Role::Holder => self.holder = Some(id),
            Role::Queued => drop(self.queued.insert(id)),
            Role::Later => drop(self.later.insert(id)),
        }
    }

    fn remove(&mut self, id: ActionId) {
        self.queued.remove(&id);
        self.later.remove(&id);
        self.holder = self.holder.filter(|holder| *holder != id);
    }

    /// The lock in its smallest form; none if nobody is left.
    fn settled(self: Box<Self>) -> Option<Lock> {
        match (self.holder, self.queued.len(), self.later.len()) {
            (None, 0, 0) => None,
            (Some(id), 0, 0) => Some(Lock::Holder(id)),
            (None, 1, 0) => self.queued.first().copied().map(Lock::Queued),
            (None, 0, 1) => self.later.first().copied().map(Lock::Later),
            _ => Some(Lock::Crowd(self)),
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct LockTable {
    locks: BTreeMap<LockKey, Lock>,
}

impl LockTable {
    /// Lets a due action wait. Says who stood first at this lock before and no longer does.
    pub fn wait(&mut self, key: LockKey, id: ActionId) -> Option<ActionId> {
        let first = self.locks.get(&key).and_then(Lock::first_queued);
        self.put(key, id, Role::Queued);
        first.filter(|first| *first > id)
    }

    /// Notes an action that will wait for this lock when it is due.
    pub fn plan(&mut self, key: LockKey, id: ActionId) {
        self.put(key, id, Role::Later);
    }

    /// Takes the lock; the caller made sure that it [`Self::is_next`], or restores what a start found. Says who
    /// waited first at it, and now for this one.
    pub fn take(&mut self, key: LockKey, id: ActionId) -> Option<ActionId> {
        let first = self.locks.get(&key).and_then(Lock::first_queued);
        self.put(key, id, Role::Holder);
        first.filter(|first| *first != id)
    }

    /// Gives `id` this role, and no other, at the lock.
    fn put(&mut self, key: LockKey, id: ActionId, role: Role) {
        let Some(before) = self.locks.remove(&key) else {
            self.locks.insert(key, Lock::alone(id, role));
            return;
        };
        let mut crowd = before.into_crowd();
        crowd.remove(id);
        crowd.add(id, role);
        if let Some(lock) = crowd.settled() {
            self.locks.insert(key, lock);
        }
    }

    /// Ends all that `id` has to do with this lock. Says who stands first now.
    pub fn leave(&mut self, key: LockKey, id: ActionId) -> Option<ActionId> {
        let mut crowd = self.locks.remove(&key)?.into_crowd();
        crowd.remove(id);
        let lock = crowd.settled()?;
        let first = lock.first_queued();
        self.locks.insert(key, lock);
        first
    }

    /// Whether the lock is free and `id` the first that waits for it.
    pub fn is_next(&self, key: LockKey, id: ActionId) -> bool {
        self.locks.get(&key).is_some_and(|lock| lock.holder().is_none() && lock.first_queued() == Some(id))
    }

    /// Everyone that stands at this lock: its holder, then who waits, then who will.
    pub fn standing(&self, key: LockKey) -> impl Iterator<Item = ActionId> + '_ {
        let lock = self.locks.get(&key);
        let (alone, crowd) = match lock {
            None => (None, None),
            Some(Lock::Holder(id) | Lock::Queued(id) | Lock::Later(id)) => (Some(*id), None),
            Some(Lock::Crowd(crowd)) => (crowd.holder, Some(crowd)),
        };
        let others = crowd.into_iter().flat_map(|crowd| crowd.queued.iter().chain(&crowd.later).copied());
        alone.into_iter().chain(others)
    }

    /// Whom `id` waits for at this lock: the holder, or the one that stands first.
    pub fn in_the_way(&self, key: LockKey, id: ActionId) -> Option<ActionId> {
        let lock = self.locks.get(&key)?;
        lock.holder().or_else(|| lock.first_queued()).filter(|other| *other != id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_of_one_action_costs_sixteen_bytes_beside_its_key() {
        assert!(size_of::<Lock>() <= 16, "{}", size_of::<Lock>());
    }

    #[test]
    fn lock_shrinks_to_nothing_when_everyone_has_left() {
        let (key, ids) = (LockKey(7), [1, 2, 3].map(ActionId));
        let mut table = LockTable::default();
        table.take(key, ids[0]);
        assert_eq!(table.wait(key, ids[2]), None);
        table.plan(key, ids[1]);
        assert_eq!(table.standing(key).collect::<Vec<_>>(), [ids[0], ids[2], ids[1]]);
        assert_eq!(table.wait(key, ids[1]), Some(ids[2]), "the earlier one goes first");
        assert_eq!(table.leave(key, ids[0]), Some(ids[1]));
        assert!(table.is_next(key, ids[1]));
        assert_eq!(table.leave(key, ids[1]), Some(ids[2]));
        assert!(matches!(table.locks.get(&key), Some(Lock::Queued(_))), "one left: small again");
        assert_eq!(table.leave(key, ids[2]), None);
        assert!(table.locks.is_empty());
    }
}
