//! Reads single records by place, beside the writer and from any thread.
//!
//! Guarantees: what it returns is the record that was staged at that place, or it is an error; a segment that was
//! released and is used for something else by now is an error too. Called for the bodies of waiting actions while
//! sled is rebuilt, and where a snapshot refers to the journal.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Place;
use super::format::{RECORD_HEADER_BYTES, record_header, segment_path};
use super::segment::{damaged, failed};
use crate::store::StoreError;
use crate::store::disk::{Disk, DiskFile};

/// The segment that was read last.
#[derive(Default)]
pub struct OpenSegment(Option<Open>);

struct Open {
    segment: u64,
    len: u64,
    file: Box<dyn DiskFile>,
}

/// Reads records by place, beside the writer. Cheap to clone.
#[derive(Clone)]
pub struct PlaceReader {
    disk: Arc<dyn Disk>,
    dir: Arc<Path>,
}

impl PlaceReader {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: Arc<Path>) -> Self {
        Self { disk, dir }
    }

    /// The record's bytes, checked against the checksum that binds them to their place.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] with `NotFound` if the segment was released; [`StoreError::Damaged`] if the bytes are
    /// not the record's (also for a place that never was one).
    pub fn read(&self, place: Place) -> Result<Vec<u8>, StoreError> {
        let record = self.read_at(place.segment, place.offset, &mut OpenSegment::default())?;
        if record.len() == place.len as usize {
            return Ok(record);
        }
        let path = segment_path(&self.dir, place.segment);
        Err(damaged(path, u64::from(place.offset), "there is no such record here"))
    }

    /// The same for a record of whatever length, through a segment that stays open for the next one.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn read_at(&self, segment: u64, offset: u32, open: &mut OpenSegment) -> Result<Vec<u8>, StoreError> {
        let path = segment_path(&self.dir, segment);
        if open.0.as_ref().is_none_or(|open| open.segment != segment) {
            let file = self.disk.open(&path).map_err(failed("open", &path))?;
            let len = file.len().map_err(failed("measure", &path))?;
            open.0 = Some(Open { segment, len, file });
        }
        let wrong = || damaged(path.clone(), u64::from(offset), "there is no such record here");
        let Some(Open { len, file, .. }) = &open.0 else { return Err(wrong()) };
        let start = u64::from(offset).checked_sub(RECORD_HEADER_BYTES as u64).ok_or_else(wrong)?;
        if u64::from(offset) > *len {
            return Err(wrong());
        }
        let mut header = [0; RECORD_HEADER_BYTES];
        file.read_at(start, &mut header).map_err(failed("read", &path))?;
        let [l0, l1, l2, l3, ..] = header;
        let bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        // Before the buffer is allocated: a place from elsewhere must not ask for more than the file has.
        if u64::from(offset) + u64::from(bytes) > *len {
            return Err(wrong());
        }
        let mut record = vec![0; bytes as usize];
        file.read_at(u64::from(offset), &mut record).map_err(failed("read", &path))?;
        if header == record_header(segment, offset, &record) {
            return Ok(record);
        }
        // The file may have been released and written again between opening and reading.
        match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(failed("open", &path)(error)),
            _ => Err(wrong()),
        }
    }
}
