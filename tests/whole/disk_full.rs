//! A disk that others have filled to the last byte: new actions are refused, everything else goes on.
//!
//! The store lies on a tmpfs of its own. Needs root for the mount, and says so.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::common::home::NOOP;
use crate::common::{Daemon, Home, demand_root, spec, state, until, with};

const SMALL: &str = "\
segment_bytes = \"4MiB\"
memory_bytes_max = \"8MiB\"
cache_bytes = \"8MiB\"
snapshot_after_bytes = \"16MiB\"
disk_reserve_bytes = \"10MiB\"
";

/// A small file system. Unmounted when dropped.
pub struct Disk {
    pub mount: PathBuf,
}

impl Disk {
    pub fn new(home: &Home) -> Self {
        demand_root("mount a file system that it can fill");
        let mount = home.path("mount");
        std::fs::create_dir(&mount).expect("a mount point");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(&mount).output();
        let mounted = mounted.expect("mount");
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self { mount }
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }

    /// Leaves not a byte.
    pub fn fill(&self) {
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).expect("a file");
        for piece in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0xAA; piece]).is_ok() {}
        }
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the filler gone");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(&self.mount).output();
    }
}

fn is_refused(daemon: &Daemon<'_>) -> bool {
    let answer = daemon.submit(&spec("restart", 9_999));
    assert!([202, 507].contains(&answer.status), "{}", answer.text());
    answer.status == 507
}

#[test]
fn full_disk_refuses_new_actions_and_records_all_that_was_accepted() {
    let home = Home::new();
    let disk = Disk::new(&home);
    let home = Home::with_store(disk.mount.join("store")).configure(SMALL, NOOP);
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let padding = serde_json::json!({"padding": "p".repeat(500)});
    let ids: Vec<u64> =
        (0..400).map(|id| daemon.accepted(&with(spec("restart", id), "metadata", padding.clone()))).collect();
    // With a checkpoint, so that there is something to rebuild.
    assert_eq!(crate::common::daemon::code(daemon.stop()), 0);
    let daemon = Daemon::start(&home);
    let ballast = disk.mount.join("store/ballast");
    until("the ballast", || ballast.exists().then_some(()));

    disk.fill();
    until("submissions to be refused", || is_refused(&daemon).then_some(()));
    let pid = daemon.pid();
    for id in &ids[..300] {
        assert_eq!(state(&daemon.commanded(*id, "cancel")), "cancelled");
        assert!(*id % 50 != 0 || is_refused(&daemon));
    }
    daemon.pause_queue("default", false);
    for id in &ids[300..] {
        assert_eq!(state(&daemon.finished(*id)), "succeeded", "claims and outcomes go on");
    }
    assert_eq!(daemon.pid(), pid);

    daemon.kill9();
    disk.fill();
    let daemon = Daemon::start(&home);
    for (at, id) in ids.iter().enumerate() {
        let expected = if at < 300 { "cancelled" } else { "succeeded" };
        assert_eq!(state(&daemon.finished(*id)), expected, "action {id} after a start on the full disk");
    }
    until("submissions to be refused again", || is_refused(&daemon).then_some(()));
    daemon.kill9();

    // It may be gone already, if sled could not open it without room.
    let _ = std::fs::remove_dir_all(disk.mount.join("store/table"));
    disk.fill();
    let daemon = Daemon::start(&home);
    assert!(!daemon.get("/v1/status")["store"]["rebuilding"].is_null(), "there is no room to rebuild");
    assert!(daemon.all_actions().len() >= 400, "everything is read from snapshot and journal");
    assert!(is_refused(&daemon));

    disk.free();
    until("the rebuild", || daemon.get("/v1/status")["store"]["rebuilding"].is_null().then_some(()));
    until("submissions to be accepted", || (!is_refused(&daemon)).then_some(()));
    until("the ballast again", || ballast.exists().then_some(()));
    daemon.assert_healthy(&spec("restart", 1), "the disk has room again");
    assert_eq!(crate::common::daemon::code(daemon.stop()), 0);
}
