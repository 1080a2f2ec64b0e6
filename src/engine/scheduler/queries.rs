//! What the scheduler can be asked; nothing here changes anything. Called by the engine's decisions.

use super::{QueueIndex, Scheduler, pack};
use crate::action::{ActionId, LockKey, State};

/// Questions, answered without changing anything.
impl Scheduler {
    /// Number of unfinished actions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    pub fn running(&self) -> u32 {
        self.running
    }

    pub fn running_max(&self) -> u32 {
        self.running_max
    }

    /// (waiting, running, paused) of a queue.
    pub fn queue_counts(&self, queue: QueueIndex) -> (u64, u32, bool) {
        self.queues.get(usize::from(queue)).map_or((0, 0, false), |q| (q.waiting, q.running, q.paused))
    }

    /// Whether the queue has as many running as it may.
    pub fn queue_is_full(&self, queue: QueueIndex) -> bool {
        self.queues.get(usize::from(queue)).is_some_and(|queue| queue.running >= queue.concurrency)
    }

    /// Everyone that holds, waits for or will wait for one of `locks`: the holder first.
    pub fn standing(&self, locks: &[LockKey]) -> Vec<ActionId> {
        let mut ids: Vec<ActionId> = locks.iter().flat_map(|key| self.locks.standing(*key)).collect();
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        ids
    }

    /// The holder of one of `locks`, or else who will have it next.
    pub fn first_standing(&self, locks: &[LockKey]) -> Option<ActionId> {
        locks.iter().find_map(|key| self.locks.standing(*key).next())
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
        let entry = self.entries.get(id)?;
        if entry.holds_locks {
            return None;
        }
        self.locks_of(id).into_iter().find_map(|key| self.locks.in_the_way(key, id))
    }

    /// How many actions of its queue are served before a ready one, counted up to `most`.
    pub fn ahead_in_queue(&self, id: ActionId, most: usize) -> Option<usize> {
        let entry = self.entries.get(id)?;
        let place = pack(entry.priority, id);
        let queue = self.queues.get(usize::from(entry.queue))?;
        queue.ready.contains(&place).then(|| queue.ready.range(..place).take(most).count())
    }
}
