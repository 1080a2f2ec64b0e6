//! The files of one attempt: who owns it, what the program stated, how it ended.
//!
//! ```text
//!  ATTEMPTS/<id>.<attempt>.owner        made with O_EXCL by the keeper before it starts the program, or by a recovery that
//!                                       decides that there is none (a tombstone): who comes second stops
//!  ATTEMPTS/<id>.<attempt>.statements   what the program stated: see `statements`
//!  ATTEMPTS/<id>.<attempt>.outcome      how it ended, if no daemon was there to hear it: written aside, synced, renamed
//!  KEEPERS/<id>.<attempt>               the keeper's socket
//!  KEEPERS/<id>.<attempt>.report        FIFO of the program's reports
//! ```
//!
//! No directory for each: to make and remove one takes a file system longer than to start a small program. They are
//! removed once what became of the attempt is durable in the store, or by a start of the daemon that finds no
//! unfinished claim for them. Used by the keeper, by the daemon's end of it (`kept`), and by recovery.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::words::{AtGate, StopWhy, VERSION, line};
use crate::action::Program;
use crate::crash_point::crash_point;
use crate::runner::proc::is_shortage;

/// Longest `owner` and longest `outcome` that is read: a result at its largest (1 MiB) and messages, escaped.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Between two tries to write an outcome: at first, and at most.
const END_PAUSE_FIRST: Duration = Duration::from_millis(10);
const END_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long an outcome is tried for that cannot be written for any other reason than a shortage, such as of room.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// One attempt's files, which may not exist yet or any more.
#[derive(Clone, Debug)]
pub(crate) struct AttemptPlace {
    /// What their names begin with.
    prefix: PathBuf,
}

/// Who has the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A keeper was first; with its program, if it came to that.
    Keeper(Option<Program>),
    /// A recovery was first: the program is never started.
    Nobody,
}

/// How an attempt ended, as its keeper tells the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndedLine {
    pub(crate) ended: Ended,
}

/// How an attempt ended, as its keeper wrote it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) version: u32,
    /// The program's exit code.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// Why it could not be started.
    pub(crate) fault: Option<String>,
    /// The host was short of something that it needs: another try is worth it.
    #[serde(default)]
    pub(crate) was_short: bool,
    /// Its last message.
    pub(crate) message: Option<String>,
    /// Its last result.
    pub(crate) result: Option<Box<RawValue>>,
    /// The last line that it printed, on stderr if there is one.
    pub(crate) printed: Option<String>,
    /// Why it was ended, if it did not end by itself.
    pub(crate) stopped: Option<StopWhy>,
    /// What of it could not be ended.
    pub(crate) alive: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct OwnerLine {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    keeper: Option<AtGate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<AtGate>,
    #[serde(default)]
    gone: bool,
}

/// A keeper's own `owner` file.
pub(crate) struct Owned(File);

impl Owned {
    /// Notes which process the program is, so that it is found although its keeper was killed.
    pub(crate) fn note_program(&mut self, program: Program) -> io::Result<()> {
        let program = Some(AtGate { pid: program.pid, start_ticks: program.start_ticks });
        self.0.write_all(&line(&OwnerLine { version: VERSION, program, ..OwnerLine::default() }))
    }
}

impl AttemptPlace {
    pub(crate) fn at(prefix: PathBuf) -> Self {
        Self { prefix }
    }

    /// Of an attempt, or of a probe with its suffix.
    pub(crate) fn of(attempts_dir: &Path, name: &str) -> Self {
        Self::at(attempts_dir.join(name))
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    pub(crate) fn statements(&self) -> PathBuf {
        with_end(&self.prefix, ".statements")
    }

    /// What it is known by: `<id>.<attempt>`, and more if it is beside one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.prefix.file_name()?.to_str()
    }

    /// The places whose name is this one's with `suffix` and more. Blocks.
    pub(crate) fn beside(&self, suffix: &str) -> Vec<Self> {
        let (Some(dir), Some(name)) = (self.prefix.parent(), self.name()) else { return Vec::new() };
        let own = |entry: io::Result<std::fs::DirEntry>| {
            let file = entry.ok()?.file_name().into_string().ok()?;
            let ends = [".owner", ".statements", ".outcome", ".outcome.new"];
            let own = ends.iter().find_map(|end| file.strip_suffix(end))?;
            own.strip_prefix(name)?.starts_with(suffix).then(|| own.to_owned())
        };
        let names: BTreeSet<String> = std::fs::read_dir(dir).into_iter().flatten().filter_map(own).collect();
        names.iter().map(|name| Self::of(dir, name)).collect()
    }

    /// The program of the keeper that has it, if it came to that.
    pub(crate) fn program(&self) -> io::Result<Option<Program>> {
        Ok(match self.owner()? {
            Some(Owner::Keeper(program)) => program,
            _ => None,
        })
    }

    fn owner_file(&self) -> PathBuf {
        with_end(&self.prefix, ".owner")
    }

    fn outcome_file(&self) -> PathBuf {
        with_end(&self.prefix, ".outcome")
    }

    /// Takes the attempt for this keeper; none if a recovery was first.
    pub(crate) fn own(&self, keeper: Program) -> io::Result<Option<Owned>> {
        let keeper = Some(AtGate { pid: keeper.pid, start_ticks: keeper.start_ticks });
        self.be_first(&OwnerLine { version: VERSION, keeper, ..OwnerLine::default() })
            .map(|file| file.map(Owned))
    }

    /// Makes sure that no keeper starts this attempt's program any more; false if one has, or may be about to.
    pub(crate) fn bury(&self) -> io::Result<bool> {
        self.be_first(&OwnerLine { version: VERSION, gone: true, ..OwnerLine::default() })
            .map(|file| file.is_some())
    }

    fn be_first(&self, owner: &OwnerLine) -> io::Result<Option<File>> {
        let path = self.owner_file();
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let created = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = path.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
                create()
            }
            created => created,
        };
        match created {
            // A keeper has it even if there is no room for its name. A tombstone without words would be taken for one.
            Ok(mut file) => match file.write_all(&line(owner)) {
                Err(error) if owner.gone => {
                    let _ = std::fs::remove_file(path);
                    Err(error)
                }
                _ => Ok(Some(file)),
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Who has the attempt; none if nobody has it yet. A keeper may be killed at any byte: what is no line counts as its own.
    pub(crate) fn owner(&self) -> io::Result<Option<Owner>> {
        let Some(text) = read(&self.owner_file())? else { return Ok(None) };
        let lines = text.split(|byte| *byte == b'\n');
        let lines: Vec<OwnerLine> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        if lines.iter().any(|line| line.gone) {
            return Ok(Some(Owner::Nobody));
        }
        let program = lines.iter().find_map(|line| line.program).map(AtGate::program);
        Ok(Some(Owner::Keeper(program)))
    }

    /// Writes how the attempt ended.
    ///
    /// # Durability
    ///
    /// The outcome is on disk when this returns, or the one before is: never half of it.
    pub(crate) fn end(&self, ended: &Ended) -> io::Result<()> {
        let aside = with_end(&self.prefix, ".outcome.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&line(ended))?;
        crash_point("keeper_outcome_written");
        file.sync_all()?;
        crash_point("keeper_outcome_synced");
        std::fs::rename(&aside, self.outcome_file())?;
        crash_point("keeper_outcome_renamed");
        File::open(self.prefix.parent().unwrap_or(Path::new("/")))?.sync_all()
    }

    /// As [`Self::end`], and again until it succeeds: without its outcome a program that ran to its end counts as
    /// interrupted, and may be run again. A full disk is waited out, however long that takes.
    pub(crate) fn end_patiently(&self, ended: &Ended) -> io::Result<()> {
        let until = Instant::now() + END_PATIENCE;
        let mut pause = END_PAUSE_FIRST;
        loop {
            let Err(error) = self.end(ended) else { return Ok(()) };
            if !is_shortage(&error) && Instant::now() >= until {
                return Err(error);
            }
            if error.kind() == io::ErrorKind::NotFound
                && let Some(dir) = self.prefix.parent()
            {
                // Somebody has removed it; but nothing above it is ours to make.
                let _ = DirBuilder::new().mode(0o700).create(dir);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(END_PAUSE_MAX);
        }
    }

    /// How the attempt ended; none if nobody has written that.
    pub(crate) fn ended(&self) -> io::Result<Option<Ended>> {
        let Some(text) = read(&self.outcome_file())? else { return Ok(None) };
        let ended = serde_json::from_slice::<Ended>(&text).map_err(|error| {
            let told = format!("cannot understand {}: {error}", self.outcome_file().display());
            io::Error::new(io::ErrorKind::InvalidData, told)
        })?;
        Ok(Some(ended))
    }

    /// Removes all of them, the outcome at last: as long as one is there, the attempt is known to have ended.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.statements())?;
        remove(&self.owner_file())?;
        remove(&self.outcome_file())
    }

    /// As [`Self::remove`], for the keeper itself, which knows what there is: it has written no outcome, and of statements
    /// most programs make none.
    pub(super) fn remove_own(&self, has_statements: bool) -> io::Result<()> {
        if has_statements {
            remove(&self.statements())?;
        }
        remove(&self.owner_file())
    }
}

/// A path with more at its end.
pub(crate) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The bytes of a file; none if it does not exist.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, AttemptPlace) {
        let home = tempfile::tempdir().unwrap();
        let place = AttemptPlace::of(&home.path().join("attempts"), "7.1");
        (home, place)
    }

    #[test]
    fn who_comes_second_stops() {
        let keeper = Program { pid: 7, start_ticks: 8 };
        let (_home, place) = place();
        assert_eq!(place.owner().unwrap(), None);
        let mut owned = place.own(keeper).unwrap().unwrap();
        assert!(!place.bury().unwrap(), "a keeper has it");
        assert_eq!(place.owner().unwrap(), Some(Owner::Keeper(None)));
        let program = Program { pid: 9, start_ticks: 10 };
        owned.note_program(program).unwrap();
        assert_eq!(place.owner().unwrap(), Some(Owner::Keeper(Some(program))));

        let (_home, place) = super::tests::place();
        assert!(place.bury().unwrap(), "before any keeper made it");
        assert!(place.own(keeper).unwrap().is_none());
        assert_eq!(place.owner().unwrap(), Some(Owner::Nobody));
    }

    #[test]
    fn keeper_that_was_killed_while_it_wrote_its_name_has_it_still() {
        let (_home, place) = place();
        std::fs::create_dir(place.prefix().parent().unwrap()).unwrap();
        for half in ["", "{\"version\":1,\"kee"] {
            std::fs::write(place.owner_file(), half).unwrap();
            assert_eq!(place.owner().unwrap(), Some(Owner::Keeper(None)), "{half:?}");
        }
    }

    #[test]
    fn outcome_is_read_as_it_was_written_and_half_of_one_is_none() {
        let (_home, place) = place();
        place.own(Program { pid: 7, start_ticks: 8 }).unwrap();
        assert!(place.ended().unwrap().is_none());
        std::fs::write(with_end(&place.prefix, ".outcome.new"), "{\"ver").unwrap();
        assert!(place.ended().unwrap().is_none());
        let result = RawValue::from_string(r#"{"n":[1,2]}"#.to_owned()).ok();
        let ended =
            Ended { version: VERSION, code: Some(3), message: Some("m".into()), result, ..Ended::default() };
        place.end(&ended).unwrap();
        let read = place.ended().unwrap().unwrap();
        assert_eq!((read.code, read.message.as_deref(), read.stopped), (Some(3), Some("m"), None));
        assert_eq!(read.result.unwrap().get(), r#"{"n":[1,2]}"#);
        std::fs::write(place.outcome_file(), "{\"ver").unwrap();
        assert!(place.ended().unwrap_err().to_string().contains("cannot understand"));
        place.remove().unwrap();
        place.remove().unwrap();
        assert_eq!((place.owner().unwrap(), place.ended().unwrap().is_none()), (None, true));
    }
}
