//! Gives back the room of what is dead in the body files.
//!
//! ```text
//!  what lives of some neighbouring files, with its newest status ─▶ a new file, synced ─▶ named by the table
//!    ─▶ readers see it ─▶ the table forgets those statuses ─▶ behind the next snapshot the old files go
//! ```
//!
//! One step is at most about one file, between two checkpoints: nothing changes meanwhile. A crash before the table
//! names the new file leaves the old ones as they were, and a file that the next start removes; behind that
//! statuses that the new file has too: the next start tells them by the version they were written for, and drops
//! them. The old files stay until neither a snapshot nor the synced table names them.
//!
//! Called by the checkpoint thread when no snapshot and no new table is under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::StoreError;
use super::base::ReadError;
use super::bodies::{Appender, Bodies, BodyFile, Victims};
use super::checkpoint::Worker;
use super::crash_point::crash_point;
use super::record::Meta;
use super::table::Table;
use super::table::later::Later;

/// A snapshot is due when that much waits for it to be removed.
const REPLACED_BYTES_MAX: u64 = 32 << 20;

impl Worker {
    /// The next step, if one is worth it.
    pub(super) fn reclaim(&mut self) -> Result<(), StoreError> {
        // Before the first checkpoint of this run there is no description to go on from.
        if self.meta.group == 0 || self.reclaim_failed || self.stopping() {
            return Ok(());
        }
        let (table, bodies) = self.parts()?;
        if let Some(victims) = bodies.victims(&self.unreadable)
            && self.shared.has_room_for(2 * victims.live_bytes())
        {
            let new = if victims.are_dead() {
                Vec::new()
            } else {
                let mut rewriter = bodies.rewriter();
                match rewrite(&table, &victims, &mut rewriter) {
                    Ok(new) => new,
                    Err(error) => {
                        rewriter.abandon();
                        return self.endure(error, &victims);
                    }
                }
            };
            crash_point("reclaim_written");
            self.swap(&table, &bodies, &victims, new).map_err(|error| self.shared.poison_for(error))?;
            self.replaced_bytes += victims.bytes();
        }
        if self.replaced_bytes > REPLACED_BYTES_MAX && self.shared.has_room_for(0) {
            self.begin_snapshot()?;
        }
        Ok(())
    }

    /// A disk that is full or cannot be read is no reason to stop: everything is as it was.
    ///
    /// A damaged file is left as it is, and not looked at again in this run unless nothing in it lives.
    fn endure(&mut self, error: ReadError, victims: &Victims) -> Result<(), StoreError> {
        match error {
            ReadError::Table(error) => Err(self.shared.poison(&error.to_string())),
            ReadError::Store(error) => {
                if let Some(number) = victims.damaged_by(&error) {
                    tracing::error!(%error, "a body file is damaged: its room is not given back");
                    self.unreadable.insert(number);
                    return Ok(());
                }
                // Not again before the next snapshot.
                self.reclaim_failed = true;
                tracing::warn!(%error, "cannot write body files anew");
                Ok(())
            }
        }
    }

    fn swap(
        &mut self,
        table: &Table,
        bodies: &Bodies,
        victims: &Victims,
        new: Vec<Arc<BodyFile>>,
    ) -> Result<(), ReadError> {
        bodies.replace(victims, new);
        let mut writer = table.writer();
        let meta = Meta { files: bodies.describe(), ..self.meta.clone() };
        writer.put_meta(&meta)?;
        writer.finish()?;
        // sled may write this one and not the next: a kill then finds it on disk.
        #[cfg(feature = "crash-points")]
        table.sync()?;
        crash_point("reclaim_named");
        let mut writer = table.writer();
        writer.forget(victims.first_id(), victims.last_id())?;
        writer.finish()?;
        table.sync()?;
        crash_point("reclaim_forgotten");
        self.meta = meta;
        Ok(())
    }
}

/// What lives of the files, each with its newest status.
fn rewrite(
    table: &Table,
    victims: &Victims,
    rewriter: &mut Appender<'_>,
) -> Result<Vec<Arc<BodyFile>>, ReadError> {
    for file in &victims.files {
        file.fronts(&mut |front| {
            let (mut tickets, mut all) = (front.tickets(), Vec::new());
            while let Some(ticket) = tickets.next()? {
                all.push(ticket);
            }
            let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(()) };
            let laters = table.laters(first.id, last.id)?;
            let laters: BTreeMap<u64, Later> = laters.into_iter().map(|later| (later.id, later)).collect();
            for ticket in &all {
                let later = laters.get(&ticket.id);
                if later.is_some_and(Later::is_deleted) {
                    continue;
                }
                let (body, status) = front.parts(ticket)?;
                rewriter.add(ticket.id, &body, later.map_or(&status, |later| &later.status))?;
            }
            Ok(())
        })?;
    }
    Ok(rewriter.finish()?)
}
