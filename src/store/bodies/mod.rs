//! The bodies of all actions: files that are only appended to, each action written once with the status it then had.
//!
//! Bodies never change and ids are consecutive, so sled is no place for them: a checkpoint writes the frozen
//! generation's new actions behind the last file, in blocks of about 32 KiB, syncs that, and then names the files
//! and their valid lengths in the table's description ([`Meta`](super::record::Meta)). What changes later (a newer
//! status, a deletion) is in the table. `block` and `file` have the bytes, `append` writes, `reclaim` says what is worth
//! writing anew.
//!
//! # Guarantees
//!
//! - What a description names is on disk, whole, and never written again. What lies behind the named length, or in
//!   a file that is not named, is not there.
//! - Everything read is checked against checksums bound to the file and the place; a mismatch is
//!   [`StoreError::Damaged`] with both.
//! - In memory: 16 bytes a block, and the last blocks that were read.
//!
//! A file that readers still have open may be removed meanwhile. A reader that combines a block with the table's
//! later statuses asks [`Bodies::holds`] afterwards: the table forgets them only once another file has taken that
//! one's place.
//!
//! Written by the checkpoint thread and by a start; read by everybody.

mod append;
mod block;
mod file;
mod reclaim;
#[cfg(test)]
mod tests;
mod tickets;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub(super) use append::Appender;
use block::Tickets;
pub(super) use block::{CLAIMED, MORE_LOCKS, Ticket};
use block::{Header, parts_of, status_of};
pub(super) use file::{BodyFile, Fate, Front, Take};
use file::{damaged, failed, number_of, path_of, unreadable};
pub(super) use reclaim::Victims;

use super::StoreError;
use super::base::ReadError;
use super::codec::Malformed;
use super::disk::Disk;
use super::record::FileMeta;

const BLOCK_BYTES: usize = 32 << 10;
/// Blocks above this are not kept in memory: they have one large action.
const CACHED_BYTES_MAX: usize = 64 << 10;
const CACHED: usize = 4;
/// There are never many more files than this: the larger the store, the larger they are.
const FILES: u64 = 64;
const FILE_BYTES_MAX: u64 = 1 << 30;

/// One action as stored: its bytes are not looked into here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub id: u64,
    pub body: Vec<u8>,
    pub status: Vec<u8>,
}

pub(super) struct Bodies {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store_id: String,
    /// In the order of ids.
    files: RwLock<Arc<Vec<Arc<BodyFile>>>>,
    next_number: AtomicU64,
    block_bytes: usize,
    file_bytes: u64,
    /// The blocks read last, newest first.
    cache: Mutex<Vec<Arc<Block>>>,
}

/// A whole block in memory.
pub(super) struct Block {
    file: Arc<BodyFile>,
    at: u64,
    header: Header,
    /// Without the body part if that cannot be read.
    bytes: Vec<u8>,
    unreadable: Option<String>,
}

impl Block {
    /// The file that it is in.
    pub fn number(&self) -> u64 {
        self.file.meta.number
    }

    fn bad(&self, Malformed(detail): Malformed) -> StoreError {
        damaged(&self.file.handle.path, self.at, detail)
    }

    /// What is wrong with a part of it.
    fn bad_part(&self, ticket: &Ticket, Malformed(detail): Malformed) -> StoreError {
        let at = self.at + (self.header.bodies_at() + ticket.offset) as u64;
        damaged(&self.file.handle.path, at, self.unreadable.clone().unwrap_or(detail))
    }

    pub fn tickets(&self) -> Result<Vec<Ticket>, StoreError> {
        let mut tickets = Tickets::of(&self.header, &self.bytes).map_err(|error| self.bad(error))?;
        let mut all = Vec::with_capacity(self.header.count as usize);
        while let Some(ticket) = tickets.next().map_err(|error| self.bad(error))? {
            all.push(ticket);
        }
        Ok(all)
    }

    pub fn ticket(&self, id: u64) -> Result<Option<Ticket>, StoreError> {
        Ok(self.tickets()?.into_iter().find(|ticket| ticket.id == id))
    }

    /// Body and status of one of its tickets.
    pub fn parts(&self, ticket: &Ticket) -> Result<(&[u8], &[u8]), StoreError> {
        parts_of(&self.header, ticket, &self.bytes).map_err(|error| self.bad_part(ticket, error))
    }

    /// The status of one of its tickets, whatever its body is like.
    pub fn status(&self, ticket: &Ticket) -> Result<&[u8], StoreError> {
        status_of(&self.header, ticket, &self.bytes).map_err(|error| self.bad_part(ticket, error))
    }

    pub fn stored(&self, ticket: &Ticket) -> Result<Stored, StoreError> {
        let (body, status) = self.parts(ticket)?;
        Ok(Stored { id: ticket.id, body: body.to_vec(), status: status.to_vec() })
    }
}

impl Bodies {
    /// Opens the files that a description names. Every action's ticket is handed over, in the order of ids.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        store_id: &str,
        segment_bytes: u64,
        files: &[FileMeta],
        take: &mut Take<'_>,
    ) -> Result<Self, ReadError> {
        disk.create_dir(dir).map_err(failed("create", dir))?;
        if let Some(parent) = dir.parent().filter(|_| files.is_empty()) {
            disk.sync_dir(parent).map_err(failed("sync", parent))?;
        }
        let mut last_id = 0;
        let mut opened = Vec::with_capacity(files.len());
        for meta in files {
            let file = BodyFile::open(&*disk, dir, *meta, store_id, take)?;
            if file.first_id() <= last_id {
                return Err(damaged(&file.handle.path, 0, "its actions are also in another file").into());
            }
            last_id = meta.last_id;
            opened.push(Arc::new(file));
        }
        let names = disk.list(dir).map_err(failed("list", dir))?;
        let highest = names.iter().filter_map(|name| number_of(name)).max().unwrap_or(0);
        let file_bytes = segment_bytes.saturating_mul(2).min(FILE_BYTES_MAX);
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            store_id: store_id.to_owned(),
            files: RwLock::new(Arc::new(opened)),
            next_number: AtomicU64::new(highest + 1),
            block_bytes: BLOCK_BYTES.min(usize::try_from(file_bytes / 8).unwrap_or(BLOCK_BYTES)),
            file_bytes,
            cache: Mutex::default(),
        })
    }

    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub fn files(&self) -> Arc<Vec<Arc<BodyFile>>> {
        Arc::clone(&self.files.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a description says of the files.
    pub fn describe(&self) -> Vec<FileMeta> {
        self.files().iter().map(|file| file.meta).collect()
    }

    /// Whether the file is still where actions are looked for.
    pub fn holds(&self, number: u64) -> bool {
        self.files().iter().any(|file| file.meta.number == number)
    }

    /// A file is sealed at that length.
    fn file_bytes_now(&self) -> u64 {
        let all: u64 = self.files().iter().map(|file| file.meta.bytes).sum();
        self.file_bytes.max((all / FILES).min(FILE_BYTES_MAX))
    }

    /// Writes behind the last file.
    pub fn appender(&self) -> Appender<'_> {
        let last = self.files().last().map(|file| BodyFile::clone(file));
        Appender::new(self, last, self.file_bytes_now())
    }

    /// Shows what an appender has finished.
    pub fn publish(&self, added: Vec<Arc<BodyFile>>) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::clone(&files);
        if let (Some(last), Some(first)) = (list.last(), added.first())
            && last.meta.number == first.meta.number
        {
            list.pop();
        }
        list.extend(added);
        *files = Arc::new(list);
    }

    /// The block that would have the action, and those behind it: file and number of the block.
    fn place(files: &[Arc<BodyFile>], id: u64) -> (usize, usize) {
        let behind = files.partition_point(|file| file.first_id() <= id);
        let Some((at, file)) = behind.checked_sub(1).and_then(|at| Some((at, files.get(at)?))) else {
            return (0, 0);
        };
        let block = file.blocks.partition_point(|block| block.first_id <= id);
        (at, block.saturating_sub(1))
    }

    /// The block that has the action, if it is in one.
    pub fn block_of(&self, id: u64) -> Result<Option<Arc<Block>>, StoreError> {
        let files = self.files();
        let (at, block) = Self::place(&files, id);
        let Some(file) = files.get(at).filter(|file| file.first_id() <= id && id <= file.meta.last_id) else {
            return Ok(None);
        };
        self.block(file, block)
    }

    /// The block that has the first action from `id` on; none behind the last. Files in which nothing lives are
    /// passed over.
    pub fn block_from(&self, id: u64) -> Result<Option<Arc<Block>>, StoreError> {
        let files = self.files();
        let (mut at, mut number) = Self::place(&files, id);
        while let Some(file) = files.get(at) {
            if file.meta.last_id >= id
                && file.live_count() > 0
                && let Some(block) = self.block(file, number)?
            {
                // There may be a gap between the last action of a block and the first of the next one.
                if block.tickets()?.last().is_some_and(|last| last.id >= id) {
                    return Ok(Some(block));
                }
                number += 1;
            } else {
                (at, number) = (at + 1, 0);
            }
        }
        Ok(None)
    }

    /// The last block that begins below `id`.
    pub fn block_before(&self, id: u64) -> Result<Option<Arc<Block>>, StoreError> {
        let Some(below) = id.checked_sub(1) else { return Ok(None) };
        let files = self.files();
        let (at, block) = Self::place(&files, below);
        match files.get(at).filter(|file| file.first_id() <= below) {
            Some(file) => self.block(file, block),
            None => Ok(None),
        }
    }

    fn block(&self, file: &Arc<BodyFile>, block: usize) -> Result<Option<Arc<Block>>, StoreError> {
        let Some((at, end)) = file.extent(block) else { return Ok(None) };
        let is_it = |block: &Arc<Block>| {
            block.at == at && block.number() == file.meta.number && block.bytes.len() as u64 == end - at
        };
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = cache.iter().position(is_it) {
                let block = cache.remove(found);
                cache.insert(0, Arc::clone(&block));
                return Ok(Some(block));
            }
        }
        let block = Arc::new(Self::read(file, at, end)?);
        if block.bytes.len() <= CACHED_BYTES_MAX {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.truncate(CACHED - 1);
            cache.insert(0, Arc::clone(&block));
        }
        Ok(Some(block))
    }

    fn read(file: &Arc<BodyFile>, at: u64, end: u64) -> Result<Block, StoreError> {
        let path = &file.handle.path;
        let mut bytes = vec![0; usize::try_from(end - at).unwrap_or(usize::MAX)];
        let mut missing = None;
        if let Err(error) = file.handle.file.read_at(at, &mut bytes) {
            // Its tickets may be readable still.
            let mut front = Vec::new();
            file.front(at, end, &mut front).map_err(|_| unreadable(path, at)(&error))?;
            (bytes, missing) = (front, Some(format!("it cannot be read: {error}")));
        }
        let bad = |Malformed(detail): Malformed| damaged(path, at, detail);
        let header = Header::decode(&bytes, file.meta.number, at).map_err(bad)?;
        Tickets::of(&header, &bytes).map_err(bad)?;
        if header.bytes() != end - at {
            return Err(damaged(path, at, "a block has another length than it should"));
        }
        Ok(Block { file: Arc::clone(file), at, header, bytes, unreadable: missing })
    }

    /// The action's ticket, with the file that it is in.
    pub fn ticket(&self, id: u64) -> Result<Option<(Ticket, Arc<Block>)>, StoreError> {
        let Some(block) = self.block_of(id)? else { return Ok(None) };
        Ok(block.ticket(id)?.map(|ticket| (ticket, block)))
    }

    /// Removes every body file that is not named.
    pub fn remove_others(&self, named: &dyn Fn(u64) -> bool) -> Result<(), StoreError> {
        remove_others(&*self.disk, &self.dir, named)
    }
}

/// The number of the body file at that path.
pub(super) fn number_in(path: &Path) -> Option<u64> {
    number_of(path.file_name()?.to_str()?)
}

fn remove_others(disk: &dyn Disk, dir: &Path, named: &dyn Fn(u64) -> bool) -> Result<(), StoreError> {
    let there = disk.list(dir).map_err(failed("list", dir))?;
    for number in there.iter().filter_map(|name| number_of(name)).filter(|number| !named(*number)) {
        let path = path_of(dir, number);
        disk.remove(&path).map_err(failed("remove", &path))?;
    }
    Ok(())
}
