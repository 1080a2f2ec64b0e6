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
use super::memory::{Entry, Generation};
use super::record::Meta;
use super::shared::Shared;
use super::rebuild::{self, Filled, Rebuild};
use super::snapshot::{self, SnapshotError, Writing};
use super::table::{KeyHash, Table, TableError, Writer};

const DISK_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Keys looked at for their age with each checkpoint.
const KEYS_CHECKED: usize = 5_000;
const SNAPSHOTS_KEPT: usize = 2;

/// One checkpoint to be made.
pub(super) struct Job {
    pub generation: Arc<Generation>,
    pub meta: Meta,
    /// Keys accepted before this instant are forgotten.
    pub keys_since: i64,
    pub snapshot: bool,
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
    pub fn start(shared: Arc<Shared>, disk: Arc<dyn Disk>, snapshots: PathBuf) -> Result<Self, StoreError> {
        let (jobs, inbox) = channel();
        let (outbox, done) = channel();
        shared.look_at_disk();
        let worker = Worker { shared: Arc::clone(&shared), disk, snapshots, outbox, key_cursor: [0; 20], writing: None };
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

struct Worker {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    snapshots: PathBuf,
    outbox: Sender<Done>,
    key_cursor: KeyHash,
    /// A snapshot under way, and the last checkpoint, which it will be of.
    writing: Option<(Writing, Meta)>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        if let Ok(Base::Rebuild(rebuild)) = self.shared.base()
            && !self.rebuild(&rebuild)
        {
            return;
        }
        loop {
            let job = if self.writing.is_some() {
                inbox.try_recv().map_err(|error| error == TryRecvError::Disconnected)
            } else {
                let waited = inbox.recv_timeout(DISK_CHECK_EVERY);
                waited.map_err(|error| error == RecvTimeoutError::Disconnected)
            };
            let done = match job {
                Ok(job) => self.carry_out(&job),
                Err(false) => Ok(()),
                Err(true) => break,
            };
            // A slice behind each checkpoint too: a busy store must come to the end of its snapshot.
            if done.and_then(|()| self.slice()).is_err() {
                return;
            }
            self.shared.look_at_disk();
        }
        self.abandon();
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire) || self.shared.check().is_err()
    }

    /// Makes a new table and puts it in its place. False: it was told to stop, or the store has failed.
    fn rebuild(&self, rebuild: &Rebuild) -> bool {
        let begun = Instant::now();
        let stop = || {
            self.shared.look_at_disk();
            #[cfg(test)]
            while self.shared.rebuild_held.load(Ordering::Acquire) && !self.stopping() {
                std::thread::yield_now();
            }
            self.stopping()
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
                replaced.is_some()
            }
            Ok(Filled::Stopped) => false,
            Err(error) => {
                self.shared.poison(&error.to_string());
                false
            }
        }
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
        if let Some((writing, _)) = &mut self.writing {
            let taken_up = writing.take_up(&table, &job.generation);
            self.survive(taken_up)?;
        }
        let result = self.checkpoint(&table, job);
        self.shared.trust(result)?;
        {
            let mut memory = self.shared.memory_mut();
            memory.frozen = None;
            self.shared.memory_bytes.store(memory.bytes(), Ordering::Relaxed);
        }
        self.shared.health().checkpoints += 1;
        // The store may be gone already; then nobody needs to know.
        let _ = self.outbox.send(Done::Checkpoint);
        if let Some((_, meta)) = &mut self.writing {
            meta.clone_from(&job.meta);
        } else if job.snapshot {
            let writing = Writing::begin(&*self.disk, &self.snapshots, job.meta.group);
            self.writing = self.survive(writing.map_err(SnapshotError::Io))?.map(|begun| (begun, job.meta.clone()));
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
        let table = match &self.writing {
            Some(_) => self.table()?,
            None => return Ok(()),
        };
        let Some((writing, _)) = &mut self.writing else { return Ok(()) };
        let sliced = writing.slice(&table);
        if self.survive(sliced)? != Some(true) {
            return Ok(());
        }
        let Some((writing, meta)) = self.writing.take() else { return Ok(()) };
        let finished = writing.finish(&*self.disk, &self.snapshots, &meta);
        if let Some(bytes) = self.survive(finished)? {
            let release = self.keep_some().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot remove old snapshots");
                0
            });
            self.shared.health().snapshots += 1;
            let _ = self.outbox.send(Done::Snapshot { group: meta.group, bytes, release });
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
        if let Some((writing, _)) = self.writing.take() {
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
