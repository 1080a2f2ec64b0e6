//! A map from action ids to small entries that costs little more than the entries.
//!
//! Ids are consecutive, so entries stand in chunks by id, without a key each; a chunk is dropped with its
//! last entry. A million waiting actions cost a million entries, where a hash map would cost twice that.
//! Used by the scheduler only.

use std::collections::BTreeMap;

use crate::action::ActionId;

/// Ids that stand together.
pub const CHUNK: usize = 64;

struct Chunk<T> {
    live: usize,
    slots: [Option<T>; CHUNK],
}

/// See the module.
pub struct IdMap<T> {
    chunks: BTreeMap<u64, Box<Chunk<T>>>,
    len: usize,
}

impl<T: Copy> IdMap<T> {
    pub fn new() -> Self {
        Self { chunks: BTreeMap::new(), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, id: ActionId) -> Option<&T> {
        let (chunk, slot) = place(id);
        self.chunks.get(&chunk)?.slots.get(slot)?.as_ref()
    }

    pub fn get_mut(&mut self, id: ActionId) -> Option<&mut T> {
        let (chunk, slot) = place(id);
        self.chunks.get_mut(&chunk)?.slots.get_mut(slot)?.as_mut()
    }

    /// Puts `entry` in its place and gives back the one it replaces.
    pub fn insert(&mut self, id: ActionId, entry: T) -> Option<T> {
        let (chunk, slot) = place(id);
        let chunk =
            self.chunks.entry(chunk).or_insert_with(|| Box::new(Chunk { live: 0, slots: [None; CHUNK] }));
        let before = chunk.slots.get_mut(slot)?.replace(entry);
        if before.is_none() {
            chunk.live += 1;
            self.len += 1;
        }
        before
    }

    /// Whether `id` and its neighbours have no entry.
    pub fn chunk_is_empty(&self, id: ActionId) -> bool {
        !self.chunks.contains_key(&place(id).0)
    }

    pub fn remove(&mut self, id: ActionId) -> Option<T> {
        let (number, slot) = place(id);
        let chunk = self.chunks.get_mut(&number)?;
        let entry = chunk.slots.get_mut(slot)?.take()?;
        chunk.live -= 1;
        self.len -= 1;
        if chunk.live == 0 {
            self.chunks.remove(&number);
        }
        Some(entry)
    }
}

fn place(id: ActionId) -> (u64, usize) {
    let chunk = CHUNK as u64;
    (id.0 / chunk, usize::try_from(id.0 % chunk).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_and_go_with_their_entries() {
        let mut map = IdMap::new();
        for id in 1..=1_000_u64 {
            assert_eq!(map.insert(ActionId(id), id), None);
        }
        assert_eq!(map.insert(ActionId(7), 70), Some(7));
        assert_eq!(map.len(), 1_000);
        assert_eq!(map.get(ActionId(7)), Some(&70));
        for id in 1..=1_000_u64 {
            assert!(map.remove(ActionId(id)).is_some());
            assert_eq!(map.remove(ActionId(id)), None);
        }
        assert_eq!((map.len(), map.chunks.len()), (0, 0));
    }
}
