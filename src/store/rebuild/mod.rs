//! Rebuilding sled while the store is open already.
//!
//! ```text
//!  open:    snapshot ─▶ journal behind it ─▶ Index ─▶ unfinished actions to the engine     (gather)
//!  beside:  Index ─▶ bodies and statuses by their places ─▶ a new sled ─▶ takes its place  (fill)
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

use super::StoreError;
use super::open::remove_tree;
use super::table::pack::Stored;
use super::table::{Table, TableError};

/// Actions that a reader gets at a time.
const READ_AT_ONCE: usize = 32;

/// A rebuild under way: what is known, and where the rest is read.
pub(super) struct Rebuild {
    pub index: Index,
    pub sources: Sources,
    /// Where the new sled goes.
    pub dir: PathBuf,
    pub cache_bytes: u64,
    /// The new sled, once it has all keys.
    keys: RwLock<Option<Arc<Table>>>,
}

impl Rebuild {
    pub fn new(index: Index, sources: Sources, dir: PathBuf, cache_bytes: u64) -> Self {
        Self { index, sources, dir, cache_bytes, keys: RwLock::default() }
    }

    pub fn keys(&self) -> Option<Arc<Table>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was filled so far is given up: for want of room, say.
    pub fn begin_again(&self) -> Result<(), StoreError> {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = None;
        remove_tree(&self.dir)
    }

    pub fn get(&self, id: u64) -> Result<Option<Stored>, TableError> {
        let Some(known) = self.index.find(id).filter(|known| known.state.is_some()) else { return Ok(None) };
        self.sources.stored(&known, &mut Cursor::default()).map(Some)
    }

    /// Some actions from `from` on, in the order of ids; none at the end.
    pub fn some_from(&self, from: u64) -> Result<Vec<Stored>, TableError> {
        let mut cursor = Cursor::default();
        let known = self.index.live_from(from).take(READ_AT_ONCE);
        known.map(|known| self.sources.stored(&known, &mut cursor)).collect()
    }

    /// The nearest actions below `before`, in the order of ids; none at the end.
    pub fn some_before(&self, before: u64) -> Result<Vec<Stored>, TableError> {
        let mut cursor = Cursor::default();
        let known = self.index.live_below(before).take(READ_AT_ONCE);
        let found: Result<Vec<Stored>, TableError> =
            known.map(|known| self.sources.stored(&known, &mut cursor)).collect();
        found.map(|mut found| {
            found.reverse();
            found
        })
    }
}
