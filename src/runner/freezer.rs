//! Lets what was killed in a frozen cgroup of version 1 die.
//!
//! There SIGKILL waits until its target is thawed (freezer-subsystem.txt of the kernel's cgroup-v1 documentation); in
//! version 2 it does not. So the target alone is moved into the freezer cgroup of whoever kills it, which runs, and with that it is
//! thawed. What else is in its own cgroup stays frozen: that may be somebody else's.
//!
//! On a host without version 1's freezer this does nothing. Used by `tree`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Moves a process out of the freezer cgroup that it is in. Without the right to do so it stays where it is, and is
/// found alive.
pub(super) fn thaw(pid: u32) {
    static OWN: OnceLock<Option<(String, PathBuf)>> = OnceLock::new();
    let Some((own, dir)) = OWN.get_or_init(own) else { return };
    if cgroup(&pid.to_string()).is_some_and(|cgroup| cgroup != *own)
        && let Err(error) = std::fs::write(dir.join("cgroup.procs"), pid.to_string())
    {
        tracing::warn!(pid, %error, "cannot move a process out of its freezer cgroup");
    }
}

/// The freezer cgroup of this process, and where it is mounted.
fn own() -> Option<(String, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = cgroup("self")?;
    let dir = mounts.lines().find_map(|line| mounted(line, &own))?;
    Some((own, dir))
}

/// By a line of `proc_pid_cgroup(5)`, such as `6:freezer:/jobs`.
fn cgroup(process: &str) -> Option<String> {
    let lines = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    lines.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == "freezer").then(|| path.to_owned())
    })
}

/// The directory of a cgroup, if the line of `proc_pid_mountinfo(5)` is the mount of the freezer's hierarchy.
fn mounted(line: &str, cgroup: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = file_system.split(' ');
    let is_v1 = fields.next() == Some("cgroup");
    if !is_v1 || !fields.nth(1)?.split(',').any(|option| option == "freezer") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    Some(Path::new(at).join(Path::new(cgroup).strip_prefix(root).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_a_cgroup_is_found_below_its_mount() {
        let line = |root: &str| {
            format!("35 30 0:29 {root} /sys/fs/cgroup/freezer rw,nosuid shared:12 - cgroup cgroup rw,freezer")
        };
        let dir = |line: &str, cgroup: &str| mounted(line, cgroup).map(|dir| dir.display().to_string());
        assert_eq!(dir(&line("/"), "/jobs/a"), Some("/sys/fs/cgroup/freezer/jobs/a".to_owned()));
        assert_eq!(dir(&line("/jobs"), "/jobs/a"), Some("/sys/fs/cgroup/freezer/a".to_owned()));
        assert_eq!(dir(&line("/other"), "/jobs/a"), None);
        assert_eq!(dir(&line("/").replace("freezer", "cpu"), "/a"), None);
        assert_eq!(dir("29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "/a"), None);
    }
}
