//! Replaces a data directory by a new copy of the source's (`pg_basebackup`).
//!
//! | `D` | `D.resync-ID` | `D.old-ID` | |
//! | --- | --- | --- | --- |
//! | old | - | - | nothing is copied, or not all of it (`D.resync-ID.ATTEMPT`) |
//! | old | new | - | copied, whole and on disk |
//! | - | new | old | half of the swap |
//! | new | - | old | swapped |
//!
//! Each attempt copies into a directory of its own: a `pg_basebackup` that goes on although its handler was killed writes to
//! nothing that anybody else uses.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::super::super::postgres::{Session, application};
use super::super::server::{disk, sync_beside};
use super::{Resync, rewind};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child;
use crate::handlers::builtin::run::Found;

pub(super) const COPY: &str = "copy";
pub(super) const SWAP: &str = "swap";
pub(super) const NEW: &str = "resync";
pub(super) const OLD: &str = "old";

/// What there was before.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SwapBefore {
    pub(super) had_data: bool,
}

/// Whether everything can be copied; said before anything is touched.
pub(super) async fn possible(resync: &Resync<'_>, source: &Session) -> Result<(), Failure> {
    const SPACES: &str =
        "select count(*) from pg_tablespace where spcname not in ('pg_default', 'pg_global')";
    let no = |why: &str| {
        Err(Failure::permanent("no_copy", format!("{} cannot be replaced: {why}", resync.name())))
    };
    let row = source.row("cannot look at the tablespaces of the source", SPACES, &[]).await?;
    if row.is_none_or(|row| row.get::<_, i64>(0) > 0) {
        return no("the source has tablespaces, which have one place on a host");
    }
    let data = resync.server.data();
    let told = |error: io::Error| disk("cannot look at", data, &error);
    let parent = data.parent().unwrap_or(Path::new("/"));
    let around = fs::metadata(parent).map_err(|error| disk("cannot look at", parent, &error))?;
    let own = match fs::symlink_metadata(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        own => own.map_err(told)?,
    };
    if !own.is_dir() {
        return no("its data directory is a symbolic link or no directory");
    }
    if own.dev() != around.dev() {
        return no("its data directory is a mount of its own, which cannot be renamed");
    }
    let is_link = |name: &str| fs::symlink_metadata(data.join(name)).is_ok_and(|of| of.is_symlink());
    if is_link("pg_wal") {
        return no("its pg_wal is elsewhere");
    }
    let spaces = data.join("pg_tblspc");
    if spaces.exists() && fs::read_dir(&spaces).map_err(told)?.next().is_some() {
        return no("it has tablespaces");
    }
    Ok(())
}

/// The copy is there, whole and on disk: its bytes.
pub(super) async fn copy(resync: &Resync<'_>, source: &Session) -> Result<u64, Failure> {
    let new = resync.server.beside(NEW, resync.run);
    let act = async |(): &()| {
        remove_copies(resync).await?;
        resync.run.progress(20, "copying everything");
        let part = part(resync, resync.run.attempt);
        let make = || -> io::Result<()> {
            fs::create_dir(&part)?;
            fs::set_permissions(&part, fs::Permissions::from_mode(0o700))?;
            resync.server.own(&part)
        };
        make().map_err(|error| disk("cannot make", &part, &error))?;
        let conninfo = resync.conninfo.with("application_name", &application(resync.run.id)).to_string();
        let mut words: Vec<std::ffi::OsString> = vec!["--pgdata".into(), part.clone().into()];
        words.extend(["--dbname".into(), conninfo.into(), "--no-password".into()]);
        words.extend(["--checkpoint=fast".into(), "--wal-method=stream".into()]);
        if let Some(rate) = resync.params.max_rate_kib {
            words.push(format!("--max-rate={rate}").into());
        }
        let mut program = resync.server.program(resync.run, "pg_basebackup", words);
        let ended = child::run("cannot copy the source", &mut program).await?;
        if !ended.is_success() {
            let told = format!("cannot copy {}: pg_basebackup: {}", resync.source_name(), ended.told());
            return Err(Failure::transient("copy", told));
        }
        let bytes = bytes(&part).map_err(|error| disk("cannot look at", &part, &error))?;
        let settle = || -> io::Result<()> {
            // pg_basebackup has what it wrote on disk when it ends.
            File::open(&part)?.sync_all()?;
            fs::rename(&part, &new)?;
            sync_beside(&new)
        };
        settle().map_err(|error| disk("cannot keep", &part, &error))?;
        Ok(bytes)
    };
    let found = async |(): &()| {
        source.alone(resync.run).await?;
        if !new.exists() {
            return Ok(Found::NotDone);
        }
        // Its name may not have been durable yet.
        let kept = sync_beside(&new).and_then(|()| bytes(&new));
        kept.map(Found::Done).map_err(|error| disk("cannot look at", &new, &error))
    };
    resync.run.step(COPY, async || Ok(()), act, found).await
}

fn part(resync: &Resync<'_>, attempt: u32) -> PathBuf {
    let mut path = resync.server.beside(NEW, resync.run).into_os_string();
    path.push(format!(".{attempt}"));
    path.into()
}

/// Whatever was copied and has not become the data is gone afterwards.
pub(super) async fn remove_copies(resync: &Resync<'_>) -> Result<(), Failure> {
    for attempt in 1..=resync.run.attempt {
        remove(&part(resync, attempt)).await?;
    }
    remove(&resync.server.beside("conf.part", resync.run)).await?;
    remove(&resync.server.beside(NEW, resync.run)).await
}

/// A directory is gone afterwards.
pub(super) async fn remove(path: &Path) -> Result<(), Failure> {
    let owned = path.to_owned();
    // Large ones take a while, in which this may be told to end.
    let removed = tokio::task::spawn_blocking(move || match fs::remove_dir_all(owned) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    });
    let removed = removed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    removed.map_err(|error| disk("cannot remove", path, &error))
}

fn bytes(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let of = entry.metadata()?;
        sum += if of.is_dir() { bytes(&entry.path())? } else { of.len() };
    }
    Ok(sum)
}

/// The copy is the data afterwards, and what was the data is beside it.
pub(super) async fn swap(resync: &Resync<'_>) -> Result<(), Failure> {
    let server = &resync.server;
    let (data, new, old) = (server.data(), server.beside(NEW, resync.run), server.beside(OLD, resync.run));
    let intent = async || Ok(SwapBefore { had_data: data.exists() });
    let act = async |before: &SwapBefore| {
        // Whoever started it meanwhile would go on in the old data, beside the new ones.
        if server.is_running(resync.run).await? {
            return Err(Failure::transient("running", format!("{} was started again", resync.name())));
        }
        let replace = || -> io::Result<()> {
            if !old.exists() {
                rewind::install(resync, &new)?;
                if before.had_data {
                    fs::rename(data, &old)?;
                    sync_beside(data)?;
                }
            }
            fs::rename(&new, data)?;
            sync_beside(data)
        };
        replace().map_err(|error| disk("cannot replace", data, &error))
    };
    let found = async |before: &SwapBefore| {
        Ok(match (data.exists(), new.exists(), old.exists()) {
            (true, true, false) | (false, true, _) => Found::NotDone,
            (true, false, true) => Found::Done(()),
            (true, false, false) if !before.had_data => Found::Done(()),
            (has_data, has_new, has_old) => Found::Unknown(format!(
                "{}: there {has_data}, its copy there {has_new}, what it replaces there {has_old}",
                data.display()
            )),
        })
    };
    resync.run.step(SWAP, intent, act, found).await
}
