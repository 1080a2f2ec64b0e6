//! The memory table: what changed since the last checkpoint, in its stored form.
//!
//! Two generations: `current` takes changes, `frozen` is being written to the table by a checkpoint and is
//! dropped when that ended. A lookup goes through current, frozen, and then the table; since a frozen
//! generation stays until the table has it, a lookup in that order misses nothing.
//!
//! Holds only what is durable: the store publishes a group after the journal's sync. Its size is counted in
//! bytes and bounded by the store's pressure; claims and outcomes go through above the bound, since each
//! needs an action that is there already.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::record::StoredKeyUse;
use super::table::KeyHash;
use crate::action::State;

/// What an entry costs beside its bytes: nodes of the maps and counts of the [`Arc`]s.
const ENTRY_BYTES: u64 = 160;
const KEY_BYTES: u64 = 96;

/// An action as it stands in one generation.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Live(Live),
    Deleted,
}

#[derive(Clone, Debug)]
pub(super) struct Live {
    pub version: u64,
    pub state: State,
    /// Set if the table does not have the body yet; then the checkpoint adds the action, else it restates it.
    pub body: Option<Arc<[u8]>>,
    pub status: Arc<[u8]>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let payload = match self {
            Self::Live(live) => live.status.len() + live.body.as_ref().map_or(0, |body| body.len()),
            Self::Deleted => 0,
        };
        ENTRY_BYTES + payload as u64
    }
}

/// Changes that go to the table together.
#[derive(Debug, Default)]
pub(super) struct Generation {
    pub actions: BTreeMap<u64, Entry>,
    pub keys: HashMap<KeyHash, StoredKeyUse>,
    bytes: u64,
}

impl Generation {
    /// Replaces what is known of the action; a body that is here already stays.
    pub fn insert(&mut self, id: u64, mut entry: Entry) {
        if let Some(old) = self.actions.remove(&id) {
            self.bytes = self.bytes.saturating_sub(old.bytes());
            if let (Entry::Live(new), Entry::Live(old)) = (&mut entry, old)
                && new.body.is_none()
            {
                new.body = old.body;
            }
        }
        self.bytes += entry.bytes();
        self.actions.insert(id, entry);
    }

    pub fn insert_key(&mut self, hash: KeyHash, used: StoredKeyUse) {
        if self.keys.insert(hash, used).is_none() {
            self.bytes += KEY_BYTES;
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.keys.is_empty()
    }
}

/// Both generations.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub current: Generation,
    pub frozen: Option<Arc<Generation>>,
}

impl Memory {
    /// What is known of the action here. Its body may still be in the table only.
    pub fn find(&self, id: u64) -> Option<Entry> {
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.actions.get(&id));
        let mut entry = self.current.actions.get(&id).or(frozen)?.clone();
        if let (Entry::Live(live), Some(Entry::Live(older))) = (&mut entry, frozen)
            && live.body.is_none()
        {
            live.body.clone_from(&older.body);
        }
        Some(entry)
    }

    pub fn key_use(&self, hash: &KeyHash) -> Option<StoredKeyUse> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.keys.get(hash));
        self.current.keys.get(hash).or_else(frozen).copied()
    }

    /// The entries nearest below `before`, newest first, at most `limit`.
    pub fn newest_below(&self, before: u64, limit: usize) -> Vec<(u64, Entry)> {
        let below = |generation: &Generation| -> Vec<u64> {
            generation.actions.range(..before).rev().take(limit).map(|(id, _)| *id).collect()
        };
        let mut ids = below(&self.current);
        if let Some(frozen) = &self.frozen {
            ids.extend(below(frozen));
            ids.sort_unstable_by(|a, b| b.cmp(a));
            ids.dedup();
            ids.truncate(limit);
        }
        ids.into_iter().filter_map(|id| Some((id, self.find(id)?))).collect()
    }

    /// Takes up a group that has become durable.
    pub fn publish(&mut self, staged: Generation) {
        let Generation { actions, keys, bytes: _ } = staged;
        for (id, entry) in actions {
            self.current.insert(id, entry);
        }
        for (hash, used) in keys {
            self.current.insert_key(hash, used);
        }
    }

    /// Makes the current generation the frozen one and begins a new one. Only when nothing is frozen.
    pub fn freeze(&mut self) -> Arc<Generation> {
        let frozen = Arc::new(std::mem::take(&mut self.current));
        self.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    pub fn bytes(&self) -> u64 {
        self.current.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(version: u64, body: Option<&[u8]>) -> Entry {
        let status: Arc<[u8]> = vec![0; 10].into();
        Entry::Live(Live { version, state: State::Queued, body: body.map(Into::into), status })
    }

    fn body_of(memory: &Memory, id: u64) -> Option<Arc<[u8]>> {
        match memory.find(id) {
            Some(Entry::Live(live)) => live.body,
            _ => None,
        }
    }

    #[test]
    fn body_is_found_through_both_generations_but_written_once() {
        let mut memory = Memory::default();
        memory.current.insert(1, live(1, Some(b"body")));
        memory.current.insert(1, live(2, None));
        assert_eq!(body_of(&memory, 1).as_deref(), Some(&b"body"[..]));
        let frozen = memory.freeze();
        memory.current.insert(1, live(3, None));
        assert_eq!(body_of(&memory, 1).as_deref(), Some(&b"body"[..]));
        let Some(Entry::Live(current)) = memory.current.actions.get(&1) else { panic!("not there") };
        assert!(current.body.is_none(), "the frozen generation writes the body");
        assert_eq!(frozen.actions.len(), 1);
    }

    #[test]
    fn bytes_follow_what_is_held() {
        let mut generation = Generation::default();
        generation.insert(1, live(1, Some(&[0; 1000])));
        let full = generation.bytes();
        generation.insert(1, Entry::Deleted);
        assert_eq!(full - generation.bytes(), 1010);
        assert_eq!(generation.bytes(), ENTRY_BYTES);
    }

    #[test]
    fn newest_below_merges_generations_without_repeating() {
        let mut memory = Memory::default();
        for id in [1, 2, 3, 5] {
            memory.current.insert(id, live(1, Some(b"b")));
        }
        memory.freeze();
        for id in [2, 4, 6] {
            memory.current.insert(id, live(2, None));
        }
        let ids = |before, limit| -> Vec<u64> {
            memory.newest_below(before, limit).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(ids(6, 10), [5, 4, 3, 2, 1]);
        assert_eq!(ids(6, 2), [5, 4]);
        assert!(ids(1, 2).is_empty());
    }
}
