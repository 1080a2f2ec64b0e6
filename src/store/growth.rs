//! Keeps sled's file small: it never shrinks by itself, so that after enough churn most of it is dead.
//!
//! A new sled is filled from the old one in slices between checkpoints, which go on meanwhile and bring what they
//! change into both. When it has everything it gets the last checkpoint's description, is synced, is named in the
//! mark `table-in`, and takes the old one's place. A crash before the mark leaves the old one as it is, and a
//! crash behind it the new one; the next start removes the other.
//!
//! Called by the checkpoint thread.

use std::path::Path;
use std::sync::Arc;

use super::StoreError;
use super::base::{Base, Over};
use super::checkpoint::Worker;
use super::crash_point::crash_point;
use super::memory::Generation;
use super::open::remove_tree;
use super::record::Meta;
use super::restated::Restated;
use super::snapshot::after;
use super::table::later::cluster_of;
use super::table::{KeyHash, Table, TableError};
use super::writer::close_table;

/// sled's file is normally about twice the live data; no rebuild below this.
const GROWN_FACTOR: u64 = 4;
/// So much live data is taken for granted, so that small stores are left alone.
const LIVE_BYTES_MIN: u64 = 1 << 20;
const CLUSTERS_PER_SLICE: usize = 2_000;
const BYTES_PER_SLICE: usize = 4 << 20;
const KEYS_PER_SLICE: usize = 5_000;

/// A new sled that is being filled from the one in use.
pub(super) struct Refill {
    table: Arc<Table>,
    name: &'static str,
    reason: String,
    /// All clusters of statuses below are there; none: all are.
    cursor: Option<u64>,
    /// Keys from here on are missing; none: all are there.
    keys_from: Option<KeyHash>,
    keys_begun: bool,
}

impl Refill {
    fn begin(dir: &Path, name: &'static str, cache_bytes: u64, reason: String) -> Result<Self, TableError> {
        let path = dir.join(name);
        remove_tree(&path).map_err(|error| TableError(error.to_string()))?;
        let table = Arc::new(Table::open(&path, cache_bytes)?);
        crash_point("refill_begun");
        Ok(Self { table, name, reason, cursor: Some(0), keys_from: Some([0; 20]), keys_begun: false })
    }

    /// Copies the next part; whether that was all there is.
    fn slice(&mut self, old: &Table) -> Result<bool, TableError> {
        crash_point("refill_slice");
        let mut writer = self.table.writer();
        let mut copied = false;
        if let Some(from) = self.cursor {
            let (found, next) = old.laters_from(from, CLUSTERS_PER_SLICE, BYTES_PER_SLICE)?;
            for later in &found {
                writer.restate(later.id, later.written, &later.status)?;
            }
            self.cursor = next;
            copied = true;
        }
        if !copied && let Some(from) = self.keys_from {
            self.keys_begun = true;
            let uses = old.key_uses(&from, KEYS_PER_SLICE)?;
            for (hash, used) in &uses {
                writer.put_key(hash, used)?;
            }
            let last = uses.last().filter(|_| uses.len() == KEYS_PER_SLICE);
            self.keys_from = last.and_then(|(hash, _)| after(hash));
            copied = true;
        }
        writer.finish()?;
        Ok(!copied)
    }

    /// Takes up what a checkpoint changes in the part that is copied already.
    fn take_up(&mut self, restated: &[Restated<'_>], generation: &Generation) -> Result<(), TableError> {
        let mut writer = self.table.writer();
        let is_copied = |id| self.cursor.is_none_or(|cursor| cluster_of(id) < cursor);
        for restated in restated.iter().filter(|restated| is_copied(restated.id)) {
            restated.write(&mut writer, false)?;
        }
        if self.keys_begun {
            for (hash, used) in &generation.keys {
                writer.put_key(hash, used)?;
            }
        }
        writer.finish()
    }
}

/// Whether a file of that size is worth a new one.
fn is_grown(table_bytes: u64, live_bytes: u64, rebuilt_bytes: u64) -> bool {
    table_bytes > GROWN_FACTOR * (live_bytes + LIVE_BYTES_MIN)
        && table_bytes > rebuilt_bytes + rebuilt_bytes / 2
}

fn bytes_in(dir: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(dir)?.try_fold(0, |sum, entry| Ok(sum + entry?.metadata()?.len()))
}

impl Worker {
    /// Begins a new sled if the one in use has grown too much; `live_bytes` is the size of a fresh snapshot.
    pub(super) fn look_at_growth(&mut self, live_bytes: u64) -> Result<(), StoreError> {
        let (name, rebuilt_bytes) = self.shared.marks.table_in()?;
        let table_bytes = bytes_in(&self.shared.dir.join(name)).unwrap_or(0);
        let fits = self.shared.has_room_for(GROWN_FACTOR * live_bytes);
        if self.refill.is_some() || !fits || !is_grown(table_bytes, live_bytes, rebuilt_bytes) {
            return Ok(());
        }
        let reason = format!("its file had grown to {table_bytes} bytes for {live_bytes} of live data");
        tracing::info!(table_bytes, live_bytes, "table is rebuilt: it has grown");
        let other = if name == "table" { "table.2" } else { "table" };
        match Refill::begin(&self.shared.dir, other, self.cache_bytes, reason) {
            Ok(refill) => self.refill = Some(refill),
            // The one in use is as good as before.
            Err(error) => tracing::warn!(%error, "cannot begin a new table"),
        }
        Ok(())
    }

    /// Before a checkpoint changes the table in use.
    pub(super) fn refill_take_up(&mut self, restated: &[Restated<'_>], generation: &Generation) {
        if let Some(refill) = &mut self.refill
            && let Err(error) = refill.take_up(restated, generation)
        {
            self.give_up_refill(&error.to_string());
        }
    }

    pub(super) fn give_up_refill(&mut self, why: &str) {
        let Some(Refill { table, name, .. }) = self.refill.take() else { return };
        tracing::warn!(why, "new table is given up");
        drop(table);
        if let Err(error) = remove_tree(&self.shared.dir.join(name)) {
            tracing::warn!(%error, "cannot remove the table that was given up");
        }
    }

    /// The next part of the new sled, if one is being filled; `meta` is the last checkpoint.
    pub(super) fn refill_slice(&mut self, old: Arc<Table>, meta: &Meta) -> Result<(), StoreError> {
        if self.refill.is_none() {
            return Ok(());
        }
        if self.stopping() || !self.shared.has_room_for(0) {
            self.give_up_refill("there is no time or no room for it now");
            return Ok(());
        }
        let Some(refill) = &mut self.refill else { return Ok(()) };
        let finished = refill.slice(&old).and_then(|whole| {
            if whole {
                let mut writer = refill.table.writer();
                writer.put_meta(meta)?;
                writer.finish()?;
                refill.table.sync()?;
            }
            Ok(whole)
        });
        // The old one can only be closed by who has it alone.
        drop(old);
        match finished {
            Ok(true) => self.take_over(),
            Ok(false) => Ok(()),
            Err(error) => {
                self.give_up_refill(&error.to_string());
                Ok(())
            }
        }
    }

    fn take_over(&mut self) -> Result<(), StoreError> {
        let Some(Refill { table, name, reason, .. }) = self.refill.take() else { return Ok(()) };
        crash_point("refill_whole");
        let bytes = bytes_in(&self.shared.dir.join(name)).unwrap_or(0);
        self.shared.marks.leave_table_in(name, bytes)?;
        crash_point("refill_named");
        let (_, bodies) = self.parts()?;
        let new = Base { bodies, over: Over::Table(table) };
        let Some(old) = self.shared.replace_base(new) else { return Ok(()) };
        {
            let mut health = self.shared.health();
            health.rebuilds += 1;
            health.last_rebuild_reason = Some(reason);
        }
        tracing::info!(table_bytes = bytes, "table rebuilt");
        let closed = if let Base { over: Over::Table(old), .. } = old { close_table(old) } else { Ok(()) };
        if let Err(error) = closed {
            tracing::warn!(%error, "cannot close the old table");
        }
        crash_point("refill_closed");
        let other = if name == "table" { "table.2" } else { "table" };
        if let Err(error) = remove_tree(&self.shared.dir.join(other)) {
            tracing::warn!(%error, "cannot remove the old table");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_grown_above_four_times_what_lives_and_half_again_what_it_was() {
        let live = 100 << 20;
        assert!(!is_grown(4 * live, live, 0));
        assert!(is_grown(5 * live, live, 0));
        assert!(!is_grown(5 * live, live, 4 * live), "it was no better when it was new");
        assert!(is_grown(7 * live, live, 4 * live));
        assert!(!is_grown(LIVE_BYTES_MIN, 0, 0), "small stores are left alone");
    }
}
