//! What a program stated, in a file that is only appended to: written by its keeper, read by whichever daemon runs.
//!
//! ```text
//!  {"version":1,"generation":0}
//!  {"progress":{"percent":40,"message":"pushing"}}
//!  {"steps":[{"name":"build","begun_at":1760000000000,"done_at":1760000009000}]}
//!  {"checkpoint":{"pushed":12}}
//! ```
//!
//! A statement takes the place of the one of its kind before. So to read a statement twice does no harm, and a daemon
//! that takes an attempt up reads from the beginning; and a file that has grown long is replaced by one that holds the
//! last of each kind, with the next generation.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::words::{StepLine, VERSION, line};

/// Beyond this the file is replaced. The last of each kind takes at most about two results (1 MiB each).
const BYTES_MAX: u64 = 8 << 20;
/// Progress is shown, not kept: more often than this nobody looks.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// One statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Statement {
    Progress {
        percent: u8,
        message: String,
    },
    Checkpoint(Box<RawValue>),
    /// All steps that were ever begun, in their order.
    Steps(Vec<StepLine>),
    Message(String),
    Result(Box<RawValue>),
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    generation: u64,
}

/// The keeper's end.
pub(crate) struct Statements {
    path: PathBuf,
    /// None before the first statement: most programs make none.
    file: Option<File>,
    generation: u64,
    bytes: u64,
    /// The file's name is durable, and those of its directories.
    is_named: bool,
    last: [Option<Statement>; 5],
    /// When progress was written last.
    progress_at: Option<Instant>,
    /// Progress that is not written yet.
    waiting: Option<Statement>,
}

impl Statements {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            generation: 0,
            bytes: 0,
            is_named: false,
            last: [const { None }; 5],
            progress_at: None,
            waiting: None,
        }
    }

    /// Writes a statement; of progress only some. True if a reader finds something new.
    ///
    /// # Durability
    ///
    /// A crash of the keeper loses nothing that was written; a loss of power may, before [`Self::sync`].
    pub(crate) fn state(&mut self, statement: Statement) -> io::Result<bool> {
        if matches!(statement, Statement::Progress { .. }) {
            if self.progress_at.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
                self.waiting = Some(statement);
                return Ok(false);
            }
            self.waiting = None;
            self.progress_at = Some(Instant::now());
        }
        self.write(statement)?;
        Ok(true)
    }

    /// Whether there may be a file.
    pub(super) fn has_any(&self) -> bool {
        self.last.iter().any(Option::is_some)
    }

    /// When progress that waits is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.is_some().then(|| self.progress_at.map(|at| at + PROGRESS_EVERY)).flatten()
    }

    /// Writes progress that is due, or all the same if it is the `last` chance. True if there was any.
    pub(crate) fn catch_up(&mut self, last: bool) -> io::Result<bool> {
        if !last && self.due().is_none_or(|due| due > Instant::now()) {
            return Ok(false);
        }
        let Some(progress) = self.waiting.take() else { return Ok(false) };
        self.progress_at = Some(Instant::now());
        self.write(progress).map(|()| true)
    }

    /// Makes all that was stated durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data()?;
        if !self.is_named {
            // The directory of all attempts may be as new as the file; what is above the store may not be ours to open.
            for dir in self.path.ancestors().skip(1).take(2) {
                File::open(dir)?.sync_all()?;
            }
            self.is_named = true;
        }
        Ok(())
    }

    /// The last result, message and so on are kept in mind as well as on disk.
    fn write(&mut self, statement: Statement) -> io::Result<()> {
        let text = line(&statement);
        if let Some(last) = self.last.get_mut(kind(&statement)) {
            *last = Some(statement);
        }
        if self.file.is_none() || self.bytes + text.len() as u64 > BYTES_MAX {
            return self.begin();
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        match file.write_all(&text) {
            Ok(()) => self.bytes += text.len() as u64,
            Err(error) => {
                // Half a line is no line: the next one begins where a line begins.
                let _ = file.set_len(self.bytes);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Begins the file, or puts a new one in its place, with the last statement of each kind.
    fn begin(&mut self) -> io::Result<()> {
        let generation = if self.file.is_some() { self.generation + 1 } else { self.generation };
        let mut text = line(&Header { version: VERSION, generation });
        self.last.iter().flatten().for_each(|statement| text.extend(line(statement)));
        let aside = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&aside)?;
        file.set_len(0)?;
        file.write_all(&text)?;
        if self.file.is_some() {
            // What was durable in the old file has to be in the new one.
            file.sync_data()?;
        }
        std::fs::rename(&aside, &self.path)?;
        self.is_named = false;
        (self.file, self.generation, self.bytes) = (Some(file), generation, text.len() as u64);
        Ok(())
    }
}

fn kind(statement: &Statement) -> usize {
    match statement {
        Statement::Progress { .. } => 0,
        Statement::Checkpoint(_) => 1,
        Statement::Steps(_) => 2,
        Statement::Message(_) => 3,
        Statement::Result(_) => 4,
    }
}

/// The daemon's end: a position in the file.
pub(crate) struct StatementReader {
    path: PathBuf,
    generation: u64,
    offset: u64,
}

impl StatementReader {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), generation: 0, offset: 0 }
    }

    /// What was stated since the last call, in order, or the last of each kind of it. Blocks on the disk.
    pub(crate) fn read(&mut self) -> io::Result<Vec<Statement>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut beginning = [0; 64];
        let length = file.read(&mut beginning)?;
        let first = beginning.get(..length).unwrap_or_default().split(|byte| *byte == b'\n').next();
        let header: Option<Header> = first.and_then(|first| serde_json::from_slice(first).ok());
        let Some(Header { version: _, generation }) = header else { return Ok(Vec::new()) };
        if generation != self.generation {
            (self.generation, self.offset) = (generation, 0);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = Vec::new();
        file.take(2 * BYTES_MAX).read_to_end(&mut text)?;
        // The line after the last newline is not written to its end yet.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.offset += whole as u64;
        let lines = text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
        // The header is none, nor is what a later version may add.
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn told(statements: &[Statement]) -> Vec<String> {
        statements.iter().map(|statement| String::from_utf8(line(statement)).unwrap()).collect()
    }

    #[test]
    fn statements_are_read_once_each_while_they_come() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("statements");
        let mut reader = StatementReader::new(&path);
        assert!(reader.read().unwrap().is_empty());
        let mut statements = Statements::at(path.clone());
        assert!(statements.state(Statement::Message("one".into())).unwrap());
        assert_eq!(told(&reader.read().unwrap()), ["{\"message\":\"one\"}\n"]);
        assert!(reader.read().unwrap().is_empty());
        statements.state(Statement::Checkpoint(raw("{\"a\":1}"))).unwrap();
        statements.sync().unwrap();
        let mut half = OpenOptions::new().append(true).open(&path).unwrap();
        half.write_all(b"{\"message\":\"tw").unwrap();
        assert_eq!(told(&reader.read().unwrap()), ["{\"checkpoint\":{\"a\":1}}\n"]);
        half.write_all(b"o\"}\n{\"of_a_later_version\":1}\n").unwrap();
        assert_eq!(told(&reader.read().unwrap()), ["{\"message\":\"two\"}\n"]);
        // Whoever comes later reads all of it.
        assert_eq!(StatementReader::new(&path).read().unwrap().len(), 3);
    }

    #[test]
    fn long_file_is_replaced_by_the_last_of_each_kind() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("statements");
        let mut statements = Statements::at(path.clone());
        let mut reader = StatementReader::new(&path);
        let big = "x".repeat(1 << 20);
        statements.state(Statement::Result(raw("{\"r\":1}"))).unwrap();
        for at in 0..20 {
            statements
                .state(Statement::Checkpoint(raw(&format!("{{\"at\":{at},\"big\":\"{big}\"}}"))))
                .unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= BYTES_MAX);
            if at % 7 == 0 {
                let read = told(&reader.read().unwrap());
                let last = read.iter().rfind(|line| line.starts_with("{\"checkpoint")).unwrap();
                assert!(last.starts_with(&format!("{{\"checkpoint\":{{\"at\":{at},")), "{}", &last[..40]);
            }
        }
        let all = told(&StatementReader::new(&path).read().unwrap());
        assert!(all.iter().any(|line| line.starts_with("{\"result\":{\"r\":1}}")));
        assert!(all.iter().any(|line| line.starts_with("{\"checkpoint\":{\"at\":19,")));
    }

    #[test]
    fn progress_is_written_now_and_then_and_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("statements");
        let mut statements = Statements::at(path.clone());
        let progress = |percent| Statement::Progress { percent, message: String::new() };
        assert!(statements.state(progress(1)).unwrap());
        assert!(!statements.state(progress(2)).unwrap());
        assert!(!statements.state(progress(3)).unwrap());
        assert!(statements.due().is_some());
        assert!(statements.catch_up(true).unwrap());
        assert!(!statements.catch_up(true).unwrap());
        let all = told(&StatementReader::new(&path).read().unwrap());
        assert_eq!(all.len(), 2);
        assert!(all[1].contains("\"percent\":3"), "{all:?}");
    }
}
