//! What no signal ends is held, and its resource with it, until a person says otherwise.
//!
//! A program writes to a file system that is frozen (fsfreeze(8)). So it waits in the kernel until that is thawed, in the
//! state D of proc_pid_stat(5), and SIGKILL does nothing before.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::home::{NOOP, exec};
use crate::common::{Daemon, Home, demand_root, is_alive, spec, state, until};

/// Longest time until it is held: the grace and a keeper's patience of 5 s, three times over on a busy machine.
const HELD_WITHIN: Duration = Duration::from_secs(17);
/// Until a file system is free whose users have just ended.
const FREE_WITHIN: Duration = Duration::from_secs(10);

fn run(program: &str, words: &[&str]) {
    let output =
        Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system that can be frozen. Thawed and unmounted when dropped.
struct Disk {
    mount: PathBuf,
}

impl Disk {
    fn new(home: &Home) -> Self {
        demand_root("mount and freeze a file system");
        let (image, mount) = (home.path("image"), home.path("mount"));
        std::fs::create_dir(&mount).expect("a mount point");
        std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("an image");
        let disk = Self { mount };
        run("mkfs.ext4", &["-q", "-F", image.to_str().expect("ASCII")]);
        run("mount", &["-o", "loop", image.to_str().expect("ASCII"), disk.path()]);
        disk
    }

    fn path(&self) -> &str {
        self.mount.to_str().expect("a path of ASCII")
    }

    fn freeze(&self) {
        run("fsfreeze", &["--freeze", self.path()]);
    }

    fn thaw(&self) {
        run("fsfreeze", &["--unfreeze", self.path()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let done = |program: &str, words: &[&str]| {
            Command::new(program).args(words).output().is_ok_and(|output| output.status.success())
        };
        // Refused if it is not frozen.
        done("fsfreeze", &["--unfreeze", self.path()]);
        let end = Instant::now() + FREE_WITHIN;
        while !done("umount", &[self.path()]) {
            if Instant::now() > end {
                // It is gone with the last of its users.
                done("umount", &["--lazy", self.path()]);
                return;
            }
        }
    }
}

/// Tells its pid, and writes to the disk once that is frozen.
const STUCK: &str = "echo $$ > $HOME_DIR/pid; mv $HOME_DIR/pid $HOME_DIR/started
    until [ -e $HOME_DIR/frozen ]; do sleep 0.02; done; : > $HOME_DIR/mount/file; exec sleep 1000";

fn state_of(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').next()?.to_owned())
}

#[test]
fn what_cannot_be_killed_is_held_with_its_resource_until_a_person_says_otherwise() {
    let _alone = super::alone();
    let home = Home::new();
    let script = home.script("stuck", STUCK);
    let settings = "recovery = \"fail\"\nkill_grace = \"300ms\"";
    let home = home.with_tables(&(exec("stuck", &script, settings) + NOOP));
    // Thawed before the home ends what is left.
    let disk = Disk::new(&home);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("stuck", 1));
    let pid = home.await_lines("started", 1)[0].clone();
    disk.freeze();
    std::fs::write(home.path("frozen"), "").expect("a file");
    until("a program that hangs in the kernel", || state_of(&pid).filter(|state| state == "D"));

    let asked = Instant::now();
    daemon.commanded(id, "cancel");
    let held = daemon.in_state(id, "held");
    println!("held after {:?}: {}", asked.elapsed(), held["reason"]);
    assert!(asked.elapsed() < HELD_WITHIN, "{:?}: {held}", asked.elapsed());
    let reason = held["reason"].as_str().expect("a reason");
    assert!(reason.contains(&format!("process {pid} (stuck, state D)")), "{reason}");
    assert!(home.keepers().is_empty(), "its keeper has done what it can");

    // Whoever wants the resource waits; others do not, and neither changes with another daemon.
    let next = daemon.accepted(&spec("restart", 1));
    daemon.finished(daemon.accepted(&spec("restart", 2)));
    assert_eq!(state(&daemon.action(next)), "queued");
    let daemon = daemon.crash();
    daemon.finished(daemon.accepted(&spec("restart", 2)));
    assert_eq!((state(&daemon.action(id)), state(&daemon.action(next))), ("held", "queued"));
    assert_eq!(state_of(&pid).as_deref(), Some("D"));

    // That it has ended in the meantime changes nothing: nobody knows what it has done.
    disk.thaw();
    until("the end of the program", || (!is_alive(pid.parse().expect("a pid"))).then_some(()));
    daemon.finished(daemon.accepted(&spec("restart", 2)));
    assert_eq!((state(&daemon.action(id)), state(&daemon.action(next))), ("held", "queued"));
    let id = id.to_string();
    let cli = |words: &[&str]| {
        let output = daemon.cli(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    cli(&["unlock", &id]);
    assert_eq!(state(&daemon.finished(next)), "succeeded");
    cli(&["resolve", &id, "--failed", "--message", "the disk was frozen"]);
    let action = daemon.finished(id.parse().expect("an id"));
    assert_eq!(state(&action), "failed", "{action}");
    assert!(action["finished_message"].to_string().contains("the disk was frozen"), "{action}");
}
