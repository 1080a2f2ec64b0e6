//! Passwords of users that are made: where they come from, and where they stand.
//!
//! A password is in one file that only this user can read, and in this process; never in an action, a log or an answer.
//! What reaches the server is a verifier. One that is made up is on disk before its user exists, so that no user is left
//! whose password nobody knows.

use std::fmt::{self, Debug, Formatter};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use sha1::{Digest as _, Sha1};

use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::builtin::secret_file::read as read_file;

/// Of a password that is made up, in characters.
const LENGTH: usize = 32;
const LENGTH_MIN: usize = 16;
const LENGTH_MAX: usize = 128;
/// What they are made of: six bits each but for two, which are drawn again.
const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `password_generate`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Generate {
    /// Its letters and digits, 16 to 128.
    length: usize,
}

impl Generate {
    /// # Errors
    ///
    /// What is wrong, with the key.
    pub(super) fn check(self) -> Result<(), String> {
        if (LENGTH_MIN..=LENGTH_MAX).contains(&self.length) {
            return Ok(());
        }
        Err(format!("password_generate: length must be {LENGTH_MIN} to {LENGTH_MAX}"))
    }
}

/// A password.
pub(super) struct Secret(String);

impl Debug for Secret {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl Secret {
    fn new(text: String) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("it is no password of one line".to_owned());
        }
        Ok(Self(text))
    }

    /// What PostgreSQL keeps of it, with a salt of its own (RFC 5803).
    pub(super) fn scram_sha_256(&self) -> String {
        postgres_protocol::password::scram_sha_256(self.0.as_bytes())
    }

    /// What MariaDB keeps of it (`mysql_native_password`): of the same password always the same.
    pub(super) fn native(&self) -> String {
        let twice = Sha1::digest(Sha1::digest(self.0.as_bytes()));
        twice.iter().fold("*".to_owned(), |text, byte| text + &format!("{byte:02X}"))
    }

    /// Keeps it out of all that is written of the action.
    ///
    /// # Errors
    ///
    /// It cannot be kept out.
    pub(super) fn redact(&self, run: &Run) -> Result<(), Failure> {
        run.redact(&self.0)
    }
}

/// The file of the password that an action makes up: `DIR/ID`.
pub(super) struct SecretFile {
    dir: PathBuf,
    path: PathBuf,
}

impl SecretFile {
    pub(super) fn of(run: &Run, action: u64) -> Self {
        Self { dir: run.secrets_dir.clone(), path: run.secrets_dir.join(action.to_string()) }
    }

    /// As a result names it.
    pub(super) fn reference(&self) -> String {
        format!("file:{}", self.path.display())
    }

    /// Makes up a password; returns when it is durable.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn fill(&self, generate: Option<Generate>) -> Result<(), Failure> {
        let write = || {
            let secret = made_up(generate.map_or(LENGTH, |generate| generate.length))?;
            match DirBuilder::new().mode(0o700).create(&self.dir) {
                Ok(()) => self.dir.parent().map_or(Ok(()), synced)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            let part = self.path.with_extension("part");
            gone(fs::remove_file(&part))?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            writeln!(file, "{}", secret.0)?;
            file.sync_all()?;
            fs::rename(&part, &self.path)?;
            synced(&self.dir)
        };
        write().map_err(|error: io::Error| self.failure("keep the password in", &error))
    }

    /// The password, if there is one.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) fn read(&self) -> Result<Option<Secret>, Failure> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Secret::new(text.trim_end_matches('\n').to_owned())
                .map(Some)
                .map_err(|why| self.failure("use", &io::Error::other(why))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failure("read", &error)),
        }
    }

    /// The action that made up a password of which `is_it` says so.
    ///
    /// # Errors
    ///
    /// A password cannot be read.
    pub(super) fn made_up(run: &Run, is_it: impl Fn(&Secret) -> bool) -> Result<Option<u64>, Failure> {
        // Without the directory there is none.
        let Ok(files) = fs::read_dir(&run.secrets_dir) else { return Ok(None) };
        for file in files.flatten() {
            let Some(action) = file.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if Self::of(run, action).read()?.is_some_and(|secret| is_it(&secret)) {
                return Ok(Some(action));
            }
        }
        Ok(None)
    }

    /// Removes it; whether it was there.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub(super) fn remove(&self) -> Result<bool, Failure> {
        match fs::remove_file(&self.path) {
            Ok(()) => synced(&self.dir).map(|()| true).map_err(|error| self.failure("remove", &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failure("remove", &error)),
        }
    }

    fn failure(&self, verb: &str, error: &io::Error) -> Failure {
        Failure::permanent("secret", format!("cannot {verb} {}: {error}", self.path.display()))
    }
}

/// A password that is given: `password_ref`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given<'a> {
    /// A systemd credential of the daemon, by its name.
    Credential(&'a str),
    /// A file, by its path within the target's `password_dir`.
    File(&'a Path, &'a Path),
}

impl<'a> Given<'a> {
    /// Reads `credential:NAME` or `file:/PATH`, of those that the target allows.
    ///
    /// # Errors
    ///
    /// What is wrong, with the key.
    pub(super) fn new(
        reference: &'a str,
        credentials: &[String],
        dir: Option<&'a Path>,
    ) -> Result<Self, String> {
        if let Some(name) = reference.strip_prefix("credential:") {
            if credentials.iter().any(|allowed| allowed == name) {
                return Ok(Self::Credential(name));
            }
            return Err(format!("password_ref: the target's password_credentials have no {name:?}"));
        }
        let Some(path) = reference.strip_prefix("file:").map(Path::new) else {
            return Err("password_ref must be credential:NAME or file:/PATH".to_owned());
        };
        let below = dir.and_then(|dir| Some((dir, path.strip_prefix(dir).ok()?)));
        match below {
            Some((dir, below)) if !below.as_os_str().is_empty() => Ok(Self::File(dir, below)),
            _ => Err("password_ref: the file is not in the target's password_dir".to_owned()),
        }
    }

    /// The password. Nobody else may be able to read its file, and no link is followed to it.
    ///
    /// # Errors
    ///
    /// It cannot be read, or others could.
    pub(super) fn read(self, run: &Run) -> Result<Secret, Failure> {
        let read = || match self {
            Self::Credential(name) => {
                let dir = run
                    .credentials_dir
                    .as_deref()
                    .ok_or_else(|| io::Error::other("the daemon was started without credentials"))?;
                read_file(dir, Path::new(name), false)
            }
            Self::File(dir, below) => read_file(dir, below, true),
        };
        read().and_then(|text| Secret::new(text).map_err(io::Error::other)).map_err(|error| {
            Failure::permanent("secret", format!("cannot read what password_ref means: {error}"))
        })
    }
}

/// Letters and digits of the kernel's random numbers.
fn made_up(length: usize) -> io::Result<Secret> {
    let mut text = String::new();
    while text.len() < length {
        let mut bytes = [0; 64];
        let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let letters = bytes.get(..count).unwrap_or_default().iter();
        let letters =
            letters.filter_map(|byte| LETTERS.get(usize::from(byte & 63))).map(|byte| char::from(*byte));
        let wanted = length - text.len();
        text.extend(letters.take(wanted));
    }
    Ok(Secret(text))
}

fn synced(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_passwords_are_of_letters_and_digits_and_differ() {
        let (one, other) = (made_up(128).unwrap(), made_up(128).unwrap());
        assert_ne!(one.0, other.0);
        assert_eq!(one.0.len(), 128);
        assert!(one.0.chars().all(|letter| letter.is_ascii_alphanumeric()));
        assert_eq!(format!("{one:?}"), "***");
        assert!(one.scram_sha_256().starts_with("SCRAM-SHA-256$4096:"));
    }

    #[test]
    fn verifier_of_mariadb_is_what_its_password_function_gives() {
        let secret = Secret::new("hunter2".to_owned()).unwrap();
        assert_eq!(secret.native(), "*58815970BE77B3720276F63DB198B1FA42E5CC02");
    }

    #[test]
    fn reference_means_what_the_target_allows_and_nothing_else() {
        let credentials = ["shop".to_owned()];
        let dir = Some(Path::new("/p"));
        let new = |reference| Given::new(reference, &credentials, dir).map(drop);
        for good in ["credential:shop", "file:/p/a", "file:/p/b/a"] {
            assert_eq!(new(good), Ok(()), "{good}");
        }
        for bad in
            ["credential:other", "credential:../shop", "file:/etc/shadow", "file:/p", "file:p/a", "hunter2"]
        {
            assert!(new(bad).is_err_and(|why| why.starts_with("password_ref")), "{bad}");
        }
        assert!(Given::new("file:/p/a", &credentials, None).is_err());
    }
}
