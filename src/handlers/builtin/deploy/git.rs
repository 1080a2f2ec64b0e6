//! The application's own repository: a cache of what was fetched, and no more than that. Whatever is wrong with it, it is made
//! anew; releases do not depend on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::app::App;
use super::disk;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child::{self, Ended, command};

/// Nothing of the user's or the system's git configuration, no question, and only these ways to a repository.
const ENV: &[(&str, &str)] = &[
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_CONFIG_SYSTEM", "/dev/null"),
    ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"),
    ("GIT_ALLOW_PROTOCOL", "https:ssh:file"),
];

/// What it has survives a loss of power, is looked at before it is believed, and is written by nobody but us: no process
/// that tidies up goes on behind our back.
const CONFIG: &[&str] = &[
    "core.fsync=all",
    "transfer.fsckObjects=true",
    "fetch.unpackLimit=1",
    "gc.auto=0",
    "maintenance.auto=false",
];

/// So many fetches, about, and it is made anew: nothing in it is ever tidied up.
const PACKS_MAX: usize = 100;

const UNREACHABLE: &str = "unreachable";

/// The commit that was deployed last: the next fetch gets only what is new.
const LAST: &str = "refs/actiond/last";

/// Whether it is a whole commit id.
pub(super) fn is_hash(word: &str) -> bool {
    word.len() == 40 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that git takes for nothing else (git-check-ref-format(1)).
///
/// # Errors
///
/// It is none, with the key.
pub(super) fn check_ref(git_ref: &str) -> Result<(), String> {
    let forbidden = |letter: char| letter.is_control() || " ~^:?*[\\".contains(letter);
    let is_lock = |part: &str| Path::new(part).extension().is_some_and(|end| end == "lock");
    let is_wrong = git_ref.is_empty()
        || git_ref.len() > 255
        || git_ref.contains(forbidden)
        || ["..", "//", "@{"].iter().any(|part| git_ref.contains(part))
        || git_ref.split('/').any(|part| part.starts_with(['.', '-', '+']) || is_lock(part))
        || git_ref.ends_with(['/', '.'])
        || git_ref.starts_with('/');
    if is_wrong {
        Err(format!("git_ref {git_ref:?} is no name of a branch, a tag or a commit"))
    } else {
        Ok(())
    }
}

/// Never `-C`: git would look for a repository further up if this one were broken.
fn git(app: &App, args: &[&str]) -> Command {
    let mut dir = std::ffi::OsString::from("--git-dir=");
    dir.push(app.repo());
    let mut git = command("git", [dir], ENV, Path::new("/"));
    git.args(CONFIG.iter().flat_map(|setting| ["-c", setting])).args(args);
    git
}

/// Of what git said the line that tells why: git goes on with advice after it.
fn told(ended: &Ended) -> String {
    // What the way to the repository said stands before it.
    const GENERIC: &str = "fatal: Could not read from remote repository.";
    let lines: Vec<&str> =
        ended.said.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()).collect();
    let is_telling = |line: &&&str| ["fatal: ", "error: "].iter().any(|word| line.starts_with(word));
    let first = lines.iter().filter(|line| **line != GENERIC).find(is_telling);
    let before_generic =
        || lines.iter().position(|line| *line == GENERIC).and_then(|at| lines.get(at.checked_sub(1)?));
    ended.told_by(first.or_else(before_generic).or(lines.last()).copied())
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
    let listed = list(app).await?;
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

/// What references the repository has.
async fn list(app: &App) -> Result<Ended, Failure> {
    let mut remote = command("git", ["ls-remote", "--quiet", "--", &app.repository], ENV, Path::new("/"));
    remote.stdout(Stdio::piped());
    child::run("cannot ask the repository", &mut remote).await
}

fn unreachable(app: &App, ended: &Ended) -> Failure {
    Failure::transient(UNREACHABLE, format!("cannot fetch from {}: {}", app.repository, told(ended)))
}

/// Has that commit in the own repository afterwards. Nobody else may work there.
///
/// A git that was killed has left locks, on which every later one would fail.
pub(super) async fn fetch(app: &App, id: u64, git_ref: &str, hash: &str) -> Result<(), Failure> {
    let repo = app.repo();
    let is_usable = repo.exists()
        && !has_lock(&repo).map_err(|error| disk("cannot look through the repository", &error))?
        && packs(&repo) <= PACKS_MAX
        && child::run("cannot look at the repository", &mut git(app, &["rev-parse", "--git-dir"]))
            .await?
            .is_success();
    if !is_usable {
        make_anew(app).await?;
    }
    match fetched(app, id, git_ref, hash).await {
        // Not the way there, but what is here.
        Err(failure) if is_usable && failure.code() == UNREACHABLE && list(app).await?.is_success() => {
            make_anew(app).await?;
            fetched(app, id, git_ref, hash).await
        }
        fetched => fetched,
    }
}

async fn fetched(app: &App, id: u64, git_ref: &str, hash: &str) -> Result<(), Failure> {
    if has(app, hash).await? {
        return Ok(());
    }
    // The one reference first, at the depth of one commit. If it has moved meanwhile, or is a commit, all of them.
    if !is_hash(git_ref) {
        fetch_refs(app, "--depth=1", &[&format!("+{git_ref}:{}", own_ref(id))]).await?;
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

/// Has an empty repository afterwards, whatever was there.
pub(super) async fn make_anew(app: &App) -> Result<(), Failure> {
    let disk = |error: io::Error| disk("cannot make the repository", &error);
    let mut gone = app.repo().into_os_string();
    gone.push(".gone");
    let gone = PathBuf::from(gone);
    if gone.exists() {
        fs::remove_dir_all(&gone).map_err(disk)?;
    }
    match fs::rename(app.repo(), &gone) {
        Ok(()) => fs::remove_dir_all(&gone).map_err(disk)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(disk(error)),
    }
    fs::create_dir_all(app.repo()).map_err(disk)?;
    let made =
        child::run("cannot make the repository", &mut git(app, &["init", "--quiet", "--bare"])).await?;
    if made.is_success() {
        return Ok(());
    }
    Err(Failure::permanent("git", format!("cannot make the repository: {}", told(&made))))
}

/// Whether a file of git's with the name of a lock is there.
fn has_lock(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_lock = entry.path().extension().is_some_and(|end| end == "lock");
        if is_lock || (entry.file_type()?.is_dir() && has_lock(&entry.path())?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn packs(repo: &Path) -> usize {
    let entries = fs::read_dir(repo.join("objects/pack")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "pack")).count()
}

fn own_ref(id: u64) -> String {
    format!("refs/actiond/deploy-{id}")
}

async fn fetch_refs(app: &App, depth: &str, refs: &[&str]) -> Result<(), Failure> {
    let mut args =
        vec!["fetch", "--no-recurse-submodules", "--prune", "--quiet", depth, "--", &app.repository];
    args.extend(refs);
    let fetched = child::run("cannot fetch", &mut git(app, &args)).await?;
    if fetched.is_success() { Ok(()) } else { Err(unreachable(app, &fetched)) }
}

async fn has(app: &App, hash: &str) -> Result<bool, Failure> {
    let commit = format!("{hash}^{{commit}}");
    let found = child::run("cannot look for the commit", &mut git(app, &["cat-file", "-e", &commit])).await?;
    Ok(found.is_success())
}

/// Drops the reference of that action; that of a commit that is deployed becomes the last one. What fails here does no harm.
pub(super) async fn forget(app: &App, id: u64, deployed: Option<&str>) {
    if !app.repo().exists() {
        return;
    }
    let update = async |args: &[&str]| drop(child::run("update-ref", &mut git(app, args)).await);
    if let Some(hash) = deployed {
        update(&["update-ref", LAST, hash]).await;
    }
    update(&["update-ref", "-d", &own_ref(id)]).await;
}

/// Writes the files of a commit into a directory.
///
/// # Errors
///
/// `git`: the repository does not have them.
pub(super) async fn unpack(app: &App, hash: &str, dir: &Path) -> Result<(), Failure> {
    let archive = git(app, &["archive", "--format=tar", hash]);
    let tar = command("tar", ["-x", "--no-same-owner", "-f", "-"], &[], dir);
    let (archived, unpacked) =
        child::piped(("cannot read the commit", archive), ("cannot unpack the release", tar)).await?;
    // A git that was ended by a signal had nobody to write to.
    if !archived.is_success() && archived.code.is_some() {
        return Err(Failure::permanent("git", format!("cannot read the commit: {}", told(&archived))));
    }
    if !unpacked.is_success() || !archived.is_success() {
        let ended = if unpacked.is_success() { &archived } else { &unpacked };
        return Err(Failure::permanent("unpack", format!("cannot unpack the release: {}", ended.told())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_branches_tags_and_commits_are_taken_and_nothing_else() {
        for good in
            ["main", "release/2026.11", "v1.2.3", "07d55a7255c06d71627ce31c23f17009e8d54aed", "feature/a-b_c"]
        {
            assert_eq!(check_ref(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-x",
            "a/-b",
            "a..b",
            "a b",
            "a:b",
            "x^{}",
            "a//b",
            "/a",
            "a/",
            "a.lock",
            "@{u}",
            "a\n",
            "+a",
            "--upload-pack=x",
        ] {
            assert!(check_ref(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_git_says_is_told_by_the_line_that_tells_why() {
        let advice = "\nPlease make sure you have the correct access rights\nand the repository exists.\n";
        let generic = "fatal: Could not read from remote repository.\n";
        for (said, line) in [
            (
                format!("fatal: '/x' does not appear to be a git repository\n{generic}{advice}"),
                "fatal: '/x' does not",
            ),
            (format!("git@h: Permission denied (publickey).\n{generic}{advice}"), "git@h: Permission denied"),
            (format!("{generic}{advice}"), "and the repository exists."),
            ("error: cannot lock ref 'x'\n ! [rejected] a -> b\n".to_owned(), "error: cannot lock ref"),
            ("hint: a\nfatal: b\nhint: c\n".to_owned(), "fatal: b"),
            ("something else\n".to_owned(), "something else"),
        ] {
            let ended = Ended { code: Some(128), output: String::new(), said };
            assert!(told(&ended).starts_with(&format!("exit code 128: {line}")), "{}", told(&ended));
        }
        let silent = Ended { code: None, output: String::new(), said: String::new() };
        assert_eq!(told(&silent), "ended by a signal");
    }
}
