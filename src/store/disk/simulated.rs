//! A disk in memory that knows what was synced, for tests of the whole `store/`.
//!
//! Contents are tracked in sectors of 512 bytes, directory entries as a list of changes since the directory was
//! last synced. [`SimulatedDisk::after_power_cut`] gives the disk as it may be found afterwards: each sector and
//! each directory change that was not synced is there or not, independently of the others. An inode has one name;
//! directories themselves are durable at once.
//!
//! Operations are counted from 1: every creation, write, sync, rename and removal (`create_zeroed` is three:
//! creation, zeros, sync). Reading is not counted. A fault can be set for the n-th of them.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fastrand::Rng;

use self::state::{Go, Inode, State, errno, lock};
use super::{Disk, DiskFile};

mod state;

pub const SECTOR: usize = 512;
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This operation fails with that errno and does nothing.
    Once(i32),
    /// This and all later ones fail with that errno.
    Forever(i32),
    /// A write leaves only its first half behind and fails with ENOSPC; another operation just fails.
    Short,
    /// The power is cut during this operation: a write in flight may persist in part. All later ones fail.
    PowerCut,
}

/// See the file's header. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    inode: u64,
}

impl SimulatedDisk {
    /// An empty disk on which the directory `dir` and its parents exist.
    pub fn with_dir(dir: &Path) -> Self {
        let disk = Self::default();
        lock(&disk.state).dirs.extend(dir.ancestors().map(Path::to_owned));
        disk
    }

    /// Sets what happens at the n-th operation from the disk's beginning. Replaces an earlier fault.
    pub fn set_fault(&self, at: u64, fault: Fault) {
        lock(&self.state).fault = Some((at, fault));
    }

    pub fn clear_fault(&self) {
        lock(&self.state).fault = None;
    }

    /// From now on every read fails with EIO, or no longer.
    pub fn set_reads_fail(&self, fail: bool) {
        lock(&self.state).reads_fail = fail;
    }

    /// From now on every read of that file fails with EIO, or no longer.
    pub fn set_unreadable(&self, path: &Path, fail: bool) {
        let mut state = lock(&self.state);
        let inode = *state.names.get(path).expect("the file exists");
        if fail {
            state.unreadable.insert(inode)
        } else {
            state.unreadable.remove(&inode)
        };
    }

    /// From now on creating a file fails with ENOSPC, or no longer; what exists can be written.
    pub fn set_full(&self, full: bool) {
        lock(&self.state).full = full;
    }

    /// From now on syncs of files answer `Ok` and do nothing: a disk that a test must catch.
    pub fn lie_about_syncs(&self) {
        lock(&self.state).syncs_lie = true;
    }

    pub fn operations(&self) -> u64 {
        lock(&self.state).operations
    }

    pub fn power_is_cut(&self) -> bool {
        lock(&self.state).dead
    }

    /// The disk as it may be found after the power came back: a new disk without faults.
    ///
    /// The seed chooses what persisted: for one seed in four nothing that was not synced, for one all of it, for
    /// the others any subset; directory changes persist as a prefix (as a journalling file system has it) for
    /// every other seed, else as any subset.
    #[must_use]
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let mut state = lock(&self.state).clone();
        let mut rng = Rng::with_seed(seed);
        let chance = match seed % 4 {
            0 => 0.0,
            1 => 1.0,
            _ => rng.f64(),
        };
        for inode in state.inodes.values_mut() {
            let old_len = inode.durable.len();
            for sector in std::mem::take(&mut inode.dirty) {
                if rng.f64() < chance {
                    inode.persist(sector);
                }
            }
            if inode.now.len() > old_len && rng.f64() < chance {
                inode.durable.resize(inode.now.len(), 0);
            }
            inode.now.clone_from(&inode.durable);
        }
        let changes = std::mem::take(&mut state.changes);
        let prefix = rng.usize(..=changes.len());
        for (at, change) in changes.iter().enumerate() {
            let persists = match seed % 4 {
                0 => false,
                1 => true,
                2 => at < prefix,
                _ => rng.bool(),
            };
            if persists {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        let linked: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|number, _| linked.contains(number));
        state.operations = 0;
        state.fault = None;
        state.dead = false;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The same disk as another process finds it when this one died: nothing is lost. No faults.
    #[must_use]
    pub fn after_process_death(&self) -> Self {
        let mut state = lock(&self.state).clone();
        state.operations = 0;
        state.fault = None;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        state.names.get(path).and_then(|inode| state.inodes.get(inode)).map(|inode| inode.now.clone())
    }

    /// Replaces a file behind the store's back, durably; creates it if need be.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = lock(&self.state);
        let inode = state.names.get(path).copied().unwrap_or(state.next_inode + 1);
        state.next_inode = state.next_inode.max(inode);
        state.inodes.insert(inode, Inode { now: bytes.clone(), durable: bytes, dirty: BTreeSet::new() });
        state.names.insert(path.to_owned(), inode);
        state.durable_names.insert(path.to_owned(), inode);
    }

    /// Flips one bit behind the store's back.
    pub fn flip_bit(&self, path: &Path, offset: usize) {
        let mut bytes = self.contents(path).expect("the file exists");
        bytes[offset] ^= 1;
        self.put(path, bytes);
    }
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let go = state.begin()?;
        state.write(&go, self.inode, usize::try_from(offset).expect("fits"), bytes)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let state = lock(&self.state);
        if state.dead || state.reads_fail || state.unreadable.contains(&self.inode) {
            return Err(errno(EIO));
        }
        let start = usize::try_from(offset).expect("fits");
        let file = state.inodes.get(&self.inode).ok_or_else(|| errno(EIO))?;
        let found = file.now.get(start..start + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let state = lock(&self.state);
        Ok(state.inodes.get(&self.inode).ok_or_else(|| errno(EIO))?.now.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let go = state.begin()?;
        state.sync(&go, self.inode)
    }
}

impl SimulatedDisk {
    fn file(&self, inode: u64) -> Box<dyn DiskFile> {
        Box::new(SimulatedFile { state: Arc::clone(&self.state), inode })
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = lock(&self.state);
        if state.dead {
            return Err(errno(EIO));
        }
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(inode))
    }

    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = lock(&self.state);
        let inode = state.create(path)?;
        let zeros = vec![0; usize::try_from(bytes).expect("fits")];
        let go = state.begin();
        let mut result = go.and_then(|go| state.write(&go, inode, 0, &zeros));
        if result.is_ok() {
            result = state.begin().and_then(|go| state.sync(&go, inode));
        }
        if let Err(error) = result {
            if !state.dead {
                let _ = state.change(&Go::On, Some(path), None, inode);
            }
            return Err(error);
        }
        Ok(self.file(inode))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = lock(&self.state).create(path)?;
        Ok(self.file(inode))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let go = state.begin()?;
        if go != Go::On {
            return Err(errno(EIO));
        }
        state.dirs.insert(path.to_owned());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        let go = state.begin()?;
        state.change(&go, Some(from), Some(to), inode)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let go = state.begin()?;
        state.change(&go, Some(path), None, inode)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let go = state.begin()?;
        if let Go::Half(code, _) = go {
            return Err(errno(code));
        }
        let (durable, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.changes).into_iter().partition(|change| change.is_in(dir));
        for change in durable {
            change.apply(&mut state.durable_names);
        }
        state.changes = rest;
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = lock(&self.state);
        if state.dead {
            return Err(errno(EIO));
        }
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_and_names_that_were_not_synced_persist_in_any_combination() {
        let dir = Path::new("/d");
        let disk = SimulatedDisk::with_dir(dir);
        let file = disk.create(&dir.join("kept")).unwrap();
        file.write_at(0, &[1; 3 * SECTOR]).unwrap();
        file.sync().unwrap();
        disk.sync_dir(dir).unwrap();
        file.write_at(0, &[2; 3 * SECTOR]).unwrap();
        disk.rename(&dir.join("kept"), &dir.join("moved")).unwrap();
        let mut found = BTreeSet::new();
        for seed in 0..400 {
            let after = disk.after_power_cut(seed);
            let names = after.list(dir).unwrap();
            assert_eq!(names.len(), 1, "a file keeps one name: {names:?}");
            let bytes = after.contents(&dir.join(&names[0])).unwrap();
            assert_eq!(bytes.len(), 3 * SECTOR);
            let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            found.insert((names[0].clone(), sectors));
        }
        assert_eq!(found.len(), 2 * 8, "{found:?}");
        assert_eq!(disk.after_power_cut(0).list(dir).unwrap(), ["kept"]);
    }

    #[test]
    fn faults_come_at_their_operation_and_power_stays_cut() {
        let dir = Path::new("/d");
        let disk = SimulatedDisk::with_dir(dir);
        let file = disk.create(&dir.join("f")).unwrap();
        disk.set_fault(2, Fault::Short);
        assert_eq!(file.write_at(0, &[1; 100]).unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(file.len().unwrap(), 50);
        disk.set_fault(4, Fault::PowerCut);
        file.write_at(0, &[2; 100]).unwrap();
        assert!(file.sync().is_err() && file.sync().is_err() && disk.open(&dir.join("f")).is_err());
        assert!(disk.power_is_cut() && disk.operations() == 4);
        assert!(disk.after_power_cut(0).list(dir).unwrap().is_empty());
    }
}
