//! Has a data directory be that of a replica by `pg_rewind`: what differs from the source is copied from there.
//!
//! `pg_rewind` that does not come to its end leaves no data directory, and must not be run on it again (pg_rewind(1)). So
//! what is beside the data says how far it came:
//!
//! | `D.conf-ID` | |
//! | --- | --- |
//! | is not there | it was never begun |
//! | is there | it was begun, and perhaps interrupted |
//! | has the file `rewound` | it has come to its end |

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::super::super::postgres::{Session, application};
use super::super::server::{disk, sync_beside};
use super::Resync;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child;
use crate::handlers::builtin::run::Found;

pub(super) const REWIND: &str = "rewind";
/// The server's own configuration while its data are replaced.
pub(super) const KEPT: &str = "conf";
const REWOUND: &str = "rewound";
/// Settings by `ALTER SYSTEM`.
const ALTERED: &str = "postgresql.auto.conf";

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Rewound {
    Done,
    Failed { why: String },
}

/// How far it came, in whatever attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Nothing,
    Begun,
    Rewound,
}

pub(super) fn reached(resync: &Resync<'_>) -> Reached {
    let kept = resync.server.beside(KEPT, resync.run);
    if kept.join(REWOUND).exists() {
        Reached::Rewound
    } else if kept.exists() {
        Reached::Begun
    } else {
        Reached::Nothing
    }
}

pub(super) async fn rewind(resync: &Resync<'_>, source: &Session) -> Result<Rewound, Failure> {
    let found = async |(): &()| {
        Ok(match reached(resync) {
            Reached::Nothing => Found::NotDone,
            Reached::Rewound => Found::Done(Rewound::Done),
            Reached::Begun => Found::Done(Rewound::Failed { why: "it was interrupted".to_owned() }),
        })
    };
    resync.run.step(REWIND, async || Ok(()), async |(): &()| act(resync, source).await, found).await
}

async fn act(resync: &Resync<'_>, source: &Session) -> Result<Rewound, Failure> {
    let server = &resync.server;
    // A source that was promoted lately may not have its timeline in its control file. It has by itself in time.
    if let Err(failure) = source.execute("cannot make a checkpoint of the source", "CHECKPOINT").await {
        if failure.code() != "not_allowed" {
            return Err(failure);
        }
        resync.run.log(failure.message());
    }
    resync.run.progress(30, "rewinding it");
    let conninfo = resync.conninfo.with("application_name", &application(resync.run.id));
    let conninfo =
        if conninfo.value("dbname").is_none() { conninfo.with("dbname", "postgres") } else { conninfo };
    let mut words: Vec<std::ffi::OsString> = vec!["--target-pgdata".into(), server.data().into()];
    words.extend(["--source-server".into(), conninfo.to_string().into()]);
    if let Some(file) = server.config_file() {
        words.extend(["--config-file".into(), file.into()]);
    }
    let mut program = server.program(resync.run, "pg_rewind", words);
    keep(resync).map_err(|error| disk("cannot keep the configuration of", server.data(), &error))?;
    let ended = child::run("cannot rewind it", &mut program).await?;
    if !ended.is_success() {
        return Ok(Rewound::Failed { why: format!("pg_rewind: {}", ended.told()) });
    }
    let settle = || -> io::Result<()> {
        install(resync, server.data())?;
        let kept = server.beside(KEPT, resync.run);
        File::create(kept.join(REWOUND))?.sync_all()?;
        File::open(kept)?.sync_all()
    };
    settle().map_err(|error| disk("cannot configure", server.data(), &error))?;
    Ok(Rewound::Done)
}

/// The server's own configuration is beside its data afterwards, on disk and whole.
fn keep(resync: &Resync<'_>) -> io::Result<()> {
    let kept = resync.server.beside(KEPT, resync.run);
    let part = resync.server.beside("conf.part", resync.run);
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir(&part)?;
    for name in own_files(resync.server.data())? {
        copy(resync, &resync.server.data().join(&name), &part.join(&name))?;
    }
    File::open(&part)?.sync_all()?;
    fs::rename(&part, &kept)?;
    sync_beside(&kept)
}

/// Names of a server's own configuration in its data directory: files that end with `.conf`, directories that end with
/// `conf.d`.
fn own_files(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_own = |end: &str| name.to_string_lossy().ends_with(end);
        let kind = entry.file_type()?;
        if kind.is_file() && is_own(".conf") || kind.is_dir() && is_own("conf.d") {
            names.push(name.into());
        }
    }
    Ok(names)
}

/// # Durability
///
/// The copy is on disk; its name is when its directory is.
fn copy(resync: &Resync<'_>, from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        fs::set_permissions(to, fs::metadata(from)?.permissions())?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(resync, &from.join(&name), &to.join(&name))?;
        }
    } else {
        fs::copy(from, to)?;
    }
    resync.server.own(to)?;
    File::open(to)?.sync_all()
}

/// A data directory with the source's data has the server's own configuration afterwards, and is that of a replica of the
/// source. On disk. May be repeated.
pub(super) fn install(resync: &Resync<'_>, data: &Path) -> io::Result<()> {
    let server = &resync.server;
    let kept = server.beside(KEPT, resync.run);
    let from =
        if kept.exists() { Some(kept.as_path()) } else { Some(server.data()).filter(|dir| dir.exists()) };
    if let Some(from) = from {
        // Those of the source that it has none of its own for would be read too.
        for name in own_files(data)? {
            let name = data.join(name);
            if name.is_dir() { fs::remove_dir_all(name)? } else { fs::remove_file(name)? }
        }
        for name in own_files(from)? {
            copy(resync, &from.join(&name), &data.join(&name))?;
        }
    }
    let altered = data.join(ALTERED);
    let mut text = match fs::read_to_string(&altered) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let is_of_ours = |line: &str| {
        let line = line.trim_start();
        ["primary_conninfo", "primary_slot_name"].iter().any(|key| line.starts_with(key))
    };
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_of_ours(line)).collect();
    let own = resync.lines();
    lines.extend(own.lines());
    text = lines.join("\n") + "\n";
    server.write(&altered, text.as_bytes())?;
    server.mark_standby(data)
}
