//! Files of a journal: opening, naming, making new ones; and reading groups from them with bounded memory.
//!
//! Called by the writer, by recovery and by the thread that prepares spares.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{
    BLOCK, GroupHeader, HEADER_BYTES, SegmentHeader, SegmentStart, is_spare, segment_number, segment_path,
};
use crate::store::StoreError;
use crate::store::disk::{Disk, DiskFile};

/// Read at once when groups are read one after the other.
const WINDOW_BYTES: u64 = 1 << 20;

/// What a person does about a damaged journal.
pub const NEXT_STEP: &str =
    "keep a copy of this directory as it is, then restore a backup or run `actiond doctor`";

/// Names an error of the disk.
pub fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}

pub fn damaged(file: PathBuf, offset: u64, detail: impl Into<String>) -> StoreError {
    StoreError::Damaged { file, offset, detail: detail.into(), next_step: NEXT_STEP }
}

/// What a journal's directory holds.
#[derive(Debug, Default)]
pub struct Names {
    /// Numbers, ascending.
    pub segments: Vec<u64>,
    pub spares: Vec<PathBuf>,
}

impl Names {
    /// Nothing at all if the directory does not exist.
    pub fn list(disk: &dyn Disk, dir: &Path) -> Result<Self, StoreError> {
        let names = match disk.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            result => result.map_err(failed("list", dir))?,
        };
        Ok(Self {
            segments: names.iter().filter_map(|name| segment_number(name)).collect(),
            spares: names.iter().filter(|name| is_spare(name)).map(|name| dir.join(name)).collect(),
        })
    }

    /// Removes the spares of an earlier process.
    ///
    /// They are never used again: a spare may be a segment whose renaming did not survive a power cut, and then
    /// holds groups of a number that is about to be given to another file.
    pub fn remove_spares(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        self.spares.iter().try_for_each(|path| disk.remove(path).map_err(failed("remove", path)))
    }
}

/// Creates a zeroed segment under its final name. The caller writes its header, syncs it, and syncs the directory.
///
/// # Errors
///
/// Those of the disk; nothing of this is acknowledged to anyone yet.
pub fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    segment: u64,
    bytes: u64,
) -> Result<Box<dyn DiskFile>, StoreError> {
    // Zeroed under another name first: a file with a segment's name is always as long as its header says.
    let prepared = dir.join("spare-new");
    let file = disk.create_zeroed(&prepared, bytes).map_err(failed("create", &prepared))?;
    let path = segment_path(dir, segment);
    disk.rename(&prepared, &path).map_err(failed("create", &path))?;
    Ok(file)
}

/// Reads a segment from front to back.
pub struct SegmentFile {
    pub path: PathBuf,
    pub len: u64,
    file: Box<dyn DiskFile>,
    window: Vec<u8>,
    window_start: u64,
}

impl SegmentFile {
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, segment: u64) -> Result<Self, StoreError> {
        let path = segment_path(dir, segment);
        let file = disk.open(&path).map_err(failed("open", &path))?;
        let len = file.len().map_err(failed("measure", &path))?;
        Ok(Self { path, len, file, window: Vec::new(), window_start: 0 })
    }

    /// `count` bytes at `offset`; `None` if the file ends before.
    fn bytes(&mut self, offset: u64, count: u64) -> Result<Option<&[u8]>, StoreError> {
        let Some(left) = self.len.checked_sub(offset).filter(|left| *left >= count) else { return Ok(None) };
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || offset + count > window_end {
            let take = count.max(WINDOW_BYTES).min(left);
            self.window.resize(usize::try_from(take).unwrap_or(usize::MAX), 0);
            self.window_start = offset;
            if let Err(error) = self.file.read_at(offset, &mut self.window) {
                self.window.clear();
                return Err(failed("read", &self.path)(error));
            }
        }
        let from = usize::try_from(offset - self.window_start).unwrap_or(usize::MAX);
        let until = from.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(self.window.get(from..until))
    }

    fn header_at(&mut self, offset: u64) -> Result<Option<[u8; HEADER_BYTES]>, StoreError> {
        let bytes = self.bytes(offset, HEADER_BYTES as u64)?;
        Ok(bytes.and_then(|bytes| bytes.first_chunk().copied()))
    }

    pub fn start(&mut self) -> Result<SegmentStart, StoreError> {
        let header = self.header_at(0)?;
        Ok(header.map_or(SegmentStart::Unreadable, |header| SegmentHeader::decode(&header)))
    }

    /// The group that begins at `offset`, if a whole and sound one of that segment (and that salt, where it is
    /// known) does; with its payload.
    pub fn group_at(
        &mut self,
        offset: u64,
        segment: u64,
        salt: Option<u64>,
    ) -> Result<Option<(GroupHeader, &[u8])>, StoreError> {
        let Some(bytes) = self.header_at(offset)? else { return Ok(None) };
        let Some(header) = GroupHeader::decode(&bytes) else { return Ok(None) };
        let known = header.segment == segment && salt.is_none_or(|salt| salt == header.salt);
        // The length bounds what is read: never more than the file holds.
        if !known || offset.checked_add(header.bytes()).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let payload = self.bytes(offset + HEADER_BYTES as u64, u64::from(header.payload_bytes))?;
        Ok(payload.filter(|payload| GroupHeader::fits(&bytes, payload)).map(|payload| (header, payload)))
    }

    /// All sound groups of that segment with their offsets, in the order of offsets; looks behind unsound ones.
    pub fn groups(
        &mut self,
        segment: u64,
        salt: Option<u64>,
        visit: &mut dyn FnMut(u64, &GroupHeader),
    ) -> Result<(), StoreError> {
        let mut offset = BLOCK;
        while offset < self.len {
            match self.group_at(offset, segment, salt)? {
                Some((header, _)) => {
                    visit(offset, &header);
                    offset += header.bytes();
                }
                None => offset += BLOCK,
            }
        }
        Ok(())
    }
}
