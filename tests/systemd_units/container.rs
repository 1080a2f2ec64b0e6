//! A host with systemd of the tests' own: `tests/systemd/container`.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use actiond::runner::units::Units;

/// One container for the tests that run at the same time; it goes with the last of them.
static CONTAINER: Mutex<Weak<Container>> = Mutex::new(Weak::new());

pub struct Container {
    base: tempfile::TempDir,
    name: String,
}

impl Container {
    /// The one for all.
    pub fn start() -> Arc<Self> {
        let mut shared = CONTAINER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(container) = shared.upgrade() {
            return container;
        }
        let container = Arc::new(Self::boot());
        *shared = Arc::downgrade(&container);
        container
    }

    /// One to do to as one likes.
    pub fn boot() -> Self {
        // The one before may be about to go.
        static BOOTS: AtomicU32 = AtomicU32::new(0);
        let nth = BOOTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("actiond-units-{}-{nth}", std::process::id());
        let container = Self { base: tempfile::tempdir().unwrap(), name };
        container.does(&["start"]);
        container.run(&["useradd", "--system", "--no-create-home", "actiond"]);
        container.run(&["systemctl", "start", "dbus", "polkit"]);
        container
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/container"));
        command.args(words).env("BASE", self.base.path()).env("NAME", &self.name);
        command
    }

    pub fn does(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?} in the container: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn run(&self, words: &[&str]) -> String {
        self.does(&[&["run"], words].concat())
    }

    pub fn restart_bus(&self) {
        // It has a limit on starts within some seconds.
        self.run(&["systemctl", "reset-failed", "dbus"]);
        self.run(&["systemctl", "restart", "dbus"]);
    }

    pub fn push(&self, from: &Path, to: &str, mode: &str) {
        let output = self.command(&["push"]).arg(from).arg(to).env("MODE", mode).output().unwrap();
        assert!(output.status.success(), "push to {to}: {}", said(&output));
    }

    pub fn units(&self) -> Units {
        let leader = self.does(&["leader"]);
        Units::at(Some(format!("unix:path=/proc/{}/root/run/dbus/system_bus_socket", leader.trim())))
    }

    /// How many processes have this word in their command line.
    pub fn processes(&self, word: &str) -> usize {
        let output = self.command(&["run", "pgrep", "--count", "--full", word]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a count")
    }

    /// Where [`Self::runs_inside`] puts this file's binary for a test.
    pub fn test_binary(test: &str) -> String {
        format!("/opt/{}", test.replace("::", "-"))
    }

    /// Runs one of the ignored tests of this file as the main process of a service in the container.
    pub fn runs_inside(&self, test: &str, properties: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("test");
        let own = std::env::current_exe().unwrap();
        let stripped = Command::new("strip").arg("-o").arg(&small).arg(own).status().unwrap();
        assert!(stripped.success());
        let there = Self::test_binary(test);
        self.push(&small, &there, "0755");
        let mut words = vec!["run", "systemd-run", "--quiet", "--wait", "--pipe", "--collect"];
        words.extend_from_slice(properties);
        words.extend([there.as_str(), "--ignored", "--exact", "--nocapture", test]);
        let output = self.command(&words).output().unwrap();
        assert!(output.status.success(), "{test} inside: {}", said(&output));
        assert!(said(&output).contains("1 passed"), "{test} inside: {}", said(&output));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.command(&["destroy"]).status();
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}
