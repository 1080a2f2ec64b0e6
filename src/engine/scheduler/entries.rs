//! What the scheduler keeps of each unfinished action: sixteen bytes, and aside what only few have, which is further
//! locks, a due time or a deadline. Used by the scheduler only.

use std::collections::BTreeMap;

use super::messages::{QueueIndex, Ticket};
use super::ready::Place;
use crate::action::{ActionId, LockKey, State, Timestamp};
use crate::engine::id_map::{CHUNK, IdMap};
use crate::engine::lock_table::Keys;

/// What every action has.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The first lock, if it has any.
    lock: LockKey,
    pub queue: QueueIndex,
    pub kind: u16,
    pub priority: u8,
    pub state: State,
    locks: Locks,
    pub holds_locks: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Locks {
    None,
    One,
    /// Those behind the first are aside.
    Several,
}

/// For a due time or a deadline that an action does not have.
pub(super) const NEVER: Timestamp = Timestamp(i64::MAX);

#[derive(Clone, Copy)]
pub(super) struct Times {
    /// When it is due, while it is `scheduled` or `retry_wait`.
    pub due_at: Timestamp,
    pub deadline: Timestamp,
}

impl Times {
    pub const NONE: Self = Self { due_at: NEVER, deadline: NEVER };

    /// When an action in that state has to be looked at. The deadline counts while it waits, also if it passed
    /// while it ran or was held: then its worker watches it, or a person.
    pub fn next(&self, state: State) -> Timestamp {
        match state {
            State::Queued => self.deadline,
            State::Scheduled | State::RetryWait => self.deadline.min(self.due_at),
            _ => NEVER,
        }
    }
}

impl Entry {
    pub fn place(&self, id: ActionId) -> Place {
        Place::new(self.priority, id)
    }
}

/// The locks of one action, apart from where they are kept.
pub(super) enum LockKeys {
    Few(Option<LockKey>),
    Several(Box<[LockKey]>),
}

impl LockKeys {
    pub fn as_slice(&self) -> &[LockKey] {
        match self {
            Self::Few(key) => key.as_slice(),
            Self::Several(keys) => keys,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Entries {
    map: IdMap<Entry>,
    more_locks: BTreeMap<ActionId, Box<[LockKey]>>,
    pub times: IdMap<Times>,
}

impl Entries {
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn get(&self, id: ActionId) -> Option<&Entry> {
        self.map.get(id)
    }

    pub fn get_mut(&mut self, id: ActionId) -> Option<&mut Entry> {
        self.map.get_mut(id)
    }

    /// Puts in an action that is not there; it holds no locks yet.
    pub fn insert(&mut self, ticket: &Ticket<'_>) -> Entry {
        let entry = Entry {
            lock: ticket.locks.first().copied().unwrap_or(LockKey(0)),
            queue: ticket.queue,
            kind: ticket.kind,
            priority: ticket.priority,
            state: ticket.state,
            locks: match ticket.locks.len() {
                0 => Locks::None,
                1 => Locks::One,
                _ => Locks::Several,
            },
            holds_locks: false,
        };
        if let Some(more) = ticket.locks.get(1..).filter(|more| !more.is_empty()) {
            self.more_locks.insert(ticket.id, more.into());
        }
        if ticket.due_at.is_some() || ticket.deadline.is_some() {
            let (due_at, deadline) = (ticket.due_at.unwrap_or(NEVER), ticket.deadline.unwrap_or(NEVER));
            self.times.insert(ticket.id, Times { due_at, deadline });
        }
        self.map.insert(ticket.id, entry);
        entry
    }

    /// Takes an action out. Says whether it was the last with a time in its chunk.
    pub fn remove(&mut self, id: ActionId) -> bool {
        if let Some(entry) = self.map.remove(id)
            && entry.locks == Locks::Several
        {
            self.more_locks.remove(&id);
        }
        self.forget_times(id)
    }

    /// The locks of an action whose entry this is.
    pub fn keys(&self, id: ActionId, entry: &Entry) -> LockKeys {
        match entry.locks {
            Locks::None => LockKeys::Few(None),
            Locks::One => LockKeys::Few(Some(entry.lock)),
            Locks::Several => {
                let more = self.more_locks.get(&id).into_iter().flatten().copied();
                LockKeys::Several([entry.lock].into_iter().chain(more).collect())
            }
        }
    }

    pub fn set_due(&mut self, id: ActionId, due_at: Timestamp) {
        match self.times.get_mut(id) {
            Some(times) => times.due_at = due_at,
            None => _ = self.times.insert(id, Times { due_at, ..Times::NONE }),
        }
    }

    /// It has been due; what is left is its deadline. Says whether it was the last with a time in its chunk.
    pub fn forget_due(&mut self, id: ActionId) -> bool {
        let Some(times) = self.times.get_mut(id) else { return false };
        times.due_at = NEVER;
        times.deadline == NEVER && self.forget_times(id)
    }

    /// Nothing is due for it any more. Says whether it was the last with a time in its chunk.
    pub fn forget_times(&mut self, id: ActionId) -> bool {
        self.times.remove(id).is_some() && self.times.chunk(id.0 / CHUNK).next().is_none()
    }
}

impl Keys for Entries {
    fn has(&self, id: ActionId, key: LockKey) -> bool {
        self.map.get(id).is_some_and(|entry| match entry.locks {
            Locks::None => false,
            Locks::One => entry.lock == key,
            Locks::Several => {
                entry.lock == key || self.more_locks.get(&id).is_some_and(|more| more.contains(&key))
            }
        })
    }
}

#[cfg(test)]
impl Entries {
    /// Bytes on the heap, further locks aside.
    pub fn heap_bytes(&self) -> usize {
        self.map.heap_bytes() + self.times.heap_bytes()
    }
}
