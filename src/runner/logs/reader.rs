//! The reading half of one attempt's log: from its beginning to what is written now, and further.
//!
//! A reader knows its position in the whole log and looks for the file that holds it. If that file is gone,
//! because the writer went round, it tells with a line how much it missed. Files are opened for each call, so a
//! slow follower holds nothing.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::writer::json_line;
use super::{LINE_BYTES_MAX, Stream, files};
use crate::action::Timestamp;

/// No stored line is longer: each byte of its text takes at most six in JSON.
const STORED_LINE_BYTES_MAX: usize = 6 * LINE_BYTES_MAX + 1024;

/// A position in one attempt's log.
#[derive(Clone, Debug)]
pub struct LogReader {
    dir: PathBuf,
    attempt: u32,
    position: u64,
}

impl LogReader {
    pub(super) fn new(dir: PathBuf, attempt: u32) -> Self {
        Self { dir, attempt, position: 0 }
    }

    /// The next lines, each NDJSON without its newline: about `bytes_max` bytes in all, at least one line if
    /// there is one. Empty when there is nothing more now, also when the log has been removed. Blocks on the disk.
    pub fn next_lines(&mut self, bytes_max: usize) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut room = bytes_max;
        loop {
            let files = match files(&self.dir, self.attempt) {
                Ok(files) => files,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lines),
                Err(error) => return Err(error),
            };
            let Some((index, (offset, path))) =
                files.iter().enumerate().rev().find(|(_, (offset, _))| *offset <= self.position)
            else {
                return Ok(lines);
            };
            let next = files.get(index + 1).map(|(offset, _)| *offset);
            let mut file = match File::open(path) {
                Ok(file) => file,
                // The writer went round since the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let changed_at = file.metadata()?.modified()?;
            file.seek(SeekFrom::Start(self.position - offset))?;
            let mut bytes = Vec::new();
            file.take(room.max(STORED_LINE_BYTES_MAX) as u64).read_to_end(&mut bytes)?;
            let before = lines.len();
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                let Some(text) = line.strip_suffix(b"\n") else { break };
                if !lines.is_empty() && line.len() > room {
                    return Ok(lines);
                }
                room = room.saturating_sub(line.len());
                self.position += line.len() as u64;
                lines.push(String::from_utf8_lossy(text).into_owned());
            }
            if lines.len() > before {
                continue;
            }
            // Nothing whole is left of this file; with a later one, nothing will come any more.
            let Some(next) = next else { return Ok(lines) };
            let end = offset + std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            if next > end.max(self.position) {
                let left_out = next - self.position;
                let at = changed_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                let at = Timestamp(i64::try_from(at).unwrap_or(i64::MAX));
                let marker = json_line(at, Stream::Daemon, &format!("[{left_out} bytes left out here]"));
                lines.push(marker.trim_end().to_owned());
            }
            self.position = next;
        }
    }
}
