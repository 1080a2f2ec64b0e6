//! A map from action ids to small entries that costs little more than the entries.
//!
//! Ids are consecutive, so entries stand in chunks of neighbours, packed, with one bit an id to say who is there: a
//! million waiting actions cost a million entries and two bytes each, and the few that are left of many millions
//! cost no more than 40 bytes each. It grows chunk by chunk, so no insertion ever takes long. Used by the scheduler
//! only.

use std::collections::BTreeMap;

use crate::action::ActionId;

/// Ids that stand together.
pub const CHUNK: u64 = 64;

struct Chunk<T> {
    /// Bit n: the id that is n behind the first of the chunk has an entry.
    present: u64,
    /// The entries that there are, in the order of their ids.
    entries: Vec<T>,
}

impl<T> Chunk<T> {
    fn has(&self, bit: u64) -> bool {
        self.present & bit != 0
    }

    /// Where the entry of that bit stands, or would.
    fn rank(&self, bit: u64) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }
}

/// See the module.
pub struct IdMap<T> {
    chunks: BTreeMap<u64, Chunk<T>>,
    len: usize,
}

impl<T> Default for IdMap<T> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), len: 0 }
    }
}

impl<T: Copy> IdMap<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, id: ActionId) -> Option<&T> {
        let (number, bit) = place(id);
        let chunk = self.chunks.get(&number)?;
        if chunk.has(bit) { chunk.entries.get(chunk.rank(bit)) } else { None }
    }

    pub fn get_mut(&mut self, id: ActionId) -> Option<&mut T> {
        let (number, bit) = place(id);
        let chunk = self.chunks.get_mut(&number)?;
        let rank = chunk.rank(bit);
        if chunk.has(bit) { chunk.entries.get_mut(rank) } else { None }
    }

    /// Puts `entry` in its place and gives back the one it replaces.
    pub fn insert(&mut self, id: ActionId, entry: T) -> Option<T> {
        let (number, bit) = place(id);
        let chunk = self.chunks.entry(number).or_insert_with(|| Chunk { present: 0, entries: Vec::new() });
        let rank = chunk.rank(bit);
        if chunk.has(bit) {
            return chunk.entries.get_mut(rank).map(|before| std::mem::replace(before, entry));
        }
        chunk.present |= bit;
        chunk.entries.insert(rank, entry);
        self.len += 1;
        None
    }

    pub fn remove(&mut self, id: ActionId) -> Option<T> {
        let (number, bit) = place(id);
        let chunk = self.chunks.get_mut(&number)?;
        if !chunk.has(bit) {
            return None;
        }
        let entry = chunk.entries.remove(chunk.rank(bit));
        chunk.present &= !bit;
        self.len -= 1;
        let left = chunk.entries.len();
        if left == 0 {
            self.chunks.remove(&number);
        } else if left * 4 <= chunk.entries.capacity() {
            chunk.entries.shrink_to(left * 2);
        }
        Some(entry)
    }

    /// The entries of a chunk (of ids from `number * CHUNK`) in the order of their ids.
    pub fn chunk(&self, number: u64) -> impl Iterator<Item = (ActionId, &T)> {
        let chunk = self.chunks.get(&number);
        let mut present = chunk.map_or(0, |chunk| chunk.present);
        chunk.into_iter().flat_map(|chunk| &chunk.entries).map(move |entry| {
            let at = u64::from(present.trailing_zeros());
            present &= present.wrapping_sub(1);
            (ActionId(number * CHUNK + at), entry)
        })
    }
}

/// The number of the chunk, and the bit of the id in it.
fn place(id: ActionId) -> (u64, u64) {
    (id.0 / CHUNK, 1 << (id.0 % CHUNK))
}

#[cfg(test)]
impl<T> IdMap<T> {
    /// Bytes on the heap: the entries, and for each chunk its place in a B-tree that is filled in order.
    pub fn heap_bytes(&self) -> usize {
        let entries: usize =
            self.chunks.values().map(|chunk| chunk.entries.capacity() * size_of::<T>()).sum();
        entries + self.chunks.len() * (size_of::<u64>() + size_of::<Chunk<T>>()) * 11 / 6
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_come_and_go_with_their_entries() {
        let mut map = IdMap::default();
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

    #[test]
    fn last_one_of_a_chunk_does_not_keep_its_neighbours_room() {
        let mut map = IdMap::default();
        for id in 0..64_000 {
            map.insert(ActionId(id), [0_u64; 2]);
        }
        assert!(map.heap_bytes() < 64_000 * 18, "{}", map.heap_bytes());
        for id in (0..64_000).filter(|id| id % CHUNK != 5) {
            map.remove(ActionId(id));
        }
        assert!(map.heap_bytes() < 1_000 * 150, "{}", map.heap_bytes());
    }

    proptest! {
        #[test]
        fn map_is_what_a_plain_map_is(
            steps in proptest::collection::vec((any::<bool>(), 0u64..200, 0usize..4), 1..400)
        ) {
            let (mut map, mut model) = (IdMap::default(), BTreeMap::new());
            for (value, (insert, near, far)) in (0_u32..).zip(steps) {
                // Neighbours, ids far apart, and the last that there can be.
                let id = ActionId([near, near << 20, ActionId::MAX.0 - near, (1 << 48) - 100 + near][far]);
                if insert {
                    prop_assert_eq!(map.insert(id, value), model.insert(id, value));
                } else {
                    prop_assert_eq!(map.remove(id), model.remove(&id));
                }
                prop_assert_eq!(map.get(id), model.get(&id));
                prop_assert_eq!(map.len(), model.len());
                let chunk: Vec<_> = map.chunk(id.0 / CHUNK).collect();
                let first = id.0 / CHUNK * CHUNK;
                let same: Vec<_> = model.range(ActionId(first)..ActionId(first + CHUNK)).map(|(id, v)| (*id, v)).collect();
                prop_assert_eq!(chunk, same);
            }
            for (id, value) in model {
                prop_assert_eq!(map.get_mut(id).copied(), Some(value));
                prop_assert_eq!(map.remove(id), Some(value));
            }
            prop_assert_eq!(map.chunks.len(), 0);
        }
    }
}
