//! Writing to the table: batches of bounded size, 16 actions a key, values cut into chunks.
//!
//! A reader may look between two batches. It asks the memory table first, which keeps everything a
//! checkpoint writes until the checkpoint ends, so it never sees half of one.

use super::later::{Later, cluster_of, pack_into};
use super::{
    FORMAT, KeyHash, META, Meta, PAYLOAD_BYTES_MAX, StoredKeyUse, Table, TableError, chunk_key, guard,
    id_key, key_key, open_envelope,
};
use crate::store::crash_point::crash_point;

/// A batch is applied when it holds this much: sled blocks readers while it applies one.
const BATCH_BYTES: usize = 128 << 10;

/// Takes up changes and applies them in batches; statuses in the order of ids.
pub(in crate::store) struct Writer<'a> {
    table: &'a Table,
    batch: sled::Batch,
    batch_bytes: usize,
    /// The cluster that is being changed: not in a batch yet.
    cluster: Option<(u64, Vec<Later>)>,
}

impl Table {
    pub fn writer(&self) -> Writer<'_> {
        Writer { table: self, batch: sled::Batch::default(), batch_bytes: 0, cluster: None }
    }
}

impl Writer<'_> {
    /// The newest status of an action that is in a body file with the version `written`; an empty one deletes it.
    /// What was there before, if anything.
    pub fn restate(&mut self, id: u64, written: u32, status: &[u8]) -> Result<Option<Later>, TableError> {
        let cluster = cluster_of(id);
        if self.cluster.as_ref().is_none_or(|(open, _)| *open != cluster) {
            self.end_cluster()?;
            self.cluster = Some((cluster, self.table.cluster(cluster)?));
        }
        let Some((_, found)) = &mut self.cluster else { return Ok(None) };
        let later = Later { id, written, status: status.to_vec() };
        let at = found.partition_point(|later| later.id < id);
        if let Some(there) = found.get_mut(at).filter(|there| there.id == id) {
            return Ok(Some(std::mem::replace(there, later)));
        }
        found.insert(at, later);
        Ok(None)
    }

    /// Forgets what is known of the actions from `first` to `last`: their body files say it now, or nobody needs it.
    pub fn forget(&mut self, first: u64, last: u64) -> Result<(), TableError> {
        self.end_cluster()?;
        let keys: Result<Vec<_>, TableError> = guard(|| {
            let range = id_key(b's', cluster_of(first))..=id_key(b's', cluster_of(last));
            self.table.tree.range(range).keys().map(|key| key.map_err(TableError::from)).collect()
        });
        for key in keys? {
            let Some(cluster) = super::id_of(b's', &key) else { continue };
            let mut kept = Vec::new();
            // Only the first and the last one may have others.
            if cluster == cluster_of(first) || cluster == cluster_of(last) {
                kept = self.table.cluster(cluster)?;
                kept.retain(|later| !(first..=last).contains(&later.id));
            }
            guard(|| if kept.is_empty() { self.remove(&key) } else { self.put(&key, &packed(&kept)) })?;
        }
        Ok(())
    }

    /// Forgets what is known of these actions, which are in the order of ids.
    pub fn forget_these(&mut self, ids: &[u64]) -> Result<(), TableError> {
        self.end_cluster()?;
        for of_cluster in ids.chunk_by(|one, next| cluster_of(*one) == cluster_of(*next)) {
            let Some(cluster) = of_cluster.first().map(|id| cluster_of(*id)) else { continue };
            let (key, mut kept) = (id_key(b's', cluster), self.table.cluster(cluster)?);
            kept.retain(|later| !of_cluster.contains(&later.id));
            guard(|| if kept.is_empty() { self.remove(&key) } else { self.put(&key, &packed(&kept)) })?;
        }
        Ok(())
    }

    fn end_cluster(&mut self) -> Result<(), TableError> {
        let Some((cluster, found)) = self.cluster.take() else { return Ok(()) };
        guard(|| self.put(&id_key(b's', cluster), &packed(&found)))
    }

    pub fn put_key(&mut self, hash: &KeyHash, used: &StoredKeyUse) -> Result<(), TableError> {
        guard(|| self.put(&key_key(hash), &used.encode()))
    }

    pub fn forget_key(&mut self, hash: &KeyHash) -> Result<(), TableError> {
        guard(|| self.remove(&key_key(hash)))
    }

    pub fn put_meta(&mut self, meta: &Meta) -> Result<(), TableError> {
        self.end_cluster()?;
        guard(|| self.put(META, &meta.encode()))
    }

    /// Applies what is left. Not durable before [`Table::sync`].
    pub fn finish(mut self) -> Result<(), TableError> {
        self.end_cluster()?;
        guard(|| self.apply())
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

fn packed(found: &[Later]) -> Vec<u8> {
    let mut pack = Vec::new();
    for Later { id, written, status } in found {
        pack_into(&mut pack, *id, *written, status);
    }
    pack
}
