//! The table: sled, as of the last checkpoint. The only place that names sled.
//!
//! One tree, values of at most 2 KiB; what is larger is cut into chunks under keys of their own. Every
//! value is in an envelope with a CRC, because sled does not check what it reads back.
//!
//! ```text
//!  m                     the checkpoint's Meta
//!  s id/16               what changed of these 16 actions since their bodies were written: see `later`
//!  k uid hash            the first use of an idempotency key
//!  c key n               chunk n (1...) of the value of that key
//!
//!  value = crc32c of the whole payload u32 | format u8 | chunks u16 | payload, or its first chunk
//! ```
//!
//! sled's cost is per key, and actions that are neighbours mostly end together: hence 16 of them share one. What never
//! changes is not here but in the body files, [`super::bodies`].
//!
//! # Guarantees
//!
//! - [`Table::sync`] leaves everything written so far on disk: sled's `flush` on Linux does not sync.
//! - Nothing is trusted: a value that fails its CRC, an error and a panic inside sled are a [`TableError`].
//!
//! Written by the checkpoint thread and by a start; read by everybody. Batches are atomic in sled.

pub(super) mod later;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use later::{Later, cluster_of, unpack};
use sha2::{Digest as _, Sha256};
pub(super) use write::Writer;

use super::codec::Malformed;
use super::record::{Meta, StoredKeyUse};

const META: &[u8] = b"m";
const VALUE_BYTES_MAX: usize = 2048;
const ENVELOPE: usize = 7;
const PAYLOAD_BYTES_MAX: usize = VALUE_BYTES_MAX - ENVELOPE;
const FORMAT: u8 = 1;
/// How sled says that its file is locked: it has no error of its own for that.
const LOCKED: &str = "could not acquire lock";
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// sled cannot be trusted any more: it failed, panicked, or gave back something else than was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table cannot be trusted: {0}")]
pub(super) struct TableError(pub String);

impl From<sled::Error> for TableError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Malformed> for TableError {
    fn from(Malformed(error): Malformed) -> Self {
        Self(error)
    }
}

/// An idempotency key as it is looked up: the uid and 128 bits of SHA-256 over the key.
///
/// Two different keys of one uid are taken for the same with a chance of about n²/2^129: below 10^-18 for
/// ten billion keys. The request's digest is compared too, so that even then the answer is a refusal.
pub(super) type KeyHash = [u8; 20];

pub(super) fn key_hash(uid: u32, key: &str) -> KeyHash {
    let mut hash = [0; 20];
    let digest = Sha256::digest(key.as_bytes());
    for (to, from) in hash.iter_mut().zip(uid.to_be_bytes().into_iter().chain(digest)) {
        *to = from;
    }
    hash
}

pub(super) struct Table {
    tree: sled::Db,
    dir: PathBuf,
}

/// Runs `work` on sled; a panic becomes an error.
fn guard<T>(work: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(TableError(format!("sled panicked: {said}")))
    })
}

fn id_key(prefix: u8, id: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    for (to, from) in key.iter_mut().skip(1).zip(id.to_be_bytes()) {
        *to = from;
    }
    key
}

fn key_key(hash: &KeyHash) -> [u8; 21] {
    let mut key = [b'k'; 21];
    for (to, from) in key.iter_mut().skip(1).zip(hash) {
        *to = *from;
    }
    key
}

fn chunk_key(key: &[u8], number: u16) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(key.len() + 3);
    chunk.push(b'c');
    chunk.extend_from_slice(key);
    chunk.extend_from_slice(&number.to_be_bytes());
    chunk
}

/// The id in a key of that prefix.
fn id_of(prefix: u8, key: &[u8]) -> Option<u64> {
    let (first, rest) = key.split_first()?;
    let id: [u8; 8] = rest.try_into().ok()?;
    (*first == prefix).then(|| u64::from_be_bytes(id))
}

struct Envelope<'a> {
    crc: u32,
    chunks: u16,
    payload: &'a [u8],
}

fn open_envelope(value: &[u8]) -> Result<Envelope<'_>, TableError> {
    let short = || TableError("a value is cut short".to_owned());
    let (crc, rest) = value.split_first_chunk::<4>().ok_or_else(short)?;
    let ([format, low, high], payload) = rest.split_first_chunk::<3>().ok_or_else(short)?;
    if *format != FORMAT {
        return Err(TableError(format!("a value has format {format}, known is {FORMAT}")));
    }
    Ok(Envelope { crc: u32::from_le_bytes(*crc), chunks: u16::from_le_bytes([*low, *high]), payload })
}

impl Table {
    /// Opens the table in `dir`, or creates an empty one.
    ///
    /// sled locks its file by flock(2), which lasts as long as any copy of the descriptor: that of a process just
    /// forked by a daemon that is dead by now, or of sled's own threads, which outlive the last handle a little. The
    /// store's own lock keeps other daemons out, so a locked file is only waited for.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, TableError> {
        let begun = Instant::now();
        loop {
            let opened = guard(|| {
                let config = sled::Config::new()
                    .path(dir)
                    .cache_capacity(cache_bytes)
                    // Written and synced by checkpoints only: errors of sled's own flusher are merely logged.
                    .flush_every_ms(None);
                // On a thread of its own: sled asks for 26 MiB of zeroes that it hardly uses, and a heap that nobody
                // has used before has them without touching the memory.
                let opened = std::thread::scope(|scope| scope.spawn(|| config.open()).join());
                let tree = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(Self { tree, dir: dir.to_owned() })
            });
            match opened {
                Err(TableError(why)) if why.contains(LOCKED) && begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(LOCK_POLL);
                }
                opened => return opened,
            }
        }
    }

    /// Leaves everything written so far on disk.
    pub fn sync(&self) -> Result<(), TableError> {
        guard(|| {
            self.tree.flush()?;
            Ok(())
        })?;
        sync_files(&self.dir)
    }

    /// Closes sled; afterwards everything is on disk.
    pub fn close(self) -> Result<(), TableError> {
        self.sync()?;
        let Self { tree, dir } = self;
        guard(move || {
            drop(tree);
            Ok(())
        })?;
        sync_files(&dir)
    }

    pub fn meta(&self) -> Result<Option<Meta>, TableError> {
        guard(|| self.value(META)?.map(|bytes| Meta::decode(&bytes)).transpose().map_err(TableError::from))
    }

    /// What became of the action since its body was written.
    pub fn later(&self, id: u64) -> Result<Option<Later>, TableError> {
        Ok(self.cluster(cluster_of(id))?.into_iter().find(|later| later.id == id))
    }

    /// The same of all actions of a cluster, in the order of ids.
    pub fn cluster(&self, cluster: u64) -> Result<Vec<Later>, TableError> {
        guard(|| match self.value(&id_key(b's', cluster))? {
            Some(pack) => Ok(unpack(cluster, &pack)?),
            None => Ok(Vec::new()),
        })
    }

    /// The same of the actions from `first` to `last`, in the order of ids.
    pub fn laters(&self, first: u64, last: u64) -> Result<Vec<Later>, TableError> {
        guard(|| {
            let mut found = Vec::new();
            let keys = id_key(b's', cluster_of(first))..=id_key(b's', cluster_of(last));
            for next in self.tree.range(keys) {
                let (key, value) = next?;
                let Some(cluster) = id_of(b's', &key) else { continue };
                if let Some(pack) = self.whole(&key, &value)? {
                    found.extend(unpack(cluster, &pack)?);
                }
            }
            found.retain(|later| (first..=last).contains(&later.id));
            Ok(found)
        })
    }

    /// The next clusters from `cluster` on that have anything, at most `limit` of them and about `bytes_max` of
    /// statuses, and where to go on; none at the end.
    pub fn laters_from(
        &self,
        cluster: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Later>, Option<u64>), TableError> {
        guard(|| {
            let (mut found, mut count, mut bytes) = (Vec::new(), 0, 0);
            for next in self.tree.range(id_key(b's', cluster)..=id_key(b's', u64::MAX)) {
                let (key, value) = next?;
                let Some(cluster) = id_of(b's', &key) else { continue };
                count += 1;
                if let Some(pack) = self.whole(&key, &value)? {
                    bytes += pack.len();
                    found.extend(unpack(cluster, &pack)?);
                }
                if count == limit || bytes >= bytes_max {
                    return Ok((found, cluster.checked_add(1)));
                }
            }
            Ok((found, None))
        })
    }

    /// The first use of a key.
    pub fn key_use(&self, hash: &KeyHash) -> Result<Option<StoredKeyUse>, TableError> {
        guard(|| {
            let value = self.value(&key_key(hash))?;
            value.map(|bytes| StoredKeyUse::decode(&bytes)).transpose().map_err(TableError::from)
        })
    }

    /// Every key's first use from `from` on, at most `limit`.
    pub fn key_uses(&self, from: &KeyHash, limit: usize) -> Result<Vec<(KeyHash, StoredKeyUse)>, TableError> {
        guard(|| {
            let mut uses = Vec::new();
            for found in self.tree.range(key_key(from)..=key_key(&[0xFF; 20])).take(limit) {
                let (key, value) = found?;
                let hash = key.get(1..).and_then(|hash| hash.try_into().ok());
                let hash: KeyHash = hash.ok_or_else(|| TableError("a key has a wrong length".to_owned()))?;
                if let Some(used) = self.whole(&key, &value)? {
                    uses.push((hash, StoredKeyUse::decode(&used)?));
                }
            }
            Ok(uses)
        })
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(self.tree.get(key)?.map(|value| self.whole(key, &value)).transpose()?.flatten())
    }

    /// The payload of a value, its chunks included; none if it was removed meanwhile.
    ///
    /// sled applies a batch at once for each single look, but a value and its chunks are several looks: if they do
    /// not fit, a batch came in between, unless the value is still the same.
    fn whole(&self, key: &[u8], value: &sled::IVec) -> Result<Option<Vec<u8>>, TableError> {
        let mut seen = value.clone();
        loop {
            let error = match self.assembled(key, &seen) {
                Ok(whole) => return Ok(Some(whole)),
                Err(error) => error,
            };
            match self.tree.get(key)? {
                None => return Ok(None),
                Some(now) if now != seen => seen = now,
                Some(_) => return Err(error),
            }
        }
    }

    fn assembled(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, TableError> {
        let Envelope { crc, chunks, payload } = open_envelope(value)?;
        let mut whole = payload.to_vec();
        for number in 1..=chunks {
            let chunk = self.tree.get(chunk_key(key, number))?;
            whole.extend_from_slice(&chunk.ok_or_else(|| TableError("a chunk is missing".to_owned()))?);
        }
        if crc32c::crc32c(&whole) == crc {
            Ok(whole)
        } else {
            Err(TableError("a value does not match its checksum".to_owned()))
        }
    }
}

/// fdatasync of sled's file, and of the directory that names it.
fn sync_files(dir: &Path) -> Result<(), TableError> {
    let failed = |error: std::io::Error| TableError(format!("cannot sync {}: {error}", dir.display()));
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match File::open(&path) {
            Ok(file) => file.sync_data().map_err(failed)?,
            // sled replaces its own snapshot files beside us.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}
