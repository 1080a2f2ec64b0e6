//! One body file: blocks of actions behind each other, written once, in the order of ids.
//!
//! ```text
//!  "actbody" 1 | number u64 | crc32c u32 of the number and the store's id     then blocks
//! ```
//!
//! A [`BodyFile`] never changes: a checkpoint that appends blocks puts a longer one in its place, and what is
//! open is shared between the two. In memory a block costs 16 bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::block::{Header, Names, Ticket, Tickets};
use crate::store::StoreError;
use crate::store::base::ReadError;
use crate::store::codec::Malformed;
use crate::store::disk::{Disk, DiskFile};
use crate::store::record::{FileMeta, version_hash};

const MAGIC: &[u8; 8] = b"actbody\x01";
/// The first block begins here.
pub const FILE_HEADER_BYTES: usize = 20;
/// About what header and tickets of a block take: read at once at a start.
const FRONT_BYTES: usize = 4 << 10;

pub fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.body"))
}

/// The number of a body file of that name.
pub fn number_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".body")?, 16).ok()
}

pub fn damaged(path: &Path, offset: u64, detail: impl Into<String>) -> StoreError {
    StoreError::Damaged {
        file: path.to_owned(),
        offset,
        detail: detail.into(),
        next_step: "copy the store's directory, then restore the file from a backup of the store",
    }
}

/// A body that the disk does not give back is as good as damaged: nothing else is affected by it.
pub fn unreadable(path: &Path, at: u64) -> impl Fn(&std::io::Error) -> StoreError + '_ {
    move |error| damaged(path, at, format!("it cannot be read: {error}"))
}

pub fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

pub fn file_header(number: u64, store_id: &str) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), store_id.as_bytes());
    header.extend_from_slice(&crc.to_le_bytes());
    header
}

/// What has become of a file's actions since they were written there.
#[derive(Debug, Default)]
pub struct Fate {
    pub dead: AtomicU64,
    pub dead_bytes: AtomicU64,
    /// Those that have a later status elsewhere.
    pub later: AtomicU64,
}

impl Fate {
    pub fn deleted(&self, bytes: u64, had_later: bool) {
        self.dead.fetch_add(1, Ordering::Relaxed);
        self.dead_bytes.fetch_add(bytes, Ordering::Relaxed);
        if had_later {
            self.later.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub fn restated(&self) {
        self.later.fetch_add(1, Ordering::Relaxed);
    }
}

pub struct Handle {
    pub path: PathBuf,
    pub file: Box<dyn DiskFile>,
}

#[derive(Clone, Copy, Debug)]
pub struct BlockAt {
    pub first_id: u64,
    pub offset: u32,
}

/// A body file up to its valid length.
#[derive(Clone)]
pub struct BodyFile {
    pub meta: FileMeta,
    pub handle: Arc<Handle>,
    pub blocks: Vec<BlockAt>,
    pub fate: Arc<Fate>,
}

impl BodyFile {
    pub fn first_id(&self) -> u64 {
        self.blocks.first().map_or(u64::MAX, |block| block.first_id)
    }

    /// Bytes of it that are still of use.
    pub fn live_bytes(&self) -> u64 {
        self.meta.bytes.saturating_sub(self.fate.dead_bytes.load(Ordering::Relaxed))
    }

    pub fn live_count(&self) -> u64 {
        self.meta.count.saturating_sub(self.fate.dead.load(Ordering::Relaxed))
    }

    /// Where a block lies: from and to.
    pub fn extent(&self, block: usize) -> Option<(u64, u64)> {
        let from = self.blocks.get(block)?.offset;
        let to = self.blocks.get(block + 1).map_or(self.meta.bytes, |next| u64::from(next.offset));
        Some((u64::from(from), to))
    }

    /// Reads the front of every block and hands it over, in the order of ids; checks that the file is what its
    /// description says.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        meta: FileMeta,
        store_id: &str,
        take: &mut Take<'_>,
    ) -> Result<Self, ReadError> {
        let path = path_of(dir, meta.number);
        let file = disk.open(&path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                damaged(&path, 0, "it is missing")
            } else {
                failed("open", &path)(error)
            }
        })?;
        let len = file.len().map_err(failed("measure", &path))?;
        if len < meta.bytes {
            return Err(damaged(&path, len, format!("it ends before its {} bytes", meta.bytes)).into());
        }
        let mut header = [0; FILE_HEADER_BYTES];
        file.read_at(0, &mut header).map_err(failed("read", &path))?;
        if header != *file_header(meta.number, store_id) {
            return Err(damaged(&path, 0, "it is not this store's body file of that number").into());
        }
        let handle = Arc::new(Handle { path, file });
        let mut opened = Self { meta, handle, blocks: Vec::new(), fate: Arc::default() };
        let mut blocks = Vec::new();
        opened.fronts(&mut |front| {
            let offset = u32::try_from(front.at);
            let offset = offset.map_err(|_| damaged(&front.file.handle.path, front.at, "it is too long"))?;
            blocks.push(BlockAt { first_id: front.header.first_id, offset });
            take(front)
        })?;
        blocks.shrink_to_fit();
        opened.blocks = blocks;
        Ok(opened)
    }

    /// Walks over the fronts of all blocks, and checks that they are what the description says.
    pub fn fronts(&self, take: &mut Take<'_>) -> Result<(), ReadError> {
        let FileMeta { number, bytes: end, last_id: told_last, count: told_count, digest: told_digest } =
            self.meta;
        let (mut at, mut last_id, mut count, mut digest) = (FILE_HEADER_BYTES as u64, 0u64, 0u64, 0u64);
        let mut front = Vec::with_capacity(FRONT_BYTES);
        while at < end {
            let bad = |Malformed(detail)| damaged(&self.handle.path, at, detail);
            let header = self.front(at, end, &mut front)?;
            let tickets = Tickets::of(&header, &front).map_err(bad)?;
            let mut counted = tickets.clone();
            while let Some(ticket) = counted.next().map_err(bad)? {
                if ticket.id <= last_id {
                    return Err(bad(Malformed::new(format!("action {} is out of order", ticket.id))).into());
                }
                last_id = ticket.id;
                count += 1;
                digest = digest.wrapping_add(version_hash(ticket.id, u64::from(ticket.version)));
            }
            take(&Front { file: self, at, header, tickets })?;
            at += header.bytes();
        }
        if at == end && (last_id, count, digest) == (told_last, told_count, told_digest) {
            return Ok(());
        }
        let detail =
            format!("file {number} holds {count} actions and not the {told_count} it should, or others");
        Err(damaged(&self.handle.path, end, detail).into())
    }

    /// Header and ticket part of the block at `at`, into `front`.
    pub(super) fn front(&self, at: u64, end: u64, front: &mut Vec<u8>) -> Result<Header, StoreError> {
        let path = &self.handle.path;
        let bad = |Malformed(detail): Malformed| damaged(path, at, detail);
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        // Blocks of one file are much alike.
        let usual = front.len().clamp(FRONT_BYTES, 64 << 10).min(left);
        front.resize(usual, 0);
        self.handle.file.read_at(at, front).map_err(failed("read", path))?;
        let header = Header::decode(front, self.meta.number, at).map_err(bad)?;
        if at + header.bytes() > end {
            return Err(damaged(path, at, "a block ends behind its file"));
        }
        if header.bodies_at() > front.len() {
            let had = front.len();
            front.resize(header.bodies_at(), 0);
            let more = front.get_mut(had..).unwrap_or_default();
            self.handle.file.read_at(at + had as u64, more).map_err(failed("read", path))?;
        }
        Ok(header)
    }
}

/// What a walk over a file's blocks gives each of them to.
pub type Take<'t> = dyn FnMut(&Front<'_>) -> Result<(), ReadError> + 't;

/// All of a block but its bodies.
pub struct Front<'a> {
    file: &'a BodyFile,
    at: u64,
    header: Header,
    tickets: Tickets<'a>,
}

impl<'a> Front<'a> {
    pub fn fate(&self) -> &Fate {
        &self.file.fate
    }

    pub fn names(&self) -> &Names<'a> {
        &self.tickets.names
    }

    pub fn tickets(&self) -> Tickets<'a> {
        self.tickets.clone()
    }

    /// Body and status of one of its actions.
    pub fn parts(&self, ticket: &Ticket) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        let path = &self.file.handle.path;
        let at = self.at + (self.header.bodies_at() + ticket.offset) as u64;
        if at + u64::from(ticket.body_len) + u64::from(ticket.status_len) > self.at + self.header.bytes() {
            return Err(damaged(path, self.at, "an action ends behind its block"));
        }
        let mut body = vec![0; ticket.body_len as usize + ticket.status_len as usize];
        self.file.handle.file.read_at(at, &mut body).map_err(|error| unreadable(path, at)(&error))?;
        let status = body.split_off(ticket.body_len as usize);
        let checked = ticket.check_body(&body).and_then(|()| ticket.check_status(&status));
        checked.map_err(|Malformed(detail)| damaged(path, at, detail))?;
        Ok((body, status))
    }
}
