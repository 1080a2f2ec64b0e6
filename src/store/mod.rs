//! The disk: a journal in front of sled, with snapshots from which sled can be rebuilt.
//!
//! CONTRACT SKELETON - the store's author replaces the bodies, keeps the names.

use std::path::PathBuf;
use std::sync::Arc;

use crate::action::{Action, ActionId, Body, Event, IllegalTransition, Status, Timestamp};

pub mod disk;
pub mod journal;

/// Where the store lives and how large its parts may grow.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    /// Size of one journal segment, a multiple of 4096.
    pub segment_bytes: u64,
    /// Bytes of changes kept in memory until a checkpoint has them in sled.
    pub memory_bytes_max: u64,
    /// sled's page cache.
    pub cache_bytes: u64,
    /// A snapshot is taken when the journal since the last one is larger than this and than half the last snapshot.
    pub snapshot_after_bytes: u64,
    /// Below this many free bytes on the disk new submissions are refused.
    pub disk_reserve_bytes: u64,
    /// Finished actions are kept at most this long ...
    pub retention_age_ms: u64,
    /// ... and at most this many.
    pub retention_count: u64,
    /// How long idempotency keys are kept (at least 7 days).
    pub key_age_ms: u64,
}

/// Takes up every unfinished action at a start.
pub trait Loader {
    /// Forget what was loaded so far: the store begins again from another source.
    fn begin(&mut self);
    /// One unfinished action, in the order of ids.
    fn load(&mut self, action: &Action);
}

/// What a start found.
pub struct Opened {
    pub store: Store,
    pub reader: Reader,
    /// Counts up by one with each start.
    pub incarnation: u64,
    pub boot_id: String,
    /// Random at the store's creation; marks the environment of every program of this store.
    pub store_id: String,
    pub paused_queues: Vec<String>,
    pub next_id: ActionId,
}

/// The writing half; owned by the engine's thread. Changes are staged and then committed as one group.
pub struct Store {}

/// The reading half; sees only what is durable. Cheap to clone. Calls may block on the disk.
#[derive(Clone)]
pub struct Reader {}

/// The submission that first used an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    pub id: ActionId,
    pub digest: [u8; 16],
}

/// Whether submissions must wait or be refused; everything else goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    None,
    /// The memory table is full until a checkpoint ends.
    MemoryFull,
    /// The disk is below its reserve.
    DiskLow,
}

/// What the store says of itself, for `/readyz` and `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// sled is being rebuilt from snapshot and journal; why.
    pub rebuilding: Option<String>,
    /// How often sled was rebuilt since the start, and why last.
    pub rebuilds: u64,
    pub last_rebuild_reason: Option<String>,
    pub live_actions: u64,
    pub journal_groups: u64,
    pub journal_bytes: u64,
    pub checkpoints: u64,
    pub snapshots: u64,
    pub memory_bytes: u64,
    pub disk_free_bytes: u64,
}

/// Why the store cannot go on. None of these loses what was acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, or the file system, said no.
    #[error("cannot {what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    /// A write or a sync failed before; the daemon must exit and recover from disk.
    #[error("the store failed earlier and takes nothing more")]
    Poisoned,
    /// Something that was synced cannot be read. The daemon refuses to start: exit code 65.
    #[error("{} is damaged at offset {offset}: {detail}; nothing was changed; next: {next_step}", file.display())]
    Damaged { file: PathBuf, offset: u64, detail: String, next_step: &'static str },
    /// Written by a later release.
    #[error("{} has format version {found}, this release knows up to {known}", file.display())]
    FromTheFuture { file: PathBuf, found: u32, known: u32 },
    /// Another daemon has this directory.
    #[error("another actiond (or a backup of it) has {} locked", dir.display())]
    Locked { dir: PathBuf },
    /// The record is not where it should be until sled is rebuilt; worth trying again later.
    #[error("the store is being rebuilt; finished actions can be read in a while")]
    Rebuilding,
    #[error("the stored history of action {id} is illegal")]
    Illegal { id: ActionId, source: IllegalTransition },
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

impl StoreError {
    #[must_use]
    pub fn thread(source: std::io::Error) -> Self {
        Self::Thread(source)
    }
}

impl Store {
    pub fn open(_options: &Options, _now: Timestamp, _loader: &mut dyn Loader) -> Result<Opened, StoreError> {
        todo!()
    }
    /// Stages a new action. `id` must be the next one.
    pub fn submit(&mut self, _id: ActionId, _body: Arc<Body>, _status: Status) -> Result<(), StoreError> {
        todo!()
    }
    /// Stages the new status of an action; `status.version` must be one above the stored one and `status.state`
    /// what `event` leads to.
    pub fn change(&mut self, _id: ActionId, _event: Event, _status: Status) -> Result<(), StoreError> {
        todo!()
    }
    /// Stages that a queue is paused or goes on.
    pub fn pause_queue(&mut self, _queue: &str, _paused: bool) {
        todo!()
    }
    /// Makes everything staged durable with one write and one sync, then shows it to readers.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        todo!()
    }
    /// The action as staged (not necessarily durable yet).
    pub fn get(&self, _id: ActionId) -> Result<Option<Action>, StoreError> {
        todo!()
    }
    /// The first use of an idempotency key of that uid, staged ones included.
    pub fn key_use(&self, _uid: u32, _key: &str) -> Result<Option<KeyUse>, StoreError> {
        todo!()
    }
    /// Stages the removal of finished actions that are past retention, at most `limit`; says which.
    pub fn expire(&mut self, _now: Timestamp, _limit: usize) -> Result<Vec<ActionId>, StoreError> {
        todo!()
    }
    pub fn pressure(&self) -> Pressure {
        todo!()
    }
    /// Checkpoints, closes sled, syncs it and leaves the clean mark.
    pub fn close(self) -> Result<(), StoreError> {
        todo!()
    }
}

impl Reader {
    pub fn get(&self, _id: ActionId) -> Result<Option<Action>, StoreError> {
        todo!()
    }
    /// Actions below `before` (from the newest if none), newest first, until `visit` returns false.
    pub fn scan_back(
        &self,
        _before: Option<ActionId>,
        _visit: &mut dyn FnMut(Action) -> bool,
    ) -> Result<(), StoreError> {
        todo!()
    }
    pub fn health(&self) -> Health {
        todo!()
    }
}
