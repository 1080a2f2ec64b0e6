//! The log of each attempt: NDJSON lines in files, head and tail kept under a byte cap.
//!
//! `DIR/<id/1000>/<id>/<attempt>.log` holds the head, `<attempt>.<offset>.tail` what follows, where `offset` is
//! where in the whole log the file begins: what was dropped between two files needs no record of its own.
//! No part of a path comes from a user's text. A line is
//! `{"at": "2026-01-15T10:30:00.000Z", "stream": "stdout", "line": "text"}`.
//!
//! # Guarantees
//!
//! - The log of an attempt takes at most the cap on disk; at least its first half and its last quarter are kept.
//! - A line is in the file (not synced) when [`LogWriter::line`] returns: a crash of the daemon loses none. A loss
//!   of power may lose any.
//! - A line that cannot be written is dropped and counted; an action never fails for its log.
//!
//! Written by `handlers` and the engine, read by the API.

mod reader;
mod writer;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

pub use self::reader::LogReader;
pub(crate) use self::writer::Batch;
use self::writer::OpenLog;
use super::keeper::words::LogPlace;
use crate::action::ActionId;

/// Longest text of one line in bytes; what is beyond is left out, and said so.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// All logs of a store. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    bytes_max: u64,
    /// Two writers of one attempt must share one file: the engine may log where a handler does.
    open: Mutex<HashMap<(ActionId, u32), Weak<OpenLog>>>,
    followers: Mutex<HashMap<ActionId, Weak<Notify>>>,
    /// Spares writers the lock while nobody follows, which is nearly always.
    followed: AtomicUsize,
}

/// Which of a program's outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
    Daemon,
}

impl Stream {
    /// The word in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Daemon => "daemon",
        }
    }
}

/// Writes one attempt's log under the byte cap, head and tail kept. Clones write to the same log.
#[derive(Clone)]
pub struct LogWriter {
    /// None writes nowhere.
    log: Option<Arc<OpenLog>>,
}

impl Logs {
    /// The logs below `dir`, each attempt's with at most `bytes_max` bytes.
    #[must_use]
    pub fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                dir,
                bytes_max,
                open: Mutex::default(),
                followers: Mutex::default(),
                followed: AtomicUsize::new(0),
            }),
        }
    }

    /// Opened lazily: an attempt that logs nothing leaves no file.
    #[must_use]
    pub fn writer(&self, id: ActionId, attempt: u32) -> LogWriter {
        let mut open = lock(&self.shared.open);
        if let Some(log) = open.get(&(id, attempt)).and_then(Weak::upgrade) {
            return LogWriter { log: Some(log) };
        }
        let log = Arc::new(OpenLog::new(Arc::clone(&self.shared), id, attempt));
        open.insert((id, attempt), Arc::downgrade(&log));
        LogWriter { log: Some(log) }
    }

    /// Deletes all logs of an action. Blocks on the disk.
    pub fn remove(&self, id: ActionId) {
        let dir = self.shared.dir_of(id);
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => {
                // The thousand's directory goes with its last action; with others in it this fails, as it should.
                let _ = dir.parent().map(std::fs::remove_dir);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(action_id = id.0, %error, "cannot remove logs"),
        }
    }

    /// The attempts of which there is a log, in their order.
    pub fn attempts(&self, id: ActionId) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(self.shared.dir_of(id)) else { return Vec::new() };
        let mut attempts: Vec<u32> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
            .collect();
        attempts.sort_unstable();
        attempts
    }

    /// A reader at the beginning of an attempt's log; none if the attempt has logged nothing (yet).
    pub fn open(&self, id: ActionId, attempt: u32) -> io::Result<Option<LogReader>> {
        let dir = self.shared.dir_of(id);
        let exists = head_path(&dir, attempt).try_exists()?;
        Ok(exists.then(|| LogReader::new(dir, attempt)))
    }

    /// All lines of one attempt, or of the last one: each an NDJSON line without its newline. Empty if there are
    /// none. At most the byte cap in all.
    pub fn read(&self, id: ActionId, attempt: Option<u32>) -> io::Result<Vec<String>> {
        let Some(attempt) = attempt.or_else(|| self.attempts(id).pop()) else { return Ok(Vec::new()) };
        let mut lines = Vec::new();
        if let Some(mut reader) = self.open(id, attempt)? {
            loop {
                let more = reader.next_lines(1 << 20)?;
                if more.is_empty() {
                    break;
                }
                lines.extend(more);
            }
        }
        Ok(lines)
    }

    /// Resolves when a line was written to any log of the action after this call. So: call it, then read; wait
    /// for it if there was nothing to read. What was written in between is not missed.
    pub fn changed(&self, id: ActionId) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut followers = lock(&self.shared.followers);
        followers.retain(|_, notify| notify.strong_count() > 0);
        let notify = followers.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let notify = Arc::new(Notify::new());
            followers.insert(id, Arc::downgrade(&notify));
            notify
        });
        // The waiting future holds the only lasting reference: when the last one goes, the entry is dead.
        let changed = notify.notified_owned();
        self.shared.followed.store(followers.len(), Ordering::SeqCst);
        changed
    }
}

impl Shared {
    fn dir_of(&self, id: ActionId) -> PathBuf {
        self.dir.join((id.0 / 1000).to_string()).join(id.to_string())
    }

    fn wake_followers(&self, id: ActionId) {
        if self.followed.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut followers = lock(&self.followers);
        // Whoever waits has its future; the next one makes a new entry.
        if let Some(notify) = followers.remove(&id).and_then(|notify| notify.upgrade()) {
            notify.notify_waiters();
        }
        self.followed.store(followers.len(), Ordering::SeqCst);
    }
}

impl LogWriter {
    /// A writer for what has no log, such as a probe.
    pub(crate) fn nowhere() -> Self {
        Self { log: None }
    }

    /// Where the log is and how large it may be, for somebody else who writes it; none if it is nowhere.
    pub(crate) fn place(&self) -> Option<LogPlace> {
        self.log.as_ref().map(|log| log.place())
    }

    /// Somebody else has written lines: whoever follows is told.
    pub(crate) fn grown(&self) {
        if let Some(log) = &self.log {
            log.wake_followers();
        }
    }

    /// Appends one line (without its newline); cut and marked when it is longer than 16 KiB.
    pub fn line(&self, stream: Stream, text: &[u8]) {
        let mut batch = Batch::new(stream);
        batch.push(text, 0);
        self.write(&batch);
    }

    /// Appends lines together. They are in the file when this returns.
    pub(crate) fn write(&self, batch: &Batch) {
        if let Some(log) = &self.log {
            log.append(batch);
        }
    }
}

fn head_path(dir: &Path, attempt: u32) -> PathBuf {
    dir.join(format!("{attempt}.log"))
}

fn tail_path(dir: &Path, attempt: u32, offset: u64) -> PathBuf {
    dir.join(format!("{attempt}.{offset}.tail"))
}

/// The files of an attempt's log by where in the log they begin: the head at 0, then the tails.
fn files(dir: &Path, attempt: u32) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(rest) = name.strip_prefix(&format!("{attempt}.")) else { continue };
        let offset = match rest.strip_suffix(".tail") {
            _ if rest == "log" => Some(0),
            Some(offset) => offset.parse().ok(),
            None => None,
        };
        files.extend(offset.map(|offset| (offset, path)));
    }
    files.sort_unstable();
    Ok(files)
}

/// The data of a lock whose holder panicked: what is behind these locks is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
