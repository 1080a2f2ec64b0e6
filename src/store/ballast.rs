//! Room that is kept back on the disk, so that a full one can still be worked on.
//!
//! A file of one journal segment and a little more. The journal's thread removes it when it can prepare no
//! further segment otherwise, and so does a start that finds no room to begin one: claims and outcomes then go on
//! for as many groups as a segment has, and submissions are refused meanwhile (the disk is below its reserve). It
//! is made again once the reserve is there again.
//!
//! Nothing depends on it: every failure here is logged at most. Called by a start and by the checkpoint thread.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Its name in the store's directory.
pub(super) const BALLAST: &str = "ballast";
/// For marks, a directory's blocks, what a file system takes for itself.
const HEADROOM_BYTES: u64 = 1 << 20;
const ZEROS: &[u8] = &[0; 64 << 10];

pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    /// Free bytes from which on the file is made.
    reserve_bytes: u64,
}

impl Ballast {
    pub fn new(dir: &Path, segment_bytes: u64, reserve_bytes: u64) -> Self {
        Self { path: dir.join(BALLAST), bytes: segment_bytes + HEADROOM_BYTES, reserve_bytes }
    }

    /// Makes room for a start, if it lacks that.
    pub fn make_room(&self) {
        // Whatever cannot be told is taken for room: the start itself will say so if not.
        if free_bytes(&self.path).is_some_and(|free| free < self.bytes) {
            self.give_up();
        }
    }

    /// Makes it, if it is missing and there is room.
    pub fn look(&self, free: u64) {
        if self.reserve_bytes > 0
            && free > self.reserve_bytes.saturating_add(self.bytes)
            && std::fs::metadata(&self.path).map_or(true, |half| half.len() != self.bytes)
            && let Err(error) = self.make()
        {
            tracing::warn!(%error, "cannot keep room back on the disk");
            self.give_up();
        }
    }

    fn give_up(&self) {
        match std::fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(bytes = self.bytes, "disk is full: room that was kept back is given up"),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "cannot give up the room that was kept back"),
        }
    }

    fn make(&self) -> std::io::Result<()> {
        // A crash may have left half of one.
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        let mut left = self.bytes;
        while left > 0 {
            let piece = ZEROS.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(ZEROS);
            file.write_all(piece)?;
            left -= piece.len() as u64;
        }
        // Blocks may be given out only now.
        file.sync_all()?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

/// Free bytes of the file system that has (or will have) `path`.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path.parent()?).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_back_above_the_reserve_and_given_up_by_a_start_without_room() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 64 << 10, 1_000);
        let file = dir.path().join("ballast");
        ballast.look(1_000);
        assert!(!file.exists(), "the disk is at its reserve");
        ballast.look(u64::MAX);
        assert_eq!(std::fs::metadata(&file).unwrap().len(), (64 << 10) + HEADROOM_BYTES);
        Ballast::new(dir.path(), u64::MAX - HEADROOM_BYTES, 1_000).make_room();
        assert!(!file.exists(), "a start had no room");
    }
}
