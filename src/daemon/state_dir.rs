//! The store's directory as the daemon may use it: its own, closed to the writes of others.
//!
//! Also removes what ended attempts left in it. Called at a start, before and after the store is opened.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::action::ActionId;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateDirError {
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("{} belongs to uid {owner}, the daemon runs as uid {own}; next: chown it, or set [store] dir", path.display())]
    Foreign { path: PathBuf, owner: u32, own: u32 },
    #[error("{} can be written by others (mode {mode:04o}); next: chmod 0700 it", path.display())]
    Open { path: PathBuf, mode: u32 },
}

/// The directory exists, belongs to the daemon's user and cannot be written by others.
pub(super) fn prepare(path: &Path) -> Result<(), StateDirError> {
    let create = |source| StateDirError::Create { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(create)?;
    let found = fs::metadata(path).map_err(create)?;
    if !found.is_dir() {
        return Err(StateDirError::NotADirectory(path.to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        return Err(StateDirError::Foreign { path: path.to_owned(), owner: found.uid(), own });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StateDirError::Open { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Removes the files of attempts that are over. Those of `claimed` actions stay: what they say may be needed
/// after the next crash too.
pub(super) fn remove_stale_attempts(attempts_dir: &Path, claimed: &HashSet<ActionId>) {
    remove_others(attempts_dir, claimed);
}

/// The directories that keepers write exist, and the one of their sockets holds none of keepers that are gone.
///
/// Everybody may pass through that one, whatever the umask: who may say what to a keeper depends on who he is.
pub(super) fn prepare_for_keepers(
    written: &[PathBuf],
    keepers_dir: &Path,
    adoptable: &HashSet<ActionId>,
) -> Result<(), StateDirError> {
    for path in written {
        let create = |source| StateDirError::Create { path: path.clone(), source };
        let mode = if path == keepers_dir { 0o711 } else { 0o700 };
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(create)?;
        if path == keepers_dir {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(create)?;
        }
    }
    remove_others(keepers_dir, adoptable);
    Ok(())
}

/// Removes what does not belong to those actions.
fn remove_others(dir: &Path, kept: &HashSet<ActionId>) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(path = %dir.display(), %error, "cannot look for stale attempts");
            return;
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if leading_id(&name.to_string_lossy()).is_some_and(|id| kept.contains(&id)) {
            continue;
        }
        let path = entry.path();
        // A symbolic link is removed itself, never followed.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a stale attempt left");
        }
    }
}

/// The action with whose number the name begins.
fn leading_id(name: &str) -> Option<ActionId> {
    let end = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
    name.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directory_is_created_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        prepare(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        prepare(&dir).unwrap();
    }

    #[test]
    fn directory_that_others_can_write_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(prepare(home.path()), Err(StateDirError::Open { mode: 0o777, .. })));
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(prepare(home.path()), Err(StateDirError::Open { mode: 0o770, .. })));
    }

    #[test]
    fn stale_attempts_go_and_those_that_are_claimed_stay() {
        let home = tempfile::tempdir().unwrap();
        for name in ["7-1", "70-1", "8"] {
            fs::create_dir(home.path().join(name)).unwrap();
            fs::write(home.path().join(name).join("owner"), "").unwrap();
        }
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), home.path().join("9-1")).unwrap();
        let claimed = HashSet::from([ActionId(7)]);
        remove_stale_attempts(home.path(), &claimed);
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["7-1"]);
        assert!(outside.path().exists());
        remove_stale_attempts(&home.path().join("none"), &claimed);
    }
}
