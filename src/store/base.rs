//! What lies below the memory table: sled, or what stands in for it while it is rebuilt.

use std::sync::Arc;

use super::StoreError;
use super::rebuild::Rebuild;
use super::record::{StoredKeyUse, peek_status};
use super::table::pack::Stored;
use super::table::{KeyHash, Table, TableError};
use crate::action::State;

#[derive(Clone)]
pub(super) enum Base {
    Table(Arc<Table>),
    Rebuild(Arc<Rebuild>),
}

impl Base {
    pub fn is_rebuilding(&self) -> bool {
        matches!(self, Self::Rebuild(_))
    }

    pub fn get(&self, id: u64) -> Result<Option<Stored>, TableError> {
        match self {
            Self::Table(table) => table.get(id),
            Self::Rebuild(rebuild) => rebuild.get(id),
        }
    }

    /// Whether every idempotency key can be looked up: early in a rebuild they cannot.
    pub fn knows_keys(&self) -> bool {
        match self {
            Self::Table(_) => true,
            Self::Rebuild(rebuild) => rebuild.keys().is_some(),
        }
    }

    /// Version and state of an action.
    pub fn version(&self, id: u64) -> Result<Option<(u64, State)>, TableError> {
        match self {
            Self::Table(table) => {
                let Some(stored) = table.get(id)? else { return Ok(None) };
                Ok(Some(peek_status(&stored.status)?))
            }
            Self::Rebuild(rebuild) => {
                let known = rebuild.index.find(id);
                Ok(known.and_then(|known| Some((known.version, known.state?))))
            }
        }
    }

    /// The nearest actions below `before`, in the order of ids; none at the end.
    pub fn some_before(&self, before: u64) -> Result<Vec<Stored>, TableError> {
        match self {
            Self::Table(table) => table.pack_before(before),
            Self::Rebuild(rebuild) => rebuild.some_before(before),
        }
    }

    /// The next actions from `from` on, in the order of ids; none at the end.
    pub fn some_from(&self, from: u64) -> Result<Vec<Stored>, TableError> {
        match self {
            Self::Table(table) => {
                let mut packs = table.packs(from)?;
                while let Some(mut actions) = packs.next()? {
                    actions.retain(|stored| stored.id >= from);
                    if !actions.is_empty() {
                        return Ok(actions);
                    }
                }
                Ok(Vec::new())
            }
            Self::Rebuild(rebuild) => rebuild.some_from(from),
        }
    }

    /// The first use of a key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Rebuilding`] while not all keys can be looked up.
    pub fn key_use(&self, hash: &KeyHash) -> Result<Result<Option<StoredKeyUse>, TableError>, StoreError> {
        match self {
            Self::Table(table) => Ok(table.key_use(hash)),
            Self::Rebuild(rebuild) => {
                let table = rebuild.keys().ok_or(StoreError::Rebuilding)?;
                Ok(table.key_use(hash))
            }
        }
    }
}
