//! A memcached server; a crash empties it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::Process;
use crate::common::until;

pub struct Memcached {
    dir: TempDir,
    server: Mutex<Option<Process>>,
}

impl Memcached {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-memcached.").tempdir().expect("a directory");
        let memcached = Self { dir, server: Mutex::new(None) };
        memcached.bring_up();
        memcached
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("memcached.sock")
    }

    pub fn bring_up(&self) {
        let mut command = Command::new("memcached");
        command.args(["-u", "root", "-m", "16", "-t", "1", "-a", "0700", "-s"]).arg(self.socket());
        *self.server.lock().expect("the server") =
            Some(Process::start(&mut command, &self.dir.path().join("log")));
        until("memcached", || UnixStream::connect(self.socket()).is_ok().then_some(()));
    }

    /// As a crash.
    pub fn take_down(&self) {
        if let Some(mut server) = self.server.lock().expect("the server").take() {
            server.end(Signal::KILL);
        }
    }

    /// The lines of an answer up to one of those that end it.
    pub fn ask(&self, request: &str) -> Vec<String> {
        let mut stream = UnixStream::connect(self.socket()).expect("memcached");
        stream.write_all(format!("{request}\r\n").as_bytes()).expect("memcached");
        let mut lines = Vec::new();
        for line in BufReader::new(stream).lines() {
            let line = line.expect("memcached").trim_end().to_owned();
            let is_last = ["END", "STORED", "OK"].contains(&line.as_str());
            lines.push(line);
            if is_last {
                break;
            }
        }
        lines
    }

    pub fn stat(&self, name: &str) -> u64 {
        let prefix = format!("STAT {name} ");
        let stats = self.ask("stats");
        let value = stats.iter().find_map(|line| line.strip_prefix(&prefix)).expect("a statistic");
        value.parse().expect("a number")
    }
}
