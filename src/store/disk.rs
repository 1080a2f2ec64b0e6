//! CONTRACT SKELETON: the few file operations that journal and snapshot rest on, so that a test can put a disk
//! under them that forgets what was not synced.
use std::io;
use std::path::Path;

/// One open file of a [`Disk`].
pub trait DiskFile: Send {
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
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// File names in `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
}
