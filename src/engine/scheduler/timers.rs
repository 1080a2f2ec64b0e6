//! When the scheduler has to look at which actions again: due times and deadlines, at next to no cost.
//!
//! Ids are consecutive, so a chunk of them shares one timer at the earliest time that any of them has. It may be
//! earlier than needed, because nobody takes it back when an action ends or begins: a look then finds nothing and
//! sets it anew. It is never later. Used by the scheduler only.

use std::collections::{BTreeMap, BTreeSet};

use super::super::id_map::CHUNK;
use crate::action::{ActionId, Timestamp};

/// See the module.
#[derive(Default)]
pub(super) struct Timers {
    order: BTreeSet<(Timestamp, u64)>,
    of_chunk: BTreeMap<u64, Timestamp>,
}

impl Timers {
    /// Has the action looked at when `at` has come.
    pub fn watch(&mut self, id: ActionId, at: Timestamp) {
        let chunk = id.0 / CHUNK;
        match self.of_chunk.get_mut(&chunk) {
            Some(before) if *before <= at => return,
            Some(before) => {
                self.order.remove(&(*before, chunk));
                *before = at;
            }
            None => _ = self.of_chunk.insert(chunk, at),
        }
        self.order.insert((at, chunk));
    }

    /// When the next look is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out one timer that has come: the actions of this chunk are to be looked at, and watched again.
    pub fn take_due(&mut self, now: Timestamp) -> Option<u64> {
        let (at, chunk) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, chunk));
        self.of_chunk.remove(&chunk);
        Some(chunk)
    }

    /// Takes back the timer of this action and its neighbours: none of them has a time any more.
    pub fn forget(&mut self, id: ActionId) {
        let chunk = id.0 / CHUNK;
        if let Some(at) = self.of_chunk.remove(&chunk) {
            self.order.remove(&(at, chunk));
        }
    }
}

#[cfg(test)]
impl Timers {
    /// How many timers there are; each has its two places.
    pub fn len(&self) -> usize {
        assert_eq!(self.order.len(), self.of_chunk.len());
        self.order.len()
    }
}
