//! A directory of files, such as nginx's `proxy_cache_path`.
//!
//! What is in it is moved into a directory `.trash-ID` beside it, one rename for each entry, and deleted from there: the
//! application sees an empty cache at once, and an interrupted deletion goes on. Whoever writes below the directory may put
//! links there: none is ever followed, nothing outside and nothing on another file system is touched (openat2(2)).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Failure;
use super::super::run::{Found, Run};
use super::{Cleared, step};
use crate::handlers::targets::Target;

const TRASH: &str = ".trash-";
/// Entries between two looks at whether the handler is told to end.
const ENTRIES_AT_ONCE: u64 = 256;
/// A name for what is in the way of another is found long before this.
const NAMES_MAX: u32 = 100_000;

/// `[targets.NAME]` with `engine = "files"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Files {
    /// The directory: absolute, two names deep at least, no link. It stays; all that is in it is deleted.
    path: CacheDir,
}

/// A directory that may be emptied.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "PathBuf")]
struct CacheDir(PathBuf);

impl TryFrom<PathBuf> for CacheDir {
    type Error = String;

    /// `/var` is nobody's cache.
    fn try_from(path: PathBuf) -> Result<Self, String> {
        let mut parts = path.components();
        let is_plain = parts.next() == Some(Component::RootDir)
            && parts.clone().all(|part| matches!(part, Component::Normal(_)))
            && parts.count() >= 2;
        if is_plain {
            return Ok(Self(path));
        }
        Err(format!("path: {} is not absolute and at least two names deep", path.display()))
    }
}

/// What was there before.
#[derive(Serialize, Deserialize)]
struct Before {
    /// Something is in the directory.
    is_filled: bool,
}

/// What was deleted.
#[derive(Default, Serialize, Deserialize)]
struct Deleted {
    files: u64,
    bytes: u64,
}

/// How many entries the directory has; below them are more.
pub(super) fn count(target: &Target) -> Result<u64, Failure> {
    let root = Root::open(target)?;
    Ok(root.children()?.len() as u64)
}

pub(super) async fn clear(run: &Run, target: &Target) -> Result<Cleared, Failure> {
    let before = async || Ok(Before { is_filled: count(target)? > 0 });
    let clear = async |before: &Before| {
        Root::open(target)?.move_aside(run.id)?;
        Ok(before.is_filled)
    };
    let changed = run.step(&step(target), before, clear, async |_: &Before| Ok(Found::NotDone)).await?;
    let delete = async || Root::open(target)?.delete_trash().await;
    let Deleted { files, bytes } = run.repeatable(&format!("delete.{}", target.name), delete).await?;
    Ok(Cleared { changed, entries_before: files, entries_after: count(target)?, bytes_freed: Some(bytes) })
}

/// The directory of a target.
struct Root {
    dir: OwnedFd,
    path: PathBuf,
}

impl Root {
    fn open(target: &Target) -> Result<Self, Failure> {
        let Files { path: CacheDir(path) } =
            target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|error| {
            let told = format!("cannot open {} ({}): {error}", target.name, path.display());
            match error {
                // What is not mounted may be.
                Errno::NOENT => Failure::transient("unreachable", told),
                Errno::ACCESS | Errno::PERM => Failure::permanent("not_allowed", told),
                _ => Failure::permanent("files", told),
            }
        })?;
        Ok(Self { dir, path })
    }

    /// Entries of the directory, but for what is to be deleted already.
    fn children(&self) -> Result<Vec<CString>, Failure> {
        let all = entries(self.dir.as_fd()).map_err(|error| self.failure("read", error))?;
        Ok(all.into_iter().map(|(name, _)| name).filter(|name| !is_trash(name)).collect())
    }

    fn move_aside(&self, id: u64) -> Result<(), Failure> {
        let children = self.children()?;
        if children.is_empty() {
            return Ok(());
        }
        let trash = format!("{TRASH}{id}");
        match rustix::fs::mkdirat(&self.dir, trash.as_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failure("make a directory in", error)),
        }
        let to = beneath(self.dir.as_fd(), trash.as_str())
            .map_err(|error| self.failure("open the trash of", error))?;
        for child in children {
            match rename_into(self.dir.as_fd(), &child, to.as_fd()) {
                // Its owner was quicker.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => {
                    return Err(self.failure(&format!("move {} out of", child.to_string_lossy()), error));
                }
            }
        }
        Ok(())
    }

    /// Deletes what this and earlier actions moved aside.
    async fn delete_trash(&self) -> Result<Deleted, Failure> {
        let all = entries(self.dir.as_fd()).map_err(|error| self.failure("read", error))?;
        let mut deleted = Deleted::default();
        for (name, _) in all.into_iter().filter(|(name, kind)| is_trash(name) && *kind == FileType::Directory)
        {
            self.delete(&name, &mut deleted)
                .await
                .map_err(|error| self.failure(&format!("delete {} in", name.to_string_lossy()), error))?;
        }
        Ok(deleted)
    }

    /// Deletes a directory of trash. What is deep is first made flat, so that neither the depth of a tree nor an
    /// interruption matters.
    async fn delete(&self, name: &CStr, deleted: &mut Deleted) -> Result<(), Errno> {
        let trash = beneath(self.dir.as_fd(), name)?;
        loop {
            let all = entries(trash.as_fd())?;
            if all.is_empty() {
                break;
            }
            for (name, kind) in all {
                if kind == FileType::Directory {
                    let inner = beneath(trash.as_fd(), name.as_c_str())?;
                    for (within, kind) in entries(inner.as_fd())? {
                        if kind == FileType::Directory {
                            rename_into(inner.as_fd(), &within, trash.as_fd())?;
                        } else {
                            unlink(inner.as_fd(), &within, deleted).await?;
                        }
                    }
                    rustix::fs::unlinkat(&trash, &name, AtFlags::REMOVEDIR)?;
                } else {
                    unlink(trash.as_fd(), &name, deleted).await?;
                }
            }
        }
        rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR)
    }

    fn failure(&self, what: &str, error: Errno) -> Failure {
        let told = format!("cannot {what} {}: {error}", self.path.display());
        match error {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Failure::permanent("not_allowed", told),
            Errno::XDEV | Errno::BUSY => {
                Failure::permanent("mounted", format!("{told}; something is mounted there"))
            }
            _ => Failure::transient("files", told),
        }
    }
}

fn is_trash(name: &CStr) -> bool {
    let digits = name.to_str().ok().and_then(|name| name.strip_prefix(TRASH));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Opens a directory of a directory: no link, nothing outside, nothing that is mounted.
fn beneath(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
}

/// Names and types of all entries, read before any of them is touched.
fn entries(dir: BorrowedFd<'_>) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut all = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            kind => kind,
        };
        all.push((name, kind));
    }
    Ok(all)
}

/// Moves an entry, under another name if its own is taken.
fn rename_into(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {}
        renamed => return renamed,
    }
    for number in 0..NAMES_MAX {
        match rustix::fs::renameat_with(from, name, to, format!("{number}"), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            renamed => return renamed,
        }
    }
    Err(Errno::EXIST)
}

async fn unlink(dir: BorrowedFd<'_>, name: &CStr, deleted: &mut Deleted) -> Result<(), Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    deleted.files += 1;
    if stat.st_nlink == 1 {
        deleted.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }
    if deleted.files.is_multiple_of(ENTRIES_AT_ONCE) {
        tokio::task::yield_now().await;
    }
    Ok(())
}
