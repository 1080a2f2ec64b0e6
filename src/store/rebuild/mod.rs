//! Rebuilding sled while the store is open already.
//!
//! ```text
//!  open:    snapshot, its body files ─▶ journal behind it ─▶ Index ─▶ unfinished actions to the engine     (gather)
//!  beside:  Index ─▶ keys, later statuses, bodies from the journal ─▶ a new sled ─▶ takes its place         (fill)
//! ```
//!
//! Until the new sled is whole it is not a checkpoint: a crash has the next start begin again. Changes collect
//! in the memory table meanwhile, and what is not there is read from snapshot and journal by place. The journal
//! releases nothing before the next snapshot, which comes behind the first checkpoint of the new sled.
//!
//! # Guarantees
//!
//! - Every live action can be read throughout.
//! - An idempotency key is never said to be unused because it was not looked for: until all keys are in the new
//!   sled, [`Rebuild::keys`] is empty and the answer is that the store is being rebuilt.

mod fill;
mod gather;
mod index;
mod sources;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

pub(super) use fill::{Filled, fill};
pub(super) use gather::{Gather, Gathered, load};
pub(super) use index::Index;
pub(super) use sources::{Cursor, Sources};

use index::Known;

use super::StoreError;
use super::base::ReadError;
use super::bodies::{Bodies, Stored};
use super::open::remove_tree;
use super::table::later::Later;
use super::table::{Table, TableError};

/// Actions that a reader gets at a time.
const READ_AT_ONCE: usize = 32;

/// A rebuild under way: what is known, and where the rest is read.
pub(super) struct Rebuild {
    pub bodies: Arc<Bodies>,
    pub index: Index,
    pub sources: Sources,
    /// Where the new sled goes.
    pub dir: PathBuf,
    pub cache_bytes: u64,
    /// The new sled, once it has all keys.
    keys: RwLock<Option<Arc<Table>>>,
}

impl Rebuild {
    pub fn new(bodies: Arc<Bodies>, index: Index, sources: Sources, dir: PathBuf, cache_bytes: u64) -> Self {
        Self { bodies, index, sources, dir, cache_bytes, keys: RwLock::default() }
    }

    pub fn keys(&self) -> Option<Arc<Table>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was filled so far is given up: for want of room, say.
    pub fn begin_again(&self) -> Result<(), StoreError> {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = None;
        remove_tree(&self.dir)
    }

    /// An action that is in the index, if it lives.
    pub fn get(&self, known: &Known) -> Result<Option<Stored>, ReadError> {
        if known.state.is_none() {
            return Ok(None);
        }
        self.stored(known, &mut Cursor::default()).map(Some)
    }

    fn stored(&self, known: &Known, cursor: &mut Cursor) -> Result<Stored, ReadError> {
        let Known { id, .. } = *known;
        if !known.is_written() {
            return Ok(self.sources.stored(known, cursor)?);
        }
        let lost = || TableError(format!("action {id} is in no body file"));
        let (ticket, block) = self.bodies.ticket(id)?.ok_or_else(lost)?;
        let stored = block.stored(&ticket)?;
        Ok(match self.sources.later_status(known, cursor)? {
            Some(status) => Stored { status, ..stored },
            None => stored,
        })
    }

    /// What became of the written actions from `first` to `last`.
    pub fn laters(&self, first: u64, last: u64) -> Result<Vec<Later>, ReadError> {
        let (mut found, mut cursor) = (Vec::new(), Cursor::default());
        for known in self.index.range(first, last) {
            let id = known.id;
            if known.state.is_none() {
                found.push(Later { id, written: 0, status: Vec::new() });
            } else if let Some(status) = self.sources.later_status(&known, &mut cursor)? {
                found.push(Later { id, written: 0, status });
            }
        }
        Ok(found)
    }

    /// Some actions that are in no body file from `from` on, in the order of ids; none at the end.
    pub fn some_from(&self, from: u64) -> Result<Vec<Stored>, ReadError> {
        let mut cursor = Cursor::default();
        let known = self.index.unwritten_from(from).take(READ_AT_ONCE);
        known.map(|known| self.stored(&known, &mut cursor)).collect()
    }

    /// The nearest actions that are in no body file below `before`, in the order of ids; none at the end.
    pub fn some_before(&self, before: u64) -> Result<Vec<Stored>, ReadError> {
        let mut cursor = Cursor::default();
        let known = self.index.unwritten_below(before).take(READ_AT_ONCE);
        let found: Result<Vec<Stored>, ReadError> =
            known.map(|known| self.stored(&known, &mut cursor)).collect();
        found.map(|mut found| {
            found.reverse();
            found
        })
    }
}
