//! The store's background thread: rebuilds the table if a start could not use it, moves frozen generations into
//! body files and table, writes snapshots in slices between them, watches the disk.
//!
//! The engine's thread freezes a generation with the group that holds its `Checkpointed` record, so what the
//! table must then hold is durable in the journal before anything is touched. The thread appends the new actions to
//! the body files and syncs them, then writes what changed of older ones to sled in bounded batches, the [`Meta`]
//! in the last one, syncs, and only then drops the generation from memory. A kill in between leaves the table
//! with the old meta, which names the body files as they were, and some newer statuses: the journal's replay from
//! the old meta on sets every one of them again.
//!
//! What concerns the journal goes back to its owner as [`Done`], taken up at the next commit.

use std::cell::Cell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::base::{Base, Over, ReadError};
use super::bodies::Bodies;
use super::crash_point::crash_point;
use super::disk::Disk;
use super::growth::Refill;
use super::memory::{Entry, Generation, Live};
use super::open::remove_tree;
use super::pace::Pace;
use super::rebuild::{self, Filled, Rebuild};
use super::record::Meta;
use super::restated::Restated;
use super::shared::Shared;
use super::snapshot::{self, SnapshotError, Writing};
use super::table::{KeyHash, Table, TableError, Writer};
use super::{Options, StoreError};

const DISK_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Keys looked at for their age with each checkpoint.
const KEYS_CHECKED: usize = 5_000;
/// About what it takes to write one action, to put one thing into the table, and to free one action.
const ADD_NS: u32 = 1_500;
const PUT_NS: u32 = 2_000;
const DROP_NS: u32 = 200;
/// What a checkpoint may add to the disk, for each byte of it.
const DISK_FACTOR: u64 = 3;

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
        options: &Options,
    ) -> Result<Self, StoreError> {
        let (jobs, inbox) = channel();
        let (outbox, done) = channel();
        shared.look_at_disk();
        let worker = Worker {
            pace: Pace::new(&shared, options.memory_bytes_max),
            shared: Arc::clone(&shared),
            disk,
            snapshots,
            outbox,
            key_cursor: [0; 20],
            writing: None,
            refill: None,
            meta: Meta::default(),
            replaced_bytes: 0,
            reclaim_failed: false,
            unreadable: HashSet::new(),
            cache_bytes: options.cache_bytes,
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
    pub(super) pace: Pace,
    pub(super) cache_bytes: u64,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) snapshots: PathBuf,
    pub(super) outbox: Sender<Done>,
    key_cursor: KeyHash,
    /// A snapshot under way.
    pub(super) writing: Option<Writing>,
    /// A new sled under way: not beside a snapshot.
    pub(super) refill: Option<Refill>,
    /// The last checkpoint of this run.
    pub(super) meta: Meta,
    /// Of body files that were replaced since the last snapshot: they go with the next one.
    pub(super) replaced_bytes: u64,
    pub(super) reclaim_failed: bool,
    /// Numbers of body files that cannot be written anew because they are damaged.
    pub(super) unreadable: HashSet<u64>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        if let Ok(Base { over: Over::Rebuild(rebuild), .. }) = self.shared.base()
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
                    let needed = job.generation.bytes() * DISK_FACTOR;
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
                    let done = self.carry_out(&job);
                    self.let_go(job.generation);
                    done
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
                    let bodies = Arc::clone(&rebuild.bodies);
                    let replaced = self.shared.replace_base(Base { bodies, over: Over::Table(table) });
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
                    self.shared.poison_for(error);
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

    pub(super) fn parts(&self) -> Result<(Arc<Table>, Arc<Bodies>), StoreError> {
        match self.shared.base()? {
            Base { bodies, over: Over::Table(table) } => Ok((table, bodies)),
            // It has ended before the first checkpoint.
            Base { over: Over::Rebuild(_), .. } => {
                Err(self.shared.poison("a checkpoint began while the table was rebuilt"))
            }
        }
    }

    fn carry_out(&mut self, job: &Job) -> Result<(), StoreError> {
        let (table, bodies) = self.parts()?;
        let restated = Restated::all(&bodies, &job.generation, &self.pace);
        let restated = restated.map_err(|error| self.shared.poison_for(error))?;
        if let Some(writing) = &mut self.writing {
            let taken_up = writing.take_up(&table, &restated, &job.generation);
            self.survive(taken_up)?;
        }
        self.refill_take_up(&restated, &job.generation);
        let result = self.checkpoint(&table, &bodies, &restated, job);
        self.meta = result.map_err(|error| self.shared.poison_for(error))?;
        drop(restated);
        {
            let mut memory = self.shared.memory_mut();
            memory.frozen = None;
            self.shared.memory_bytes.store(memory.bytes(), Ordering::Relaxed);
        }
        self.shared.health().checkpoints += 1;
        // The store may be gone already; then nobody needs to know.
        let _ = self.outbox.send(Done::Checkpoint);
        if job.snapshot && self.shared.has_room_for(job.snapshot_bytes) {
            self.begin_snapshot()?;
        }
        Ok(())
    }

    /// A snapshot of the last checkpoint, or of a later one, unless something else is under way.
    pub(super) fn begin_snapshot(&mut self) -> Result<(), StoreError> {
        if self.writing.is_none() && self.refill.is_none() {
            let writing = Writing::begin(&*self.disk, &self.snapshots, self.meta.group);
            self.writing = self.survive(writing.map_err(SnapshotError::Io))?;
        }
        Ok(())
    }

    /// What the table says of itself afterwards.
    fn checkpoint(
        &mut self,
        table: &Table,
        bodies: &Bodies,
        restated: &[Restated<'_>],
        job: &Job,
    ) -> Result<Meta, ReadError> {
        crash_point("checkpoint_begin");
        let mut appender = bodies.appender();
        for (id, entry) in &job.generation.actions {
            if let Entry::Live(Live { body: Some(body), status, .. }) = entry {
                appender.add(*id, body, status)?;
                self.pace.worked(ADD_NS);
            }
        }
        let added = appender.finish()?;
        bodies.publish(added);
        let mut writer = table.writer();
        for restated in restated {
            restated.write(&mut writer, true)?;
            self.pace.worked(PUT_NS);
        }
        for (hash, used) in &job.generation.keys {
            writer.put_key(hash, used)?;
            self.pace.worked(PUT_NS);
        }
        self.forget_old_keys(table, &mut writer, job.keys_since)?;
        crash_point("checkpoint_meta");
        let meta = Meta { files: bodies.describe(), ..job.meta.clone() };
        writer.put_meta(&meta)?;
        writer.finish()?;
        crash_point("checkpoint_flush");
        table.sync()?;
        crash_point("checkpoint_flushed");
        Ok(meta)
    }

    /// Frees a generation, a little at a time.
    fn let_go(&self, generation: Arc<Generation>) {
        // A reader that still has it frees it.
        let Some(generation) = Arc::into_inner(generation) else { return };
        let unfreed_bytes = generation.bytes();
        for (_, entry) in generation.actions {
            drop(entry);
            self.pace.worked_beside(DROP_NS, unfreed_bytes);
        }
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
}
