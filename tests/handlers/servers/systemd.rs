//! A real systemd as PID 1, in a container (`tests/systemd/container`); asked from outside over its bus.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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

    pub fn write(&self, to: &str, text: &str) {
        let file = self.dir.path().join("pushed");
        std::fs::write(&file, text).expect("a file");
        self.does(&["push", &file.to_string_lossy(), to]);
    }

    /// A path of the container's as it is seen from here.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
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
