//! Releases on disk: fetched, unpacked as a whole or not at all, switched to atomically, pruned.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};
use std::process::Stdio;

use tokio::process::Command;

use super::app::App;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child::{self, Child, Ended, command};

/// Nothing of the user's or the system's git configuration, no question, and only these ways to a repository.
const GIT: &[(&str, &str)] = &[
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_CONFIG_SYSTEM", "/dev/null"),
    ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"),
    ("GIT_ALLOW_PROTOCOL", "https:ssh:file"),
];

/// Whether it is a whole commit id.
pub(super) fn is_hash(word: &str) -> bool {
    word.len() == 40 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn git(app: &App, args: &[&str]) -> Command {
    let mut git = command("git", ["-C".as_ref(), app.repo().as_os_str()], GIT, Path::new("/"));
    git.args(args);
    git
}

/// The commit that a reference of the repository means just now.
pub(super) async fn resolve(app: &App, git_ref: &str) -> Result<String, Failure> {
    if is_hash(git_ref) {
        return Ok(git_ref.to_owned());
    }
    let patterns = [
        format!("refs/heads/{git_ref}"),
        format!("refs/tags/{git_ref}^{{}}"),
        format!("refs/tags/{git_ref}"),
    ];
    let mut remote = command("git", ["ls-remote", "--quiet", "--", &app.repository], GIT, Path::new("/"));
    remote.stdout(Stdio::piped());
    let listed = child::run("cannot ask the repository", &mut remote).await?;
    if !listed.is_success() {
        return Err(unreachable(app, &listed));
    }
    let of = |pattern: &String| {
        let lines = listed.output.lines().filter_map(|line| line.split_once('\t'));
        lines.filter(|(_, name)| name == pattern || *name == git_ref).map(|(hash, _)| hash.to_owned()).next()
    };
    let not_found =
        || Failure::permanent("not_found", format!("{} has no branch or tag {git_ref:?}", app.repository));
    patterns.iter().find_map(of).filter(|hash| is_hash(hash)).ok_or_else(not_found)
}

fn unreachable(app: &App, ended: &Ended) -> Failure {
    Failure::transient("unreachable", format!("cannot fetch from {}: {}", app.repository, ended.told()))
}

/// Has that commit in the own repository afterwards.
pub(super) async fn fetch(app: &App, id: u64, git_ref: &str, hash: &str) -> Result<(), Failure> {
    if !app.repo().join("HEAD").exists() {
        fs::create_dir_all(app.repo()).map_err(|error| disk("cannot make the repository", &error))?;
        let made =
            child::run("cannot make the repository", &mut git(app, &["init", "--quiet", "--bare"])).await?;
        if !made.is_success() {
            return Err(Failure::permanent("git", format!("cannot make the repository: {}", made.told())));
        }
    }
    if has(app, hash).await? {
        return Ok(());
    }
    // The one reference first, at the depth of one commit. If it has moved meanwhile, or is a commit, all of them.
    if !is_hash(git_ref) {
        fetch_refs(app, "--depth=1", &[&format!("+{git_ref}:refs/actiond/deploy-{id}")]).await?;
        if has(app, hash).await? {
            return Ok(());
        }
    }
    let depth = if app.repo().join("shallow").exists() { "--unshallow" } else { "--no-tags" };
    fetch_refs(app, depth, &["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]).await?;
    if has(app, hash).await? {
        return Ok(());
    }
    Err(Failure::permanent("not_found", format!("{} has no commit {hash} any more", app.repository)))
}

async fn fetch_refs(app: &App, depth: &str, refs: &[&str]) -> Result<(), Failure> {
    let mut args = vec!["fetch", "--no-recurse-submodules", "--quiet", depth, "--", &app.repository];
    args.extend(refs);
    let fetched = child::run("cannot fetch", &mut git(app, &args)).await?;
    if fetched.is_success() { Ok(()) } else { Err(unreachable(app, &fetched)) }
}

async fn has(app: &App, hash: &str) -> Result<bool, Failure> {
    let commit = format!("{hash}^{{commit}}");
    let found = child::run("cannot look for the commit", &mut git(app, &["cat-file", "-e", &commit])).await?;
    Ok(found.is_success())
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
    let mut archive = git(app, &["archive", "--format=tar", hash]);
    archive.stdout(Stdio::piped());
    let mut archive = Child::start("cannot read the commit", &mut archive)?;
    let mut tar = command("tar", ["-x", "--no-same-owner", "-f", "-"], &[], &part);
    tar.stdin(archive.output()?);
    let tar = Child::start("cannot unpack the release", &mut tar)?;
    let (archived, unpacked) = tokio::try_join!(archive.end(), tar.end())?;
    for ended in [&archived, &unpacked] {
        if !ended.is_success() {
            return Err(Failure::permanent("unpack", format!("cannot unpack the release: {}", ended.told())));
        }
    }
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

/// The commit of the current release, if there is one.
pub(super) fn current(app: &App) -> Option<String> {
    let release = fs::read_link(app.current()).ok()?;
    release.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

/// Makes a release the current one, in one step: who looks finds the old one or the new one.
///
/// # Durability
///
/// It is on disk when this returns.
pub(super) fn switch(app: &App, id: u64, hash: &str) -> Result<(), Failure> {
    let aside = app.dir.join(format!(".current.{id}"));
    let switch = || -> io::Result<()> {
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(Path::new("releases").join(hash), &aside)?;
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
        if is_hash(&name) {
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

fn disk(what: &str, error: &io::Error) -> Failure {
    let told = format!("{what}: {error}");
    let failure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::transient("disk_full", told),
        _ => Failure::permanent("disk", told),
    };
    failure.with("errno", error.raw_os_error())
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
