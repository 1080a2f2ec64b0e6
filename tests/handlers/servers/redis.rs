//! A Redis server that keeps what it was told through a crash.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Process, output};
use crate::common::until;

pub struct Redis {
    dir: TempDir,
    server: Mutex<Option<Process>>,
}

impl Redis {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-redis.").tempdir().expect("a directory");
        // The rights that the example of the configuration asks for, and no more.
        let users = "user default on nopass ~* &* +@all\n\
                     user actiond on >canary-redis ~* +select +dbsize +flushdb +scan +unlink\n";
        std::fs::write(dir.path().join("users.acl"), users).expect("users.acl");
        std::fs::write(dir.path().join("password"), "canary-redis\n").expect("a password");
        let redis = Self { dir, server: Mutex::new(None) };
        redis.bring_up();
        redis
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    pub fn bring_up(&self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        command.arg("--unixsocket").arg(self.socket()).arg("--dir").arg(self.dir.path());
        command.arg("--aclfile").arg(self.dir.path().join("users.acl"));
        *self.server.lock().expect("the server") =
            Some(Process::start(&mut command, &self.dir.path().join("log")));
        until("Redis", || (self.try_ask(0, &["ping"]) == "PONG").then_some(()));
    }

    /// As a crash.
    pub fn take_down(&self) {
        if let Some(mut server) = self.server.lock().expect("the server").take() {
            server.end(Signal::KILL);
        }
    }

    pub fn ask(&self, db: u32, words: &[&str]) -> String {
        output(self.command(db).args(words))
    }

    fn try_ask(&self, db: u32, words: &[&str]) -> String {
        let output = self.command(db).args(words).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn command(&self, db: u32) -> Command {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket()).args(["-n", &db.to_string()]);
        command
    }

    /// How often a command was called since the statistics were reset.
    pub fn calls(&self, of: &str) -> u64 {
        let stats = self.ask(0, &["info", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{of}:calls=")));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
    }
}
