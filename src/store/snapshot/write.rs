//! Writing a snapshot, a slice at a time.

use std::path::{Path, PathBuf};

use super::{
    ACTIONS, BLOCK_BYTES, BLOCK_HEADER, END, End, KEYS, KEYS_PER_BLOCK, LATER, MAGIC, SnapshotError, after,
    path, read, remove_unfinished,
};
use crate::store::codec::{encode_into, encode_versioned};
use crate::store::crash_point::crash_point;
use crate::store::disk::{Disk, DiskFile};
use crate::store::memory::{Entry, Generation};
use crate::store::record::{Meta, peek_status, version_hash};
use crate::store::table::pack::pack_into;
use crate::store::table::{KeyHash, Table, TableError};

/// How many blocks a slice has: about what a checkpoint writes in a tenth of a second.
const BLOCKS_PER_SLICE: usize = 16;

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
    /// All actions below are written.
    cursor: u64,
    keys: Keys,
    live_count: u64,
    digest: u64,
}

impl Writing {
    pub fn begin(disk: &dyn Disk, dir: &Path, group: u64) -> std::io::Result<Self> {
        remove_unfinished(disk, dir)?;
        let beside = dir.join(format!("{group:016x}.tmp"));
        let mut out = Out { file: disk.create(&beside)?, offset: 0, crc: 0 };
        out.raw(MAGIC)?;
        crash_point("snapshot_begun");
        Ok(Self { beside, out, cursor: 0, keys: Keys::NotBegun, live_count: 0, digest: 0 })
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
            if self.actions(table)? {
                continue;
            }
            // Checkpoints may have added actions meanwhile, so these are asked for again behind the keys.
            if !self.keys(table)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One block of actions; whether there were any.
    fn actions(&mut self, table: &Table) -> Result<bool, SnapshotError> {
        let mut block = Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8);
        let mut packs = table.packs(self.cursor)?;
        while block.len() < BLOCK_BYTES
            && let Some(actions) = packs.next()?
        {
            for stored in actions {
                // The first pack may begin below.
                if stored.id < self.cursor {
                    continue;
                }
                let (version, _) = peek_status(&stored.status).map_err(TableError::from)?;
                self.live_count += 1;
                self.digest = self.digest.wrapping_add(version_hash(stored.id, version));
                self.cursor = stored.id + 1;
                pack_into(&mut block, stored.id, &stored.body, &stored.status);
            }
        }
        if block.is_empty() {
            return Ok(false);
        }
        self.out.block(ACTIONS, &block)?;
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
    pub fn take_up(&mut self, table: &Table, generation: &Generation) -> Result<(), SnapshotError> {
        let mut block = Vec::new();
        for (id, entry) in generation.actions.range(..self.cursor) {
            // Whatever is below the cursor is written as the table has it now, or gone.
            let Some(before) = table.get(*id)? else { continue };
            let (version, _) = peek_status(&before.status).map_err(TableError::from)?;
            self.digest = self.digest.wrapping_sub(version_hash(*id, version));
            match entry {
                Entry::Live(live) => {
                    self.digest = self.digest.wrapping_add(version_hash(*id, live.version));
                    pack_into(&mut block, *id, &[], &live.status);
                }
                Entry::Deleted => {
                    self.live_count = self.live_count.saturating_sub(1);
                    pack_into(&mut block, *id, &[], &[]);
                }
            }
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
        if (self.live_count, self.digest) != (meta.live_count, meta.digest) {
            return Err(SnapshotError::Table(TableError(format!(
                "it holds {} actions where the checkpoint has {}, or other versions of them",
                self.live_count, meta.live_count
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
        self.offset += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
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
