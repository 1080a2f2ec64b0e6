//! Writing to the table: batches of bounded size, packs of actions, values cut into chunks.
//!
//! A reader may look between two batches. It asks the memory table first, which keeps everything a
//! checkpoint writes until the checkpoint ends, so it never sees half of one.

use super::pack::{pack_into, packed_len, unpack};
use super::{
    FORMAT, KeyHash, META, Meta, PAYLOAD_BYTES_MAX, StoredKeyUse, Table, TableError, chunk_key, guard,
    id_key, id_of, key_key, open_envelope,
};
use crate::store::crash_point::crash_point;

/// A batch is applied when it holds this much: sled blocks readers while it applies one.
const BATCH_BYTES: usize = 128 << 10;

/// Takes up changes in the order of ids and applies them in batches.
pub(in crate::store) struct Writer<'a> {
    table: &'a Table,
    batch: sled::Batch,
    batch_bytes: usize,
    pack: Vec<u8>,
    pack_first: u64,
}

impl Table {
    pub fn writer(&self) -> Writer<'_> {
        Writer { table: self, batch: sled::Batch::default(), batch_bytes: 0, pack: Vec::new(), pack_first: 0 }
    }

    /// Forgets every action from `next_id` on: what a checkpoint that did not end has left.
    pub fn forget_from(&self, next_id: u64) -> Result<(), TableError> {
        let mut writer = self.writer();
        for prefix in [b'b', b's'] {
            let keys: Result<Vec<_>, TableError> = guard(|| {
                let range = self.tree.range(id_key(prefix, next_id)..=id_key(prefix, u64::MAX));
                range.keys().map(|key| key.map_err(TableError::from)).collect()
            });
            for key in keys? {
                guard(|| writer.remove(&key))?;
            }
        }
        writer.finish()
    }
}

impl Writer<'_> {
    /// A new action, above all that the table has and all that were added before.
    pub fn add(&mut self, id: u64, body: &[u8], status: &[u8]) -> Result<(), TableError> {
        guard(|| {
            if !self.pack.is_empty() && self.pack.len() + packed_len(body, status) > PAYLOAD_BYTES_MAX {
                self.end_pack()?;
            }
            if self.pack.is_empty() {
                self.pack_first = id;
            }
            pack_into(&mut self.pack, id, body, status);
            Ok(())
        })
    }

    /// A later status of an action that the table has.
    pub fn restate(&mut self, id: u64, status: &[u8]) -> Result<(), TableError> {
        guard(|| self.put(&id_key(b's', id), status))
    }

    /// Takes actions out of their packs. `ids` in ascending order; those that the table does not have are skipped.
    pub fn delete(&mut self, ids: &[u64]) -> Result<(), TableError> {
        guard(|| {
            let mut rest = ids;
            while let Some(first) = rest.first() {
                let Some((key, pack)) = self.table.pack_of(*first)? else {
                    rest = rest.get(1..).unwrap_or_default();
                    continue;
                };
                let actions = unpack(&pack)?;
                let last = actions.last().map_or(*first, |stored| stored.id).max(*first);
                let here = rest.partition_point(|id| *id <= last);
                let (gone, behind) = rest.split_at_checked(here).unwrap_or((rest, &[]));
                rest = behind;
                let mut kept = Vec::new();
                for stored in &actions {
                    if gone.binary_search(&stored.id).is_ok() {
                        self.remove(&id_key(b's', stored.id))?;
                    } else {
                        pack_into(&mut kept, stored.id, &stored.body, &stored.status);
                    }
                }
                if kept.is_empty() {
                    self.remove(&key)?;
                } else if kept.len() < pack.len() {
                    self.put(&key, &kept)?;
                }
            }
            Ok(())
        })
    }

    pub fn put_key(&mut self, hash: &KeyHash, used: &StoredKeyUse) -> Result<(), TableError> {
        guard(|| self.put(&key_key(hash), &used.encode()))
    }

    pub fn forget_key(&mut self, hash: &KeyHash) -> Result<(), TableError> {
        guard(|| self.remove(&key_key(hash)))
    }

    pub fn put_meta(&mut self, meta: &Meta) -> Result<(), TableError> {
        guard(|| {
            self.end_pack()?;
            self.put(META, &meta.encode())
        })
    }

    /// Applies what is left. Not durable before [`Table::sync`].
    pub fn finish(mut self) -> Result<(), TableError> {
        guard(|| {
            self.end_pack()?;
            self.apply()
        })
    }

    fn end_pack(&mut self) -> Result<(), TableError> {
        if self.pack.is_empty() {
            return Ok(());
        }
        let pack = std::mem::take(&mut self.pack);
        self.put(&id_key(b'b', self.pack_first), &pack)
    }

    fn put(&mut self, key: &[u8], payload: &[u8]) -> Result<(), TableError> {
        let (first, rest) = payload.split_at_checked(PAYLOAD_BYTES_MAX).unwrap_or((payload, &[]));
        let pieces = rest.chunks(PAYLOAD_BYTES_MAX);
        let chunks = u16::try_from(pieces.len())
            .map_err(|_| TableError("a value is larger than 65,535 chunks".to_owned()))?;
        self.remove_chunks(key, chunks)?;
        let mut value = Vec::with_capacity(first.len() + 7);
        value.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        value.push(FORMAT);
        value.extend_from_slice(&chunks.to_le_bytes());
        value.extend_from_slice(first);
        self.batch_bytes += key.len() + payload.len() + 16;
        self.batch.insert(key, value);
        for (number, piece) in (1..=chunks).zip(pieces) {
            self.batch.insert(chunk_key(key, number), piece);
        }
        // A value and its chunks stay in one batch, so that a kill never leaves a value without a chunk.
        if self.batch_bytes >= BATCH_BYTES { self.apply() } else { Ok(()) }
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), TableError> {
        self.remove_chunks(key, 0)?;
        self.batch.remove(key);
        self.batch_bytes += key.len() + 16;
        if self.batch_bytes >= BATCH_BYTES { self.apply() } else { Ok(()) }
    }

    /// Removes the chunks above `kept` of the value that is there now.
    fn remove_chunks(&mut self, key: &[u8], kept: u16) -> Result<(), TableError> {
        // New packs replace nothing.
        if id_of(b'b', key).is_some_and(|id| id == self.pack_first && id != 0) {
            return Ok(());
        }
        if let Some(old) = self.table.tree.get(key)? {
            for number in (1..=open_envelope(&old)?.chunks).skip(usize::from(kept)) {
                self.batch.remove(chunk_key(key, number));
            }
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), TableError> {
        let batch = std::mem::take(&mut self.batch);
        if self.batch_bytes > 0 {
            self.batch_bytes = 0;
            self.table.tree.apply_batch(batch)?;
            crash_point("checkpoint_batch");
        }
        Ok(())
    }
}
