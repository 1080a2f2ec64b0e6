//! What the checkpoint thread does between two checkpoints, a slice at a time: a snapshot, a new table, body files that are
//! written anew. And what may go once a snapshot is whole.

use super::StoreError;
use super::bodies::Bodies;
use super::checkpoint::{Done, Worker};
use super::crash_point::crash_point;
use super::marks::io_error;
use super::snapshot::{self, SnapshotError};

/// One and the journal behind it; more would not fit the disk that a waiting action may take.
const SNAPSHOTS_KEPT: usize = 1;

impl Worker {
    /// The next part of what is under way: a new table, a snapshot; else some body files are written anew.
    pub(super) fn slice(&mut self) -> Result<(), StoreError> {
        if self.refill.is_some() {
            let ((table, _), meta) = (self.parts()?, self.meta.clone());
            return self.refill_slice(table, &meta);
        }
        if self.writing.is_none() {
            return self.reclaim();
        }
        let (table, bodies) = self.parts()?;
        if self.stopping() || !self.shared.has_room_for(0) {
            self.abandon();
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let sliced = writing.slice(&table);
        if self.survive(sliced)? != Some(true) {
            return Ok(());
        }
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let meta = self.meta.clone();
        let finished = writing.finish(&*self.disk, &self.snapshots, &meta);
        if let Some(bytes) = self.survive(finished)? {
            let release = self.keep_some(&bodies).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot remove what older snapshots needed");
                0
            });
            self.shared.health().snapshots += 1;
            let _ = self.outbox.send(Done::Snapshot { group: meta.group, bytes, release });
            return self.look_at_growth(bytes);
        }
        Ok(())
    }

    /// Without a snapshot if the disk said no, or is full: a later checkpoint tries again. A table that does not
    /// hold what it should is the end.
    pub(super) fn survive<T>(&mut self, result: Result<T, SnapshotError>) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(SnapshotError::Io(error)) => {
                tracing::warn!(%error, "cannot write a snapshot");
                self.abandon();
                Ok(None)
            }
            Err(SnapshotError::Table(error)) => Err(self.shared.poison(&error.to_string())),
        }
    }

    pub(super) fn abandon(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.abandon(&*self.disk);
        }
    }

    /// Removes all snapshots but the newest ones, and the body files that neither these nor the table name; the
    /// group of the oldest that is left.
    ///
    /// The newest was read back before it got its name: the journal before it is needed no more. No body file was
    /// replaced since it was begun, and the table was synced since: both name what is described now.
    fn keep_some(&mut self, bodies: &Bodies) -> Result<u64, StoreError> {
        let failed = |error| io_error("clear", &self.snapshots)(error);
        let groups = snapshot::list(&*self.disk, &self.snapshots).map_err(failed)?;
        for old in groups.iter().skip(SNAPSHOTS_KEPT) {
            self.disk.remove(&snapshot::path(&self.snapshots, *old)).map_err(failed)?;
        }
        if groups.len() > SNAPSHOTS_KEPT {
            self.disk.sync_dir(&self.snapshots).map_err(failed)?;
        }
        bodies.remove_others(&|number| bodies.holds(number))?;
        crash_point("bodies_removed");
        (self.replaced_bytes, self.reclaim_failed) = (0, false);
        Ok(groups.get(SNAPSHOTS_KEPT - 1).copied().unwrap_or(0))
    }
}
