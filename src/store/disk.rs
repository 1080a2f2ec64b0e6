//! The few file operations that journal and snapshot rest on, so that a test can put a disk under them that
//! forgets what was not synced (`simulated`).
//!
//! Guarantees of [`RealDisk`]: files are created with mode 0600 and close-on-exec; an `Ok` of a sync means that
//! the kernel said so, and nothing here tries a failed sync again. Called by `store/` only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
pub mod simulated;

/// Zeros are written in pieces of this size: large enough to be few calls, small enough to stay in the cache.
const ZEROS: &[u8] = &[0; 256 * 1024];

/// Whoever writes much syncs it in pieces of this size, or a commit of the journal, which shares the disk, would have to
/// wait until all of it is written.
pub const SYNC_BYTES: u64 = 512 << 10;

/// One open file of a [`Disk`].
#[expect(clippy::len_without_is_empty, reason = "a length in bytes on a disk, not a collection")]
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads exactly `bytes.len()` bytes at `offset`.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// `fdatasync(2)`.
    fn sync(&self) -> io::Result<()>;
}

/// A file system as the store needs it. Paths are absolute.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Creates a file that must not exist, `bytes` long, zeroed on disk (written, not merely allocated), mode 0600, synced.
    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>>;
    /// Creates an empty file that must not exist; it grows as it is written.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The directory exists afterwards, with mode 0700 if it was created; its parents must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// File names in `dir`, sorted. Names that are not UTF-8 are none of ours and left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
}

/// The file system of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn fill_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        let piece = ZEROS.get(..left).unwrap_or(ZEROS);
        file.write_all_at(piece, offset)?;
        offset += piece.len() as u64;
        if offset.is_multiple_of(SYNC_BYTES) {
            file.sync_data()?;
        }
    }
    // The length is metadata that later fdatasyncs of overwritten blocks need not bring along.
    file.sync_all()
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = create_new(path)?;
        if let Err(error) = fill_with_zeros(&file, bytes) {
            // Half a file would hold the room that a full disk lacks. If it stays, the next start removes it.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Box::new(RealFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(create_new(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn created_files_are_zeroed_private_and_listed_in_order() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("store");
        RealDisk.create_dir(&dir).unwrap();
        RealDisk.create_dir(&dir).unwrap();
        let file = RealDisk.create_zeroed(&dir.join("b"), 300 * 1024 + 7).unwrap();
        assert_eq!(file.len().unwrap(), 300 * 1024 + 7);
        file.write_at(4096, b"text").unwrap();
        file.sync().unwrap();
        let mut bytes = [1; 6];
        RealDisk.open(&dir.join("b")).unwrap().read_at(4095, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0text\0");
        RealDisk.create(&dir.join("a")).unwrap();
        assert_eq!(RealDisk.list(&dir).unwrap(), ["a", "b"]);
        let mode = fs::metadata(dir.join("b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            RealDisk.create(&dir.join("a")).err().map(|error| error.kind()),
            Some(io::ErrorKind::AlreadyExists)
        );
        RealDisk.rename(&dir.join("a"), &dir.join("c")).unwrap();
        RealDisk.remove(&dir.join("b")).unwrap();
        RealDisk.sync_dir(&dir).unwrap();
        assert_eq!(RealDisk.list(&dir).unwrap(), ["c"]);
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let file = RealDisk.create_zeroed(&home.path().join("f"), 10).unwrap();
        assert!(file.read_at(8, &mut [0; 4]).is_err());
    }
}
