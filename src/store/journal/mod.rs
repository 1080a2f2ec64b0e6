//! The journal: groups of records, each on disk before it is acknowledged.
//!
//! Segments are preallocated, zeroed and used again, so that a commit is one write and one `fdatasync` that has no
//! metadata to bring along. `format` has the bytes, `survey` the rule by which a tear is told from
//! damage, `recovery` what a start does.
//!
//! # Guarantees
//!
//! - After `Ok` of [`Journal::commit`] its group survives loss of power, and every record of it is replayed, in the
//!   order of staging, until it is released.
//! - Whatever [`Journal::open`] hands over is durable by then, and stays.
//! - Damage of anything known to be synced is an error that names the place; it is never skipped. Damage in the
//!   very last group cannot be told from a tear and drops that group, as does the loss of whole last segments.
//!
//! # Failure
//!
//! The first failed write or sync poisons the journal: after a failed sync the kernel may have dropped the dirty
//! pages, and a second one would report success for data that is gone. The process must exit and open again.
//!
//! Called by the store's writing half (from one thread) and, through [`PlaceReader`], by its reading half.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::format::{BLOCK, RECORD_BYTES_MAX, segment_path};
use self::group::{GroupBuffer, Site, segment_bytes_for, usual_bytes};
use self::recovery::Recovered;
use self::segment::{create_segment, failed};
use self::spares::{Released, Spares};
use super::StoreError;
use super::disk::{Disk, DiskFile};
use crate::crash_point::crash_point;

#[cfg(test)]
mod bench;
mod extents;
mod format;
mod group;
mod reader;
mod recovery;
mod segment;
mod spares;
mod survey;
#[cfg(test)]
mod tests;

pub use self::reader::{OpenSegment, PlaceReader};

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

/// A segment that is written no more.
#[derive(Clone, Copy, Debug)]
struct Full {
    segment: u64,
    bytes: u64,
    last_group: u64,
}

/// The writing half. See the module.
pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: Arc<Path>,
    /// Of a segment that nothing makes larger.
    segment_bytes: u64,
    salt: u64,
    /// The segment that holds the last group; its number and length.
    file: Box<dyn DiskFile>,
    segment: u64,
    current_bytes: u64,
    /// Oldest first.
    older: VecDeque<Full>,
    /// What is staged: groups that filled their segment, then the one that grows. All but the last are rare.
    filled: Vec<GroupBuffer>,
    staged: GroupBuffer,
    last: u64,
    extents: extents::Extents,
    spares: Spares,
    poisoned: bool,
    /// A record larger than [`RECORD_BYTES_MAX`] was staged.
    oversized: bool,
}

impl Journal {
    /// Creates the journal of a new store in an empty (or absent) `dir`; its parent must exist.
    ///
    /// What an interrupted creation left there is replaced; a journal that has groups is refused.
    ///
    /// # Durability
    ///
    /// After `Ok` the empty journal can be opened, also after loss of power.
    pub fn make(disk: &Arc<dyn Disk>, dir: &Path, segment_bytes: u64) -> Result<(), StoreError> {
        make(disk, dir, segment_bytes).map(drop)
    }

    /// Makes a journal, as [`Self::make`] does, and goes on with it.
    #[cfg(test)]
    pub fn create(disk: Arc<dyn Disk>, dir: PathBuf, segment_bytes: u64) -> Result<Self, StoreError> {
        let recovered = make(&disk, &dir, segment_bytes)?;
        Self::start(disk, dir.into(), segment_bytes, recovered)
    }

    /// Opens a journal, hands every record of a group above `after` to `replay` in order, drops a torn tail, and
    /// makes the tail that is not known to be synced durable again in a fresh segment before it returns.
    ///
    /// `after` is the last group that a snapshot covers; the journal must reach back to it without a gap, else
    /// it is damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if a group that was synced cannot be read, and then nothing was changed; also if
    /// `dir` holds no journal. `replay`'s own errors.
    ///
    /// # Durability
    ///
    /// All that `replay` gets is durable before it gets it.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        after: GroupNumber,
        replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let recovered = recovery::recover(&disk, &dir, segment_bytes, after)?;
        recovery::replay(&recovered, &disk, &dir, after, replay)?;
        Self::start(disk, dir.into(), segment_bytes, recovered)
    }

    fn start(
        disk: Arc<dyn Disk>,
        dir: Arc<Path>,
        segment_bytes: u64,
        recovered: Recovered,
    ) -> Result<Self, StoreError> {
        let Recovered { salt, file, site, older, groups, last } = recovered;
        let segment_bytes = usual_bytes(segment_bytes);
        let spares = Spares::start(Arc::clone(&disk), &dir, segment_bytes)?;
        let full = older.iter().map(|found| Full {
            segment: found.segment,
            bytes: found.bytes,
            // One without groups is kept only for its place in the row.
            last_group: found.groups.map_or(0, |(_, highest)| highest),
        });
        Ok(Self {
            older: full.collect(),
            extents: extents::Extents::new(last, groups.iter().map(|found| (found.group, found.bytes))),
            file,
            segment: site.segment,
            current_bytes: site.segment_bytes,
            filled: Vec::new(),
            staged: GroupBuffer::new(site),
            disk,
            dir,
            segment_bytes,
            salt,
            last,
            spares,
            poisoned: false,
            oversized: false,
        })
    }

    /// Stages one record for the next group and says where it will be. At most 1 GiB; a larger one makes the next
    /// commit fail.
    pub fn stage(&mut self, record: &[u8]) -> Place {
        if record.len() > RECORD_BYTES_MAX {
            self.oversized = true;
            return Place { segment: self.segment, offset: 0, len: 0 };
        }
        if !self.staged.has_room(record.len()) {
            let next = GroupBuffer::new(Site {
                segment: self.staged.site().segment + 1,
                segment_bytes: segment_bytes_for(self.segment_bytes, record.len()),
                offset: BLOCK,
                begins_segment: true,
            });
            let filled = std::mem::replace(&mut self.staged, next);
            if !filled.is_empty() {
                self.filled.push(filled);
            }
        }
        self.staged.push(record)
    }

    /// Writes what is staged as one group with one write and one sync. Nothing staged: nothing done.
    ///
    /// What does not fit the segment becomes a group in each further segment, with a sync of its own: then a power
    /// cut may leave the first of the records and not the last. The number returned is that of the last group.
    ///
    /// # Errors
    ///
    /// The first failure says what failed; [`StoreError::Poisoned`] from then on: the journal never writes again.
    /// Whether the group is durable is then unknown until the journal is opened.
    ///
    /// # Durability
    ///
    /// After `Ok` the group survives loss of power.
    pub fn commit(&mut self) -> Result<GroupNumber, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        // Until all of it went well: a panic in between must not leave a journal that goes on.
        self.poisoned = true;
        if self.oversized {
            return Err(failed("write a record of more than 1 GiB to", &self.dir)(
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        let mut filled = std::mem::take(&mut self.filled);
        for group in &mut filled {
            self.write(group)?;
        }
        if !self.staged.is_empty() {
            let mut group = std::mem::take(&mut self.staged);
            self.write(&mut group)?;
            group.restart(Site { offset: group.end(), begins_segment: false, ..group.site() });
            self.staged = group;
        }
        self.poisoned = false;
        Ok(GroupNumber(self.last))
    }

    /// Makes one group durable, and its segment if it begins one.
    fn write(&mut self, group: &mut GroupBuffer) -> Result<(), StoreError> {
        let number = self.last + 1;
        let (site, offset) = (group.site(), group.write_offset());
        let path = segment_path(&self.dir, site.segment);
        // All groups before this one were synced before it is written, those of the same commit too.
        let bytes = group.finish(self.salt, number, self.last);
        if site.begins_segment {
            let file = self.next_file(&site, &path)?;
            let last = Full { segment: self.segment, bytes: self.current_bytes, last_group: self.last };
            self.older.push_back(last);
            (self.file, self.segment, self.current_bytes) = (file, site.segment, site.segment_bytes);
            crash_point("journal_segment");
        }
        self.file.write_at(offset, bytes).map_err(failed("write", &path))?;
        crash_point("journal_unsynced");
        self.file.sync().map_err(failed("sync", &path))?;
        if site.begins_segment {
            self.disk.sync_dir(&self.dir).map_err(failed("sync", &self.dir))?;
        }
        self.last = number;
        self.extents.push(group.end() - site.offset);
        Ok(())
    }

    /// The file for a segment that is about to begin. Nothing of it is durable until its first group is: a power
    /// cut leaves no file of that name, or one whose header is not that of this number, or a whole one.
    fn next_file(&self, site: &Site, path: &Path) -> Result<Box<dyn DiskFile>, StoreError> {
        if site.segment_bytes != self.segment_bytes {
            return create_segment(self.disk.as_ref(), &self.dir, site.segment, site.segment_bytes);
        }
        let spare = self.spares.take().map_err(failed("prepare", path))?;
        self.disk.rename(&spare.path, path).map_err(failed("create", path))?;
        Ok(spare.file)
    }

    /// The last durable group.
    pub fn last_group(&self) -> GroupNumber {
        GroupNumber(self.last)
    }

    /// Bytes of groups written after `group`: what a replay from there would read.
    pub fn bytes_since(&self, group: GroupNumber) -> u64 {
        self.extents.bytes_since(group.0)
    }

    /// Whether a prepared segment is in reserve, or is just being zeroed. While none can be had (the disk is full),
    /// commits still succeed within the current segment: refuse new work then, and record what runs.
    pub fn has_room(&self) -> bool {
        self.spares.has_room()
    }

    /// Frees the segments that hold only groups up to `group`; at most two are kept as spares for reuse.
    ///
    /// The work is done by another thread; if it fails, the files stay until they are released after the next
    /// start. The segment that is written to is never freed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`].
    ///
    /// # Durability
    ///
    /// Whichever part of it survives loss of power: everything above `group` is untouched.
    pub fn release(&mut self, group: GroupNumber) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let (free, kept) =
            self.older.iter().partition::<VecDeque<Full>, _>(|full| full.last_group <= group.0);
        self.older = kept;
        self.extents.forget(group.0);
        self.spares
            .release(free.into_iter().map(|full| Released { segment: full.segment, bytes: full.bytes }));
        Ok(())
    }

    pub fn reader(&self) -> PlaceReader {
        PlaceReader::new(Arc::clone(&self.disk), Arc::clone(&self.dir))
    }

    /// Waits until the thread that prepares spares rests, so that a test counts the same operations each time.
    #[cfg(test)]
    pub fn settle(&self) {
        self.spares.settle();
    }
}

fn make(disk: &Arc<dyn Disk>, dir: &Path, segment_bytes: u64) -> Result<Recovered, StoreError> {
    // Keyed by the operating system's random numbers: nobody who submits can know it.
    let salt = RandomState::new().hash_one(0_u64);
    recovery::create(disk, dir, segment_bytes, salt)
}
