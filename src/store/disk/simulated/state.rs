//! What a simulated disk holds: files as they read now and as they are on the medium, and how each operation
//! changes both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{EIO, ENOSPC, Fault, SECTOR};

#[derive(Clone, Default)]
pub struct Inode {
    pub now: Vec<u8>,
    pub durable: Vec<u8>,
    pub dirty: BTreeSet<usize>,
}

#[derive(Clone)]
pub struct Change {
    pub from: Option<PathBuf>,
    pub to: Option<PathBuf>,
    pub inode: u64,
}

#[derive(Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a test, independent of each other")]
pub struct State {
    pub inodes: BTreeMap<u64, Inode>,
    pub names: BTreeMap<PathBuf, u64>,
    pub durable_names: BTreeMap<PathBuf, u64>,
    pub changes: Vec<Change>,
    pub dirs: BTreeSet<PathBuf>,
    pub next_inode: u64,
    pub operations: u64,
    pub fault: Option<(u64, Fault)>,
    pub dead: bool,
    pub reads_fail: bool,
    /// Inodes of which every read fails.
    pub unreadable: BTreeSet<u64>,
    pub syncs_lie: bool,
    pub full: bool,
}

/// What an operation that met no error has to do.
#[derive(PartialEq, Eq)]
pub enum Go {
    /// As asked.
    On,
    /// In flight at a power cut or cut short: do (part of) it, then fail with this errno.
    Half(i32, bool),
}

pub fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl State {
    pub fn begin(&mut self) -> io::Result<Go> {
        if self.dead {
            return Err(errno(EIO));
        }
        self.operations += 1;
        match self.fault {
            Some((at, Fault::Once(code))) if at == self.operations => Err(errno(code)),
            Some((at, Fault::Forever(code))) if at <= self.operations => Err(errno(code)),
            Some((at, Fault::Short)) if at == self.operations => Ok(Go::Half(ENOSPC, true)),
            Some((at, Fault::PowerCut)) if at == self.operations => {
                self.dead = true;
                Ok(Go::Half(EIO, false))
            }
            _ => Ok(Go::On),
        }
    }

    /// A change of a directory; in flight at a power cut it may persist, otherwise it happens wholly or not.
    pub fn change(&mut self, go: &Go, from: Option<&Path>, to: Option<&Path>, inode: u64) -> io::Result<()> {
        if let Go::Half(code, true) = go {
            return Err(errno(*code));
        }
        if let Some(from) = from {
            self.names.remove(from);
        }
        if let Some(to) = to {
            self.names.insert(to.to_owned(), inode);
        }
        self.changes.push(Change { from: from.map(Path::to_owned), to: to.map(Path::to_owned), inode });
        match go {
            Go::Half(code, _) => Err(errno(*code)),
            Go::On => Ok(()),
        }
    }

    pub fn write(&mut self, go: &Go, inode: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let bytes = if let Go::Half(_, true) = go { &bytes[..bytes.len() / 2] } else { bytes };
        let file = self.inodes.get_mut(&inode).ok_or_else(|| errno(EIO))?;
        let end = offset + bytes.len();
        if file.now.len() < end {
            file.now.resize(end, 0);
        }
        file.now[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            file.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
        }
        match go {
            Go::Half(code, _) => Err(errno(*code)),
            Go::On => Ok(()),
        }
    }

    pub fn sync(&mut self, go: &Go, inode: u64) -> io::Result<()> {
        if let Go::Half(code, _) = go {
            return Err(errno(*code));
        }
        if !self.syncs_lie {
            let file = self.inodes.get_mut(&inode).ok_or_else(|| errno(EIO))?;
            file.durable.resize(file.now.len(), 0);
            for sector in std::mem::take(&mut file.dirty) {
                file.persist(sector);
            }
        }
        Ok(())
    }

    pub fn create(&mut self, path: &Path) -> io::Result<u64> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        if !self.dirs.contains(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let go = self.begin()?;
        if self.full {
            return Err(errno(ENOSPC));
        }
        self.next_inode += 1;
        let inode = self.next_inode;
        self.inodes.insert(inode, Inode::default());
        self.change(&go, None, Some(path), inode)?;
        Ok(inode)
    }
}

impl Inode {
    pub fn persist(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.now.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.now[start..end]);
    }
}

impl Change {
    pub fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        names.retain(|_, inode| *inode != self.inode);
        if let Some(from) = &self.from
            && self.to.is_none()
        {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.inode);
        }
    }

    pub fn is_in(&self, dir: &Path) -> bool {
        [&self.from, &self.to].into_iter().flatten().any(|path| path.parent() == Some(dir))
    }
}
