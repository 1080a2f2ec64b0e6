//! The writing half of one attempt's log.
//!
//! The first half of the cap goes into the head. Then two files of a quarter each take turns: when the second
//! one is full, the first is deleted and a third begun. So nothing is held in memory, nothing is written twice, and
//! at any moment all but a middle part is on disk. Lines that come together are written together.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{LINE_BYTES_MAX, Shared, Stream, files, head_path, lock, tail_path};
use crate::action::{ActionId, Timestamp};
use crate::clock;
use crate::runner::keeper::words::LogPlace;

/// One attempt's log while somebody can write to it.
pub(super) struct OpenLog {
    shared: Arc<Shared>,
    id: ActionId,
    attempt: u32,
    writing: Mutex<Writing>,
}

#[derive(Default)]
struct Writing {
    /// The file that takes the next line; none before the first line.
    file: Option<File>,
    /// Where in the whole log that file begins.
    offset: u64,
    /// Bytes in that file.
    len: u64,
    /// Where the tail before that file begins, if there is one: the next to be deleted.
    previous_tail: Option<u64>,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

impl OpenLog {
    pub(super) fn new(shared: Arc<Shared>, id: ActionId, attempt: u32) -> Self {
        Self { shared, id, attempt, writing: Mutex::default() }
    }

    pub(super) fn place(&self) -> LogPlace {
        LogPlace { dir: self.shared.dir.clone(), bytes_max: self.shared.bytes_max }
    }

    pub(super) fn wake_followers(&self) {
        self.shared.wake_followers(self.id);
    }

    /// Writes the lines of a batch: each is in a file, or counted as lost.
    pub(super) fn append(&self, batch: &Batch) {
        let mut writing = lock(&self.writing);
        let mut lines: Vec<&str> = batch.lines().collect();
        let told;
        if writing.lost > 0 {
            let lost = format!("[{} lines could not be written here]", writing.lost);
            told = json_line(clock::now(), Stream::Daemon, &lost);
            lines.insert(0, &told);
        }
        let mut rest = lines.as_slice();
        while !rest.is_empty() {
            match self.write(&mut writing, rest) {
                Ok(count) => {
                    writing.lost = 0;
                    rest = rest.get(count..).unwrap_or_default();
                }
                Err(error) => {
                    if writing.lost == 0 {
                        tracing::warn!(action_id = self.id.0, attempt = self.attempt, %error, "cannot write a log");
                    }
                    // What said how many were lost before is none of them.
                    let own = rest.len().min(batch.ends.len());
                    writing.lost += own as u64;
                    break;
                }
            }
        }
        drop(writing);
        self.shared.wake_followers(self.id);
    }

    /// Writes as many of the lines as the file has room for, all at once, and gives their number: at least one.
    fn write(&self, writing: &mut Writing, lines: &[&str]) -> io::Result<usize> {
        let dir = self.shared.dir_of(self.id);
        if writing.file.is_none() {
            DirBuilder::new().recursive(true).mode(0o750).create(&dir)?;
            self.reopen(writing, &dir)?;
        }
        let is_head = writing.offset == 0;
        let room = if is_head { self.shared.bytes_max / 2 } else { self.shared.bytes_max / 4 };
        let first = lines.first().map_or(0, |line| line.len() as u64);
        // A file takes at least one line, whatever the cap.
        if writing.len > 0 && writing.len + first > room {
            let offset = writing.offset + writing.len;
            let file = open(&tail_path(&dir, self.attempt, offset))?;
            if let Some(oldest) = writing.previous_tail {
                std::fs::remove_file(tail_path(&dir, self.attempt, oldest))?;
            }
            writing.previous_tail = (!is_head).then_some(writing.offset);
            (writing.file, writing.offset, writing.len) = (Some(file), offset, 0);
            // The room of a tail differs from that of the head: asked again.
            return self.write(writing, lines);
        }
        let mut len = writing.len;
        let fitting = lines.iter().take_while(|line| {
            len += line.len() as u64;
            len <= room
        });
        let count = fitting.count().max(1);
        let text = lines.get(..count).unwrap_or_default().concat();
        let Some(file) = &mut writing.file else { return Ok(count) };
        match file.write_all(text.as_bytes()) {
            Ok(()) => writing.len += text.len() as u64,
            Err(error) => {
                // Half a line is no line: cut it off, so that the next one begins where a line begins.
                let _ = file.set_len(writing.len);
                return Err(error);
            }
        }
        Ok(count)
    }

    /// Goes on where an earlier writer of this attempt ended, perhaps in the middle of a line.
    fn reopen(&self, writing: &mut Writing, dir: &Path) -> io::Result<()> {
        let files = files(dir, self.attempt)?;
        let (offset, mut file) = match files.last() {
            Some((offset, path)) => (*offset, open(path)?),
            None => (0, open(&head_path(dir, self.attempt))?),
        };
        let mut len = file.metadata()?.len();
        if len > 0 {
            let mut last = [0];
            file.seek(io::SeekFrom::Start(len - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                len += 1;
            }
        }
        let before = files.iter().rev().nth(1).map(|(offset, _)| *offset);
        (writing.offset, writing.len) = (offset, len);
        writing.previous_tail = before.filter(|offset| *offset > 0);
        writing.file = Some(file);
        Ok(())
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        let mut open = lock(&self.shared.open);
        // A new writer may have come between the last reference's end and here.
        if open.get(&(self.id, self.attempt)).is_some_and(|log| log.strong_count() == 0) {
            open.remove(&(self.id, self.attempt));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o640).open(path)
}

/// The text of a line as it is shown: bounded, and with a mark if it is not what was written.
fn shown(text: &[u8], left_out: u64) -> String {
    let kept = text.get(..LINE_BYTES_MAX).unwrap_or(text);
    let left_out = left_out + (text.len() - kept.len()) as u64;
    let mut shown = String::from_utf8_lossy(kept).into_owned();
    // A character that was cut in two is not the writer's fault.
    let is_lossy = std::str::from_utf8(kept).is_err_and(|error| left_out == 0 || error.error_len().is_some());
    if is_lossy {
        shown.push_str(" [not UTF-8: bytes were replaced]");
    }
    if left_out > 0 {
        let _ = write!(shown, " [cut: {left_out} bytes left out]");
    }
    shown
}

/// One line of the log with its newline.
pub(super) fn json_line(at: Timestamp, stream: Stream, text: &str) -> String {
    let text = serde_json::Value::from(text);
    format!("{}{text}}}\n", beginning(at, stream))
}

/// What stands before the text of a line.
fn beginning(at: Timestamp, stream: Stream) -> String {
    let at = chrono::DateTime::from_timestamp_millis(at.0).unwrap_or_default();
    let at = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    format!("{{\"at\":\"{at}\",\"stream\":\"{}\",\"line\":", stream.as_str())
}

/// Lines of one stream that came at the same moment.
pub(crate) struct Batch {
    beginning: String,
    text: String,
    /// Where in the text each line ends.
    ends: Vec<usize>,
}

impl Batch {
    /// Of lines that come now.
    pub(crate) fn new(stream: Stream) -> Self {
        Self { beginning: beginning(clock::now(), stream), text: String::new(), ends: Vec::new() }
    }

    /// Adds one line (without its newline), of which the last `left_out` bytes are already left out.
    pub(crate) fn push(&mut self, text: &[u8], left_out: u64) {
        let _ = writeln!(self.text, "{}{}}}", self.beginning, serde_json::Value::from(shown(text, left_out)));
        self.ends.push(self.text.len());
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, end)| self.text.get(start..*end))
    }
}
