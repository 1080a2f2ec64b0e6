//! Which body files are worth writing anew, and the swap.
//!
//! A file of which more than half is dead is written anew, together with small neighbours; one with nothing alive just
//! goes. A file whose later statuses outnumber what is still as it was written takes them back in, once the table
//! has many of them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::file::BodyFile;
use super::{Appender, Bodies, StoreError};

/// So many later statuses are left to the table in any case.
const LATER_MIN: u64 = 100_000;

/// Neighbouring files that are replaced together.
pub struct Victims {
    range: Range<usize>,
    pub files: Vec<Arc<BodyFile>>,
}

impl Victims {
    pub fn first_id(&self) -> u64 {
        self.files.first().map_or(u64::MAX, |file| file.first_id())
    }

    pub fn last_id(&self) -> u64 {
        self.files.last().map_or(0, |file| file.meta.last_id)
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.meta.bytes).sum()
    }

    pub fn live_bytes(&self) -> u64 {
        self.files.iter().map(|file| if file.live_count() == 0 { 0 } else { file.live_bytes() }).sum()
    }

    /// The number of the one whose damage that is.
    pub fn damaged_by(&self, error: &StoreError) -> Option<u64> {
        let StoreError::Damaged { file: path, .. } = error else { return None };
        self.files.iter().find(|file| file.handle.path == *path).map(|file| file.meta.number)
    }

    pub fn are_dead(&self) -> bool {
        self.files.iter().all(|file| file.live_count() == 0)
    }
}

impl Bodies {
    /// The files to be replaced next, if any are. Of `spared` only those in which nothing lives.
    pub fn victims(&self, spared: &HashSet<u64>) -> Option<Victims> {
        let (files, file_bytes) = (self.files(), self.file_bytes_now());
        let later: u64 = files.iter().map(|file| file.fate.later.load(Ordering::Relaxed)).sum();
        let is_victim = |(at, file): &(usize, &Arc<BodyFile>)| {
            // The last one is still being filled: it goes when nothing in it lives.
            let sealed = at + 1 < files.len() || file.meta.bytes >= file_bytes;
            let restated =
                later > LATER_MIN && 2 * file.fate.later.load(Ordering::Relaxed) > file.live_count();
            let sealed = sealed && !spared.contains(&file.meta.number);
            file.live_count() == 0 || sealed && (2 * file.live_bytes() < file.meta.bytes || restated)
        };
        let dead = |file: &Arc<BodyFile>| file.live_count() == 0;
        // What is wholly dead goes first: it costs nothing.
        let at = files.iter().position(dead);
        let at = at.or_else(|| files.iter().enumerate().find(is_victim).map(|(at, _)| at))?;
        let first = files.get(at)?;
        let mut range = at..at + 1;
        if dead(first) {
            while files.get(range.end).is_some_and(dead) {
                range.end += 1;
            }
        } else {
            let mut live = first.live_bytes();
            let is_small = |file: &Arc<BodyFile>, live: u64| {
                file.live_bytes() < file_bytes / 4
                    && live + file.live_bytes() <= file_bytes
                    && !spared.contains(&file.meta.number)
            };
            while let Some(before) = range.start.checked_sub(1).and_then(|at| files.get(at))
                && is_small(before, live)
            {
                live += before.live_bytes();
                range.start -= 1;
            }
            while let Some(behind) = files.get(range.end)
                && range.end + 1 < files.len()
                && is_small(behind, live)
            {
                live += behind.live_bytes();
                range.end += 1;
            }
        }
        let files = files.get(range.clone())?.to_vec();
        Some(Victims { range, files })
    }

    /// Writes into files of their own.
    pub fn rewriter(&self) -> Appender<'_> {
        Appender::new(self, None, self.file_bytes_now())
    }

    /// Puts files in the place of those.
    pub fn replace(&self, victims: &Victims, new: Vec<Arc<BodyFile>>) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::clone(&files);
        if victims.range.end <= list.len() {
            list.splice(victims.range.clone(), new);
        }
        *files = Arc::new(list);
    }
}
