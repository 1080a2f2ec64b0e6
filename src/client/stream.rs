//! Answers that come line by line: NDJSON records, and server-sent events (HTML standard, 9.2).
//!
//! Lines have a bound in bytes. A stream that ends in the middle of a line is an error: the line was cut.

use std::marker::PhantomData;
use std::path::PathBuf;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::connection::Sender;
use super::{ClientError, from_json};

/// Longest line of a streamed answer: an action with all its excerpts stays far below.
const LINE_BYTES_MAX: usize = 32 << 20;

/// One line of an attempt's log.
#[derive(Clone, Debug, serde::Serialize, Deserialize)]
pub struct LogLine {
    pub at: String,
    /// `stdout`, `stderr` or `actiond`.
    pub stream: String,
    pub line: String,
}

/// The lines of a body as they arrive.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    /// The connection lives as long as its stream is read.
    _sender: Sender,
    socket: PathBuf,
    split: Splitter,
    ended: bool,
}

impl Lines {
    pub(super) fn new(body: Incoming, sender: Sender, socket: PathBuf) -> Self {
        Self { body, _sender: sender, socket, split: Splitter::default(), ended: false }
    }

    /// The next line without its end; none after the last.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(line) = self.split.line() {
                return Ok(Some(line));
            }
            if self.ended {
                return if self.split.is_empty() {
                    Ok(None)
                } else {
                    Err(self.cut("in the middle of a line"))
                };
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => return Err(self.cut(&error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        self.split.push(&chunk);
                    }
                    if self.split.too_long() {
                        return Err(ClientError::Protocol("a line of the answer is too long".into()));
                    }
                }
            }
        }
    }

    fn cut(&self, cause: &str) -> ClientError {
        ClientError::Unreachable {
            socket: self.socket.clone(),
            cause: format!("the stream broke off: {cause}"),
            kind: std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Cuts chunks into lines.
#[derive(Debug, Default)]
struct Splitter {
    buffer: Vec<u8>,
    /// Everything before has been handed out.
    taken: usize,
    /// There is no line end between `taken` and here.
    searched: usize,
}

impl Splitter {
    fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.taken);
        self.searched = self.searched.saturating_sub(self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(chunk);
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let fresh = self.buffer.get(self.searched..)?;
        let Some(end) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + end;
        let line = self.buffer.get(self.taken..end)?;
        let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
        self.taken = end + 1;
        self.searched = self.taken;
        Some(line)
    }

    fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }

    fn too_long(&self) -> bool {
        self.searched - self.taken > LINE_BYTES_MAX
    }
}

/// NDJSON as it arrives.
#[derive(Debug)]
pub struct Records<T> {
    lines: Lines,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Records<T> {
    pub(super) fn new(lines: Lines) -> Self {
        Self { lines, kind: PhantomData }
    }

    /// The next record; none after the last.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        while let Some(line) = self.lines.next().await? {
            if !line.trim_ascii().is_empty() {
                return from_json(&line).map(Some);
            }
        }
        Ok(None)
    }
}

/// Server-sent events as they arrive; comments and other fields than `data` are passed over.
#[derive(Debug)]
pub struct Events(Lines);

impl Events {
    pub(super) fn new(lines: Lines) -> Self {
        Self(lines)
    }

    /// The data of the next event; none when the daemon ends the stream.
    pub async fn next(&mut self) -> Result<Option<serde_json::Value>, ClientError> {
        let mut data = Vec::new();
        while let Some(line) = self.0.next().await? {
            if let Some(text) = line.strip_prefix(b"data:") {
                if !data.is_empty() {
                    data.push(b'\n');
                }
                data.extend_from_slice(text.strip_prefix(b" ").unwrap_or(text));
            } else if line.is_empty() && !data.is_empty() {
                return from_json(&data).map(Some);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(split: &mut Splitter) -> Vec<String> {
        std::iter::from_fn(|| split.line()).map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_the_same_however_the_chunks_fall() {
        let text = b"one\n\ntwo\r\nthr\xc3\xa9e\n";
        for size in 1..=text.len() {
            let mut split = Splitter::default();
            let mut got = Vec::new();
            for chunk in text.chunks(size) {
                split.push(chunk);
                got.extend(lines(&mut split));
            }
            assert_eq!(got, ["one", "", "two", "thrée"], "chunks of {size}");
            assert!(split.is_empty());
        }
    }

    #[test]
    fn a_line_without_end_is_no_line() {
        let mut split = Splitter::default();
        split.push(b"half");
        assert_eq!(split.line(), None);
        assert!(!split.is_empty());
        split.push(b" done\n");
        assert_eq!(lines(&mut split), ["half done"]);
    }
}
