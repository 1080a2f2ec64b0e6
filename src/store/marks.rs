//! The small files that say whose directory this is and how its last user left it.
//!
//! ```text
//!  lock            flock(2) while a daemon has the directory
//!  creating        a new store is being made; whatever else is there is not a store yet
//!  identity        format version and the store's random id: from then on this is a store
//!  running         boot, and mount or superblock, under which sled was last opened (`machine`)
//!  clean           sled was closed and synced; removed, durably, before it is opened
//!  storage-error   the last run ended because a read, write or sync failed
//!  table-in        which of the directories `table` and `table.2` is sled's, if one took the other's place, and
//!                  how large it was then
//! ```
//!
//! sled is trusted with `clean`, or with the same `running` as now: then only a process died, and the page
//! cache is what it was. Used by a start, by `close`, and by whoever poisons the store.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::StoreError;
use super::machine::Machine;

/// 1 had the bodies in sled, and was never released.
const IDENTITY_FORMAT: u32 = 2;
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_POLL: Duration = Duration::from_millis(5);

pub(super) fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

#[derive(Clone, Debug)]
pub(super) struct Marks {
    dir: PathBuf,
}

/// A directory that is there afterwards, mode 0700.
pub(super) fn make_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error("sync", path))
}

impl Marks {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Has the directory to ourselves as long as the file is open.
    ///
    /// Waits a moment: the lock of a daemon that was killed while it started a program lasts until that new
    /// process has closed its copies of the daemon's descriptors.
    pub fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(StoreError::Locked { dir: self.dir.clone() });
                }
                Err(error) => return Err(io_error("lock", &path)(error.into())),
            }
        }
    }

    /// The store's id, if there is a store.
    pub fn identity(&self) -> Result<Option<String>, StoreError> {
        let file = self.dir.join("identity");
        let Some(text) = self.read("identity")? else { return Ok(None) };
        let damaged = |detail: &str| StoreError::Damaged {
            file: file.clone(),
            offset: 0,
            detail: detail.to_owned(),
            next_step: "restore the file from a backup of the store",
        };
        let mut words = text.split_whitespace();
        let format = words.next().and_then(|word| word.parse::<u32>().ok());
        match (format, words.next(), words.next()) {
            (Some(found), ..) if found > IDENTITY_FORMAT => {
                Err(StoreError::FromTheFuture { file: file.clone(), found, known: IDENTITY_FORMAT })
            }
            (Some(IDENTITY_FORMAT), Some(id), None) if id.len() == 32 => Ok(Some(id.to_owned())),
            (Some(1), Some(_), None) => {
                Err(damaged("it is of format 1, from before the first release, which is not read any more"))
            }
            _ => Err(damaged("it is not a format version and an id of 32 digits")),
        }
    }

    pub fn leave_identity(&self, store_id: &str) -> Result<(), StoreError> {
        self.write("identity", &format!("{IDENTITY_FORMAT} {store_id}\n"))
    }

    pub fn is_creating(&self) -> Result<bool, StoreError> {
        Ok(self.read("creating")?.is_some())
    }

    pub fn leave_creating(&self) -> Result<(), StoreError> {
        self.write("creating", "")
    }

    pub fn remove_creating(&self) -> Result<(), StoreError> {
        self.remove("creating")
    }

    /// Why sled must not be trusted as it lies there, if so.
    pub fn distrust(&self, machine: &Machine) -> Result<Option<String>, StoreError> {
        if let Some(why) = self.read("storage-error")? {
            return Ok(Some(format!("the last run ended with a storage error: {}", why.trim())));
        }
        if self.read("clean")?.is_some() {
            return Ok(None);
        }
        let now = running_text(machine);
        Ok(match self.read("running")? {
            Some(then) if then == now => None,
            Some(_) => Some("the host stopped or the disk was unmounted without a clean stop".to_owned()),
            None => Some("nothing says how the last run ended".to_owned()),
        })
    }

    /// Durably says that sled is open: before it is opened.
    pub fn leave_running(&self, machine: &Machine) -> Result<(), StoreError> {
        let text = running_text(machine);
        // A disk without room for a mark is no reason not to start if it says so already.
        if self.read("running")?.as_ref() != Some(&text)
            && let Err(error) = self.write("running", &text)
        {
            if !matches!(&error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
            {
                return Err(error);
            }
            // Without one the next start does not trust sled: slow, and right.
            self.remove("running")?;
        }
        self.remove("clean")
    }

    pub fn leave_clean(&self) -> Result<(), StoreError> {
        self.write("clean", "")
    }

    /// The directory that sled is in, and how large it was when it was made anew.
    pub fn table_in(&self) -> Result<(&'static str, u64), StoreError> {
        let text = self.read("table-in")?.unwrap_or_default();
        let mut words = text.split_whitespace();
        let name = if words.next() == Some("table.2") { "table.2" } else { "table" };
        Ok((name, words.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0)))
    }

    pub fn leave_table_in(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        self.write("table-in", &format!("{name} {bytes}\n"))
    }

    /// Best effort: the disk may be what failed.
    pub fn leave_storage_error(&self, why: &str) {
        if let Err(error) = self.write("storage-error", why) {
            tracing::error!(%error, "cannot leave the mark of a storage error");
            // Without this mark nothing says how the run ended, and sled is not trusted either.
            let _ = self.remove("running");
        }
    }

    pub fn remove_storage_error(&self) -> Result<(), StoreError> {
        self.remove("storage-error")
    }

    fn read(&self, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Not text: no mark that we wrote, and no reason to refuse a start.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// The whole file or none of it, durable.
    fn write(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let (path, beside) = (self.dir.join(name), self.dir.join(format!("{name}.tmp")));
        let write = || {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(io_error("write", &path))?;
        sync_dir(&self.dir)
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }
}

fn running_text(machine: &Machine) -> String {
    format!("{}\n{}\n", machine.boot_id, machine.mount)
}

/// 128 random bits as hex digits, from the kernel.
pub(super) fn random_id() -> Result<String, StoreError> {
    let path = Path::new("/dev/urandom");
    let mut bits = [0u8; 16];
    File::open(path)
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut bits))
        .map_err(io_error("read", path))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sled_is_trusted_after_a_clean_stop_or_a_mere_process_death_only() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::new(dir.path().to_owned());
        let here = Machine::current(dir.path()).unwrap();
        let booted = Machine { boot_id: "another".to_owned(), ..here.clone() };
        let remounted = Machine { mount: "another".to_owned(), ..here.clone() };
        assert!(marks.distrust(&here).unwrap().is_some(), "nothing is known");
        marks.leave_running(&here).unwrap();
        assert_eq!(marks.distrust(&here).unwrap(), None);
        assert!(marks.distrust(&booted).unwrap().is_some());
        assert!(marks.distrust(&remounted).unwrap().is_some());
        marks.leave_clean().unwrap();
        assert_eq!(marks.distrust(&booted).unwrap(), None);
        marks.leave_storage_error("EIO");
        assert!(marks.distrust(&here).unwrap().is_some_and(|why| why.contains("EIO")));
        marks.remove_storage_error().unwrap();
        marks.leave_running(&here).unwrap();
        assert!(marks.distrust(&booted).unwrap().is_some(), "the clean mark is gone");
    }

    #[test]
    fn identity_is_read_back_and_a_later_format_refused() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::new(dir.path().to_owned());
        assert_eq!(marks.identity().unwrap(), None);
        let id = random_id().unwrap();
        marks.leave_identity(&id).unwrap();
        assert_eq!(marks.identity().unwrap(), Some(id));
        marks.write("identity", "3 abc\n").unwrap();
        assert!(matches!(marks.identity(), Err(StoreError::FromTheFuture { found: 3, known: 2, .. })));
        marks.write("identity", "1 0123456789abcdef0123456789abcdef\n").unwrap();
        assert!(marks.identity().unwrap_err().to_string().contains("format 1"));
        marks.write("identity", "").unwrap();
        assert!(matches!(marks.identity(), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn second_user_of_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::new(dir.path().to_owned());
        let first = marks.lock().unwrap();
        assert!(matches!(marks.lock(), Err(StoreError::Locked { .. })));
        drop(first);
        assert!(marks.lock().is_ok());
    }
}
