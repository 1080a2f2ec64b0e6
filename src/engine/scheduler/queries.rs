//! What the scheduler can be asked; nothing here changes anything. Called by the engine's decisions.

use super::{QueueIndex, Scheduler};
use crate::action::{ActionId, LockKey, State};
use crate::engine::lock_table::Keys as _;

/// Questions, answered without changing anything.
impl Scheduler {
    /// Number of unfinished actions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether a reboot of the host is due.
    pub fn starts_nothing(&self) -> bool {
        self.starts_nothing
    }

    pub fn running(&self) -> u32 {
        self.queues.running()
    }

    pub fn running_max(&self) -> u32 {
        self.running_max
    }

    /// (waiting, running, paused) of a queue.
    pub fn queue_counts(&self, queue: QueueIndex) -> (u64, u32, bool) {
        self.queues.get(queue).map_or((0, 0, false), |q| (q.waiting, q.running, q.paused))
    }

    /// Whether the queue has as many running as it may.
    pub fn queue_is_full(&self, queue: QueueIndex) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.running >= queue.concurrency)
    }

    /// Everyone that holds, waits for or will wait for one of `locks`: the holder first.
    pub fn standing(&self, locks: &[LockKey]) -> impl Iterator<Item = ActionId> {
        locks.iter().enumerate().flat_map(move |(at, key)| {
            let before = locks.get(..at).unwrap_or_default();
            let standing = self.locks.standing(*key, &self.entries);
            standing.filter(move |id| !before.iter().any(|key| self.entries.has(*id, *key)))
        })
    }

    /// The holder of one of `locks`, or else who will have it next.
    pub fn first_standing(&self, locks: &[LockKey]) -> Option<ActionId> {
        self.standing(locks).next()
    }

    pub fn queue_of(&self, id: ActionId) -> Option<QueueIndex> {
        self.entries.get(id).map(|entry| entry.queue)
    }

    /// The action's state, if its type has that number.
    pub fn same_kind(&self, id: ActionId, kind: u16) -> Option<State> {
        self.entries.get(id).filter(|entry| entry.kind == kind).map(|entry| entry.state)
    }

    /// The action that `id` waits behind on one of its locks.
    pub fn behind(&self, id: ActionId) -> Option<ActionId> {
        let entry = self.entries.get(id).filter(|entry| !entry.holds_locks)?;
        let keys = self.entries.keys(id, entry);
        keys.as_slice().iter().find_map(|key| self.locks.in_the_way(*key, id, &self.entries))
    }

    /// How many actions of its queue are served before a ready one, counted up to `most`.
    pub fn ahead_in_queue(&self, id: ActionId, most: usize) -> Option<usize> {
        let entry = self.entries.get(id)?;
        let (place, queue) = (entry.place(id), self.queues.get(entry.queue)?);
        queue.ready.contains(place).then(|| queue.ready.count_before(place, most))
    }
}
