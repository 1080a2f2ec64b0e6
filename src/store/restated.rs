//! What a checkpoint changes of the actions that are in body files already: their later statuses.
//!
//! Found in one pass beside the tickets, so that nothing of a body is read or kept for it. Used by the checkpoint
//! thread, for the table in use and for one that is made anew.

use std::sync::Arc;

use super::base::ReadError;
use super::bodies::{Bodies, Fate};
use super::memory::{Entry, Generation, Live};
use super::pace::Pace;
use super::table::{TableError, Writer};

/// About what it takes to look at one action.
const LOOK_NS: u32 = 100;

/// What a generation changes of an action that is in a body file.
pub(super) struct Restated<'g> {
    pub id: u64,
    /// The version with which it is there.
    pub written: u32,
    /// Empty: it is deleted.
    pub status: &'g [u8],
    /// What it takes there.
    bytes: u64,
    fate: Arc<Fate>,
}

impl<'g> Restated<'g> {
    /// All of them, in the order of ids. An action that was accepted and deleted in one generation is nowhere.
    pub fn all(bodies: &Bodies, generation: &'g Generation, pace: &Pace) -> Result<Vec<Self>, ReadError> {
        let (mut all, mut cursor) = (Vec::new(), bodies.ticket_cursor());
        for (id, entry) in &generation.actions {
            pace.worked(LOOK_NS);
            let status: &[u8] = match entry {
                Entry::Live(Live { body: Some(_), .. }) => continue,
                Entry::Live(live) => &live.status,
                Entry::Deleted => &[],
            };
            match cursor.find(*id)? {
                Some((ticket, fate)) => {
                    let (written, bytes) = (ticket.version, ticket.bytes());
                    all.push(Self { id: *id, written, status, bytes, fate });
                }
                None if status.is_empty() => {}
                None => return Err(TableError(format!("action {id} is in no body file")).into()),
            }
        }
        Ok(all)
    }

    /// Brings it into a table; `counts` if that is the one in use.
    pub fn write(&self, writer: &mut Writer<'_>, counts: bool) -> Result<(), TableError> {
        let before = writer.restate(self.id, self.written, self.status)?;
        if counts {
            match (before, self.status.is_empty()) {
                (Some(before), _) if before.is_deleted() => {}
                (before, true) => self.fate.deleted(self.bytes, before.is_some()),
                (None, false) => self.fate.restated(),
                (Some(_), false) => {}
            }
        }
        Ok(())
    }
}
