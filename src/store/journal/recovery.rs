//! Opens a journal after whatever happened to it.
//!
//! 1. Survey: nothing is changed until it is clear that nothing synced is missing.
//! 2. The end of the journal is written again into a fresh segment, synced, and only then are the old copies
//!    removed. Its last group was perhaps never synced (a process that died may have left it in the page cache
//!    only), and a replay must not act on bytes that a later power cut removes. Cut power anywhere in between:
//!    the old copy is still there, the new one is whole, torn or absent, and equal groups count once.
//! 3. Replay, from the places where the groups are now.
//!
//! A fresh segment also means that no start ever writes behind a torn group. So that many starts do not leave
//! many nearly empty segments, everything in the last ones is written again while it fits a quarter of a segment.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::format::{BLOCK, BLOCK_BYTES, HEADER_BYTES, Records, SegmentHeader, padded, segment_path};
use super::group::{GroupBuffer, Site, usual_bytes};
use super::segment::{Names, SegmentFile, create_segment, damaged, failed};
use super::survey::{GroupFound, SegmentFound, Survey};
use super::{GroupNumber, Place, Replayed};
use crate::store::StoreError;
use crate::store::disk::{Disk, DiskFile};

/// At least so much is free in the segment that a start begins on a full disk.
const SHORT_BYTES: u64 = 64 << 10;

/// An opened journal, ready to be replayed and continued.
pub struct Recovered {
    pub salt: u64,
    /// The segment that is written to from now on.
    pub file: Box<dyn DiskFile>,
    pub site: Site,
    /// The other segments, oldest first.
    pub older: Vec<SegmentFound>,
    /// All groups that are there, in order; without gaps above the snapshot's group.
    pub groups: Vec<GroupFound>,
    pub last: u64,
}

/// Begins a journal that has no group yet.
pub fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    segment_bytes: u64,
    salt: u64,
) -> Result<Recovered, StoreError> {
    disk.create_dir(dir).map_err(failed("create", dir))?;
    if let Some(parent) = dir.parent() {
        disk.sync_dir(parent).map_err(failed("sync", parent))?;
    }
    let names = Names::list(disk.as_ref(), dir)?;
    if !names.segments.is_empty() {
        // An earlier creation may have been interrupted; a journal with groups in it is somebody's.
        let survey = Survey::take(disk, dir)?;
        if survey.synced > 0 || !survey.groups.is_empty() {
            let exists = std::io::ErrorKind::AlreadyExists.into();
            return Err(failed("create a journal over the one in", dir)(exists));
        }
        for &segment in &names.segments {
            let path = segment_path(dir, segment);
            disk.remove(&path).map_err(failed("remove", &path))?;
        }
    }
    names.remove_spares(disk.as_ref())?;
    let bytes = usual_bytes(segment_bytes);
    let header = SegmentHeader { segment: 1, salt, bytes, first_group: 1, synced: 0 };
    let file = create_segment(disk.as_ref(), dir, 1, bytes)?;
    let file = begin_segment(disk.as_ref(), dir, file, &header, |_| Ok(()))?;
    let site = Site { segment: 1, segment_bytes: bytes, offset: BLOCK, begins_segment: false };
    Ok(Recovered { salt, file, site, older: Vec::new(), groups: Vec::new(), last: 0 })
}

/// Makes a segment with its first contents durable.
fn begin_segment(
    disk: &dyn Disk,
    dir: &Path,
    file: Box<dyn DiskFile>,
    header: &SegmentHeader,
    write_groups: impl FnOnce(&dyn DiskFile) -> Result<(), StoreError>,
) -> Result<Box<dyn DiskFile>, StoreError> {
    let path = segment_path(dir, header.segment);
    let mut block = [0; BLOCK_BYTES];
    if let Some(place) = block.first_chunk_mut() {
        *place = header.encode();
    }
    file.write_at(0, &block).map_err(failed("write", &path))?;
    write_groups(file.as_ref())?;
    file.sync().map_err(failed("sync", &path))?;
    disk.sync_dir(dir).map_err(failed("sync", dir))?;
    Ok(file)
}

/// Steps 1 and 2.
pub fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    segment_bytes: u64,
    after: GroupNumber,
) -> Result<Recovered, StoreError> {
    let mut survey = Survey::take(disk, dir)?;
    let end = survey.end(dir, after)?;
    let Some(salt) = survey.salt else {
        return Err(damaged(dir.to_owned(), 0, "no segment header can be read"));
    };
    survey.groups.truncate(survey.groups.partition_point(|found| found.group <= end));
    survey.names.remove_spares(disk.as_ref())?;

    let segment_bytes = usual_bytes(segment_bytes);
    let first = first_to_rewrite(&survey, end, segment_bytes / 4);
    let at = survey.groups.partition_point(|found| found.group < first);
    let again: u64 = survey.groups.get(at..).unwrap_or_default().iter().map(|found| found.bytes).sum();
    let segment = survey.names.segments.last().map_or(1, |last| last + 1);
    let needed = BLOCK + again;
    let (file, bytes) = create_with_room(disk.as_ref(), dir, segment, segment_bytes.max(needed), needed)?;
    let header = SegmentHeader { segment, salt, bytes, first_group: first, synced: survey.synced };
    let mut site = Site { segment, segment_bytes: header.bytes, offset: BLOCK, begins_segment: false };
    let path = segment_path(dir, segment);
    let file = begin_segment(disk.as_ref(), dir, file, &header, |file| {
        let mut source = Source::new(disk, dir, salt);
        let mut buffer = GroupBuffer::new(site);
        for found in survey.groups.get_mut(at..).unwrap_or_default() {
            for (_, record) in Records::new(source.payload(found)?) {
                buffer.push(record);
            }
            let bytes = buffer.finish(salt, found.group, survey.synced);
            file.write_at(site.offset, bytes).map_err(failed("write", &path))?;
            *found = GroupFound { segment, offset: site.offset, ..*found };
            site.offset += found.bytes;
            buffer.restart(site);
        }
        Ok(())
    })?;

    // What is left of older segments that held nothing else, among them those whose beginning was torn.
    let before = at.checked_sub(1).and_then(|at| survey.groups.get(at)).map_or(0, |found| found.segment);
    let is_rest = |found: &SegmentFound| match found.groups {
        Some((lowest, _)) => lowest >= first,
        None => found.segment > before,
    };
    for rest in survey.segments.iter().filter(|found| is_rest(found)) {
        let path = segment_path(dir, rest.segment);
        disk.remove(&path).map_err(failed("remove", &path))?;
    }
    let older = survey.segments.iter().filter(|found| !is_rest(found)).copied().collect();
    Ok(Recovered { salt, file, site, older, groups: survey.groups, last: end })
}

/// A zeroed file for the fresh segment and its length: as wanted, or on a full disk what is `needed` and room for
/// some groups.
fn create_with_room(
    disk: &dyn Disk,
    dir: &Path,
    segment: u64,
    wanted: u64,
    needed: u64,
) -> Result<(Box<dyn DiskFile>, u64), StoreError> {
    let mut bytes = wanted;
    loop {
        match create_segment(disk, dir, segment, bytes) {
            Err(StoreError::Io { source, .. })
                if source.kind() == ErrorKind::StorageFull && bytes > needed + SHORT_BYTES =>
            {
                bytes = padded((bytes / 4).max(needed + SHORT_BYTES));
                tracing::warn!(bytes, "disk is full: the journal goes on in a short segment");
            }
            created => return Ok((created?, bytes)),
        }
    }
}

/// The first of the groups up to `end` that are written again: all that were perhaps not synced, and before them
/// whole segments while all of it is at most `bytes_max`.
fn first_to_rewrite(survey: &Survey, end: u64, bytes_max: u64) -> u64 {
    let mut first = end.min(survey.synced) + 1;
    let mut bytes: u64 =
        survey.groups.iter().filter(|found| found.group >= first).map(|found| found.bytes).sum();
    while let Some(newest) = survey.find(first - 1) {
        let whole = survey.groups.iter().rev().skip_while(|found| found.group >= first);
        let mut lowest = first;
        for found in whole.take_while(|found| found.segment == newest.segment) {
            if found.group + 1 != lowest {
                break;
            }
            lowest = found.group;
            bytes += found.bytes;
        }
        if bytes > bytes_max || lowest == first {
            break;
        }
        first = lowest;
    }
    first
}

/// Reads groups by where they were found, keeping the segment open.
struct Source<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    salt: u64,
    open: Option<(u64, SegmentFile)>,
}

impl<'a> Source<'a> {
    fn new(disk: &'a Arc<dyn Disk>, dir: &'a Path, salt: u64) -> Self {
        Self { disk, dir, salt, open: None }
    }

    fn payload(&mut self, found: &GroupFound) -> Result<&[u8], StoreError> {
        let path = segment_path(self.dir, found.segment);
        if self.open.as_ref().is_none_or(|(segment, _)| *segment != found.segment) {
            self.open = Some((found.segment, SegmentFile::open(self.disk, self.dir, found.segment)?));
        }
        let group = match &mut self.open {
            Some((segment, file)) => file.group_at(found.offset, *segment, Some(self.salt))?,
            None => None,
        };
        match group {
            Some((header, payload)) if header.group == found.group => Ok(payload),
            _ => Err(damaged(path, found.offset, format!("group {} cannot be read again", found.group))),
        }
    }
}

/// Step 3: hands over every record above `after`.
pub fn replay(
    recovered: &Recovered,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    after: GroupNumber,
    replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut source = Source::new(disk, dir, recovered.salt);
    let from = recovered.groups.partition_point(|found| found.group <= after.0);
    for found in recovered.groups.get(from..).unwrap_or_default() {
        let payload_at = found.offset + HEADER_BYTES as u64;
        for (offset, bytes) in Records::new(source.payload(found)?) {
            let place = Place {
                segment: found.segment,
                offset: u32::try_from(payload_at + u64::from(offset)).unwrap_or(u32::MAX),
                len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            };
            replay(Replayed { group: GroupNumber(found.group), place, bytes })?;
        }
    }
    Ok(())
}
