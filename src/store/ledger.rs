//! What the store knows of all its actions together, kept up to date with each change: the same when it is
//! counted anew from the table, which is how a start knows that nothing is missing there.

use std::collections::BTreeSet;

use super::record::{Meta, version_hash};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub store_id: String,
    pub live_count: u64,
    pub digest: u64,
    pub next_id: u64,
    pub incarnation: u64,
    pub paused_queues: BTreeSet<String>,
}

impl Ledger {
    /// Of a store without actions.
    pub fn new(store_id: String) -> Self {
        Self { store_id, next_id: 1, ..Self::default() }
    }

    pub fn submitted(&mut self, id: u64, version: u64) {
        self.live_count += 1;
        self.digest = self.digest.wrapping_add(version_hash(id, version));
        self.next_id = id + 1;
    }

    pub fn changed(&mut self, id: u64, from: u64, to: u64) {
        self.digest = self.digest.wrapping_sub(version_hash(id, from)).wrapping_add(version_hash(id, to));
    }

    pub fn deleted(&mut self, id: u64, version: u64) {
        self.live_count = self.live_count.saturating_sub(1);
        self.digest = self.digest.wrapping_sub(version_hash(id, version));
    }

    pub fn paused(&mut self, queue: String, paused: bool) {
        if paused {
            self.paused_queues.insert(queue);
        } else {
            self.paused_queues.remove(&queue);
        }
    }

    pub fn to_meta(&self, group: u64) -> Meta {
        let Self { store_id, live_count, digest, next_id, incarnation, paused_queues } = self.clone();
        let paused_queues = paused_queues.into_iter().collect();
        // The checkpoint thread knows them.
        let files = Vec::new();
        Meta { store_id, group, live_count, digest, next_id, incarnation, paused_queues, files }
    }

    pub fn from_meta(meta: Meta) -> Self {
        let Meta { store_id, group: _, live_count, digest, next_id, incarnation, paused_queues, files: _ } =
            meta;
        let paused_queues = paused_queues.into_iter().collect();
        Self { store_id, live_count, digest, next_id, incarnation, paused_queues }
    }
}
