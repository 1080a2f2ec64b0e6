//! The store's background thread: moves frozen generations into the table, writes snapshots, watches the disk.
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
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::StoreError;
use super::crash_point::crash_point;
use super::disk::Disk;
use super::memory::{Entry, Generation};
use super::record::Meta;
use super::shared::Shared;
use super::snapshot::{self, SnapshotError};
use super::table::{KeyHash, Table, TableError, Writer};

const DISK_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Keys looked at for their age with each checkpoint.
const KEYS_CHECKED: usize = 5_000;

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
    jobs: Option<Sender<Job>>,
    pub done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub fn start(shared: Arc<Shared>, disk: Arc<dyn Disk>, snapshots: PathBuf) -> Result<Self, StoreError> {
        let (jobs, inbox) = channel();
        let (outbox, done) = channel();
        shared.look_at_disk();
        let worker = Worker { shared, disk, snapshots, outbox, key_cursor: [0; 20] };
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(StoreError::thread)?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Hands over one job; the one before must be done.
    pub fn send(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(StoreError::Poisoned)
    }

    /// Waits until everything handed over is done.
    pub fn finish(&mut self) {
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
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        loop {
            match inbox.recv_timeout(DISK_CHECK_EVERY) {
                Ok(job) => {
                    if self.carry_out(&job).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.shared.look_at_disk();
        }
    }

    fn carry_out(&mut self, job: &Job) -> Result<(), StoreError> {
        let table = self.shared.table()?;
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
        if job.snapshot { self.snapshot(&table, &job.meta) } else { Ok(()) }
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

    fn snapshot(&self, table: &Table, meta: &Meta) -> Result<(), StoreError> {
        match snapshot::write(&*self.disk, &self.snapshots, table, meta) {
            Ok(bytes) => {
                let release = self.keep_two().unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot remove old snapshots");
                    0
                });
                self.shared.health().snapshots += 1;
                let _ = self.outbox.send(Done::Snapshot { group: meta.group, bytes, release });
                Ok(())
            }
            Err(SnapshotError::Io(error)) => {
                tracing::warn!(%error, "cannot write a snapshot");
                Ok(())
            }
            Err(SnapshotError::Table(error)) => Err(self.shared.poison(&error.to_string())),
        }
    }

    /// Removes all snapshots but the newest two; the group of the older one, if there are two.
    ///
    /// The older one and the journal from it on stand in if the newest cannot be read one day.
    fn keep_two(&self) -> std::io::Result<u64> {
        let groups = snapshot::list(&*self.disk, &self.snapshots)?;
        for old in groups.iter().skip(2) {
            self.disk.remove(&snapshot::path(&self.snapshots, *old))?;
        }
        Ok(groups.get(1).copied().unwrap_or(0))
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
