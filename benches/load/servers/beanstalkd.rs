//! beanstalkd with a binlog that is synced at each write (`-f0`): put; reserve; delete.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::Server;
use crate::closed_loop::{self, Heard, Link, Plan, Talk};
use crate::payload::{self, Payload};
use crate::process;

pub struct Beanstalkd {
    program: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

impl Beanstalkd {
    pub fn find(dir: PathBuf) -> Option<Self> {
        Some(Self { program: super::find("beanstalkd")?, dir, child: None })
    }

    fn launch(&mut self, sync: &str) {
        let mut command = Command::new(&self.program);
        command.arg("-l").arg(format!("unix:{}/sock", self.dir.display()));
        command.arg("-b").arg(self.dir()).arg(sync);
        self.child = Some(super::spawn(&mut command, &self.dir.join("out")));
    }

    fn fresh_with(&mut self, sync: &str) {
        self.kill();
        super::empty(&self.dir);
        std::fs::create_dir(self.dir()).unwrap();
        self.launch(sync);
        super::connect(&self.dir.join("sock"));
    }
}

impl Server for Beanstalkd {
    fn name(&self) -> &'static str {
        "beanstalkd"
    }

    fn fresh(&mut self) {
        self.fresh_with("-f0");
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    fn dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn submitter(&self) -> Link {
        Link::new(super::connect(&self.dir.join("sock")), Box::new(Submitter { payload: Payload::plain() }))
    }

    fn worker(&self) -> Option<Link> {
        Some(Link::new(super::connect(&self.dir.join("sock")), Box::new(Worker { deletes: false })))
    }

    fn rest(&mut self) {
        self.kill();
        super::empty(&self.dir);
    }

    /// Without syncs; the files are the same.
    fn fill(&mut self, count: u64) {
        self.fresh_with("-F");
        let plan = Plan {
            warm: Duration::ZERO,
            time: Duration::from_secs(600),
            count_max: count,
            gate: None,
            pid: self.pid(),
        };
        closed_loop::run(super::submitters(self, 64), Vec::new(), &plan);
        process::settle(self.pid(), &self.dir());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            super::kill_tree(&mut child);
        }
        let _ = std::fs::remove_file(self.dir.join("sock"));
    }

    fn start_to_first(&mut self) -> Duration {
        let since = Instant::now();
        self.launch("-f0");
        let mut stream = super::connect(&self.dir.join("sock"));
        stream.write_all(b"reserve\r\n").unwrap();
        let mut first = [0; 9];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"RESERVED ");
        since.elapsed()
    }
}

impl Drop for Beanstalkd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Submitter {
    payload: Payload,
}

impl Talk for Submitter {
    fn ask(&mut self, number: u64, out: &mut Vec<u8>) {
        const { assert!(payload::BYTES == 512) };
        out.extend_from_slice(b"put 0 0 600 512\r\n");
        out.extend_from_slice(self.payload.next(number));
        out.extend_from_slice(b"\r\n");
    }

    fn hear(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Heard {
        let Some(end) = memchr::memchr(b'\n', bytes) else { return Heard::Partly(0) };
        assert!(bytes.starts_with(b"INSERTED "), "beanstalkd: {}", String::from_utf8_lossy(bytes));
        Heard::Whole(end + 1)
    }
}

struct Worker {
    /// Whether the answer that is awaited is that to `delete`.
    deletes: bool,
}

impl Talk for Worker {
    fn ask(&mut self, _: u64, out: &mut Vec<u8>) {
        self.deletes = false;
        out.extend_from_slice(b"reserve\r\n");
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Heard {
        let Some(end) = memchr::memchr(b'\n', bytes) else { return Heard::Partly(0) };
        let line = std::str::from_utf8(&bytes[..end]).unwrap().trim_end();
        if self.deletes {
            assert_eq!(line, "DELETED");
            return Heard::Whole(end + 1);
        }
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("RESERVED"), "{line}");
        let id = words.next().unwrap();
        let length: usize = words.next().unwrap().parse().unwrap();
        let whole = end + 1 + length + 2;
        if bytes.len() < whole {
            return Heard::Partly(0);
        }
        self.deletes = true;
        write!(out, "delete {id}\r\n").unwrap();
        Heard::Next(whole)
    }
}
