//! Which finished actions are past retention: found by walking all ids from the oldest on, a bounded part
//! with each call, since no index of them is kept in memory.
//!
//! A walk that reached the end rests until the first of the finished actions it saw can be due, unless there
//! are more of them than may be kept: then the oldest by id go first.

use super::StoreError;
use super::base::{Seen, Walked};
use super::memory::Entry;
use super::record::{Record, decode_status};
use super::writer::Store;
use crate::action::{ActionId, State, Timestamp};

/// Actions looked at in one call, at most, for each that may be deleted.
const LOOKED_AT_PER_DELETED: usize = 4;
/// Ids taken from each generation in memory at once.
const FROM_MEMORY: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Retention {
    /// Finished actions that are live.
    pub finished: u64,
    /// The walk goes on here.
    cursor: u64,
    /// Whether a walk is under way.
    walks: bool,
    /// The first action that this walk, or the one before it, left alive: there is none below, ever.
    lowest: Option<u64>,
    /// No walk before this.
    rests_until: Option<Timestamp>,
    /// The earliest instant at which an action seen in this walk, or finished since it began, is due.
    earliest: Option<Timestamp>,
}

impl Retention {
    pub fn new(finished: u64) -> Self {
        Self { finished, ..Self::default() }
    }

    /// An action is staged to be in that state now.
    pub fn became(&mut self, state: State) {
        if state.is_final() {
            self.finished += 1;
        }
    }

    /// The next walk begins at what this one found first.
    fn end_walk(&mut self) {
        self.walks = false;
        // Nothing lived when it came by: whatever does now was accepted since.
        self.lowest.get_or_insert(0);
        self.rests_until = self.earliest.take();
    }

    fn note(&mut self, due: Timestamp) {
        self.earliest = Some(self.earliest.map_or(due, |earliest| earliest.min(due)));
    }
}

/// A part of the walk.
struct Part {
    /// None: it is deleted.
    found: Vec<(u64, Option<Seen>)>,
    looked_at: usize,
    /// Where the next part begins; none at the end.
    next: Option<u64>,
}

impl Store {
    /// Stages the removal of finished actions that are past retention, at most `limit`; says which.
    ///
    /// Looks at a bounded number of actions with each call. Call it again and again.
    pub fn expire(&mut self, now: Timestamp, limit: usize) -> Result<Vec<ActionId>, StoreError> {
        self.shared.check()?;
        self.now = now;
        let too_many = |store: &Self| store.retention.finished > store.options.retention_count;
        let rests = self.retention.rests_until.is_some_and(|until| now < until) && !too_many(self);
        if self.retention.finished == 0 || rests {
            return Ok(Vec::new());
        }
        self.retention.rests_until = None;
        if !std::mem::replace(&mut self.retention.walks, true) {
            self.retention.cursor = self.retention.lowest.take().unwrap_or(0);
            // Whatever finishes during this walk is due after that.
            self.retention.note(now.plus_ms(self.options.retention_age_ms));
        }
        let mut deleted = Vec::new();
        let mut left = limit.saturating_mul(LOOKED_AT_PER_DELETED);
        while left > 0 && deleted.len() < limit {
            let Part { found, looked_at, next } = self.next_part()?;
            left = left.saturating_sub(looked_at.max(1));
            let mut is_done = true;
            for (id, seen) in found {
                if deleted.len() == limit {
                    is_done = false;
                    break;
                }
                self.retention.cursor = id + 1;
                let Some(seen) = seen else { continue };
                if let Seen::Finished(bytes) = &seen {
                    let status = self.shared.trust(decode_status(bytes))?;
                    let due = status
                        .finish
                        .as_ref()
                        .map_or(now, |finish| finish.at.plus_ms(self.options.retention_age_ms));
                    if due <= now || too_many(self) {
                        deleted.push((id, status.version));
                        self.ledger.deleted(id, status.version);
                        self.staged.insert(id, Entry::Deleted);
                        self.retention.finished -= 1;
                        continue;
                    }
                    self.retention.note(due);
                }
                self.retention.lowest.get_or_insert(id);
            }
            match next {
                _ if !is_done => {}
                Some(next) => self.retention.cursor = next,
                None => {
                    self.retention.end_walk();
                    break;
                }
            }
        }
        if !deleted.is_empty() {
            self.stage(&Record::Deleted { actions: deleted.clone() });
        }
        Ok(deleted.into_iter().map(|(id, _)| ActionId(id)).collect())
    }

    /// What is found from the walk's cursor on, in the body files and in memory.
    fn next_part(&self) -> Result<Part, StoreError> {
        let cursor = self.retention.cursor;
        // Before the table is read: a checkpoint that ends in between takes its generation out of memory, and what
        // it deleted would look alive in what was read before.
        let frozen = self.shared.memory().frozen.clone();
        let Walked { found: mut below, mut looked_at, mut next } =
            self.shared.read(|base| base.walk(cursor))?;
        let bounded = next.map_or(u64::MAX, |next| next.saturating_sub(1));
        let mut ids: Vec<u64> = below.iter().map(|(id, _)| *id).collect();
        {
            let memory = self.shared.memory();
            let range = cursor..=bounded.max(cursor);
            let of_frozen = frozen.iter().flat_map(|frozen| frozen.actions.range(range.clone()));
            ids.extend(of_frozen.map(|(id, _)| *id).take(FROM_MEMORY));
            ids.extend(memory.current.actions.range(range).map(|(id, _)| *id).take(FROM_MEMORY));
        }
        looked_at += ids.len() - below.len();
        ids.sort_unstable();
        ids.dedup();
        // Each side has all of its ids up to here, and maybe no others.
        if let Some(behind) = ids.get(FROM_MEMORY) {
            next = Some(*behind);
            ids.truncate(FROM_MEMORY);
        }
        let in_frozen = |id: &u64| frozen.as_ref().and_then(|frozen| frozen.actions.get(id).cloned());
        let mut seen = |id: &u64| match self.staged_entry(*id).or_else(|| in_frozen(id)) {
            Some(Entry::Deleted) => None,
            Some(Entry::Live(live)) if live.state.is_final() => Some(Seen::Finished(live.status.to_vec())),
            Some(Entry::Live(_)) => Some(Seen::Waiting),
            None => {
                let at = below.binary_search_by_key(id, |(id, _)| *id).ok();
                let found = at.and_then(|at| below.get_mut(at));
                found.map(|(_, seen)| std::mem::replace(seen, Seen::Waiting))
            }
        };
        let found = ids.iter().map(|id| (*id, seen(id))).collect();
        Ok(Part { found, looked_at, next })
    }
}
