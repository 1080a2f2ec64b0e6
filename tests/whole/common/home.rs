//! A daemon's home: a directory of its own with configuration, store, socket and the test's scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Store sizes at which segments, checkpoints and snapshots all happen within a second of load.
pub const SMALL_STORE: &str = "\
segment_bytes = \"256KiB\"
memory_bytes_max = \"1MiB\"
cache_bytes = \"8MiB\"
snapshot_after_bytes = \"1MiB\"
disk_reserve_bytes = \"1MiB\"
[limits]
body_bytes_max = \"256KiB\"
";

/// A directory that lives as long as the test.
pub struct Home {
    dir: TempDir,
    store: PathBuf,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-test.").tempdir().expect("a directory");
        let store = dir.path().join("store");
        Self { dir, store }
    }

    /// A home whose store lies elsewhere, such as on a file system that will lose its power.
    pub fn with_store(store: PathBuf) -> Self {
        let mut home = Self::new();
        home.store = store;
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    pub fn socket(&self) -> PathBuf {
        self.path("actiond.sock")
    }

    pub fn config(&self) -> PathBuf {
        self.path("actiond.toml")
    }

    /// Everything the daemon said on stderr, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("stderr")).unwrap_or_default()).into_owned()
    }

    /// Writes the configuration: `store` are further keys of `[store]`, `rest` whole tables.
    pub fn configure(self, store: &str, rest: &str) -> Self {
        self.rewrite(store, rest);
        self
    }

    /// As [`Self::configure`], for the next start.
    pub fn rewrite(&self, store: &str, rest: &str) {
        let queue =
            if rest.contains("[[queue]]") { "" } else { "[[queue]]\nname = \"default\"\nconcurrency = 8\n" };
        let text = format!(
            "[store]\ndir = \"{}\"\n{store}\n[socket]\npath = \"{}\"\n[status]\nlisten = \"127.0.0.1:0\"\n{rest}\n{queue}",
            self.store.display(),
            self.socket().display(),
        );
        fs::write(self.config(), text).expect("the configuration");
    }

    /// The configuration with nothing but these tables.
    pub fn with_tables(self, rest: &str) -> Self {
        self.configure("", rest)
    }

    /// An executable shell script; `$HOME_DIR` in it is this home, for the environment of a program is empty.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        let text = format!("#!/bin/sh\nHOME_DIR='{}'\n{body}\n", self.dir.path().display());
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        path
    }

    /// The lines of a file that scripts write as evidence; none if there is none yet.
    pub fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Kills every keeper of this home, and only them, as whoever kills all that is called actiond would.
    pub fn kill_keepers(&self) {
        until_gone("keepers", || self.keepers());
    }

    /// The pids of the keepers of this home.
    pub fn keepers(&self) -> Vec<u32> {
        let mut keepers = super::all_processes();
        keepers.retain(|pid| self.is_keeper(*pid));
        keepers
    }

    /// Kills whatever actions of this home run, as a reboot would.
    pub fn kill_programs(&self) {
        self.kill_keepers();
        let marked = || {
            let all = super::processes_of(self, std::process::id());
            all.iter().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
        };
        until_gone("programs", marked);
    }

    /// A keeper has the FIFO of its attempt open.
    fn is_keeper(&self, pid: u32) -> bool {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_keeper = words.split(|byte| *byte == 0).nth(1) == Some(b"keeper");
        let attempts = self.path("actiond.sock.keepers");
        is_keeper
            && fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|open| {
                open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(&attempts)))
            })
    }

    /// Waits until a script has left at least `count` lines, and gives them.
    pub fn await_lines(&self, name: &str, count: usize) -> Vec<String> {
        super::until(&format!("{count} lines in {name}; the daemon said:\n{}", self.log()), || {
            Some(self.lines(name)).filter(|lines| lines.len() >= count)
        })
    }
}

/// What tests start they end, whatever runs on without its daemon.
impl Drop for Home {
    fn drop(&mut self) {
        self.kill_programs();
    }
}

/// Kills what is found until nothing is.
fn until_gone(what: &str, find: impl Fn() -> Vec<u32>) {
    super::until(&format!("the end of all {what}"), || {
        let found = find();
        for pid in &found {
            let pid = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        found.is_empty().then_some(())
    });
}

/// A `[[handler]]` table for a program.
pub fn exec(action: &str, program: &Path, rest: &str) -> String {
    let program = program.display();
    format!("[[handler]]\naction = \"{action}\"\nuse = \"exec\"\nprogram = [\"{program}\"]\n{rest}\n")
}

/// A `[[handler]]` table for every action that has none: it does nothing and succeeds.
pub const NOOP: &str = "[[handler]]\naction = \"*\"\nuse = \"noop\"\nrecovery = \"rerun\"\n";
