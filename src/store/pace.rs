//! Keeps the checkpoint thread out of the way of those that somebody waits for.
//!
//! A kernel that lets a thread compute lets it go on to the end of its time slice, or to the next tick, which is up to 4 ms
//! and many times as long as a commit. Whoever is woken meanwhile on the same core waits, though the other core may be
//! idle. A checkpoint is in no hurry as long as memory has room, so its thread yields all the time.
//!
//! Once memory fills up it does not: a yield costs a turn of everybody who wants to run, and on a host that has more to do
//! than it has cores checkpoints would fall behind for good. Nor while somebody waits for the store to be closed.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shared::Shared;

/// Others wait about that long. A yield costs less than a microsecond if nobody does.
const YIELD_EVERY_NS: u32 = 20_000;

/// See the module.
pub(super) struct Pace {
    shared: Arc<Shared>,
    /// Above so many bytes of changes in memory there is a hurry.
    hurry_bytes: u64,
    /// Work since the last yield.
    worked_ns: Cell<u32>,
}

impl Pace {
    pub fn new(shared: &Arc<Shared>, memory_bytes_max: u64) -> Self {
        // A checkpoint begins at a half.
        let hurry_bytes = memory_bytes_max / 4 * 3;
        Self { shared: Arc::clone(shared), hurry_bytes, worked_ns: Cell::new(0) }
    }

    /// Lets others run if it is time to, after work that took about so long.
    pub fn worked(&self, ns: u32) {
        self.worked_beside(ns, 0);
    }

    /// As [`Self::worked`], beside so many bytes that are not counted as memory any more and not free yet.
    pub fn worked_beside(&self, ns: u32, unfreed_bytes: u64) {
        let worked_ns = self.worked_ns.get() + ns;
        if worked_ns < YIELD_EVERY_NS {
            self.worked_ns.set(worked_ns);
            return;
        }
        self.worked_ns.set(0);
        let in_hurry = self.shared.memory_bytes.load(Ordering::Relaxed) + unfreed_bytes > self.hurry_bytes
            || self.shared.stopping.load(Ordering::Relaxed);
        if !in_hurry {
            std::thread::yield_now();
        }
    }
}
