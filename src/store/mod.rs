//! The disk: a journal in front of body files and sled, with snapshots from which sled can be rebuilt.
//!
//! ```text
//!  submit, change ─▶ journal (one write and one sync per group) ─▶ acknowledged, shown to readers
//!                        │                                              │
//!                        ▼                                              ▼
//!                    snapshot ◀── table (sled)  ◀──┬── checkpoint ◀── memory table
//!                                 body files    ◀──┘
//! ```
//!
//! - [`journal`]: what was acknowledged is there and on disk, whatever else is lost.
//! - `memory`: what changed since the last checkpoint, bounded in bytes.
//! - `bodies`: every action as it stood at the checkpoint that first had it, in files that are only appended to. What a
//!   start must know of a waiting action stands in front of each block, so that a start reads no bodies.
//! - `table`: sled, with what changed since a body was written (newer statuses, deletions) and with the idempotency
//!   keys, as of the last checkpoint; never relied upon alone. `checkpoint` fills both.
//! - `snapshot`: an export of the table from which, with the body files it names and the journal behind it, sled is
//!   rebuilt.
//! - `open`, `recover`, `replay`, `load`: a start. `rebuild`: one that cannot use sled. `base`: either. `writer`, `reader`, `retention`: [`Store`] and [`Reader`].
//! - `reclaim`: body files written anew when most of them is dead. `growth`: sled made anew when its file has grown. `ballast`: room on the disk that is kept back.
//! - `slices`: what is done between checkpoints, a bit at a time. `restated`: what a checkpoint changes of older actions.
//! - `pace`: how all that stays out of the way of commits.
//! - `record`, `codec`: the stored forms. `marks`: whose directory it is and how it was left.
//!
//! Body files are as much the truth as the journal is: what a snapshot names in them is nowhere else. sled is not.
//!
//! # Guarantees
//!
//! - What [`Store::commit`] returned `Ok` for is there after any crash, loss of power included.
//! - A store never starts with less than that: what is damaged beyond rebuilding is an error.
//! - Memory is bounded by [`Options`], whatever the number of actions.
//!
//! The engine's thread owns [`Store`]; faces read through [`Reader`].

use std::path::PathBuf;
use std::sync::Arc;

use crate::action::{ActionId, IllegalTransition, Timestamp, Unfinished};
use crate::crash_point;

mod ballast;
mod base;
mod bodies;
mod checkpoint;
mod codec;
pub mod disk;
mod growth;
pub mod journal;
mod ledger;
mod load;
mod machine;
mod marks;
mod memory;
mod open;
mod pace;
mod reader;
mod rebuild;
mod reclaim;
mod record;
mod recover;
mod replay;
mod restated;
mod retention;
mod shared;
mod slices;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::Reader;
pub use writer::Store;

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
    /// A snapshot is taken when the journal since the last one is larger than this and than a fifth of that snapshot.
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
    fn load(&mut self, action: &Unfinished<'_>);
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
    #[error("another actiond (or a backup of it) has {} locked; next: use that one, or stop it", dir.display())]
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
    /// Opens the store in `options.dir`, or creates it there; every unfinished action goes to `loader`.
    ///
    /// Returns when the start is durable: what was replayed survives loss of power, and so does the new
    /// incarnation. If sled must be rebuilt, that goes on behind it: see [`Health::rebuilding`].
    pub fn open(options: &Options, now: Timestamp, loader: &mut dyn Loader) -> Result<Opened, StoreError> {
        let environment = open::Environment {
            disk: Arc::new(disk::RealDisk),
            machine: None,
            #[cfg(test)]
            rebuild_held: false,
        };
        open::open(options, environment, now, loader)
    }
}
