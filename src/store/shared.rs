//! What the store's writing half, its readers and its checkpoint thread share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::ballast::{Ballast, free_bytes};
use super::base::{Base, ReadError};
use super::codec::Malformed;
use super::marks::Marks;
use super::memory::{Entry, Memory};
use super::record::{decode_body, decode_status};
use super::{Health, Options, StoreError};
use crate::action::{Action, ActionId};

/// Beside a segment for the journal: for marks, and for what others write in a second.
const FLOOR_BYTES: u64 = 8 << 20;

pub(super) struct Shared {
    memory: RwLock<Memory>,
    /// None once the store is closed.
    base: RwLock<Option<Base>>,
    /// What takes long on the checkpoint thread is to be given up.
    pub stopping: AtomicBool,
    /// A test wants the rebuild to wait.
    #[cfg(test)]
    pub rebuild_held: AtomicBool,
    /// One above the newest durable action.
    pub next_id: AtomicU64,
    poisoned: AtomicBool,
    pub memory_bytes: AtomicU64,
    pub disk_free_bytes: AtomicU64,
    health: Mutex<Health>,
    pub marks: Marks,
    pub ballast: Ballast,
    /// Below this many free bytes only the journal may write.
    floor_bytes: u64,
    pub dir: PathBuf,
}

impl Shared {
    pub fn new(
        marks: Marks,
        options: &Options,
        memory: Memory,
        base: Base,
        next_id: u64,
        health: Health,
    ) -> Self {
        Self {
            memory_bytes: AtomicU64::new(memory.bytes()),
            memory: RwLock::new(memory),
            base: RwLock::new(Some(base)),
            stopping: AtomicBool::new(false),
            #[cfg(test)]
            rebuild_held: AtomicBool::new(false),
            next_id: AtomicU64::new(next_id),
            poisoned: AtomicBool::new(false),
            disk_free_bytes: AtomicU64::new(u64::MAX),
            health: Mutex::new(health),
            ballast: Ballast::new(&options.dir, options.segment_bytes, options.disk_reserve_bytes),
            floor_bytes: options.disk_reserve_bytes.min(options.segment_bytes + FLOOR_BYTES),
            marks,
            dir: options.dir.clone(),
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
        if let Some(free) = free_bytes(&self.dir.join("journal")) {
            self.disk_free_bytes.store(free, Ordering::Relaxed);
        }
    }

    /// Whether something other than the journal may write that much.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let free = self.disk_free_bytes.load(Ordering::Relaxed);
        self.floor_bytes == 0 || free >= self.floor_bytes.saturating_add(bytes)
    }

    pub fn base(&self) -> Result<Base, StoreError> {
        let base = self.base.read().unwrap_or_else(PoisonError::into_inner);
        base.as_ref().cloned().ok_or(StoreError::Poisoned)
    }

    /// Takes the table away from everybody, to close it.
    pub fn take_base(&self) -> Option<Base> {
        self.base.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts another table in its place, unless the store is closed.
    pub fn replace_base(&self, new: Base) -> Option<Base> {
        let mut base = self.base.write().unwrap_or_else(PoisonError::into_inner);
        let old = base.take()?;
        *base = Some(new);
        Some(old)
    }

    /// What `read` finds below the memory table.
    ///
    /// A reader may still be at the places of a rebuild when that has ended and the journal moves on: then it
    /// reads again, from the new table.
    pub fn read<T>(&self, read: impl Fn(&Base) -> Result<T, ReadError>) -> Result<T, StoreError> {
        let base = self.base()?;
        match read(&base) {
            Err(_) if base.is_rebuilding() && !self.base()?.is_rebuilding() => {
                self.trust(read(&self.base()?))
            }
            result => self.trust(result),
        }
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

    /// The value, or a poisoned store if the table failed. A damaged body is named: nothing else is affected by it,
    /// and no other start would do better.
    pub fn trust<T, E: Into<ReadError>>(&self, result: Result<T, E>) -> Result<T, StoreError> {
        result.map_err(|error| match error.into() {
            ReadError::Table(error) => self.poison(&error.to_string()),
            ReadError::Store(error @ StoreError::Io { .. }) => self.poison(&error.to_string()),
            ReadError::Store(error) => error,
        })
    }

    /// Whoever writes cannot go on after any error.
    pub fn poison_for(&self, error: ReadError) -> StoreError {
        match error {
            ReadError::Table(error) => self.poison(&error.to_string()),
            ReadError::Store(error) => self.poison(&error.to_string()),
        }
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
            return self.trust(action(id, body, &live.status)).map(Some);
        }
        let Some(stored) = self.read(|base| base.get(id))? else { return Ok(None) };
        let status = live.as_ref().map_or(&*stored.status, |live| &live.status);
        self.trust(action(id, &stored.body, status)).map(Some)
    }
}

/// The action whose stored parts these are.
pub(super) fn action(id: u64, body: &[u8], status: &[u8]) -> Result<Action, Malformed> {
    Ok(Action { id: ActionId(id), body: Arc::new(decode_body(body)?), status: decode_status(status)? })
}
