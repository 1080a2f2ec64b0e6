//! What a program says over descriptor 3: one JSON object a line.
//!
//! Under a keeper it leads to a FIFO, which the keeper has open for reading and writing, as the program has: neither ever
//! waits for the other to open it, and there is no end of file. Without one it is a pipe, which may end before the
//! program does. Reading ends there, or when the program has ended and the pipe is empty. A line of
//! at most 4,096 bytes is atomic (pipe(7)); a longer one, up to 1 MiB, needs a single writer. What is no such
//! line goes to the action's log and has no other effect.
//!
//! [`parse`] understands a line; [`Reports`] reads the pipe of a program without a keeper.

use std::io;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::unix::pipe::Receiver;

use super::output::Lines;
use crate::action::JsonText;

/// Longest line.
pub(crate) const LINE_BYTES_MAX: usize = 1 << 20;
/// Taken at once: see `output`.
const READ_BYTES: usize = 8 << 10;
/// Longest message that is kept of a line.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4096;
/// Deepest nesting of a checkpoint or result: what every JSON reader can still read.
const DEPTH_MAX: usize = 64;

/// One statement of a program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    Progress {
        percent: u8,
        message: String,
    },
    Checkpoint(JsonText),
    Result(JsonText),
    Message(String),
    /// A line that says nothing, and why.
    Bad(String),
}

/// The daemon's end of one pipe.
pub(crate) struct Reports {
    pipe: Receiver,
    lines: Lines,
    buffer: Vec<u8>,
}

impl Reports {
    /// Of a pipe's end. Needs a tokio runtime.
    pub(crate) fn of_pipe(end: OwnedFd) -> io::Result<Self> {
        let pipe = Receiver::from_owned_fd(end)?;
        Ok(Self { pipe, lines: Lines::new(LINE_BYTES_MAX), buffer: Vec::with_capacity(READ_BYTES) })
    }

    /// Waits until there is something to take. Nothing is lost if it is dropped.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.pipe.readable().await
    }

    /// What can be read now, in order; none if nothing can. Goes with [`Self::readable`].
    ///
    /// # Errors
    ///
    /// `UnexpectedEof`: nobody is left who could say anything.
    pub(crate) fn take(&mut self) -> io::Result<Option<Vec<Report>>> {
        self.buffer.clear();
        let read = self.pipe.try_read_buf(&mut self.buffer);
        self.understand(read)
    }

    /// As [`Self::take`], but asks the kernel itself: what an ended program wrote may not have been announced yet.
    pub(crate) fn take_rest(&mut self) -> io::Result<Option<Vec<Report>>> {
        self.buffer.clear();
        let read = rustix::io::read(&self.pipe, spare_capacity(&mut self.buffer)).map_err(io::Error::from);
        self.understand(read)
    }

    fn understand(&mut self, read: io::Result<usize>) -> io::Result<Option<Vec<Report>>> {
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                let mut reports = Vec::new();
                self.lines.push(&self.buffer, |line, left_out| parse(line, left_out, &mut reports));
                Ok(Some(reports))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The last line, if it came without a newline.
    pub(crate) fn finish(self) -> Vec<Report> {
        let mut reports = Vec::new();
        self.lines.finish(|line, left_out| parse(line, left_out, &mut reports));
        reports
    }
}

/// The keys of a line; others are left for later versions.
#[derive(Deserialize)]
struct Line<'a> {
    progress: Option<f64>,
    message: Option<String>,
    #[serde(borrow)]
    checkpoint: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// One line may say several things.
pub(crate) fn parse(line: &[u8], left_out: u64, reports: &mut Vec<Report>) {
    if left_out > 0 {
        reports.push(Report::Bad(format!("a report of more than {LINE_BYTES_MAX} bytes was left out")));
        return;
    }
    if line.trim_ascii().is_empty() {
        return;
    }
    let bad = |why: &dyn std::fmt::Display| {
        let shown = bounded(&String::from_utf8_lossy(line), 200);
        Report::Bad(format!("not a report ({why}): {shown}"))
    };
    let line: Line<'_> = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => return reports.push(bad(&error)),
    };
    let before = reports.len();
    let message = line.message.map(|message| bounded(&message, MESSAGE_BYTES_MAX));
    for (raw, make) in [
        (line.checkpoint, Report::Checkpoint as fn(JsonText) -> Report),
        (line.result, Report::Result as fn(JsonText) -> Report),
    ] {
        match raw.map(object) {
            Some(Ok(object)) => reports.push(make(object)),
            Some(Err(why)) => reports.push(bad(&why)),
            None => {}
        }
    }
    match (line.progress, message) {
        (Some(percent), message) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to 0..=100; JSON has no NaN"
            )]
            let percent = percent.clamp(0.0, 100.0) as u8;
            reports.push(Report::Progress { percent, message: message.unwrap_or_default() });
        }
        (None, Some(message)) => reports.push(Report::Message(message)),
        (None, None) if reports.len() == before => {
            reports.push(bad(&"none of the keys progress, message, checkpoint, result"));
        }
        (None, None) => {}
    }
}

/// The object as compact text, so that numbers and key order stay as they were written.
pub(crate) fn object(raw: &RawValue) -> Result<JsonText, &'static str> {
    let text = raw.get();
    if !text.starts_with('{') {
        return Err("a checkpoint and a result must be objects");
    }
    let mut compact = String::with_capacity(text.len());
    let (mut in_string, mut is_escaped, mut depth) = (false, false, 0_usize);
    for letter in text.chars() {
        if in_string {
            in_string = is_escaped || letter != '"';
            is_escaped = letter == '\\' && !is_escaped;
        } else {
            match letter {
                ' ' | '\t' | '\r' | '\n' => continue,
                '"' => in_string = true,
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH_MAX {
                return Err("nested too deeply");
            }
        }
        compact.push(letter);
    }
    // JSON by its grammar, but no reader could hold it: half a surrogate pair, a number beyond every double.
    if serde_json::from_str::<serde_json::Value>(&compact).is_err() {
        return Err("holds a value that JSON allows but nothing can hold");
    }
    Ok(JsonText::from_checked(compact))
}

/// The text, cut at a character if it is longer.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Vec<Report> {
        let mut reports = Vec::new();
        parse(line.as_bytes(), 0, &mut reports);
        reports
    }

    fn json(text: &str) -> JsonText {
        JsonText::from_checked(text)
    }

    #[test]
    fn each_key_of_the_contract_is_understood() {
        let progress = |percent, message: &str| Report::Progress { percent, message: message.to_owned() };
        assert_eq!(said(r#"{"progress": 40, "message": "pushing"}"#), [progress(40, "pushing")]);
        assert_eq!(said(r#"{"progress": 99.9}"#), [progress(99, "")]);
        assert_eq!(said(r#"{"progress": -3}"#), [progress(0, "")]);
        assert_eq!(said(r#"{"progress": 1e300}"#), [progress(100, "")]);
        assert_eq!(said(r#"{"message": "done", "new": 1}"#), [Report::Message("done".to_owned())]);
        let big = r#"{"checkpoint": { "b": 12345678901234567890123, "a": "x \" } y" }}"#;
        assert_eq!(said(big), [Report::Checkpoint(json(r#"{"b":12345678901234567890123,"a":"x \" } y"}"#))]);
        assert_eq!(
            said(r#"{"result": {"n": [1, 2]}, "message": "m"}"#),
            [Report::Result(json(r#"{"n":[1,2]}"#)), Report::Message("m".to_owned())]
        );
        assert!(said("  ").is_empty());
    }

    #[test]
    fn anything_else_is_told_and_harmless() {
        let deep = format!(r#"{{"result": {{"a": {}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for line in [
            "hello",
            "[1]",
            "{}",
            "{\"progress\": \"x\"}",
            "{\"result\": 3}",
            "\u{0}",
            "{\"result\": {}",
            r#"{"result": {"a": "\ud800"}}"#,
            r#"{"checkpoint": {"a": 1e999}}"#,
            &deep,
        ] {
            let reports = said(line);
            assert!(matches!(reports.as_slice(), [Report::Bad(why)] if why.len() < 400), "{reports:?}");
        }
        assert_eq!(bounded("aü", 2), "a...");
    }

    #[tokio::test]
    async fn pipe_ends_when_nobody_can_say_anything() {
        use std::io::Write as _;
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut reports = Reports::of_pipe(reader.into()).unwrap();
        assert_eq!(reports.take().unwrap(), None);
        assert_eq!(reports.take_rest().unwrap(), None);
        writer.write_all(b"{\"message\": \"one\"}\n{\"mess").unwrap();
        writer.write_all(b"age\": \"two\"}").unwrap();
        drop(writer);
        reports.readable().await.unwrap();
        assert_eq!(reports.take().unwrap(), Some(vec![Report::Message("one".to_owned())]));
        assert_eq!(reports.take().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(reports.finish(), [Report::Message("two".to_owned())]);
    }
}
