//! CONTRACT SKELETON: the journal: groups of records, each on disk before it is acknowledged.
use std::path::PathBuf;
use std::sync::Arc;

use super::StoreError;
use super::disk::Disk;

/// Where a record's bytes are: read them again with [`Journal::reader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub segment: u64,
    pub offset: u32,
    pub len: u32,
}

/// How far a journal reaches. Groups are numbered from 1, without gaps, over all segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GroupNumber(pub u64);

/// One record of a replay.
pub struct Replayed<'a> {
    pub group: GroupNumber,
    pub place: Place,
    pub bytes: &'a [u8],
}

pub struct Journal {}

/// Reads records by place, beside the writer. Cheap to clone.
#[derive(Clone)]
pub struct PlaceReader {}

impl Journal {
    /// Creates the journal of a new store in an empty (or absent) `dir`.
    pub fn create(_disk: Arc<dyn Disk>, _dir: PathBuf, _segment_bytes: u64) -> Result<Self, StoreError> {
        todo!()
    }

    /// Opens a journal, hands every record of a group above `after` to `replay` in order, drops a torn tail, and
    /// makes the tail that is not known to be synced durable again in a fresh segment before it returns.
    ///
    /// `after` is the last group that a snapshot covers; the journal must reach back to it without a gap, else
    /// it is damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if a group that was synced cannot be read; `replay`'s own errors.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _dir: PathBuf,
        _segment_bytes: u64,
        _after: GroupNumber,
        _replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        todo!()
    }

    /// Stages one record for the next group and says where it will be.
    pub fn stage(&mut self, _record: &[u8]) -> Place {
        todo!()
    }

    /// Writes what is staged as one group with one write and one sync. Nothing staged: nothing done.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`] from the first failure on; the journal never writes again.
    ///
    /// # Durability
    ///
    /// After `Ok` the group survives loss of power.
    pub fn commit(&mut self) -> Result<GroupNumber, StoreError> {
        todo!()
    }

    /// The last durable group.
    pub fn last_group(&self) -> GroupNumber {
        todo!()
    }

    /// Bytes of groups written after `group`: what a replay from there would read.
    pub fn bytes_since(&self, _group: GroupNumber) -> u64 {
        todo!()
    }

    /// Frees the segments that hold only groups up to `group`; some are kept as zeroed spares for reuse.
    pub fn release(&mut self, _group: GroupNumber) -> Result<(), StoreError> {
        todo!()
    }

    pub fn reader(&self) -> PlaceReader {
        todo!()
    }
}

impl PlaceReader {
    /// The record's bytes, checked against the CRC of their group.
    pub fn read(&self, _place: Place) -> Result<Vec<u8>, StoreError> {
        todo!()
    }
}
