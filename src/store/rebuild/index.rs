//! What is known of an action while sled is rebuilt, beside what its body file says: of those that have a later
//! status, were deleted, or were accepted behind the last checkpoint of the snapshot. Filled once by a start, then
//! only read.

use std::collections::BTreeMap;

use crate::action::State;

/// Where something is: in file 0, the snapshot, the number of a block; in file n the offset of a record in the
/// n-th segment of the journal; or in the action's body file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub file: u32,
    pub at: u32,
}

pub(super) const SNAPSHOT: u32 = 0;
/// It is in the body file.
pub(super) const WRITTEN: Spot = Spot { file: u32::MAX, at: 0 };

/// What is known of one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Known {
    pub id: u64,
    pub version: u64,
    /// None once it is deleted.
    pub state: Option<State>,
    pub(super) body: Spot,
    pub(super) status: Spot,
}

impl Known {
    /// Whether its body is in a body file: it was there at the snapshot.
    pub fn is_written(&self) -> bool {
        self.body == WRITTEN
    }
}

/// All of them. Deleted ones stay, since the keys they used are found through them.
#[derive(Default)]
pub(in crate::store) struct Index {
    entries: BTreeMap<u64, Known>,
}

impl Index {
    pub fn put(&mut self, known: Known) {
        self.entries.insert(known.id, known);
    }

    /// Also one that is deleted.
    pub fn find(&self, id: u64) -> Option<Known> {
        self.entries.get(&id).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = Known> + '_ {
        self.entries.values().copied()
    }

    pub fn range(&self, first: u64, last: u64) -> impl Iterator<Item = Known> + '_ {
        self.entries.range(first..=last).map(|(_, known)| *known)
    }

    /// Those that live and are in no body file, from `id` up.
    pub fn unwritten_from(&self, id: u64) -> impl Iterator<Item = Known> + '_ {
        self.range(id, u64::MAX).filter(|known| known.state.is_some() && !known.is_written())
    }

    /// Those that live and are in no body file, below `id`, downwards.
    pub fn unwritten_below(&self, id: u64) -> impl Iterator<Item = Known> + '_ {
        let below = self.entries.range(..id).rev().map(|(_, known)| *known);
        below.take_while(|known| !known.is_written()).filter(|known| known.state.is_some())
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
