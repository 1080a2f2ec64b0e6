//! The writing half: stages changes, commits them as one group, and says what is staged.
//!
//! Owned by the engine's thread. What is staged is seen by nobody but the owner; [`Store::commit`] makes it
//! durable with one write and one sync, and then shows it to readers. The group in which a checkpoint begins
//! also carries the `Checkpointed` record, see [`super::checkpoint`].
//!
//! # Failure
//!
//! After a failed write or sync the kernel may have dropped the dirty pages, and a second sync would report
//! success for data that is gone. The store is poisoned instead: every later call fails, the daemon exits and
//! recovers from disk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use super::base::{Base, Over};
use super::checkpoint::{Checkpointer, Done, Job};
use super::crash_point::crash_point;
use super::journal::{GroupNumber, Journal};
use super::ledger::Ledger;
use super::marks::Marks;
use super::memory::{Entry, Generation, Live};
use super::record::{Record, decode_status, encode_body, encode_status};
use super::replay::key_of;
use super::retention::Retention;
use super::shared::Shared;
use super::table::{TableError, key_hash};
use super::{KeyUse, Options, Pressure, StoreError};
use crate::action::{Action, ActionId, Body, Event, IllegalTransition, State, Status, Timestamp};

/// A change waits at most this long for its checkpoint.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);
/// A snapshot is due when the journal behind the last one is larger than this part of it: less journal on the disk
/// for more writing.
const SNAPSHOT_PARTS: u64 = 5;
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// The writing half; owned by the engine's thread. Changes are staged and then committed as one group.
pub struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) journal: Journal,
    pub(super) checkpointer: Checkpointer,
    pub(super) ledger: Ledger,
    pub(super) staged: Generation,
    /// Whether the journal has staged records.
    pub(super) is_staged: bool,
    /// Version and state of what [`Store::get`] found in the table since the last commit: changed next, mostly.
    pub(super) seen: RefCell<HashMap<u64, (u64, State)>>,
    /// When the oldest change that is in no checkpoint was committed.
    pub(super) unsaved_since: Option<Instant>,
    pub(super) checkpoint_now: bool,
    pub(super) closing: bool,
    pub(super) snapshot_group: u64,
    pub(super) snapshot_bytes: u64,
    pub(super) retention: Retention,
    /// The latest time that somebody told us.
    pub(super) now: Timestamp,
    pub(super) marks: Marks,
    pub(super) lock: File,
}

impl Store {
    /// Stages a new action. `id` must be the next one.
    #[expect(clippy::needless_pass_by_value, reason = "a seam: the store may keep what it is given")]
    pub fn submit(&mut self, id: ActionId, body: Arc<Body>, status: Status) -> Result<(), StoreError> {
        self.shared.check()?;
        if id.0 != self.ledger.next_id || status.version != 1 {
            return Err(self.misuse(format!("action {id} is not the next one")));
        }
        let (stored, status_bytes) = (encode_body(&body), encode_status(&status));
        self.stage(&Record::Submitted { id: id.0, body: &stored, status: &status_bytes });
        if let Some((hash, used)) = key_of(id.0, &body) {
            self.staged.insert_key(hash, used);
        }
        self.ledger.submitted(id.0, 1);
        let live =
            Live { version: 1, state: status.state, body: Some(stored.into()), status: status_bytes.into() };
        self.staged.insert(id.0, Entry::Live(live));
        self.retention.became(status.state);
        Ok(())
    }

    /// Stages the new status of an action; `status.version` must be one above the stored one and `status.state`
    /// what `event` leads to.
    pub fn change(&mut self, id: ActionId, event: Event, status: &Status) -> Result<(), StoreError> {
        self.shared.check()?;
        let Some((version, state)) = self.version(id.0)? else {
            return Err(self.misuse(format!("there is no action {id} to change")));
        };
        let next = state.apply(event).map_err(|source| StoreError::Illegal { id, source })?;
        if status.state != next {
            return Err(StoreError::Illegal { id, source: IllegalTransition { state, event } });
        }
        if status.version != version + 1 {
            return Err(self.misuse(format!("version {} of action {id} follows {version}", status.version)));
        }
        let bytes = encode_status(status);
        self.stage(&Record::Changed { id: id.0, event, status: &bytes });
        self.ledger.changed(id.0, version, status.version);
        let live = Live { version: status.version, state: next, body: None, status: bytes.into() };
        self.staged.insert(id.0, Entry::Live(live));
        self.retention.became(next);
        Ok(())
    }

    /// Stages that a queue is paused or goes on.
    pub fn pause_queue(&mut self, queue: &str, paused: bool) {
        self.stage(&Record::QueuePaused { queue: queue.to_owned(), paused });
        self.ledger.paused(queue.to_owned(), paused);
    }

    /// Stages a further incarnation for a run that has counted to the end of its own; the number.
    pub fn begin_incarnation(&mut self, boot_id: &str) -> u64 {
        self.ledger.incarnation += 1;
        let incarnation = self.ledger.incarnation;
        self.stage(&Record::Started { incarnation, boot_id: boot_id.to_owned() });
        incarnation
    }

    /// Makes everything staged durable with one write and one sync, then shows it to readers.
    ///
    /// # Durability
    ///
    /// After `Ok` everything staged before survives loss of power.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.shared.check()?;
        self.take_up_done()?;
        let begins = self.checkpoint_is_due();
        if begins {
            let Ledger { live_count, digest, .. } = self.ledger;
            self.stage(&Record::Checkpointed { live_count, digest });
        }
        if !self.is_staged {
            return Ok(());
        }
        crash_point("journal_write");
        let group = self.journal.commit().map_err(|error| self.poison_with(error))?;
        crash_point("journal_synced");
        self.publish();
        if begins { self.begin_checkpoint(group) } else { Ok(()) }
    }

    /// The action as staged (not necessarily durable yet).
    pub fn get(&self, id: ActionId) -> Result<Option<Action>, StoreError> {
        let entry = self.staged_entry(id.0);
        let is_in_memory = entry.is_some();
        let action = self.shared.complete(id.0, entry)?;
        if let Some(action) = action.as_ref().filter(|_| !is_in_memory) {
            self.seen.borrow_mut().insert(id.0, (action.status.version, action.status.state));
        }
        Ok(action)
    }

    /// The status of an action as staged, also if its body is damaged.
    pub fn status(&self, id: ActionId) -> Result<Option<Status>, StoreError> {
        match self.staged_entry(id.0) {
            Some(Entry::Live(live)) => self.shared.trust(decode_status(&live.status)).map(Some),
            Some(Entry::Deleted) => Ok(None),
            None => self.shared.read(|base| base.status(id.0)),
        }
    }

    /// The first use of an idempotency key of that uid, staged ones included.
    pub fn key_use(&self, uid: u32, key: &str) -> Result<Option<KeyUse>, StoreError> {
        self.shared.check()?;
        let hash = key_hash(uid, key);
        let known = self.staged.keys.get(&hash).copied().or_else(|| self.shared.memory().key_use(&hash));
        let found = match known {
            Some(used) => Some(used),
            None => self.shared.trust(self.shared.base()?.key_use(&hash))?,
        };
        Ok(found.map(|used| KeyUse { id: ActionId(used.id), digest: used.digest }))
    }

    /// Whether [`Self::key_use`] can answer: not early in a rebuild of the table.
    pub fn knows_keys(&self) -> bool {
        self.shared.base().is_ok_and(|base| base.knows_keys())
    }

    pub fn pressure(&self) -> Pressure {
        let staged = self.staged.bytes();
        let disk_free = self.shared.disk_free_bytes.load(Ordering::Relaxed);
        if disk_free < self.options.disk_reserve_bytes || !self.journal.has_room() {
            Pressure::DiskLow
        } else if self.shared.memory_bytes.load(Ordering::Relaxed) + staged > self.options.memory_bytes_max {
            Pressure::MemoryFull
        } else {
            Pressure::None
        }
    }

    /// Checkpoints, closes sled, syncs it and leaves the clean mark.
    ///
    /// Bounded by what memory holds, whatever the table's size: a snapshot that is due or under way is left to
    /// the next run, and so is a rebuild, without the clean mark then.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.closing = true;
        self.commit()?;
        self.shared.stopping.store(true, Ordering::Release);
        if self.shared.base()?.is_rebuilding() {
            return self.close_as_it_is();
        }
        // A checkpoint may be under way; the last one comes after it.
        while self.shared.memory().frozen.is_some() {
            match self.checkpointer.done.recv() {
                Ok(done) => self.take_up(&done)?,
                Err(_) => return self.close_as_it_is(),
            }
        }
        if !self.shared.memory().current.is_empty() || self.unsaved_since.is_some() {
            self.checkpoint_now = true;
            self.commit()?;
        }
        self.checkpointer.finish();
        if self.shared.memory().frozen.is_some() {
            return self.close_as_it_is();
        }
        self.shared.check()?;
        if let Some(Base { over: Over::Table(table), .. }) = self.shared.take_base() {
            let closed = close_table(table);
            self.shared.trust(closed)?;
        }
        crash_point("close_clean");
        self.marks.leave_clean()?;
        drop(self.lock);
        Ok(())
    }

    /// Without the clean mark: like a death of the process, but that sled is closed. All is in the journal.
    fn close_as_it_is(mut self) -> Result<(), StoreError> {
        self.checkpointer.finish();
        self.shared.check()?;
        tracing::info!("stopped before the table was whole: the next start makes it so");
        drop(self.shared.take_base());
        crash_point("close_rebuilding");
        Ok(())
    }

    pub(super) fn stage(&mut self, record: &Record<'_>) {
        self.journal.stage(&record.encode());
        self.is_staged = true;
    }

    /// What is known of an action without the table; staged first.
    pub(super) fn staged_entry(&self, id: u64) -> Option<Entry> {
        let Some(staged) = self.staged.actions.get(&id) else { return self.shared.memory().find(id) };
        let mut entry = staged.clone();
        if let Entry::Live(live) = &mut entry
            && live.body.is_none()
            && let Some(Entry::Live(older)) = self.shared.memory().find(id)
        {
            live.body = older.body;
        }
        Some(entry)
    }

    /// Version and state of an action as staged.
    fn version(&self, id: u64) -> Result<Option<(u64, State)>, StoreError> {
        match self.staged_entry(id) {
            Some(Entry::Live(live)) => return Ok(Some((live.version, live.state))),
            Some(Entry::Deleted) => return Ok(None),
            None => {}
        }
        if let Some(seen) = self.seen.borrow().get(&id) {
            return Ok(Some(*seen));
        }
        self.shared.read(|base| base.version(id))
    }

    fn misuse(&self, detail: String) -> StoreError {
        StoreError::Damaged {
            file: self.shared.dir.clone(),
            offset: 0,
            detail,
            next_step: "report this: the daemon and its store disagree",
        }
    }

    fn poison_with(&self, error: StoreError) -> StoreError {
        self.shared.poison(&error.to_string());
        error
    }

    fn publish(&mut self) {
        self.is_staged = false;
        self.seen.borrow_mut().clear();
        let staged = std::mem::take(&mut self.staged);
        {
            let mut memory = self.shared.memory_mut();
            memory.publish(staged);
            self.shared.memory_bytes.store(memory.bytes(), Ordering::Relaxed);
        }
        self.shared.next_id.store(self.ledger.next_id, Ordering::Release);
        self.unsaved_since.get_or_insert_with(Instant::now);
        let mut health = self.shared.health();
        health.live_actions = self.ledger.live_count;
        health.journal_groups = self.journal.last_group().0;
        health.journal_bytes = self.journal.bytes_since(GroupNumber(self.snapshot_group));
    }

    /// A checkpoint may begin when none is under way and there is something to save.
    fn checkpoint_is_due(&self) -> bool {
        let memory = self.shared.memory();
        if memory.frozen.is_some() {
            return false;
        }
        self.checkpoint_now
            || memory.current.bytes() + self.staged.bytes() > self.options.memory_bytes_max / 2
            || self.unsaved_since.is_some_and(|since| since.elapsed() >= CHECKPOINT_EVERY)
    }

    fn begin_checkpoint(&mut self, group: GroupNumber) -> Result<(), StoreError> {
        let generation = self.shared.memory_mut().freeze();
        self.unsaved_since = None;
        self.checkpoint_now = false;
        let since_snapshot = self.journal.bytes_since(GroupNumber(self.snapshot_group));
        let key_age = i64::try_from(self.options.key_age_ms).unwrap_or(i64::MAX);
        self.checkpointer.send(Job {
            generation,
            meta: self.ledger.to_meta(group.0),
            keys_since: self.now.0.saturating_sub(key_age),
            snapshot_bytes: self.snapshot_bytes.max(since_snapshot),
            snapshot: !self.closing
                && since_snapshot
                    > self.options.snapshot_after_bytes.max(self.snapshot_bytes / SNAPSHOT_PARTS),
        })
    }

    fn take_up_done(&mut self) -> Result<(), StoreError> {
        loop {
            match self.checkpointer.done.try_recv() {
                Ok(done) => self.take_up(&done)?,
                Err(TryRecvError::Empty) => return Ok(()),
                // It ends with the store or with an error, never by itself.
                Err(TryRecvError::Disconnected) => {
                    return Err(self.shared.poison("the checkpoint thread is gone"));
                }
            }
        }
    }

    fn take_up(&mut self, done: &Done) -> Result<(), StoreError> {
        match *done {
            Done::Checkpoint => Ok(()),
            Done::Snapshot { group, bytes, release } => {
                (self.snapshot_group, self.snapshot_bytes) = (group, bytes);
                crash_point("journal_release");
                self.journal.release(GroupNumber(release)).map_err(|error| self.poison_with(error))
            }
        }
    }
}

/// Closes sled once the readers that are inside have left it.
pub(super) fn close_table(mut table: Arc<super::table::Table>) -> Result<(), TableError> {
    let begun = Instant::now();
    loop {
        match Arc::try_unwrap(table) {
            Ok(table) => return table.close(),
            Err(shared) if begun.elapsed() < CLOSE_PATIENCE => table = shared,
            Err(_) => return Err(TableError("a reader did not leave it".to_owned())),
        }
        std::thread::yield_now();
    }
}
