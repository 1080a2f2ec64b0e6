//! Writing a snapshot, a slice at a time.

use std::path::{Path, PathBuf};

use super::{
    BLOCK_BYTES, BLOCK_HEADER, END, End, KEYS, KEYS_PER_BLOCK, LATER, MAGIC, SnapshotError, after, path,
    read, remove_unfinished,
};
use crate::store::codec::{encode_into, encode_versioned};
use crate::store::crash_point::crash_point;
use crate::store::disk::{Disk, DiskFile, SYNC_BYTES};
use crate::store::memory::Generation;
use crate::store::record::{FileMeta, Meta};
use crate::store::restated::Restated;
use crate::store::table::later::{Balance, cluster_of, pack_into};
use crate::store::table::{KeyHash, Table, TableError};

/// How many blocks a slice has: about what a checkpoint writes in a tenth of a second.
const BLOCKS_PER_SLICE: usize = 16;
const CLUSTERS_PER_BLOCK: usize = 128;

/// Where the walk through the keys is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    NotBegun,
    From(KeyHash),
    Written,
}

/// A snapshot that is being written.
pub(in crate::store) struct Writing {
    beside: PathBuf,
    out: Out,
    /// All clusters of statuses below are written; none: all are.
    cursor: Option<u64>,
    keys: Keys,
    /// Of all statuses that are written.
    balance: Balance,
}

impl Writing {
    pub fn begin(disk: &dyn Disk, dir: &Path, group: u64) -> std::io::Result<Self> {
        remove_unfinished(disk, dir)?;
        let beside = dir.join(format!("{group:016x}.tmp"));
        let mut out = Out { file: disk.create(&beside)?, offset: 0, crc: 0 };
        out.raw(MAGIC)?;
        crash_point("snapshot_begun");
        Ok(Self { beside, out, cursor: Some(0), keys: Keys::NotBegun, balance: Balance::default() })
    }

    /// Removes what was written: it is not a snapshot until it is renamed, and it may be what fills the disk.
    pub fn abandon(self, disk: &dyn Disk) {
        if let Err(error) = disk.remove(&self.beside) {
            tracing::warn!(file = %self.beside.display(), %error, "cannot remove an unfinished snapshot");
        }
    }

    /// Writes the next slice from the table; whether that was all there is.
    pub fn slice(&mut self, table: &Table) -> Result<bool, SnapshotError> {
        crash_point("snapshot_slice");
        for _ in 0..BLOCKS_PER_SLICE {
            if !self.statuses(table)? && !self.keys(table)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One block of later statuses; whether there were any left to look for.
    fn statuses(&mut self, table: &Table) -> Result<bool, SnapshotError> {
        let Some(from) = self.cursor else { return Ok(false) };
        let (found, next) = table.laters_from(from, CLUSTERS_PER_BLOCK, BLOCK_BYTES)?;
        let mut block = Vec::new();
        for later in &found {
            self.balance.add(later.balance().map_err(TableError::from)?);
            pack_into(&mut block, later.id, later.written, &later.status);
        }
        self.cursor = next;
        if !block.is_empty() {
            self.out.block(LATER, &block)?;
        }
        Ok(true)
    }

    /// One block of keys; whether there were any left to look for.
    fn keys(&mut self, table: &Table) -> Result<bool, SnapshotError> {
        let from = match self.keys {
            Keys::NotBegun => [0; 20],
            Keys::From(from) => from,
            Keys::Written => return Ok(false),
        };
        let uses = table.key_uses(&from, KEYS_PER_BLOCK)?;
        let next = uses.last().filter(|_| uses.len() == KEYS_PER_BLOCK).and_then(|(hash, _)| after(hash));
        self.keys = next.map_or(Keys::Written, Keys::From);
        let mut block = Vec::new();
        encode_into(&mut block, &uses);
        self.out.block(KEYS, &block)?;
        Ok(true)
    }

    /// Takes up what a checkpoint is about to change in the part that is written. Before the table has it.
    pub fn take_up(
        &mut self,
        table: &Table,
        restated: &[Restated<'_>],
        generation: &Generation,
    ) -> Result<(), SnapshotError> {
        let mut block = Vec::new();
        let is_written =
            |restated: &&Restated<'_>| self.cursor.is_none_or(|cursor| cluster_of(restated.id) < cursor);
        let written: Vec<&Restated<'_>> = restated.iter().filter(is_written).collect();
        for Restated { id, written, status, .. } in written {
            if let Some(before) = table.later(*id)? {
                self.balance.take(before.balance().map_err(TableError::from)?);
            }
            self.balance.add(Balance::of(*id, *written, status).map_err(TableError::from)?);
            pack_into(&mut block, *id, *written, status);
            if block.len() >= BLOCK_BYTES {
                self.out.block(LATER, &std::mem::take(&mut block))?;
            }
        }
        if !block.is_empty() {
            self.out.block(LATER, &block)?;
        }
        if self.keys != Keys::NotBegun && !generation.keys.is_empty() {
            let uses: Vec<_> = generation.keys.iter().map(|(hash, used)| (*hash, *used)).collect();
            for uses in uses.chunks(KEYS_PER_BLOCK) {
                let mut block = Vec::new();
                encode_into(&mut block, &uses);
                self.out.block(KEYS, &block)?;
            }
        }
        Ok(())
    }

    /// Makes it the snapshot of `meta`, the table's last checkpoint. Its size in bytes.
    pub fn finish(mut self, disk: &dyn Disk, dir: &Path, meta: &Meta) -> Result<u64, SnapshotError> {
        let finished = self.end(disk, meta);
        if finished.is_err() {
            self.abandon(disk);
            return finished;
        }
        let (beside, bytes) = (self.beside, self.out.offset);
        drop(self.out);
        crash_point("snapshot_rename");
        disk.rename(&beside, &path(dir, meta.group))?;
        disk.sync_dir(dir)?;
        crash_point("snapshot_renamed");
        Ok(bytes)
    }

    fn end(&mut self, disk: &dyn Disk, meta: &Meta) -> Result<u64, SnapshotError> {
        let count = |of: fn(&FileMeta) -> u64| meta.files.iter().map(of).fold(0, u64::wrapping_add);
        let live_count = count(|file| file.count).wrapping_sub(self.balance.deleted);
        let digest = count(|file| file.digest).wrapping_add(self.balance.digest);
        if (live_count, digest) != (meta.live_count, meta.digest) {
            return Err(SnapshotError::Table(TableError(format!(
                "it holds {live_count} actions where the checkpoint has {}, or other versions of them",
                meta.live_count
            ))));
        }
        let at = self.out.offset;
        let end = End { meta: meta.clone(), crc: self.out.crc };
        self.out.block(END, &encode_versioned(1, &end))?;
        self.out.raw(&at.to_le_bytes())?;
        crash_point("snapshot_sync");
        self.out.file.sync()?;
        // The journal that it stands for is given up next.
        match read(disk, &self.beside, &mut |_| Ok(())) {
            Ok(found) if found == *meta => Ok(self.out.offset),
            Ok(_) => Err(std::io::Error::other("a snapshot was read back otherwise").into()),
            Err(unreadable) => Err(std::io::Error::other(unreadable.detail).into()),
        }
    }
}

struct Out {
    file: Box<dyn DiskFile>,
    offset: u64,
    crc: u32,
}

impl Out {
    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_at(self.offset, bytes)?;
        let begun = self.offset / SYNC_BYTES;
        self.offset += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        if self.offset / SYNC_BYTES > begun { self.file.sync() } else { Ok(()) }
    }

    fn block(&mut self, kind: u8, payload: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(std::io::Error::other)?;
        let mut block = Vec::with_capacity(BLOCK_HEADER + payload.len());
        block.push(kind);
        block.extend_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block), payload);
        block.extend_from_slice(&crc.to_le_bytes());
        block.extend_from_slice(payload);
        self.raw(&block)
    }
}
