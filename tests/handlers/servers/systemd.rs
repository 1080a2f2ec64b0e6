//! A real systemd as PID 1, in a container (`tests/systemd/container`); asked from outside over its bus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use super::output;
use crate::common::until;

/// The units that the tests act on: each instance writes a line at each start, its invocation ID.
const UNIT: &str = "\
[Unit]
StartLimitBurst=5
StartLimitIntervalSec=10min
[Service]
ExecStart=/bin/sh -c 'echo $INVOCATION_ID >> /run/starts.%i; exec sleep infinity'
";

/// For the names of containers: there may be several.
static MACHINES: AtomicU32 = AtomicU32::new(0);

pub struct Systemd {
    dir: TempDir,
    name: String,
    leader: String,
}

impl Systemd {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-systemd.").tempdir().expect("a directory");
        let name =
            format!("actiond-handlers-{}-{}", std::process::id(), MACHINES.fetch_add(1, Ordering::SeqCst));
        let mut systemd = Self { dir, name, leader: String::new() };
        systemd.does(&["start"]);
        systemd.leader = systemd.does(&["leader"]);
        systemd.write("/run/systemd/system/web@.service", UNIT);
        systemd.run("systemctl daemon-reload");
        systemd.bring_up();
        systemd
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/container"));
        command.args(words).env("BASE", self.dir.path().join("base")).env("NAME", &self.name);
        command
    }

    fn does(&self, words: &[&str]) -> String {
        output(&mut self.command(words))
    }

    /// Some shell inside, as root, that has to succeed; what it prints.
    pub fn run(&self, line: &str) -> String {
        self.does(&["run", "sh", "-ec", line])
    }

    /// The same, if it can be done.
    pub fn try_run(&self, line: &str) {
        let _ = self.command(&["run", "sh", "-ec", line]).output();
    }

    pub fn write(&self, to: &str, text: &str) {
        let file = self.dir.path().join("pushed");
        std::fs::write(&file, text).expect("a file");
        self.does(&["push", &file.to_string_lossy(), to]);
    }

    /// A path of the container's as it is seen from here.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// Returns when its boot is over, with the id of that.
    pub fn booted(&self) -> String {
        self.does(&["wait-reboot", ""])
    }

    /// Looks after its boots from now on.
    pub fn boots(&self) -> Boots {
        Boots::of(self.dir.path())
    }

    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --value --property {name} {unit}"))
    }

    /// Whether the kernel has its processes stand still.
    pub fn is_frozen(&self, unit: &str) -> bool {
        let events =
            self.outside(&format!("/sys/fs/cgroup/{}/cgroup.events", self.property(unit, "ControlGroup")));
        let events =
            std::fs::read_to_string(&events).unwrap_or_else(|error| panic!("{}: {error}", events.display()));
        events.contains("frozen 1")
    }

    /// The bus is away. systemd itself and its units stay.
    pub fn take_down(&self) {
        self.run("systemctl stop dbus.socket dbus.service 2>&1");
    }

    pub fn bring_up(&self) {
        self.run("systemctl reset-failed dbus.service; systemctl start dbus.socket dbus.service");
        until("systemd on its bus", || {
            let asked = ["run", "busctl", "--quiet", "status", "org.freedesktop.systemd1"];
            self.command(&asked).output().expect("busctl").status.success().then_some(())
        });
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.command(&["destroy"]).status();
    }
}

/// A container through all its boots: a link leads to the root of the present one, as it is seen from here.
pub struct Boots {
    link: PathBuf,
    count: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    watch: Option<JoinHandle<()>>,
}

impl Boots {
    fn of(dir: &Path) -> Self {
        let (link, supervisor) = (dir.join("root"), dir.join("base/supervisor.pid"));
        let (count, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let watch = {
            let (link, count, is_over) = (link.clone(), Arc::clone(&count), Arc::clone(&is_over));
            move || {
                let mut last = None;
                while !is_over.load(Ordering::SeqCst) {
                    let present = systemd_below(&supervisor);
                    if let Some(leader) = present.filter(|leader| last != Some(*leader)) {
                        last = present;
                        count.fetch_add(1, Ordering::SeqCst);
                        let new = link.with_extension("new");
                        std::os::unix::fs::symlink(format!("/proc/{leader}/root"), &new).expect("a link");
                        fs::rename(&new, &link).expect("a link");
                    }
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            }
        };
        let boots = Self { link, count, is_over, watch: Some(std::thread::spawn(watch)) };
        until("the first boot", || boots.boot_id());
        boots
    }

    /// So often it has booted while it was looked after.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// None while it is down.
    pub fn boot_id(&self) -> Option<String> {
        let id = fs::read_to_string(self.outside("/proc/sys/kernel/random/boot_id")).ok()?;
        Some(id.trim().to_owned())
    }

    /// A path of the container's as it is seen from here, in whatever boot.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.link.join(path.trim_start_matches('/'))
    }
}

impl Drop for Boots {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = self.watch.take().expect("a thread").join();
    }
}

/// The container's PID 1, once that is systemd: supervisor, systemd-nspawn, systemd.
fn systemd_below(supervisor: &Path) -> Option<u32> {
    let child = |pid: u32| -> Option<u32> {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split(' ').next()?.parse().ok()
    };
    let supervisor = fs::read_to_string(supervisor).ok()?.trim().parse().ok()?;
    let leader = child(child(supervisor)?)?;
    (fs::read_to_string(format!("/proc/{leader}/comm")).ok()? == "systemd\n").then_some(leader)
}
