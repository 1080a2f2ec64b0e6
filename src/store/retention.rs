//! Which finished actions are past retention: found by walking all ids from the oldest on, a bounded part
//! with each call, since no index of them is kept in memory.
//!
//! A walk that reached the end rests until the first of the finished actions it saw can be due, unless there
//! are more of them than may be kept: then the oldest by id go first.

use super::StoreError;
use super::memory::Entry;
use super::record::{Record, decode_status, peek_status};
use super::writer::Store;
use crate::action::{ActionId, State, Status, Timestamp};

/// Actions looked at in one call, at most, for each that may be deleted.
const LOOKED_AT_PER_DELETED: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Retention {
    /// Finished actions that are live.
    pub finished: u64,
    /// The walk goes on here.
    cursor: u64,
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

    fn note(&mut self, due: Timestamp) {
        self.earliest = Some(self.earliest.map_or(due, |earliest| earliest.min(due)));
    }
}

/// Ids with the status of each; none of a deleted one.
type Part = Vec<(u64, Vec<u8>)>;

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
        if self.retention.cursor == 0 {
            // Whatever finishes during this walk is due after that.
            self.retention.note(now.plus_ms(self.options.retention_age_ms));
        }
        let mut deleted = Vec::new();
        let mut left = limit.saturating_mul(LOOKED_AT_PER_DELETED);
        while left > 0 && deleted.len() < limit {
            let Some(part) = self.next_part()? else {
                self.retention.cursor = 0;
                self.retention.rests_until = self.retention.earliest.take();
                break;
            };
            for (id, bytes) in part {
                if deleted.len() == limit {
                    break;
                }
                left = left.saturating_sub(1);
                self.retention.cursor = id + 1;
                let Some(status) = finished(self, &bytes)? else { continue };
                let due = status
                    .finish
                    .as_ref()
                    .map_or(now, |finish| finish.at.plus_ms(self.options.retention_age_ms));
                if due <= now || too_many(self) {
                    deleted.push((id, status.version));
                    self.ledger.deleted(id, status.version);
                    self.staged.insert(id, Entry::Deleted);
                    self.retention.finished -= 1;
                } else {
                    self.retention.note(due);
                }
            }
        }
        if !deleted.is_empty() {
            self.stage(&Record::Deleted { actions: deleted.clone() });
        }
        Ok(deleted.into_iter().map(|(id, _)| ActionId(id)).collect())
    }

    /// Ids and statuses from the walk's cursor on: those of the table's next pack, or those that only memory has.
    fn next_part(&self) -> Result<Option<Part>, StoreError> {
        let cursor = self.retention.cursor;
        // Before the table is read: a checkpoint that ends in between takes its generation out of memory, and what
        // it deleted would look alive in the pack that was read before.
        let frozen = self.shared.memory().frozen.clone();
        let pack = self.shared.read(|base| base.some_from(cursor))?;
        let bounded = pack.last().map_or(u64::MAX, |stored| stored.id);
        let mut ids: Vec<u64> = pack.iter().map(|stored| stored.id).collect();
        {
            let memory = self.shared.memory();
            let frozen =
                memory.frozen.iter().flat_map(|frozen| frozen.actions.range(cursor..=bounded).take(256));
            ids.extend(frozen.map(|(id, _)| *id));
            ids.extend(memory.current.actions.range(cursor..=bounded).take(256).map(|(id, _)| *id));
        }
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(256);
        if ids.is_empty() {
            return Ok(None);
        }
        let in_frozen = |id: &u64| frozen.as_ref().and_then(|frozen| frozen.actions.get(id).cloned());
        let status = |id: &u64| match self.staged_entry(*id).or_else(|| in_frozen(id)) {
            Some(Entry::Deleted) => (*id, Vec::new()),
            Some(Entry::Live(live)) => (*id, live.status.to_vec()),
            None => {
                let stored = pack.iter().find(|stored| stored.id == *id);
                (*id, stored.map(|stored| stored.status.clone()).unwrap_or_default())
            }
        };
        Ok(Some(ids.iter().map(status).collect()))
    }
}

/// The status, if it is a final one; an empty one is that of a deleted action.
fn finished(store: &Store, bytes: &[u8]) -> Result<Option<Status>, StoreError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let status =
        peek_status(bytes).and_then(|(_, state)| state.is_final().then(|| decode_status(bytes)).transpose());
    store.shared.trust(status)
}
