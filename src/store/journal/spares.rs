//! Prepares segments ahead, and takes back released ones, on a thread of its own.
//!
//! Writing 16 MiB of zeros takes tens of milliseconds, removing such a file takes some; a commit should wait for
//! neither. One spare is always held in reserve, and when none can be had the store refuses submissions
//! ([`Spares::has_room`]); a full disk thus stops new work before it stops the recording of old work.
//!
//! A released segment is renamed, and the directory synced, *before* it can be used again: otherwise a power cut
//! could leave new groups under the old name. Its old contents stay: their segment number tells them apart.
//! Failures here poison nothing. They are logged, and tried again once a second or when a segment is needed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::format::segment_path;
use crate::store::StoreError;
use crate::store::ballast::BALLAST;
use crate::store::crash_point::crash_point;
use crate::store::disk::{Disk, DiskFile};

/// Released segments beyond this are removed.
const SPARES_MAX: usize = 2;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A prepared file: long enough, on disk, without a segment's name.
pub struct Spare {
    pub path: PathBuf,
    pub file: Box<dyn DiskFile>,
}

/// A segment that nothing needs any more.
#[derive(Clone, Copy, Debug)]
pub struct Released {
    pub segment: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Resting,
    /// At the disk, without holding the lock.
    Working,
    /// In order or not.
    Ended,
}

#[derive(Default)]
struct State {
    ready: Vec<Spare>,
    released: Vec<Released>,
    /// A commit waits for a spare: do not wait out [`RETRY_AFTER`].
    urgent: bool,
    stopping: bool,
    thread: Phase,
    /// The last attempt found no room (or failed in another way), and none has gone well since.
    failing: bool,
    failures: u64,
    last_error: Option<io::Error>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// The handle that the journal holds. Dropping it ends the thread after the file it is at.
pub struct Spares {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Spares {
    /// Starts the thread, which begins to prepare the first spare at once.
    pub fn start(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: u64) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("journal-spares".into())
            .spawn(move || worker.run())
            .map_err(StoreError::thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether there is a spare, or one is being prepared and nothing speaks against it.
    pub fn has_room(&self) -> bool {
        let state = self.shared.lock();
        !state.ready.is_empty() || !state.failing
    }

    /// A spare; waits for one that is being prepared.
    ///
    /// # Errors
    ///
    /// Why none could be prepared.
    pub fn take(&self) -> io::Result<Spare> {
        let mut state = self.shared.lock();
        let failures = state.failures;
        loop {
            if let Some(spare) = state.ready.pop() {
                state.urgent = false;
                self.shared.changed.notify_all();
                return Ok(spare);
            }
            if state.failures > failures || state.thread == Phase::Ended {
                state.urgent = false;
                return Err(state.last_error.take().unwrap_or_else(|| io::ErrorKind::StorageFull.into()));
            }
            state.urgent = true;
            self.shared.changed.notify_all();
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes back segments, oldest first. They keep their names until the thread comes to them.
    pub fn release(&self, released: impl IntoIterator<Item = Released>) {
        self.shared.lock().released.extend(released);
        self.shared.changed.notify_all();
    }

    /// Waits until the thread has nothing left to do, or has failed at it.
    #[cfg(test)]
    pub fn settle(&self) {
        let mut state = self.shared.lock();
        while state.thread != Phase::Ended
            && (state.thread == Phase::Working
                || !state.released.is_empty()
                || (state.ready.is_empty() && state.last_error.is_none()))
        {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Tells those who wait that the thread is gone, whichever way it went.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().thread = Phase::Ended;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that change it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let _ended = Ended(self);
        let mut made = 0_u64;
        let mut state = self.lock();
        while !state.stopping {
            if state.released.is_empty() && !state.ready.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if state.released.is_empty() && state.last_error.is_some() && !state.urgent {
                let woken = self.changed.wait_timeout(state, RETRY_AFTER);
                let (after, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
                state = after;
                if timeout.timed_out() {
                    state.last_error = None;
                }
                continue;
            }
            let released = std::mem::take(&mut state.released);
            let ready = state.ready.len();
            state.thread = Phase::Working;
            drop(state);
            let mut fresh = Vec::new();
            for segment in released {
                let keep = ready + fresh.len() < SPARES_MAX;
                fresh.extend(self.take_back(segment, keep, &mut made));
            }
            let error = self.make_ready(ready, &mut fresh, &mut made).err();
            state = self.lock();
            state.thread = Phase::Resting;
            state.ready.append(&mut fresh);
            if let Some(error) = &error {
                state.failures += 1;
                // Whoever waits is told; a further try is for whoever asks again.
                state.urgent = false;
                tracing::warn!(dir = %self.dir.display(), %error, "cannot prepare a journal segment");
            }
            state.failing = error.is_some();
            state.last_error = error;
            self.changed.notify_all();
        }
    }

    /// Makes what was taken back safe to use, or creates a spare if there is none at all.
    fn make_ready(&self, ready: usize, fresh: &mut Vec<Spare>, made: &mut u64) -> io::Result<()> {
        if !fresh.is_empty() {
            if let Err(error) = self.disk.sync_dir(&self.dir) {
                // Their old names may come back: they must not be written to.
                fresh.clear();
                return Err(error);
            }
            return Ok(());
        }
        if ready == 0 {
            let path = self.spare_path(made);
            let file = match self.disk.create_zeroed(&path, self.segment_bytes) {
                // What the store keeps back for this; it makes it again when the disk has room.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && self.give_up_ballast() => {
                    self.disk.create_zeroed(&path, self.segment_bytes)?
                }
                created => created?,
            };
            fresh.push(Spare { path, file });
        }
        Ok(())
    }

    fn give_up_ballast(&self) -> bool {
        let given_up = self.disk.remove(&self.dir.with_file_name(BALLAST)).is_ok();
        if given_up {
            tracing::warn!("disk is full: room that was kept back is given up to the journal");
            crash_point("ballast_given_up");
        }
        given_up
    }

    fn spare_path(&self, made: &mut u64) -> PathBuf {
        *made += 1;
        self.dir.join(format!("spare-{made:016x}"))
    }

    /// Renames a released segment to a spare if it is wanted and of the usual size, else removes it. A failure
    /// leaves a file that the next release after the next start takes back.
    fn take_back(&self, released: Released, keep: bool, made: &mut u64) -> Option<Spare> {
        let old = segment_path(&self.dir, released.segment);
        let result = if keep && released.bytes == self.segment_bytes {
            let path = self.spare_path(made);
            self.disk
                .rename(&old, &path)
                .and_then(|()| self.disk.open(&path))
                .map(|file| Some(Spare { path, file }))
        } else {
            self.disk.remove(&old).map(|()| None)
        };
        result.unwrap_or_else(|error| {
            tracing::warn!(file = %old.display(), %error, "cannot take back a journal segment");
            None
        })
    }
}
