//! A program's output, from its pipe to the lines of its log, with bounded memory.
//!
//! A pipe ends when the last process that holds it ends, which may be a stranger that outlives the program. So
//! reading also ends a moment after the program has ended, when nothing comes any more.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::last_line::LastLine;
use super::logs::{Batch, LINE_BYTES_MAX, LogWriter, Stream};

/// Taken at once: little enough that its lines are written in a moment, even if each holds one letter.
const READ_BYTES: usize = 8 << 10;
/// How long a pipe of an ended program may be silent before it is given up.
const SILENCE: Duration = Duration::from_millis(50);
/// How long it may go on at all: somebody else may be writing.
const DRAIN: Duration = Duration::from_secs(1);

/// Copies a pipe to the log until it ends, or until a moment after `ended` became true. Gives the last line that
/// was not blank.
pub(crate) async fn copy(
    mut pipe: Receiver,
    stream: Stream,
    log: &LogWriter,
    mut ended: watch::Receiver<bool>,
) -> LastLine {
    let mut last = LastLine::default();
    let mut lines = Lines::new(LINE_BYTES_MAX);
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut give_up_at = None;
    loop {
        buffer.clear();
        let read = match give_up_at {
            None => tokio::select! {
                biased;
                read = pipe.read_buf(&mut buffer) => read,
                _ = ended.wait_for(|ended| *ended) => {
                    give_up_at = Some(Instant::now() + DRAIN);
                    continue;
                }
            },
            Some(at) => match timeout_at(at, timeout(SILENCE, pipe.read_buf(&mut buffer))).await {
                Ok(Ok(read)) => read,
                Ok(Err(_)) | Err(_) => break,
            },
        };
        let Ok(1..) = read else { break };
        let mut batch = Batch::new(stream);
        lines.push(&buffer, |line, left_out| {
            last.note(line);
            batch.push(line, left_out);
        });
        log.write(&batch);
        // Thousands of lines may have been written for one read. What else this task does, such as seeing that it
        // has to stop, and the other tasks of this thread must not wait for the next hundred reads too.
        tokio::task::yield_now().await;
    }
    lines.finish(|line, left_out| {
        last.note(line);
        let mut batch = Batch::new(stream);
        batch.push(line, left_out);
        log.write(&batch);
    });
    last
}

/// Cuts bytes into lines; of each it keeps a bounded beginning and counts the rest.
pub(crate) struct Lines {
    bytes_max: usize,
    line: Vec<u8>,
    left_out: u64,
    is_begun: bool,
}

impl Lines {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, line: Vec::new(), left_out: 0, is_begun: false }
    }

    /// Takes further bytes and gives each line that ended, with the number of bytes missing at its end.
    pub(crate) fn push(&mut self, bytes: &[u8], mut give: impl FnMut(&[u8], u64)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            self.is_begun = true;
            let kept = text.get(..self.bytes_max - self.line.len()).unwrap_or(text);
            self.line.extend_from_slice(kept);
            self.left_out += (text.len() - kept.len()) as u64;
            if is_whole {
                self.give(&mut give);
            }
        }
    }

    /// Gives what came after the last newline, if anything.
    pub(crate) fn finish(mut self, mut give: impl FnMut(&[u8], u64)) {
        if self.is_begun {
            self.give(&mut give);
        }
    }

    fn give(&mut self, give: &mut impl FnMut(&[u8], u64)) {
        give(&self.line, self.left_out);
        self.line.clear();
        self.line.shrink_to(4096);
        (self.left_out, self.is_begun) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_came() {
        let text = b"one\n\nlonger than ten\nlast";
        for size in 1..=text.len() {
            let mut got = Vec::new();
            let mut lines = Lines::new(10);
            for part in text.chunks(size) {
                lines.push(part, |line, left_out| got.push((line.to_vec(), left_out)));
            }
            lines.finish(|line, left_out| got.push((line.to_vec(), left_out)));
            let expected: [(&[u8], u64); 4] = [(b"one", 0), (b"", 0), (b"longer tha", 5), (b"last", 0)];
            assert!(got.iter().map(|(line, left)| (line.as_slice(), *left)).eq(expected), "{size}: {got:?}");
        }
    }
}
