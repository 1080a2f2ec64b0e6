//! The reading half: any thread, beside the engine's. Sees only what is durable.
//!
//! Memory is always asked before the table (see [`super::memory`]), and its lock is never held while the
//! disk is read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bodies::Stored;
use super::memory::Entry;
use super::shared::{Shared, action};
use super::{Health, StoreError};
use crate::action::{Action, ActionId};

/// Entries taken from memory at a time.
const ENTRIES_AT_ONCE: usize = 128;

/// The reading half; sees only what is durable. Cheap to clone. Calls may block on the disk.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

impl Reader {
    /// The action as of the last commit, if there is one of that id (any more).
    pub fn get(&self, id: ActionId) -> Result<Option<Action>, StoreError> {
        let entry = self.shared.memory().find(id.0);
        self.shared.complete(id.0, entry)
    }

    /// Actions below `before` (from the newest if none), newest first, until `visit` returns false.
    ///
    /// Each is as of some commit during the call; one that is deleted meanwhile may or may not be visited.
    pub fn scan_back(
        &self,
        before: Option<ActionId>,
        visit: &mut dyn FnMut(Action) -> bool,
    ) -> Result<(), StoreError> {
        let newest = self.shared.next_id.load(Ordering::Acquire);
        let mut before = before.map_or(newest, |id| id.0.min(newest));
        loop {
            let entries = self.shared.memory().newest_below(before, ENTRIES_AT_ONCE);
            let pack = self.shared.read(|base| base.some_before(before))?;
            // Both sides are known from here up: nothing in between is missed.
            let of_entries = entries.last().filter(|_| entries.len() == ENTRIES_AT_ONCE).map(|(id, _)| *id);
            let of_pack = pack.first().map(|stored| stored.id);
            let floor = of_entries.max(of_pack).or(entries.last().map(|(id, _)| *id));
            let Some(floor) = floor else { return Ok(()) };
            for (id, found) in merge_back(entries, pack, floor) {
                let action = match found {
                    Found::Entry(entry) => self.shared.complete(id, Some(entry))?,
                    Found::Stored(stored) => {
                        Some(self.shared.trust(action(id, &stored.body, &stored.status))?)
                    }
                };
                if let Some(action) = action
                    && !visit(action)
                {
                    return Ok(());
                }
            }
            before = floor;
        }
    }

    pub fn health(&self) -> Health {
        Health {
            memory_bytes: self.shared.memory_bytes.load(Ordering::Relaxed),
            disk_free_bytes: self.shared.disk_free_bytes.load(Ordering::Relaxed),
            ..self.shared.health().clone()
        }
    }
}

enum Found {
    Entry(Entry),
    Stored(Stored),
}

/// Both sides from `floor` up, newest first; memory wins.
fn merge_back(entries: Vec<(u64, Entry)>, pack: Vec<Stored>, floor: u64) -> Vec<(u64, Found)> {
    let mut found: Vec<(u64, Found)> = entries
        .into_iter()
        .filter(|(id, _)| *id >= floor)
        .map(|(id, entry)| (id, Found::Entry(entry)))
        .chain(
            pack.into_iter()
                .filter(|stored| stored.id >= floor)
                .map(|stored| (stored.id, Found::Stored(stored))),
        )
        .collect();
    // Stable: of two with one id, memory's comes first and stays.
    found.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    found.dedup_by_key(|(id, _)| *id);
    found
}
