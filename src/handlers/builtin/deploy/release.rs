//! Releases on disk: fetched, unpacked as a whole or not at all, switched to atomically, pruned.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::app::App;
use super::{disk, git};
use crate::handlers::builtin::Failure;

/// Keeps others out while it lives: those of another daemon, or of a target with the same directory.
///
/// # Errors
///
/// Transient, if others are in.
pub(super) fn alone(app: &App) -> Result<fs::File, Failure> {
    let told = |error: io::Error| disk("cannot open the directory of the application", &error);
    fs::create_dir_all(&app.dir).map_err(told)?;
    let dir = fs::File::open(&app.dir).map_err(told)?;
    match rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(dir),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let told = format!("another deploy is at work in {}", app.dir.display());
            Err(Failure::transient("busy", told))
        }
        Err(error) => Err(told(error.into())),
    }
}

/// Has the release of that commit whole on disk afterwards.
///
/// # Durability
///
/// A release has its name only when all of it is on disk.
pub(super) async fn unpack(app: &App, hash: &str) -> Result<(), Failure> {
    let release = app.release(hash);
    if release.exists() {
        return Ok(());
    }
    let part = app.releases().join(format!("{hash}.part"));
    let told = |error: &io::Error| disk("cannot unpack the release", error);
    if part.exists() {
        fs::remove_dir_all(&part).map_err(|error| told(&error))?;
    }
    fs::create_dir_all(&part).map_err(|error| told(&error))?;
    git::unpack(app, hash, &part).await?;
    refuse_links_out(&part, &part)?;
    for path in &app.shared {
        share(app, &part, path).map_err(|error| told(&error))?;
    }
    let settle = || -> io::Result<()> {
        rustix::fs::syncfs(fs::File::open(&part)?)?;
        fs::rename(&part, &release)?;
        fs::File::open(app.releases())?.sync_all()
    };
    settle().map_err(|error| told(&error))
}

/// A link that leads out of the release would give away, or let be written, what is not its own.
fn refuse_links_out(top: &Path, dir: &Path) -> Result<(), Failure> {
    let told = |error: io::Error| disk("cannot look through the release", &error);
    for entry in fs::read_dir(dir).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let kind = fs::symlink_metadata(&path).map_err(told)?.file_type();
        if kind.is_dir() {
            refuse_links_out(top, &path)?;
        } else if kind.is_symlink() {
            let to = fs::read_link(&path).map_err(told)?;
            let inner = path
                .parent()
                .and_then(|dir| dir.strip_prefix(top).ok())
                .map_or(0, |dir| dir.components().count());
            if !stays_within(inner, &to) {
                let link = path.strip_prefix(top).unwrap_or(&path).display().to_string();
                let told = format!("the link {link} leads out of the release, to {}", to.display());
                return Err(Failure::permanent("link", told));
            }
        }
    }
    Ok(())
}

/// Whether a link in a directory so deep within a release stays in the release.
fn stays_within(mut depth: usize, to: &Path) -> bool {
    let mut has_named = false;
    for part in to.components() {
        match part {
            Component::Normal(_) => has_named = true,
            Component::CurDir => {}
            // Only from where the link is: what has a name may be a link itself, whose parent is elsewhere.
            Component::ParentDir if depth > 0 && !has_named => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// Puts a link to what is shared into a release; what the commit has there goes.
fn share(app: &App, release: &Path, path: &str) -> io::Result<()> {
    let (link, shared) = (release.join(path), app.dir.join("shared").join(path));
    // A link of the commit, or of another shared path, would have this work elsewhere.
    let parents = Path::new(path).ancestors().skip(1).map(|parent| release.join(parent));
    if let Some(parent) = parents.into_iter().find(|parent| parent != release && parent.is_symlink()) {
        return Err(io::Error::other(format!("{} is a link, and {path} is to be shared", parent.display())));
    }
    if !shared.exists() {
        fs::create_dir_all(&shared)?;
    }
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(&link) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(&link)?,
        Ok(_) => fs::remove_file(&link)?,
        Err(_) => {}
    }
    symlink(shared, link)
}

/// Where `current` leads, as it is written there: to a release, or wherever whoever put it there wanted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Link(String);

impl Link {
    /// To the release of a commit.
    pub(super) fn to(hash: &str) -> Self {
        Self(format!("releases/{hash}"))
    }

    /// The commit of the release that it leads to, if it is one of ours.
    pub(super) fn hash(&self, app: &App) -> Option<&str> {
        let dir = Path::new(&self.0);
        let name = dir.file_name().and_then(|name| name.to_str()).filter(|name| git::is_hash(name))?;
        (app.dir.join(dir) == app.release(name)).then_some(name)
    }

    pub(super) fn dir(&self, app: &App) -> PathBuf {
        app.dir.join(&self.0)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where `current` leads, if it is there.
///
/// # Errors
///
/// It is something else than a symbolic link, and cannot be replaced by one in one step.
pub(super) fn current(app: &App) -> Result<Option<Link>, Failure> {
    let path = app.current();
    let wrong = |what: &str| Failure::permanent("current", format!("{} {what}", path.display()));
    match fs::read_link(&path) {
        Ok(to) => to.to_str().map(|to| Some(Link(to.to_owned()))).ok_or_else(|| wrong("leads to no text")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(wrong("is no symbolic link")),
        Err(error) => Err(disk("cannot read where current leads", &error)),
    }
}

/// The commit of the current release, if there is one of ours.
pub(super) fn current_hash(app: &App) -> Result<Option<String>, Failure> {
    Ok(current(app)?.and_then(|link| link.hash(app).map(str::to_owned)))
}

/// Makes `current` lead there, in one step: who looks finds the old one or the new one.
///
/// # Durability
///
/// It is on disk when this returns.
pub(super) fn switch(app: &App, id: u64, to: &Link) -> Result<(), Failure> {
    let aside = app.dir.join(format!(".current.{id}"));
    let switch = || -> io::Result<()> {
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(&to.0, &aside)?;
        fs::rename(&aside, app.current())?;
        fs::File::open(&app.dir)?.sync_all()
    };
    switch().map_err(|error| disk("cannot switch to the release", &error))
}

/// Removes the oldest releases beyond those that stay, and what was never unpacked to its end. Never these.
pub(super) fn prune(app: &App, never: &[&str]) -> Result<Vec<String>, Failure> {
    let told = |error: io::Error| disk("cannot prune old releases", &error);
    let mut releases = Vec::new();
    for entry in fs::read_dir(app.releases()).map_err(told)? {
        let entry = entry.map_err(told)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if git::is_hash(&name) {
            releases.push((entry.metadata().and_then(|found| found.modified()).map_err(told)?, name));
        } else if entry.path().extension().is_some_and(|end| end == "part") {
            fs::remove_dir_all(entry.path()).map_err(told)?;
        }
    }
    releases.sort_unstable();
    let surplus = releases.len().saturating_sub(usize::try_from(app.keep).unwrap_or(usize::MAX));
    let mut pruned = Vec::new();
    for (_, name) in releases.into_iter().filter(|(_, name)| !never.contains(&name.as_str())).take(surplus) {
        // First it is no release any more, then it goes.
        let part = app.releases().join(format!("{name}.part"));
        fs::rename(app.release(&name), &part).and_then(|()| fs::remove_dir_all(&part)).map_err(told)?;
        pruned.push(name);
    }
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_stays_within_a_release_or_is_refused() {
        for (depth, to, stays) in [
            (0, "a/b", true),
            (1, "../a", true),
            (0, "../a", false),
            (1, "../../etc", false),
            (3, "/etc/passwd", false),
            (0, "./a/b", true),
            (1, ".././b", true),
            (0, "./a/../b", false),
            (0, "s/s/s/../../../etc", false),
            (0, "a/../../b", false),
        ] {
            assert_eq!(stays_within(depth, Path::new(to)), stays, "{depth} {to}");
        }
    }
}
