//! CONTRACT SKELETON
use std::path::PathBuf;

use crate::action::ActionId;

/// All logs of a store.
#[derive(Clone)]
pub struct Logs {}

/// Which of a program's outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
    Daemon,
}

/// Writes one attempt's log under the byte cap, head and tail kept.
#[derive(Clone)]
pub struct LogWriter {}

impl Logs {
    #[must_use]
    pub fn new(_dir: PathBuf, _bytes_max: u64) -> Self {
        todo!()
    }
    /// Opened lazily: an attempt that logs nothing leaves no file.
    #[must_use]
    pub fn writer(&self, _id: ActionId, _attempt: u32) -> LogWriter {
        todo!()
    }
    /// Deletes all logs of an action.
    pub fn remove(&self, _id: ActionId) {
        todo!()
    }
}

/// Reads one attempt's log.
pub struct LogReader {}

impl Logs {
    pub fn attempts(&self, _id: ActionId) -> Vec<u32> {
        todo!()
    }
    pub fn open(&self, _id: ActionId, _attempt: u32) -> std::io::Result<Option<LogReader>> {
        todo!()
    }
}

impl LogReader {
    pub fn next_lines(&mut self, _max_bytes: usize) -> std::io::Result<Vec<String>> {
        todo!()
    }
}

impl LogWriter {
    /// Appends one line (without its newline); cut and marked when it does not fit.
    pub fn line(&self, _stream: Stream, _text: &[u8]) {
        todo!()
    }
}
