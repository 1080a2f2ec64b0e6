//! Which run of which file system on which run of the host this is: while that does not change, only processes have died, and
//! the page cache is what the last of them left.
//!
//! Told by the store's directory and written into the mark `running` (`marks`). To take two for the same that are not loses
//! data; to take one for two costs a rebuild of sled. So what is compared is never given out twice:
//!
//! | | told by | changes without need |
//! | --- | --- | --- |
//! | the host | boot id, and in a container the start of its first process | |
//! | ext4, XFS | the number of its directory in sysfs, see [`superblock`] | |
//! | any other file system | the unique number of its mount (Linux 6.8; before, one that may be given again) | in each mount namespace |
//!
//! The last is so for each start of the daemon under a unit of systemd that has any protection of file systems, as ours: there
//! each SIGKILL costs a rebuild unless the store lies on ext4 or XFS. Nothing better is known of those. A device number that
//! no disk has (btrfs, overlay) is given again after an unmount, as are the mount numbers and peer groups in
//! `/proc/1/mountinfo`, the numbers in `/proc/fs`, and session counters, which begin at nothing again; what statfs(2) calls
//! the file system's id stays over a remount; and root's view of the mount, `/proc/1/root`, is root's.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, stat, statfs, statx};

use super::StoreError;
use super::marks::io_error;

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): a mount's number that is never given to another one. See statx(2).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What statfs(2) says of file systems whose superblocks have directories in sysfs, and the names of these.
const IN_SYSFS: [(u32, &str); 2] = [(0xEF53, "ext4"), (0x5846_5342, "xfs")];
/// What it says of sysfs itself.
const SYSFS: u32 = 0x6265_6572;

/// What must not have changed for the page cache to be what the last run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// The kernel's boot id; in a container with the start of its first process, for a container boots anew on a kernel that
    /// goes on. (Some have a boot id of their own mounted there, which `ProtectKernelTunables=` of systemd.exec(5) hides.)
    pub boot_id: String,
    /// Device of the store's directory, and what tells its superblock or its mount from those before.
    pub mount: String,
}

impl Machine {
    /// Of an existing directory in which a file is held open, so that what is told of it holds as long.
    pub fn current(dir: &Path) -> Result<Self, StoreError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = std::fs::read_to_string(path).map_err(io_error("read", path))?.trim().to_owned();
        let boot_id = boot_of(boot_id, std::fs::read_to_string("/proc/1/stat").ok().as_deref());
        let flags = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID | MNT_ID_UNIQUE;
        let found = statx(CWD, dir, AtFlags::empty(), flags)
            .map_err(|error| io_error("examine", dir)(error.into()))?;
        let device = format!("{}:{}", found.stx_dev_major, found.stx_dev_minor);
        let mount = match superblock(dir, &device) {
            Some(number) => format!("{device} superblock {number}"),
            None => format!("{device} mount {}", found.stx_mnt_id),
        };
        Ok(Self { boot_id, mount })
    }
}

/// The number of the directory that the file system has in sysfs, such as `/sys/fs/ext4/sda1`.
///
/// The kernel makes that directory with the superblock, at the first mount of a device, and removes it with the last: so it is
/// another one after each remount that was one, and the same one in all mount namespaces. The numbers count on from one boot
/// to the next shutdown and are 64 bits wide (Linux 5.5; 32 bits since 4.14): `__kernfs_new_node` in the kernel's fs/kernfs/dir.c.
/// None where there is no such directory, as where sysfs is not mounted.
fn superblock(dir: &Path, device: &str) -> Option<u64> {
    let magic = |path: &Path| u32::try_from(statfs(path).ok()?.f_type).ok();
    let found = magic(dir)?;
    let (_, kind) = IN_SYSFS.into_iter().find(|(known, _)| *known == found)?;
    // Both are called as the kernel calls the device.
    let target = std::fs::read_link(Path::new("/sys/dev/block").join(device)).ok()?;
    let own = Path::new("/sys/fs").join(kind).join(target.file_name()?);
    let is_sysfs = magic(&own)? == SYSFS;
    is_sysfs.then(|| stat(&own).ok().map(|stat| stat.st_ino)).flatten()
}

/// The first process of a host starts with its kernel; one that started later than this is a container's. In clock ticks, of
/// which there are 100 in a second wherever Linux tells them: time(7).
const CONTAINER_TICKS: u64 = 60 * 100;

/// The boot id, and when process 1 started if that says more. What cannot be read says nothing.
fn boot_of(boot_id: String, first_stat: Option<&str>) -> String {
    // Field 22, counted on from the end of the name, which may hold anything: proc_pid_stat(5).
    let rest = first_stat.and_then(|stat| stat.rsplit_once(')')).map(|(_, rest)| rest);
    let started = rest.and_then(|rest| rest.split_whitespace().nth(22 - 3));
    let started: Option<u64> = started.and_then(|ticks| ticks.parse().ok());
    match started {
        Some(ticks) if ticks > CONTAINER_TICKS => format!("{boot_id} {ticks}"),
        _ => boot_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_of_a_container_are_told_apart_and_a_host_has_its_boot_id() {
        let stat =
            |ticks| format!("1 (a) b (c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {ticks} 170000 3000");
        let boot = |stat: Option<&str>| boot_of("4f1c".to_owned(), stat);
        assert_eq!(boot(Some(&stat(3))), "4f1c");
        assert_eq!(boot(Some(&stat(1_377_316))), "4f1c 1377316");
        assert_eq!(boot(None), "4f1c");
        assert_eq!(boot(Some("1 (cut")), "4f1c");
    }

    #[test]
    fn device_without_a_superblock_in_sysfs_is_known_by_its_mount() {
        // A file system in memory has no device that sysfs knows.
        let shm = Machine::current(Path::new("/dev/shm")).unwrap();
        assert!(shm.mount.contains(" mount "), "{shm:?}");
        assert_eq!(superblock(Path::new("/dev/shm"), "0:1"), None);
        assert_eq!(shm, Machine::current(Path::new("/dev/shm")).unwrap());
    }
}
