//! Snapshots: everything that is live as of one checkpoint, in one checksummed file, from which sled can be
//! rebuilt together with the journal behind it.
//!
//! ```text
//!  "actsnap" 1
//!  block: kind u8 | len u32 | crc32c u32 of kind, len and payload | payload
//!    1  Meta                                      first, once
//!    2  a pack of actions, in the order of ids
//!    3  idempotency keys: hash, id, digest, accepted_at
//!    4  live count, digest, keys, crc32c of the whole file before this block      last, once
//! ```
//!
//! # Guarantees
//!
//! - A file `GROUP.snap` is whole and on disk: it is written as `.tmp`, synced, renamed, its directory synced.
//! - It holds what its checkpoint says: a live count or digest that differs makes [`write`] fail.
//! - Reading gives all of it or an error.
//!
//! Written by the checkpoint thread, read by a start.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::codec::{Malformed, decode, decode_versioned, encode_into, encode_versioned};
use super::crash_point::crash_point;
use super::disk::{Disk, DiskFile};
use super::record::{Meta, StoredKeyUse, peek_status, version_hash};
use super::table::pack::{next_packed, pack_into};
use super::table::{KeyHash, Table, TableError};

const MAGIC: &[u8; 8] = b"actsnap\x01";
const HEAD: u8 = 1;
const ACTIONS: u8 = 2;
const KEYS: u8 = 3;
const TRAILER: u8 = 4;
const BLOCK_HEADER: usize = 9;
const BLOCK_BYTES: usize = 256 << 10;
/// A single action can be larger than a block; nothing else is.
const BLOCK_BYTES_MAX: u32 = 128 << 20;
const KEYS_PER_BLOCK: usize = 2_000;

#[derive(Serialize, Deserialize)]
struct Trailer {
    live_count: u64,
    digest: u64,
    keys: u64,
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

/// Writes a snapshot of the table, whose last checkpoint is `meta`. Its size in bytes.
pub(super) fn write(disk: &dyn Disk, dir: &Path, table: &Table, meta: &Meta) -> Result<u64, SnapshotError> {
    let beside = dir.join(format!("{:016x}.tmp", meta.group));
    for left in disk.list(dir)?.iter().filter(|name| name.strip_suffix(".tmp").is_some()) {
        disk.remove(&dir.join(left))?;
    }
    let written = write_beside(disk, &beside, table, meta);
    if written.is_err() {
        // It is not a snapshot until it is renamed, and it may be what fills the disk.
        let _ = disk.remove(&beside);
    }
    let bytes = written?;
    crash_point("snapshot_rename");
    disk.rename(&beside, &path(dir, meta.group))?;
    disk.sync_dir(dir)?;
    crash_point("snapshot_renamed");
    Ok(bytes)
}

fn write_beside(disk: &dyn Disk, path: &Path, table: &Table, meta: &Meta) -> Result<u64, SnapshotError> {
    let mut out = Out { file: disk.create(path)?, offset: 0, crc: 0 };
    out.raw(MAGIC)?;
    out.block(HEAD, &meta.encode())?;
    let (mut live_count, mut digest, mut keys) = (0u64, 0u64, 0u64);
    let mut block = Vec::with_capacity(BLOCK_BYTES * 2);
    let mut packs = table.packs(0)?;
    while let Some(actions) = packs.next()? {
        for stored in actions {
            let (version, _) = peek_status(&stored.status).map_err(TableError::from)?;
            live_count += 1;
            digest = digest.wrapping_add(version_hash(stored.id, version));
            pack_into(&mut block, stored.id, &stored.body, &stored.status);
        }
        if block.len() >= BLOCK_BYTES {
            out.block(ACTIONS, &block)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        out.block(ACTIONS, &block)?;
    }
    if (live_count, digest) != (meta.live_count, meta.digest) {
        return Err(SnapshotError::Table(TableError(format!(
            "it holds {live_count} actions where the checkpoint has {}, or other versions of them",
            meta.live_count
        ))));
    }
    let mut from = Some([0; 20]);
    while let Some(first) = from {
        let uses = table.key_uses(&first, KEYS_PER_BLOCK)?;
        from = uses.last().filter(|_| uses.len() == KEYS_PER_BLOCK).and_then(|(hash, _)| after(hash));
        keys += uses.len() as u64;
        block.clear();
        encode_into(&mut block, &uses);
        out.block(KEYS, &block)?;
    }
    let trailer = Trailer { live_count, digest, keys, crc: out.crc };
    out.block(TRAILER, &encode_versioned(1, &trailer))?;
    crash_point("snapshot_sync");
    out.file.sync()?;
    Ok(out.offset)
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

struct Out {
    file: Box<dyn DiskFile>,
    offset: u64,
    crc: u32,
}

impl Out {
    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_at(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
    }

    fn block(&mut self, kind: u8, payload: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(std::io::Error::other)?;
        let mut block = Vec::with_capacity(BLOCK_HEADER + payload.len());
        block.push(kind);
        block.extend_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block), payload);
        block.extend_from_slice(&crc.to_le_bytes());
        block.extend_from_slice(payload);
        self.raw(&block)
    }
}

/// What reading a snapshot hands over, piece by piece.
pub(super) enum Piece<'a> {
    Action { id: u64, body: &'a [u8], status: &'a [u8] },
    Key(KeyHash, StoredKeyUse),
}

/// Why a snapshot cannot be read: where, and what is wrong there.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub offset: u64,
    pub detail: String,
}

struct In {
    file: Box<dyn DiskFile>,
    len: u64,
    offset: u64,
    crc: u32,
}

impl In {
    fn open(disk: &dyn Disk, path: &Path) -> Result<Self, Unreadable> {
        let at_start = |error: std::io::Error| Unreadable { offset: 0, detail: error.to_string() };
        let file = disk.open(path).map_err(at_start)?;
        let len = file.len().map_err(at_start)?;
        let mut reading = Self { file, len, offset: 0, crc: 0 };
        if reading.raw(MAGIC.len())? == MAGIC {
            Ok(reading)
        } else {
            Err(reading.bad("it is not a snapshot", 0))
        }
    }

    fn bad(&self, detail: impl Into<String>, offset: u64) -> Unreadable {
        debug_assert!(offset <= self.len);
        Unreadable { offset, detail: detail.into() }
    }

    fn raw(&mut self, len: usize) -> Result<Vec<u8>, Unreadable> {
        if self.len - self.offset < len as u64 {
            return Err(self.bad("it ends too early", self.offset));
        }
        let mut bytes = vec![0; len];
        self.file
            .read_at(self.offset, &mut bytes)
            .map_err(|error| self.bad(error.to_string(), self.offset))?;
        self.offset += len as u64;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    fn block(&mut self) -> Result<(u8, Vec<u8>), Unreadable> {
        let start = self.offset;
        let header = self.raw(BLOCK_HEADER)?;
        let cut = || Unreadable { offset: start, detail: "a block is cut short".to_owned() };
        let (described, crc) = header.split_first_chunk::<5>().ok_or_else(cut)?;
        let [kind, len @ ..] = *described;
        let len = u32::from_le_bytes(len);
        let crc: [u8; 4] = crc.try_into().map_err(|_| cut())?;
        if len > BLOCK_BYTES_MAX {
            return Err(self.bad("a block is impossibly long", start));
        }
        let payload = self.raw(len as usize)?;
        if crc32c::crc32c_append(crc32c::crc32c(described), &payload) == u32::from_le_bytes(crc) {
            Ok((kind, payload))
        } else {
            Err(self.bad("a block does not match its checksum", start))
        }
    }

    fn meta(&mut self) -> Result<Meta, Unreadable> {
        let start = self.offset;
        match self.block()? {
            (HEAD, payload) => Meta::decode(&payload).map_err(|Malformed(error)| self.bad(error, start)),
            _ => Err(self.bad("it does not begin with its description", start)),
        }
    }
}

/// What a snapshot says of itself, without reading the rest.
pub(super) fn read_meta(disk: &dyn Disk, path: &Path) -> Result<Meta, Unreadable> {
    In::open(disk, path)?.meta()
}

/// Hands over everything in the snapshot. Whatever was handed over is void if this fails.
pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    take: &mut dyn FnMut(Piece<'_>) -> Result<(), TableError>,
) -> Result<Result<Meta, Unreadable>, TableError> {
    let mut failed = None;
    let meta = read_pieces(disk, path, &mut |piece| {
        take(piece).map_err(|error| {
            let detail = error.to_string();
            failed = Some(error);
            detail
        })
    });
    // What took the pieces failed, not the snapshot.
    failed.map_or(Ok(meta), Err)
}

fn read_pieces(
    disk: &dyn Disk,
    path: &Path,
    take: &mut dyn FnMut(Piece<'_>) -> Result<(), String>,
) -> Result<Meta, Unreadable> {
    let mut reading = In::open(disk, path)?;
    let meta = reading.meta()?;
    let (mut live_count, mut digest, mut keys, mut last_id) = (0u64, 0u64, 0u64, 0u64);
    loop {
        let (start, crc) = (reading.offset, reading.crc);
        let (kind, payload) = reading.block()?;
        let bad = |detail: String| Unreadable { offset: start, detail };
        match kind {
            ACTIONS => {
                let mut pack = &*payload;
                while let Some((id, body, status)) =
                    next_packed(&mut pack).map_err(|Malformed(error)| bad(error))?
                {
                    let (version, _) = peek_status(status).map_err(|Malformed(error)| bad(error))?;
                    if id <= last_id || id >= meta.next_id {
                        return Err(bad(format!("action {id} is out of order")));
                    }
                    last_id = id;
                    live_count += 1;
                    digest = digest.wrapping_add(version_hash(id, version));
                    take(Piece::Action { id, body, status }).map_err(bad)?;
                }
            }
            KEYS => {
                let uses: Vec<(KeyHash, StoredKeyUse)> =
                    decode(&payload).map_err(|Malformed(error)| bad(error))?;
                keys += uses.len() as u64;
                for (hash, used) in uses {
                    take(Piece::Key(hash, used)).map_err(bad)?;
                }
            }
            TRAILER => {
                let told: Trailer = decode_versioned("a snapshot's end", 1, &payload)
                    .map_err(|Malformed(error)| bad(error))?;
                let found = (live_count, digest, keys, crc);
                let same = found == (told.live_count, told.digest, told.keys, told.crc)
                    && (live_count, digest) == (meta.live_count, meta.digest);
                return if same && reading.offset == reading.len {
                    Ok(meta)
                } else {
                    Err(bad("its content is not what its end says".to_owned()))
                };
            }
            other => return Err(bad(format!("no block has kind {other}"))),
        }
    }
}
