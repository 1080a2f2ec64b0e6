//! Snapshots: what the table has as of one checkpoint, in one checksummed file, from which sled can be rebuilt
//! together with the body files that it names and the journal behind it.
//!
//! ```text
//!  "actsnap" 2
//!  block: kind u8 | len u32 | crc32c u32 of kind, len and payload | payload
//!    3  idempotency keys: hash, id, digest, accepted_at; of one that comes again the last counts
//!    5  a pack of later statuses (`table::later`): of an action that comes again the last counts
//!    4  Meta and crc32c of the whole file before this block                    last, once
//!  offset of the last block u64
//! ```
//!
//! A snapshot is written in slices between checkpoints, which go on meanwhile: what a checkpoint changes in the
//! part that is written already is appended as blocks of kind 5. The whole is then as of the last checkpoint
//! before its end. Nothing has to be kept in memory for it, and no checkpoint waits for more than a slice.
//!
//! # Guarantees
//!
//! - A file `GROUP.snap` is whole and on disk: it is written as `.tmp`, synced, read back, renamed, its directory
//!   synced.
//! - With its body files it holds what its checkpoint says: a live count or digest that differs makes
//!   [`Writing::finish`] fail.
//! - Reading gives all of it or an error.
//!
//! Written by the checkpoint thread, read by a start and while sled is rebuilt.

mod read;
mod write;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use read::{Blocks, Piece, Unreadable, read, read_meta};
pub(super) use write::Writing;

use super::disk::Disk;
use super::record::Meta;
use super::table::{KeyHash, TableError};

const MAGIC: &[u8; 8] = b"actsnap\x02";
const KEYS: u8 = 3;
const END: u8 = 4;
const LATER: u8 = 5;
const BLOCK_HEADER: usize = 9;
const FOOTER: usize = 8;
const BLOCK_BYTES: usize = 256 << 10;
/// A single status can be larger than a block; nothing else is.
const BLOCK_BYTES_MAX: u32 = 128 << 20;
const KEYS_PER_BLOCK: usize = 2_000;

#[derive(Serialize, Deserialize)]
struct End {
    meta: Meta,
    crc: u32,
}

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    /// The disk said no, or is full: the store goes on, a later checkpoint tries again.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The table does not hold what its checkpoint says.
    #[error(transparent)]
    Table(#[from] TableError),
}

pub(super) fn path(dir: &Path, group: u64) -> PathBuf {
    dir.join(format!("{group:016x}.snap"))
}

/// The groups of which there are snapshots, newest first.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> std::io::Result<Vec<u64>> {
    let group = |name: &str| u64::from_str_radix(name.strip_suffix(".snap")?, 16).ok();
    let mut groups: Vec<u64> = disk.list(dir)?.iter().filter_map(|name| group(name)).collect();
    groups.sort_unstable_by(|a, b| b.cmp(a));
    Ok(groups)
}

/// Removes what was never finished: on a full disk it may be what fills it.
pub(super) fn remove_unfinished(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
    for left in disk.list(dir)?.iter().filter(|name| name.strip_suffix(".tmp").is_some()) {
        disk.remove(&dir.join(left))?;
    }
    Ok(())
}

/// The least key above this one.
pub(super) fn after(hash: &KeyHash) -> Option<KeyHash> {
    let mut next = *hash;
    for byte in next.iter_mut().rev() {
        if let Some(up) = byte.checked_add(1) {
            *byte = up;
            return Some(next);
        }
        *byte = 0;
    }
    None
}
