//! Writing blocks: behind the last file, or into files of their own.
//!
//! Nothing that is written here is part of the store before [`Bodies::publish`] or [`Bodies::replace`] shows it to
//! readers and a checkpoint's description names it; and that comes after [`Appender::finish`] has synced it. What
//! a crash leaves behind the described length is written over by the next run, and a file that nobody describes is
//! removed.

use std::sync::Arc;

use super::block::Builder;
use super::file::{
    BlockAt, BodyFile, FILE_HEADER_BYTES, Fate, Handle, damaged, failed, file_header, path_of,
};
use super::{Bodies, StoreError};
use crate::store::codec::Malformed;
use crate::store::crash_point::crash_point;
use crate::store::disk::SYNC_BYTES;
use crate::store::record::{FileMeta, version_hash};

/// Takes up actions in the order of ids.
pub struct Appender<'a> {
    bodies: &'a Bodies,
    block: Builder,
    /// Of what is in the block.
    block_last: (u64, u64, u64),
    open: Option<BodyFile>,
    full: Vec<BodyFile>,
    /// Written since the last sync.
    unsynced_bytes: u64,
    file_bytes: u64,
    /// Files that were made by this one.
    created: Vec<u64>,
}

impl<'a> Appender<'a> {
    /// Goes on in `open` if that is given.
    pub(super) fn new(bodies: &'a Bodies, open: Option<BodyFile>, file_bytes: u64) -> Self {
        Self {
            bodies,
            block: Builder::default(),
            block_last: (0, 0, 0),
            open,
            full: Vec::new(),
            unsynced_bytes: 0,
            file_bytes,
            created: Vec::new(),
        }
    }

    /// An action with an id above all before.
    pub fn add(&mut self, id: u64, body: &[u8], status: &[u8]) -> Result<(), StoreError> {
        if !self.block.is_empty() && self.block.bytes() + body.len() + status.len() > self.bodies.block_bytes
        {
            self.end_block()?;
        }
        let version = self.block.add(id, body, status).map_err(|error| self.bad(error))?;
        let (_, count, digest) = self.block_last;
        self.block_last = (id, count + 1, digest.wrapping_add(version_hash(id, version)));
        Ok(())
    }

    fn bad(&self, Malformed(detail): Malformed) -> StoreError {
        damaged(&self.bodies.dir, 0, detail)
    }

    fn end_block(&mut self) -> Result<(), StoreError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut file = match self.open.take() {
            Some(file) if file.meta.bytes < self.file_bytes => file,
            sealed => {
                self.full.extend(sealed);
                self.begin_file()?
            }
        };
        let at = file.meta.bytes;
        let offset = u32::try_from(at).map_err(|_| self.bad(Malformed::new("a body file is too long")))?;
        let dir = &self.bodies.dir;
        let finished = self.block.finish(file.meta.number, at);
        let (first_id, block) = finished.map_err(|Malformed(detail)| damaged(dir, 0, detail))?;
        file.handle.file.write_at(at, block).map_err(failed("write", &file.handle.path))?;
        crash_point("bodies_block");
        self.unsynced_bytes += block.len() as u64;
        if self.unsynced_bytes >= SYNC_BYTES {
            self.unsynced_bytes = 0;
            file.handle.file.sync().map_err(failed("sync", &file.handle.path))?;
        }
        file.blocks.push(BlockAt { first_id, offset });
        let (last_id, count, digest) = std::mem::take(&mut self.block_last);
        file.meta.bytes += block.len() as u64;
        file.meta.last_id = last_id;
        file.meta.count += count;
        file.meta.digest = file.meta.digest.wrapping_add(digest);
        self.open = Some(file);
        Ok(())
    }

    fn begin_file(&mut self) -> Result<BodyFile, StoreError> {
        let number = self.bodies.next_number();
        let path = path_of(&self.bodies.dir, number);
        let file = self.bodies.disk.create(&path).map_err(failed("create", &path))?;
        self.created.push(number);
        file.write_at(0, &file_header(number, &self.bodies.store_id)).map_err(failed("write", &path))?;
        crash_point("bodies_file");
        let meta = FileMeta { number, bytes: FILE_HEADER_BYTES as u64, ..FileMeta::default() };
        let handle = Arc::new(Handle { path, file });
        Ok(BodyFile { meta, handle, blocks: Vec::new(), fate: Arc::new(Fate::default()) })
    }

    /// Everything added is on disk afterwards. The files that have it, in the order of ids; the first may be a
    /// longer form of the one that was open.
    pub fn finish(&mut self) -> Result<Vec<Arc<BodyFile>>, StoreError> {
        self.end_block()?;
        self.full.extend(self.open.take());
        for file in &self.full {
            file.handle.file.sync().map_err(failed("sync", &file.handle.path))?;
        }
        if !self.created.is_empty() {
            let dir = &self.bodies.dir;
            self.bodies.disk.sync_dir(dir).map_err(failed("sync", dir))?;
        }
        crash_point("bodies_synced");
        Ok(std::mem::take(&mut self.full).into_iter().map(Arc::new).collect())
    }

    /// Removes the files that were made, because nobody will describe them.
    pub fn abandon(self) {
        for number in self.created {
            let path = path_of(&self.bodies.dir, number);
            if let Err(error) = self.bodies.disk.remove(&path) {
                tracing::warn!(file = %path.display(), %error, "cannot remove an unfinished body file");
            }
        }
    }
}
