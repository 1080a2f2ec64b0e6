//! Where the bytes of every live action are while sled is rebuilt: 24 bytes an action, in the order of ids.
//!
//! An action's body is in a block of the snapshot or a record of the journal, and so is its last status, perhaps
//! in another one. Filled once by a start, then only read.

use crate::action::State;

/// Where something is: in file 0, the snapshot, the number of a block; in file n the offset of a record in the
/// n-th segment of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub file: u32,
    pub at: u32,
}

pub(super) const SNAPSHOT: u32 = 0;

/// Limits of the packed form: 2^48 ids, 2^20 segments.
const ID_MAX: u64 = (1 << 48) - 1;
const FILE_MAX: u32 = (1 << 20) - 1;

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

#[derive(Clone, Copy)]
struct Entry {
    id_low: u32,
    version: u32,
    body_at: u32,
    status_at: u32,
    id_high: u16,
    body_file: u16,
    status_file: u16,
    state: Option<State>,
    /// The upper four bits of both files.
    files: u8,
}

const _: () = assert!(size_of::<Entry>() == 24, "the index is as compact as it says");

#[expect(clippy::cast_possible_truncation, reason = "cut into parts, put together again by `unpack`")]
fn pack(known: &Known) -> Result<Entry, String> {
    let Known { id, version, state, body, status } = *known;
    if id > ID_MAX || body.file > FILE_MAX || status.file > FILE_MAX {
        return Err(format!("action {id} is beyond what can be rebuilt"));
    }
    Ok(Entry {
        id_low: id as u32,
        id_high: (id >> 32) as u16,
        version: u32::try_from(version).map_err(|_| format!("action {id} has impossibly many versions"))?,
        state,
        body_at: body.at,
        body_file: body.file as u16,
        status_at: status.at,
        status_file: status.file as u16,
        files: ((body.file >> 16) | ((status.file >> 16) << 4)) as u8,
    })
}

impl Entry {
    fn id(&self) -> u64 {
        u64::from(self.id_low) | (u64::from(self.id_high) << 32)
    }

    fn unpack(&self) -> Known {
        let files = u32::from(self.files);
        Known {
            id: self.id(),
            version: u64::from(self.version),
            state: self.state,
            body: Spot { file: u32::from(self.body_file) | ((files & 0xF) << 16), at: self.body_at },
            status: Spot { file: u32::from(self.status_file) | ((files >> 4) << 16), at: self.status_at },
        }
    }
}

/// All of them. Deleted ones stay, since the keys they used are found through them.
#[derive(Default)]
pub(in crate::store) struct Index {
    entries: Vec<Entry>,
}

impl Index {
    /// Above all that are there. Why not, if it cannot be.
    pub fn push(&mut self, known: &Known) -> Result<(), String> {
        if self.entries.last().is_some_and(|last| last.id() >= known.id) {
            return Err(format!("action {} is out of order", known.id));
        }
        if self.entries.len() == self.entries.capacity() {
            // Doubling would need half as much again as there is.
            self.entries.reserve_exact(self.entries.len() / 8 + 1_024);
        }
        self.entries.push(pack(known)?);
        Ok(())
    }

    pub fn replace(&mut self, known: &Known) -> Result<(), String> {
        let entry = pack(known)?;
        let at = self.entries.partition_point(|entry| entry.id() < known.id);
        if let Some(place) = self.entries.get_mut(at).filter(|entry| entry.id() == known.id) {
            *place = entry;
        }
        Ok(())
    }

    /// Also one that is deleted.
    pub fn find(&self, id: u64) -> Option<Known> {
        let at = self.entries.partition_point(|entry| entry.id() < id);
        self.entries.get(at).filter(|entry| entry.id() == id).map(Entry::unpack)
    }

    pub fn iter(&self) -> impl Iterator<Item = Known> + '_ {
        self.entries.iter().map(Entry::unpack)
    }

    /// Those that are not deleted, from `id` up.
    pub fn live_from(&self, id: u64) -> impl Iterator<Item = Known> + '_ {
        let at = self.entries.partition_point(|entry| entry.id() < id);
        let rest = self.entries.get(at..).unwrap_or_default();
        rest.iter().filter(|entry| entry.state.is_some()).map(Entry::unpack)
    }

    /// Those that are not deleted, below `id`, downwards.
    pub fn live_below(&self, id: u64) -> impl Iterator<Item = Known> + '_ {
        let at = self.entries.partition_point(|entry| entry.id() < id);
        let before = self.entries.get(..at).unwrap_or_default();
        before.iter().rev().filter(|entry| entry.state.is_some()).map(Entry::unpack)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_put_into_an_entry_comes_out_again() {
        let mut index = Index::default();
        let known = Known {
            id: ID_MAX - 1,
            version: u64::from(u32::MAX),
            state: Some(State::Superseded),
            body: Spot { file: FILE_MAX, at: u32::MAX },
            status: Spot { file: 0x5_4321, at: 7 },
        };
        index.push(&known).unwrap();
        assert_eq!(index.find(known.id), Some(known));
        let deleted = Known { state: None, body: Spot { file: SNAPSHOT, at: 3 }, ..known };
        index.replace(&deleted).unwrap();
        assert_eq!(index.find(known.id), Some(deleted));
        assert_eq!(index.find(known.id - 1), None);
        assert!(index.push(&known).is_err(), "ids ascend");
        assert!(index.push(&Known { id: ID_MAX + 1, ..known }).is_err());
        assert_eq!((index.live_from(0).count(), index.live_below(u64::MAX).count()), (0, 0));
    }
}
