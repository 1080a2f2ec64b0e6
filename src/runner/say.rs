//! How a program says something of its own action: the other end of `keeper::peers`.
//!
//! A word goes to the keeper in `ACTIOND_KEEPER` and is answered when it is on disk; the daemon need not run. A program
//! without keeper (`adopt = false`) has a pipe to the daemon instead, which takes what needs no answer.
//!
//! Called by the command line, within a program. Without runtime, for scripts say many words.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde_json::value::RawValue;

use super::keeper::address::Address;
use super::keeper::words::{Answer, WORD_BYTES_MAX, Word, line};
use super::program::REPORT;
use super::report;

/// In which variables a program finds its keeper, and where its reports go.
const KEEPER_VARIABLE: &str = "ACTIOND_KEEPER";
const REPORT_VARIABLE: &str = "ACTIOND_REPORT";

/// A keeper answers within moments, if its disk does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries when too many talk at once.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Longest answer: a value at its largest (1 MiB), escaped.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// Why something was not said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsaid {
    #[error("only a program that actiond has started can say that: {KEEPER_VARIABLE} is not set")]
    NoProgram,
    #[error("this program has no keeper (adopt = false) that could remember that")]
    NoKeeper,
    #[error("only the program of this action may say that")]
    NotAllowed,
    #[error("{0}")]
    Refused(String),
    #[error("cannot reach the keeper of this program at {}: {error}", path.display())]
    Unreachable { path: PathBuf, error: io::Error },
    #[error("cannot report to the daemon over descriptor 3: {0}")]
    NoPipe(io::Error),
}

/// Says a word, and gives the answer; never [`Answer::Refused`], `NotAllowed` or `Busy`.
pub(crate) fn say(word: &Word) -> Result<Answer, Unsaid> {
    if let Some(path) = variable(KEEPER_VARIABLE) {
        return tell_keeper(Path::new(&path), word);
    }
    match variable(REPORT_VARIABLE) {
        Some(path) if path == OsStr::new(REPORT) => {
            let report = report_of(word)?;
            write_report(Path::new(&path), &report).map_err(Unsaid::NoPipe)?;
            Ok(Answer::Ok)
        }
        _ => Err(Unsaid::NoProgram),
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn tell_keeper(path: &Path, word: &Word) -> Result<Answer, Unsaid> {
    let text = line(word);
    if text.len() > WORD_BYTES_MAX {
        return Err(Unsaid::Refused(format!("is longer than {WORD_BYTES_MAX} bytes")));
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = ask(path, &text).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Unsaid::NotAllowed,
            // A socket's timeout.
            io::ErrorKind::WouldBlock => silent(path),
            _ => Unsaid::Unreachable { path: path.to_owned(), error },
        })?;
        match answer {
            Answer::Refused(why) => return Err(Unsaid::Refused(why)),
            Answer::NotAllowed => return Err(Unsaid::NotAllowed),
            Answer::Busy if Instant::now() < until => std::thread::sleep(BUSY_PAUSE),
            Answer::Busy => return Err(silent(path)),
            Answer::Ok | Answer::Done | Answer::Value(_) => return Ok(answer),
        }
    }
}

fn silent(path: &Path) -> Unsaid {
    let told = format!("it does not answer within {} s", PATIENCE.as_secs());
    Unsaid::Unreachable { path: path.to_owned(), error: io::Error::other(told) }
}

fn ask(path: &Path, text: &[u8]) -> io::Result<Answer> {
    let mut stream: UnixStream = Address::of(path)?.connect_within(PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A keeper that has already answered, to send this one away, need not have read all of it.
    let sent = stream.write_all(text);
    let mut answer = String::new();
    let read = BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer);
    if !answer.ends_with('\n') {
        sent?;
        read?;
        return Err(io::Error::other("it has ended"));
    }
    let unclear = |error| io::Error::other(format!("it says what this version does not understand: {error}"));
    serde_json::from_str(&answer).map_err(unclear)
}

/// The line that says the same to the daemon.
fn report_of(word: &Word) -> Result<Vec<u8>, Unsaid> {
    let refused = |error: &dyn std::fmt::Display| Unsaid::Refused(format!("is not JSON: {error}"));
    let report = match word {
        Word::Progress { percent, message } if message.is_empty() => {
            line(&serde_json::json!({ "progress": percent }))
        }
        Word::Progress { percent, message } => {
            line(&serde_json::json!({ "progress": percent, "message": message }))
        }
        Word::Message { text } => line(&serde_json::json!({ "message": text })),
        Word::Result { json } => {
            let raw: &RawValue = serde_json::from_str(json).map_err(|error| refused(&error))?;
            let result = report::object(raw).map_err(|why| Unsaid::Refused(why.to_owned()))?;
            format!("{{\"result\":{}}}\n", result.as_str()).into_bytes()
        }
        _ => return Err(Unsaid::NoKeeper),
    };
    if report.len() > report::LINE_BYTES_MAX {
        return Err(Unsaid::Refused(format!("is longer than {} bytes", report::LINE_BYTES_MAX)));
    }
    Ok(report)
}

/// Only to a pipe: where a program has closed that descriptor, its number may have come to mean a file of its own.
fn write_report(path: &Path, report: &[u8]) -> io::Result<()> {
    // Not the type alone: to open a pipe that nobody reads would wait for ever.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe: File = OpenOptions::new().write(true).custom_flags(nonblocking).open(path)?;
    if !pipe.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("it is no pipe"));
    }
    rustix::fs::fcntl_setfl(&pipe, OFlags::empty())?;
    pipe.write_all(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_what_the_daemon_understands() {
        let understood = |word: &Word| {
            let mut reports = Vec::new();
            report::parse(report_of(word).unwrap().trim_ascii_end(), 0, &mut reports);
            reports
        };
        let progress = |message: &str| Word::Progress { percent: 4, message: message.into() };
        let heard = |message: &str| report::Report::Progress { percent: 4, message: message.into() };
        assert_eq!(understood(&progress("")), [heard("")]);
        assert_eq!(understood(&progress("a \"b\"")), [heard("a \"b\"")]);
        assert_eq!(understood(&Word::Message { text: "m".into() }), [report::Report::Message("m".into())]);
        let result = understood(&Word::Result { json: "{ \"a\":\n1 }".into() });
        assert!(matches!(&result[..], [report::Report::Result(json)] if json.as_str() == "{\"a\":1}"));
        for json in ["[1]", "{", ""] {
            assert!(matches!(report_of(&Word::Result { json: json.into() }), Err(Unsaid::Refused(_))));
        }
        assert!(matches!(report_of(&Word::StepDone { name: "a".into() }), Err(Unsaid::NoKeeper)));
    }

    #[test]
    fn report_goes_into_a_pipe_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(write_report(&file, b"lost").is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
        let fifo = home.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(write_report(&fifo, b"lost").is_err(), "nobody reads it");
        let mut reader = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        write_report(&fifo, b"said").unwrap();
        let mut said = [0; 4];
        reader.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"said");
    }
}
