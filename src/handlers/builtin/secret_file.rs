//! A file with a secret of one line, which nobody but its reader can read, and to which no link leads.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Of a secret; PostgreSQL's own programs take less than 1,024.
const BYTES_MAX: u64 = 512;

/// The secret, without the newline at its end. `below` is the file's path within `dir`, of which it cannot lead out.
/// `is_judged` has its owner and mode looked at.
///
/// # Errors
///
/// It cannot be read, or others could.
pub(super) fn read(dir: &Path, below: &Path, is_judged: bool) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut file = File::from(openat2(File::open(dir)?, below, flags, Mode::empty(), resolve)?);
    let about = file.metadata()?;
    if !about.is_file() || about.len() > BYTES_MAX {
        return Err(io::Error::other(format!("it is no file of at most {BYTES_MAX} bytes")));
    }
    let own = rustix::process::geteuid().as_raw();
    // systemd opens a credential to its user with an ACL, which its mode shows as the group's.
    if is_judged && (about.mode() & 0o077 != 0 || ![0, own].contains(&about.uid())) {
        return Err(io::Error::other("it must be root's or the handler's own, with the mode 0400 or 0600"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn secret_is_read_only_if_nobody_else_can_and_no_link_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "hunter2\n").unwrap();
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(read(dir.path(), Path::new("a"), true).unwrap(), "hunter2");
        mode(0o640);
        assert!(read(dir.path(), Path::new("a"), true).is_err());
        mode(0o600);
        symlink("a", dir.path().join("link")).unwrap();
        assert!(read(dir.path(), Path::new("link"), true).is_err());
        assert!(read(dir.path(), Path::new("../../../../../../etc/hostname"), true).is_err());
    }
}
