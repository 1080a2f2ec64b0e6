//! The file of a dump: it has its final name once all of it is on disk, and never before.
//!
//! The program that makes it is a child of the handler, and ends with it (at a cancel too). One that goes on after its
//! handler was killed writes to a file that has no name any more: each attempt makes its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::handlers::builtin::Failure;

/// As much of the end of what the program said is told.
const SAID_BYTES_MAX: usize = 1_024;

/// What is known of a dump.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Dump {
    #[serde(rename = "backup_path")]
    pub(super) path: String,
    #[serde(rename = "backup_bytes")]
    pub(super) bytes: u64,
    #[serde(rename = "backup_sha256")]
    sha256: String,
}

/// What a dump is made of, one after the other.
pub(super) enum Piece {
    /// What it writes to its standard output.
    Program(Command),
    /// What is in it.
    File(PathBuf),
}

/// Where it goes.
pub(super) struct DumpFile {
    pub(super) path: PathBuf,
    part: PathBuf,
}

impl DumpFile {
    /// The dump that an action makes of that database.
    pub(super) fn new(dir: &Path, database: &str, action: u64) -> Self {
        let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || "_-".contains(*letter);
        let plain: String =
            database.chars().map(|letter| if is_plain(&letter) { letter } else { '_' }).collect();
        let name = format!("{plain}-{action}.dump");
        Self { part: dir.join(format!("{name}.part")), path: dir.join(name) }
    }

    /// Fills it with these pieces; returns when all of it is durable.
    ///
    /// # Errors
    ///
    /// A program failed, or the file cannot be written. Either may pass: transient.
    pub(super) async fn fill(&self, pieces: Vec<Piece>) -> Result<Dump, Failure> {
        let told = |error: io::Error| self.failed(&error);
        gone(fs::remove_file(&self.part)).map_err(told)?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.part).map_err(told)?;
        for piece in pieces {
            match piece {
                Piece::File(path) => {
                    let mut from = File::open(path).map_err(told)?;
                    io::copy(&mut from, &mut file).map_err(told)?;
                }
                Piece::Program(program) => self.append(program, &file).await?,
            }
        }
        file.sync_all().map_err(told)?;
        let dump = self.of(&self.part).await.map_err(told)?;
        fs::rename(&self.part, &self.path).map_err(told)?;
        self.sync_dir().map_err(told)?;
        Ok(dump)
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::transient("dump", format!("cannot dump to {}: {error}", self.path.display()))
    }

    async fn append(&self, mut program: Command, file: &File) -> Result<(), Failure> {
        let told = |error: io::Error| self.failed(&error);
        program
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(told)?)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = program.spawn().map_err(told)?.wait_with_output().await.map_err(told)?;
        if output.status.success() {
            return Ok(());
        }
        gone(fs::remove_file(&self.part)).map_err(told)?;
        let from = output.stderr.len().saturating_sub(SAID_BYTES_MAX);
        let said = String::from_utf8_lossy(output.stderr.get(from..).unwrap_or_default());
        let said = said.trim();
        Err(Failure::transient("dump", format!("the dump failed ({}): {said}", output.status)))
    }

    /// The dump, if it has its final name.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) async fn finished(&self) -> Result<Option<Dump>, Failure> {
        let of_file = async {
            let dump = self.of(&self.path).await?;
            // Its name may not have been durable yet.
            self.sync_dir()?;
            io::Result::Ok(dump)
        };
        match of_file.await {
            Ok(dump) => Ok(Some(dump)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let told = format!("cannot read the dump {}: {error}", self.path.display());
                Err(Failure::transient("dump", told))
            }
        }
    }

    /// Removes it, whole or not.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        gone(fs::remove_file(&self.part)).and_then(|()| gone(fs::remove_file(&self.path))).map_err(|error| {
            Failure::transient("dump", format!("cannot remove {}: {error}", self.path.display()))
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// What there is to say of the dump in that file.
    async fn of(&self, file: &Path) -> io::Result<Dump> {
        let mut file = File::open(file)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut chunk = vec![0; 1 << 20];
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            hash.update(chunk.get(..length).unwrap_or_default());
            bytes += length as u64;
            // Large ones take a while, in which this may be told to end.
            tokio::task::yield_now().await;
        }
        let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
        Ok(Dump {
            path: self.path.to_string_lossy().into_owned(),
            bytes,
            sha256: hash.finalize().iter().fold(String::new(), hex),
        })
    }
}

/// To have removed what is not there is as good.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
