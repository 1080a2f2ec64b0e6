//! The store's background thread: rebuilds the table if a start could not use it, moves frozen generations into
//! it, writes snapshots in slices between them, watches the disk.
//!
//! The engine's thread freezes a generation with the group that holds its `Checkpointed` record, so what the
//! table must then hold is durable in the journal before sled is touched. The thread writes it in bounded
//! batches, the [`Meta`] in the last one, syncs, and only then drops the generation from memory. A kill in
//! between leaves the table with the old meta and some newer statuses: the journal's replay from the old
//! meta on sets every one of them again.
//!
//! What concerns the journal goes back to its owner as [`Done`], taken up at the next commit.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::StoreError;
use super::base::Base;
use super::crash_point::crash_point;
use super::disk::Disk;
use super::growth::Refill;
use super::memory::{Entry, Generation};
use super::open::remove_tree;
use super::rebuild::{self, Filled, Rebuild};
use super::record::Meta;
use super::shared::Shared;
use super::snapshot::{self, SnapshotError, Writing};
use super::table::{KeyHash, Table, TableError, Writer};

const DISK_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Keys looked at for their age with each checkpoint.
const KEYS_CHECKED: usize = 5_000;
/// One and the journal behind it; more would not fit the disk that a waiting action may take.
const SNAPSHOTS_KEPT: usize = 1;
/// What a checkpoint may add to sled's file, for each byte of it.
const SLED_FACTOR: u64 = 3;

/// One checkpoint to be made.
pub(super) struct Job {
    pub generation: Arc<Generation>,
    pub meta: Meta,
    /// Keys accepted before this instant are forgotten.
    pub keys_since: i64,
    pub snapshot: bool,
    /// About what that will take.
    pub snapshot_bytes: u64,
}

/// What the owner of the journal must know.
pub(super) enum Done {
    Checkpoint,
    /// A snapshot of `group` is good; the journal is needed from behind `release` on.
    Snapshot {
        group: u64,
        bytes: u64,
        release: u64,
    },
}

/// The thread, seen by the store.
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    pub done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub fn start(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        snapshots: PathBuf,
        cache_bytes: u64,
    ) -> Result<Self, StoreError> {
        let (jobs, inbox) = channel();
        let (outbox, done) = channel();
        shared.look_at_disk();
        let worker = Worker {
            shared: Arc::clone(&shared),
            disk,
            snapshots,
            outbox,
            key_cursor: [0; 20],
            writing: None,
            refill: None,
            meta: Meta::default(),
            cache_bytes,
        };
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(StoreError::thread)?;
        Ok(Self { shared, jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Hands over one job; the one before must be done.
    pub fn send(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(StoreError::Poisoned)
    }

    /// Gives up a rebuild and a snapshot, and waits until every checkpoint handed over is done.
    pub fn finish(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("checkpoint thread panicked");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.finish();
    }
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) cache_bytes: u64,
    disk: Arc<dyn Disk>,
    snapshots: PathBuf,
    outbox: Sender<Done>,
    key_cursor: KeyHash,
    /// A snapshot under way.
    writing: Option<Writing>,
    /// A new sled under way: not beside a snapshot.
    pub(super) refill: Option<Refill>,
    /// The last checkpoint of this run.
    meta: Meta,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        if let Ok(Base::Rebuild(rebuild)) = self.shared.base()
            && !self.rebuild(&rebuild)
        {
            return;
        }
        loop {
            let job = if self.writing.is_some() || self.refill.is_some() {
                inbox.try_recv().map_err(|error| error == TryRecvError::Disconnected)
            } else {
                let waited = inbox.recv_timeout(DISK_CHECK_EVERY);
                waited.map_err(|error| error == RecvTimeoutError::Disconnected)
            };
            let done = match job {
                Ok(job) => {
                    let needed = job.generation.bytes() * SLED_FACTOR;
                    self.look_at_disk();
                    // What is half made of a snapshot or a new table is the first to give room.
                    if !self.shared.has_room_for(needed) {
                        self.abandon();
                        self.give_up_refill("there is no room for it now");
                    }
                    // A full disk is waited out, not taken for a failure of the table.
                    if !self.wait_for_room(needed) {
                        break;
                    }
                    self.carry_out(&job)
                }
                Err(false) => Ok(()),
                Err(true) => break,
            };
            // A slice behind each checkpoint too: a busy store must come to the end of its snapshot.
            if done.and_then(|()| self.slice()).is_err() {
                return;
            }
            self.look_at_disk();
        }
        self.abandon();
        self.give_up_refill("the store is closed");
    }

    fn look_at_disk(&self) {
        self.shared.look_at_disk();
        self.shared.ballast.look(self.shared.disk_free_bytes.load(Ordering::Relaxed));
    }

    pub(super) fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire) || self.shared.check().is_err()
    }

    /// Makes a new table and puts it in its place. False: it was told to stop, or the store has failed.
    ///
    /// Without room on the disk it waits: everything can be read by place until then.
    fn rebuild(&self, rebuild: &Rebuild) -> bool {
        let begun = Instant::now();
        loop {
            let no_room = Cell::new(false);
            let stop = || {
                self.look_at_disk();
                #[cfg(test)]
                while self.shared.rebuild_held.load(Ordering::Acquire) && !self.stopping() {
                    std::thread::yield_now();
                }
                no_room.set(!self.shared.has_room_for(0));
                self.stopping() || no_room.get()
            };
            match rebuild::fill(rebuild, &stop) {
                Ok(Filled::Whole(table)) => {
                    let replaced = self.shared.replace_base(Base::Table(table));
                    crash_point("rebuilt");
                    self.shared.health().rebuilding = None;
                    tracing::info!(
                        actions = rebuild.index.len(),
                        duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                        "table rebuilt"
                    );
                    return replaced.is_some();
                }
                Ok(Filled::Stopped) if !no_room.get() => return false,
                Err(error) if self.shared.has_room_for(0) => {
                    self.shared.poison(&error.to_string());
                    return false;
                }
                Ok(Filled::Stopped) | Err(_) => {
                    tracing::warn!("disk is too full to rebuild the table");
                    let aside = self.shared.dir.join("quarantine");
                    // The last table is of use to whoever looks into it, but not for that.
                    let freed = rebuild.begin_again().and_then(|()| remove_tree(&aside));
                    if let Err(error) = freed {
                        tracing::warn!(%error, "cannot free what a rebuild took");
                    }
                    if !self.wait_for_room(0) {
                        return false;
                    }
                }
            }
        }
    }

    /// Until so many bytes can be written. False: it was told to stop.
    fn wait_for_room(&self, bytes: u64) -> bool {
        self.look_at_disk();
        let mut told = false;
        while !self.shared.has_room_for(bytes) {
            if self.stopping() {
                return false;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(bytes, "disk is full: checkpoints wait, the journal goes on");
            }
            // Nobody tells when there is room again.
            std::thread::sleep(DISK_CHECK_EVERY);
            self.look_at_disk();
        }
        true
    }

    fn table(&self) -> Result<Arc<Table>, StoreError> {
        match self.shared.base()? {
            Base::Table(table) => Ok(table),
            // It has ended before the first checkpoint.
            Base::Rebuild(_) => Err(self.shared.poison("a checkpoint began while the table was rebuilt")),
        }
    }

    fn carry_out(&mut self, job: &Job) -> Result<(), StoreError> {
        let table = self.table()?;
        if let Some(writing) = &mut self.writing {
            let taken_up = writing.take_up(&table, &job.generation);
            self.survive(taken_up)?;
        }
        self.refill_take_up(&job.generation);
        let result = self.checkpoint(&table, job);
        self.shared.trust(result)?;
        {
            let mut memory = self.shared.memory_mut();
            memory.frozen = None;
            self.shared.memory_bytes.store(memory.bytes(), Ordering::Relaxed);
        }
        self.shared.health().checkpoints += 1;
        self.meta.clone_from(&job.meta);
        // The store may be gone already; then nobody needs to know.
        let _ = self.outbox.send(Done::Checkpoint);
        if self.writing.is_none()
            && job.snapshot
            && self.refill.is_none()
            && self.shared.has_room_for(job.snapshot_bytes)
        {
            let writing = Writing::begin(&*self.disk, &self.snapshots, job.meta.group);
            self.writing = self.survive(writing.map_err(SnapshotError::Io))?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, table: &Table, job: &Job) -> Result<(), TableError> {
        crash_point("checkpoint_begin");
        let mut writer = table.writer();
        write_generation(&mut writer, &job.generation)?;
        self.forget_old_keys(table, &mut writer, job.keys_since)?;
        crash_point("checkpoint_meta");
        writer.put_meta(&job.meta)?;
        writer.finish()?;
        crash_point("checkpoint_flush");
        table.sync()?;
        crash_point("checkpoint_flushed");
        Ok(())
    }

    /// A little further through the keys with each checkpoint, and from the start again.
    fn forget_old_keys(
        &mut self,
        table: &Table,
        writer: &mut Writer<'_>,
        keys_since: i64,
    ) -> Result<(), TableError> {
        let uses = table.key_uses(&self.key_cursor, KEYS_CHECKED)?;
        for (hash, used) in &uses {
            if used.accepted_at < keys_since {
                writer.forget_key(hash)?;
            }
        }
        let last = uses.last().filter(|_| uses.len() == KEYS_CHECKED);
        self.key_cursor = last.and_then(|(hash, _)| snapshot::after(hash)).unwrap_or([0; 20]);
        Ok(())
    }

    /// The next part of the snapshot under way, if one is.
    fn slice(&mut self) -> Result<(), StoreError> {
        if self.refill.is_some() {
            let (table, meta) = (self.table()?, self.meta.clone());
            return self.refill_slice(table, &meta);
        }
        if self.writing.is_none() {
            return Ok(());
        }
        let table = self.table()?;
        if self.stopping() || !self.shared.has_room_for(0) {
            self.abandon();
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let sliced = writing.slice(&table);
        if self.survive(sliced)? != Some(true) {
            return Ok(());
        }
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let meta = self.meta.clone();
        let finished = writing.finish(&*self.disk, &self.snapshots, &meta);
        if let Some(bytes) = self.survive(finished)? {
            let release = self.keep_some().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot remove old snapshots");
                0
            });
            self.shared.health().snapshots += 1;
            let _ = self.outbox.send(Done::Snapshot { group: meta.group, bytes, release });
            return self.look_at_growth(bytes);
        }
        Ok(())
    }

    /// Without a snapshot if the disk said no, or is full: a later checkpoint tries again. A table that does not
    /// hold what it should is the end.
    fn survive<T>(&mut self, result: Result<T, SnapshotError>) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(SnapshotError::Io(error)) => {
                tracing::warn!(%error, "cannot write a snapshot");
                self.abandon();
                Ok(None)
            }
            Err(SnapshotError::Table(error)) => Err(self.shared.poison(&error.to_string())),
        }
    }

    fn abandon(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.abandon(&*self.disk);
        }
    }

    /// Removes all snapshots but the newest ones; the group of the oldest that is left.
    ///
    /// The newest was read back before it got its name: the journal before it is needed no more.
    fn keep_some(&self) -> std::io::Result<u64> {
        let groups = snapshot::list(&*self.disk, &self.snapshots)?;
        for old in groups.iter().skip(SNAPSHOTS_KEPT) {
            self.disk.remove(&snapshot::path(&self.snapshots, *old))?;
        }
        Ok(groups.get(SNAPSHOTS_KEPT - 1).copied().unwrap_or(0))
    }
}

/// Writes everything a generation has.
pub(super) fn write_generation(writer: &mut Writer<'_>, generation: &Generation) -> Result<(), TableError> {
    let deleted = generation.actions.iter().filter(|(_, entry)| matches!(entry, Entry::Deleted));
    writer.delete(&deleted.map(|(id, _)| *id).collect::<Vec<_>>())?;
    for (id, entry) in &generation.actions {
        match entry {
            Entry::Live(live) => match &live.body {
                Some(body) => writer.add(*id, body, &live.status)?,
                None => writer.restate(*id, &live.status)?,
            },
            Entry::Deleted => {}
        }
    }
    for (hash, used) in &generation.keys {
        writer.put_key(hash, used)?;
    }
    Ok(())
}
