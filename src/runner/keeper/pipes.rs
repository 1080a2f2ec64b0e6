//! What a program prints, from a pipe that is read when there is something, to the lines of its log.

use std::io;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::runner::last_line::LastLine;
use crate::runner::logs::{Batch, LINE_BYTES_MAX, LogWriter, Stream};
use crate::runner::output::Lines;

/// Taken at once: little enough that its lines are written in a moment, even if each holds one letter.
const READ_BYTES: usize = 8 << 10;
/// Reads of the pipe of an ended program: more than a pipe holds at its largest (1 MiB, pipe(7)), and an end even if a
/// stranger goes on writing.
const REST_READS_MAX: u32 = 256;

/// One output of a program.
pub(super) struct Output {
    /// None once it has ended.
    pipe: Option<OwnedFd>,
    stream: Stream,
    lines: Option<Lines>,
    last: LastLine,
}

impl Output {
    /// Of the reading end of a pipe that does not block.
    pub(super) fn new(pipe: OwnedFd, stream: Stream) -> Self {
        let lines = Some(Lines::new(LINE_BYTES_MAX));
        Self { pipe: Some(pipe), stream, lines, last: LastLine::default() }
    }

    pub(super) fn pipe(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref()
    }

    /// Copies what is there, once; false if there was nothing.
    pub(super) fn copy(&mut self, log: &LogWriter, secrets: &Secrets) -> bool {
        let (Some(pipe), Some(lines)) = (&self.pipe, &mut self.lines) else { return false };
        let mut bytes = Vec::with_capacity(READ_BYTES);
        match rustix::io::read(pipe, spare_capacity(&mut bytes)) {
            Ok(1..) => {}
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Ok(_) | Err(_) => {
                self.pipe = None;
                return false;
            }
        }
        let mut batch = Batch::new(self.stream);
        let last = &mut self.last;
        lines.push(&bytes, |line, left_out| {
            let line = secrets.hide(line);
            last.note(&line);
            batch.push(&line, left_out);
        });
        log.write(&batch);
        true
    }

    /// Copies all that an ended program left in the pipe, with a last line that has no end.
    pub(super) fn finish(&mut self, log: &LogWriter, secrets: &Secrets) {
        for _ in 0..REST_READS_MAX {
            if !self.copy(log, secrets) {
                break;
            }
        }
        let (last, stream) = (&mut self.last, self.stream);
        if let Some(lines) = self.lines.take() {
            lines.finish(|line, left_out| {
                let line = secrets.hide(line);
                last.note(&line);
                let mut batch = Batch::new(stream);
                batch.push(&line, left_out);
                log.write(&batch);
            });
        }
    }

    /// The last line that was not blank, fit for a message.
    pub(super) fn quoted(&self) -> Option<String> {
        self.last.quoted()
    }
}

/// Values that must not be written anywhere.
#[derive(Default)]
pub(super) struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// Values of one attempt that are kept in mind.
    pub(super) const COUNT_MAX: usize = 64;
    /// Shorter ones would be found in every second word.
    pub(super) const BYTES_MIN: usize = 4;
    /// What stands in a secret's place.
    const HIDDEN: &'static [u8] = b"[redacted]";

    /// Keeps a value in mind.
    ///
    /// # Errors
    ///
    /// Why it cannot, in words.
    pub(super) fn add(&mut self, value: &str) -> Result<(), String> {
        if value.len() < Self::BYTES_MIN || value.contains('\n') {
            return Err(format!("a value to redact must be one line of at least {} bytes", Self::BYTES_MIN));
        }
        if self.0.iter().any(|known| known == value.as_bytes()) {
            return Ok(());
        }
        if self.0.len() >= Self::COUNT_MAX {
            return Err(format!("at most {} values can be redacted", Self::COUNT_MAX));
        }
        // As it is, and as it stands in JSON.
        let escaped = serde_json::to_string(value).unwrap_or_default();
        let escaped = escaped.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default();
        self.0.push(value.as_bytes().to_vec());
        if escaped != value && escaped.len() >= Self::BYTES_MIN {
            self.0.push(escaped.as_bytes().to_vec());
        }
        // One that holds another goes first, or its rest would be left.
        self.0.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Ok(())
    }

    /// The text without them.
    pub(super) fn hide<'a>(&self, text: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        let mut text = std::borrow::Cow::Borrowed(text);
        for secret in &self.0 {
            let mut rest = text.as_ref();
            let mut hidden = Vec::new();
            while let Some(at) = memchr::memmem::find(rest, secret) {
                hidden.extend_from_slice(rest.get(..at).unwrap_or_default());
                hidden.extend_from_slice(Self::HIDDEN);
                rest = rest.get(at + secret.len()..).unwrap_or_default();
            }
            if !hidden.is_empty() {
                hidden.extend_from_slice(rest);
                text = std::borrow::Cow::Owned(hidden);
            }
        }
        text
    }

    /// The same for text.
    pub(super) fn hide_in(&self, text: String) -> String {
        match self.hide(text.as_bytes()) {
            std::borrow::Cow::Borrowed(_) => text,
            std::borrow::Cow::Owned(hidden) => String::from_utf8_lossy(&hidden).into_owned(),
        }
    }
}

/// A pipe, its reading end as asked for; both close themselves at an exec(3).
pub(super) fn pipe(flags: rustix::fs::OFlags) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    if !flags.is_empty() {
        rustix::fs::fcntl_setfl(&reading, flags)?;
    }
    Ok((reading, writing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let mut secrets = Secrets::default();
        assert_eq!(secrets.hide(b"hunter2"), b"hunter2".as_slice());
        secrets.add("hunter2").unwrap();
        secrets.add("hunter22").unwrap();
        secrets.add("hunter2").unwrap();
        assert_eq!(secrets.hide(b"a hunter22hunter2"), b"a [redacted][redacted]".as_slice());
        assert_eq!(secrets.hide_in("password=hunter2!".to_owned()), "password=[redacted]!");
        assert!(secrets.add("abc").is_err());
        assert!(secrets.add("two\nlines").is_err());
        let refused = (0..100).map(|at| secrets.add(&format!("secret {at}"))).filter(Result::is_err).count();
        assert_eq!(refused, 100 + 2 - Secrets::COUNT_MAX);
    }
}
