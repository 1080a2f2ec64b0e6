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
use crate::store::disk::Disk;

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
        let path = segment_path(&self.dir, place.segment);
        let file = self.disk.open(&path).map_err(failed("open", &path))?;
        let len = file.len().map_err(failed("measure", &path))?;
        let wrong = || damaged(path.clone(), u64::from(place.offset), "there is no such record here");
        let start = u64::from(place.offset).checked_sub(RECORD_HEADER_BYTES as u64).ok_or_else(wrong)?;
        // Before the buffer is allocated: a place from elsewhere must not ask for more than the file has.
        if u64::from(place.offset) + u64::from(place.len) > len {
            return Err(wrong());
        }
        let mut bytes = vec![0; RECORD_HEADER_BYTES + place.len as usize];
        file.read_at(start, &mut bytes).map_err(failed("read", &path))?;
        let record = bytes.split_off(RECORD_HEADER_BYTES);
        if bytes == record_header(place.segment, place.offset, &record) {
            return Ok(record);
        }
        // The file may have been released and written again between opening and reading.
        match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(failed("open", &path)(error)),
            _ => Err(wrong()),
        }
    }
}
