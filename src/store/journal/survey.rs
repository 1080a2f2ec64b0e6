//! Looks at a whole journal without changing it: which groups are there, which are known to be synced, and whether
//! one of those is missing.
//!
//! Sectors that were not synced persist in any order, so a bad group proves nothing. Each group (and each segment
//! header) says which group was known to be synced when it was written; the highest such number that can be read
//! anywhere is `synced`. The rule is then short: a missing group up to `synced` is damage, the first missing one
//! behind it is where the journal ends. Groups may be there twice, since recovery writes the end of a journal
//! again before it removes the old copy; the copies are equal and the later segment's is taken.

use std::path::Path;
use std::sync::Arc;

use super::GroupNumber;
use super::format::{BLOCK, SegmentHeader, SegmentStart, VERSION, segment_path};
use super::segment::{Names, SegmentFile, damaged};
use crate::store::StoreError;
use crate::store::disk::Disk;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupFound {
    pub group: u64,
    pub segment: u64,
    pub offset: u64,
    /// In the segment, padding included.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct SegmentFound {
    pub segment: u64,
    pub bytes: u64,
    pub header: Option<SegmentHeader>,
    /// The lowest and the highest group in it, stale ones of another segment number not counted.
    pub groups: Option<(u64, u64)>,
}

#[derive(Debug)]
pub struct Survey {
    pub names: Names,
    pub segments: Vec<SegmentFound>,
    /// By number, each once.
    pub groups: Vec<GroupFound>,
    /// All groups up to this one were synced once.
    pub synced: u64,
    /// `None` if no segment header can be read.
    pub salt: Option<u64>,
}

impl Survey {
    /// Reads every segment in `dir`.
    ///
    /// # Errors
    ///
    /// [`StoreError::FromTheFuture`]; [`StoreError::Damaged`] for a segment shorter than its header says (its
    /// length was synced before it got its name, so no power cut does that).
    pub fn take(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, StoreError> {
        let names = Names::list(disk.as_ref(), dir)?;
        let mut survey = Self { names, segments: Vec::new(), groups: Vec::new(), synced: 0, salt: None };
        for &segment in &survey.names.segments {
            let mut file = SegmentFile::open(disk, dir, segment)?;
            let header = match file.start()? {
                SegmentStart::Header(header) => Some(header).filter(|header| header.segment == segment),
                SegmentStart::Newer(found) => {
                    return Err(StoreError::FromTheFuture { file: file.path, found, known: VERSION });
                }
                SegmentStart::Unreadable => None,
            };
            if let Some(header) = header {
                let salt = *survey.salt.get_or_insert(header.salt);
                if header.salt != salt {
                    return Err(damaged(file.path, 24, "the segment belongs to another journal"));
                }
                if file.len < header.bytes {
                    let detail = format!("the file ends here and not at {}", header.bytes);
                    return Err(damaged(file.path, file.len, detail));
                }
            }
            survey.segments.push(SegmentFound { segment, bytes: file.len, header, groups: None });
        }
        for segment in &mut survey.segments {
            let mut file = SegmentFile::open(disk, dir, segment.segment)?;
            let synced = &mut survey.synced;
            *synced = (*synced).max(segment.header.map_or(0, |header| header.synced));
            file.groups(segment.segment, survey.salt, &mut |offset, header| {
                *synced = (*synced).max(header.synced);
                // Groups behind an unreadable header count as witnesses only. If the header was never written,
                // nobody was told of them; if it was, the second group there says so, and the first is missed.
                if segment.header.is_some() {
                    survey.groups.push(GroupFound {
                        group: header.group,
                        segment: segment.segment,
                        offset,
                        bytes: header.bytes(),
                    });
                    let (low, high) = segment.groups.unwrap_or((header.group, header.group));
                    segment.groups = Some((low.min(header.group), high.max(header.group)));
                }
            })?;
        }
        survey.groups.sort_by_key(|found| (found.group, std::cmp::Reverse((found.segment, found.offset))));
        survey.groups.dedup_by_key(|found| found.group);
        Ok(survey)
    }

    pub fn find(&self, group: u64) -> Option<&GroupFound> {
        let at = self.groups.binary_search_by_key(&group, |found| found.group).ok()?;
        self.groups.get(at)
    }

    /// The last group of an unbroken row from `after` on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if the row ends before a group that was synced, or the journal before `after`.
    pub fn end(&self, dir: &Path, after: GroupNumber) -> Result<u64, StoreError> {
        let GroupNumber(after) = after;
        if self.salt.is_none() {
            return Err(match self.segments.first() {
                Some(first) => {
                    damaged(segment_path(dir, first.segment), 0, "the segment's header is unreadable")
                }
                None => damaged(dir.to_owned(), 0, "the journal has no segments"),
            });
        }
        let from = self.groups.partition_point(|found| found.group <= after);
        let row = self.groups.get(from..).unwrap_or_default();
        let in_row = row.iter().zip(after + 1..).take_while(|(found, number)| found.group == *number).count();
        let end = after + in_row as u64;
        if end < self.synced {
            return Err(self.missing(dir, end + 1));
        }
        if end == after && self.synced < after && self.find(after).is_none() {
            return Err(self.missing(dir, after));
        }
        Ok(end)
    }

    /// Names the spot where `group` should be.
    fn missing(&self, dir: &Path, group: u64) -> StoreError {
        let detail = |why: &str| format!("group {group} was synced and is missing: {why}");
        let at = self.groups.partition_point(|found| found.group < group);
        let before = at.checked_sub(1).and_then(|at| self.groups.get(at));
        let spot = before.map_or((0, BLOCK), |found| (found.segment, found.offset + found.bytes));
        let file = segment_path(dir, spot.0);
        let next = self.segments.iter().find(|found| found.segment > spot.0);
        let goes_on_here = self.groups.iter().any(|found| found.segment == spot.0 && found.offset >= spot.1);
        match next {
            _ if goes_on_here => damaged(file, spot.1, detail("it cannot be read")),
            Some(next) if before.is_some() && next.segment > spot.0 + 1 => {
                damaged(segment_path(dir, spot.0 + 1), 0, detail("its segment does not exist"))
            }
            Some(next) => {
                let file_next = segment_path(dir, next.segment);
                match next.header {
                    None => damaged(file_next, 0, detail("the segment's header is unreadable")),
                    Some(header) if header.first_group <= group => {
                        damaged(file_next, BLOCK, detail("it cannot be read"))
                    }
                    Some(_) if before.is_none() => {
                        damaged(file_next, 0, detail("the journal does not reach back to it"))
                    }
                    Some(_) => damaged(file, spot.1, detail("it cannot be read")),
                }
            }
            None => damaged(file, spot.1, detail("the journal ends before it")),
        }
    }
}
