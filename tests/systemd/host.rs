//! A container with systemd as PID 1 (see the script `container`), and the package in it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Held by each test; by one that does not bear others at its side, or that others do not bear, alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// A test's hold on [`MACHINE`].
enum Turn {
    Shared(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

/// One container of its own for each test; gone when dropped.
pub struct Host {
    base: tempfile::TempDir,
    name: String,
    _turn: Turn,
}

impl Host {
    pub fn start() -> Self {
        Self::boot(Turn::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// When no other test of this crate has one, nor gets one as long as this is there.
    pub fn start_alone() -> Self {
        Self::boot(Turn::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn boot(turn: Turn) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("actiond-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let host = Self { base: tempfile::tempdir().unwrap(), name, _turn: turn };
        host.container(&["start"]);
        host
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/container");
        let mut command = Command::new(script);
        command.args(arguments).env("BASE", self.base.path()).env("NAME", &self.name);
        command
    }

    /// What the script prints; it has to succeed.
    pub fn container(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the script container runs");
        assert!(output.status.success(), "{}", failure(arguments[0], &output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs some shell inside, as root, and gives what it prints; it has to succeed.
    pub fn run(&self, line: &str) -> String {
        let output = self.command(&["run", "sh", "-ec", line]).output().expect("the script container runs");
        assert!(output.status.success(), "{}{}", failure(line, &output), self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a line of shell inside until it succeeds.
    pub fn until(&self, line: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.command(&["run", "sh", "-ec", line]).output().unwrap().status.success() {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {line}\n{}", self.log());
        }
    }

    pub fn push(&self, from: &Path, to: &str) {
        self.container(&["push", &from.to_string_lossy(), to]);
    }

    pub fn write(&self, to: &str, text: &str) {
        let file = self.base.path().join("pushed");
        std::fs::write(&file, text).unwrap();
        self.push(&file, to);
    }

    /// Installs the package, or another version of it; what dpkg says.
    pub fn install(&self, package: &Path) -> String {
        self.push(package, "/var/tmp/actiond.deb");
        self.run("dpkg --install /var/tmp/actiond.deb 2>&1")
    }

    /// Reboots, and returns when it is up again.
    pub fn reboot(&self) {
        let boot = self.container(&["boot-id"]);
        self.run("systemctl reboot");
        self.container(&["wait-reboot", boot.trim()]);
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --value --property {name} {unit}")).trim().to_owned()
    }

    /// What the daemon answers on its socket.
    pub fn ask(&self, path: &str) -> Value {
        let answer = self.run(&format!("{CURL} 'http://localhost{path}'"));
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Submits an action, and gives its id.
    pub fn submit(&self, action: &str, resource_id: u64) -> u64 {
        self.submit_json(&serde_json::json!({
            "user": "a@example.com", "resource_type": "Host", "action": action, "resource_id": resource_id,
            "started_via": "curl",
        }))
    }

    /// As [`Self::submit`], of the whole of a submission.
    pub fn submit_json(&self, submission: &Value) -> u64 {
        let line = format!("{CURL} --json '{submission}' http://localhost/v1/actions");
        let answer: Value = serde_json::from_str(&self.run(&line)).unwrap();
        answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    }

    /// The action once it is final.
    pub fn finished(&self, id: u64) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let action = self.ask(&format!("/v1/actions/{id}?wait=10s"));
            if !action["finished_at"].is_null() {
                return action;
            }
            assert!(Instant::now() < end, "{action}");
        }
    }

    /// The journal of the unit, for when something went wrong.
    pub fn log(&self) -> String {
        let journal = [
            "run",
            "journalctl",
            "--no-pager",
            "--lines=60",
            "--unit=actiond.service",
            "--unit=actiond.socket",
        ];
        self.container(&journal)
    }

    /// Starts to ask the daemon every 10 ms; returns after the first answer. `poll.py` says in which ways.
    pub fn poll(&self, way: &str) -> Poll {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/poll.py");
        self.push(&script, "/var/tmp/poll.py");
        let mut command = self.command(&["run", "python3", "/var/tmp/poll.py", way]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        assert_eq!(first, "polling\n");
        Poll { child, said }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.command(&["destroy"]).status();
    }
}

const CURL: &str = "curl --silent --show-error --fail --unix-socket /run/actiond/actiond.sock";

fn failure(what: &str, output: &Output) -> String {
    let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{what}: {}\n{said}{complained}", output.status)
}

/// A client under way.
pub struct Poll {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Poll {
    /// Ends it, asserts that every request was answered, and gives their number.
    pub fn end(mut self) -> u64 {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success());
        println!("{said}");
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["errors"], serde_json::json!([]), "{report}");
        report["asked"].as_u64().unwrap()
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The package of this build, or the same as an earlier version, as `tests/systemd/packages` has built them.
pub fn package(is_earlier: bool) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_actiond")).parent().unwrap();
    let dir = target.with_file_name(if is_earlier { "packages/earlier" } else { "packages/present" });
    let mut files = std::fs::read_dir(&dir).into_iter().flatten().map(|file| file.unwrap().path());
    let found = files.find(|file| file.extension().is_some_and(|kind| kind == "deb"));
    found.unwrap_or_else(|| panic!("no package in {}; next: tests/systemd/packages", dir.display()))
}
