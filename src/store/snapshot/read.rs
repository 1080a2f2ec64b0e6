//! Reading a snapshot: all of it, or one block again.

use std::path::Path;

use super::{BLOCK_BYTES_MAX, BLOCK_HEADER, END, End, FOOTER, KEYS, LATER, MAGIC};
use crate::store::codec::{Malformed, decode, decode_versioned};
use crate::store::disk::{Disk, DiskFile};
use crate::store::record::{Meta, StoredKeyUse};
use crate::store::table::KeyHash;
use crate::store::table::later::next_packed;

/// What reading a snapshot hands over, piece by piece. `at` is the offset of its block.
pub(in crate::store) enum Piece<'a> {
    /// A later status; an empty one if the action was deleted.
    Later { at: u64, id: u64, written: u32, status: &'a [u8] },
    /// The next block of keys.
    Keys { at: u64 },
}

/// Why a snapshot cannot be read: where, and what is wrong there.
#[derive(Debug)]
pub(in crate::store) struct Unreadable {
    pub offset: u64,
    pub detail: String,
    /// Set if the disk did not give it back: then it may be whole.
    pub io: Option<std::io::Error>,
}

impl Unreadable {
    pub fn new(offset: u64, detail: impl Into<String>) -> Self {
        Self { offset, detail: detail.into(), io: None }
    }

    fn of(offset: u64, error: std::io::Error) -> Self {
        let gone = matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof);
        Self { offset, detail: error.to_string(), io: (!gone).then_some(error) }
    }
}

/// An open snapshot whose blocks can be read in any order.
pub(in crate::store) struct Blocks {
    file: Box<dyn DiskFile>,
    len: u64,
}

impl Blocks {
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, Unreadable> {
        let at_start = |error| Unreadable::of(0, error);
        let file = disk.open(path).map_err(at_start)?;
        let len = file.len().map_err(at_start)?;
        let blocks = Self { file, len };
        if blocks.raw(0, MAGIC.len())? == MAGIC {
            Ok(blocks)
        } else {
            Err(Unreadable::new(0, "it is not a snapshot"))
        }
    }

    fn raw(&self, at: u64, len: usize) -> Result<Vec<u8>, Unreadable> {
        if at.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(Unreadable::new(at, "it ends too early"));
        }
        let mut bytes = vec![0; len];
        self.file.read_at(at, &mut bytes).map_err(|error| Unreadable::of(at, error))?;
        Ok(bytes)
    }

    /// The block at that offset: its header as it lies there, kind and payload.
    fn block(&self, at: u64) -> Result<(Vec<u8>, u8, Vec<u8>), Unreadable> {
        let bad = |detail: &str| Unreadable::new(at, detail);
        let header = self.raw(at, BLOCK_HEADER)?;
        let (described, crc) = header.split_first_chunk::<5>().ok_or_else(|| bad("a block is cut short"))?;
        let [kind, len @ ..] = *described;
        let len = u32::from_le_bytes(len);
        let crc: [u8; 4] = crc.try_into().map_err(|_| bad("a block is cut short"))?;
        if len > BLOCK_BYTES_MAX {
            return Err(bad("a block is impossibly long"));
        }
        let payload = self.raw(at + BLOCK_HEADER as u64, len as usize)?;
        if crc32c::crc32c_append(crc32c::crc32c(described), &payload) == u32::from_le_bytes(crc) {
            Ok((header, kind, payload))
        } else {
            Err(bad("a block does not match its checksum"))
        }
    }

    /// The pack of later statuses in the block at that offset.
    pub fn pack(&self, at: u64) -> Result<Vec<u8>, Unreadable> {
        match self.block(at)? {
            (_, LATER, payload) => Ok(payload),
            _ => Err(Unreadable::new(at, "there are no statuses in this block")),
        }
    }

    /// The keys in the block at that offset.
    pub fn keys(&self, at: u64) -> Result<Vec<(KeyHash, StoredKeyUse)>, Unreadable> {
        let bad = |detail: String| Unreadable::new(at, detail);
        match self.block(at)? {
            (_, KEYS, payload) => decode(&payload).map_err(|Malformed(error)| bad(error)),
            _ => Err(bad("there are no keys in this block".to_owned())),
        }
    }

    /// The last block and where it is.
    fn end(&self) -> Result<(u64, End), Unreadable> {
        let footer = self.len.saturating_sub(FOOTER as u64);
        let cut = || Unreadable::new(footer, "it has no end");
        let at = self.raw(footer, FOOTER)?;
        let at = u64::from_le_bytes(at.try_into().map_err(|_| cut())?);
        let (_, kind, payload) = self.block(at)?;
        let ends = at + (BLOCK_HEADER + payload.len()) as u64 == footer;
        if kind != END || !ends {
            return Err(cut());
        }
        let end = decode_versioned("a snapshot's end", 1, &payload);
        Ok((at, end.map_err(|Malformed(detail)| Unreadable::new(at, detail))?))
    }
}

/// What a snapshot says of itself, without reading the rest.
pub(in crate::store) fn read_meta(disk: &dyn Disk, path: &Path) -> Result<Meta, Unreadable> {
    Ok(Blocks::open(disk, path)?.end()?.1.meta)
}

/// Hands over everything in the snapshot. Whatever was handed over is void if this fails.
pub(in crate::store) fn read(
    disk: &dyn Disk,
    path: &Path,
    take: &mut dyn FnMut(Piece<'_>) -> Result<(), String>,
) -> Result<Meta, Unreadable> {
    let blocks = Blocks::open(disk, path)?;
    let (end_at, End { meta, crc: told }) = blocks.end()?;
    let (mut at, mut crc) = (MAGIC.len() as u64, crc32c::crc32c(MAGIC));
    while at < end_at {
        let (header, kind, payload) = blocks.block(at)?;
        crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &header), &payload);
        let bad = |detail: String| Unreadable::new(at, detail);
        let mut pack = &*payload;
        match kind {
            LATER => {
                while let Some((id, written, status)) =
                    next_packed(&mut pack).map_err(|Malformed(error)| bad(error))?
                {
                    if id >= meta.next_id {
                        return Err(bad(format!("action {id} was never accepted")));
                    }
                    take(Piece::Later { at, id, written, status }).map_err(bad)?;
                }
            }
            KEYS => take(Piece::Keys { at }).map_err(bad)?,
            other => return Err(bad(format!("no block has kind {other}"))),
        }
        at += (BLOCK_HEADER + payload.len()) as u64;
    }
    if at == end_at && crc == told {
        Ok(meta)
    } else {
        Err(Unreadable::new(end_at, "its content is not what its end says"))
    }
}
