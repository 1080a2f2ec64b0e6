//! What the store's writing half, its readers and its checkpoint thread share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::codec::Malformed;
use super::marks::Marks;
use super::memory::{Entry, Memory};
use super::record::{decode_body, decode_status};
use super::table::{Table, TableError};
use super::{Health, StoreError};
use crate::action::{Action, ActionId};

pub(super) struct Shared {
    memory: RwLock<Memory>,
    /// None once the store is closed.
    table: RwLock<Option<Arc<Table>>>,
    /// One above the newest durable action.
    pub next_id: AtomicU64,
    poisoned: AtomicBool,
    pub memory_bytes: AtomicU64,
    pub disk_free_bytes: AtomicU64,
    health: Mutex<Health>,
    marks: Marks,
    pub dir: PathBuf,
}

impl Shared {
    pub fn new(
        marks: Marks,
        dir: PathBuf,
        memory: Memory,
        table: Table,
        next_id: u64,
        health: Health,
    ) -> Self {
        Self {
            memory_bytes: AtomicU64::new(memory.bytes()),
            memory: RwLock::new(memory),
            table: RwLock::new(Some(Arc::new(table))),
            next_id: AtomicU64::new(next_id),
            poisoned: AtomicBool::new(false),
            disk_free_bytes: AtomicU64::new(u64::MAX),
            health: Mutex::new(health),
            marks,
            dir,
        }
    }

    // A thread that panicked while it held one of these locks poisons the store elsewhere; the data under
    // them is replaced whole, never left half changed.
    pub fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how much room the disk has. An unanswered question changes nothing.
    pub fn look_at_disk(&self) {
        if let Ok(stat) = rustix::fs::statvfs(&self.dir) {
            self.disk_free_bytes.store(stat.f_bavail.saturating_mul(stat.f_frsize), Ordering::Relaxed);
        }
    }

    pub fn table(&self) -> Result<Arc<Table>, StoreError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.as_ref().map(Arc::clone).ok_or(StoreError::Poisoned)
    }

    /// Takes the table away from everybody, to close it.
    pub fn take_table(&self) -> Option<Arc<Table>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn check(&self) -> Result<(), StoreError> {
        if self.poisoned.load(Ordering::Acquire) { Err(StoreError::Poisoned) } else { Ok(()) }
    }

    /// Takes nothing more, and has the next start not trust the table.
    pub fn poison(&self, why: &str) -> StoreError {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            tracing::error!(error = why, "store failed");
            self.marks.leave_storage_error(why);
        }
        StoreError::Poisoned
    }

    /// The value, or a poisoned store if the table failed.
    pub fn trust<T>(&self, result: Result<T, TableError>) -> Result<T, StoreError> {
        result.map_err(|error| self.poison(&error.to_string()))
    }

    /// The action, if it is there, from `entry` (what memory knows of it) and the table.
    pub fn complete(&self, id: u64, entry: Option<Entry>) -> Result<Option<Action>, StoreError> {
        let live = match entry {
            Some(Entry::Deleted) => return Ok(None),
            Some(Entry::Live(live)) => Some(live),
            None => None,
        };
        if let Some(live) = &live
            && let Some(body) = &live.body
        {
            return self.trust(action(id, body, &live.status).map_err(TableError::from)).map(Some);
        }
        let table = self.table()?;
        let Some(stored) = self.trust(table.get(id))? else { return Ok(None) };
        let status = live.as_ref().map_or(&*stored.status, |live| &live.status);
        self.trust(action(id, &stored.body, status).map_err(TableError::from)).map(Some)
    }
}

/// The action whose stored parts these are.
pub(super) fn action(id: u64, body: &[u8], status: &[u8]) -> Result<Action, Malformed> {
    Ok(Action { id: ActionId(id), body: Arc::new(decode_body(body)?), status: decode_status(status)? })
}
