//! Redis with an append-only file that is synced before each answer (`appendfsync always`), as a list and as a stream.
//!
//! List: RPUSH; BLMOVE to the worker's own list; LPOP from there. Stream: XADD; XREADGROUP; XACK and XDEL.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Server;
use crate::closed_loop::{Heard, Link, Talk};
use crate::payload::Payload;
use crate::process;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    List,
    Stream,
}

pub struct Redis {
    program: PathBuf,
    dir: PathBuf,
    kind: Kind,
    child: Option<Child>,
    workers: AtomicU64,
}

impl Redis {
    pub fn find(dir: PathBuf, kind: Kind) -> Option<Self> {
        let program = super::find("redis-server")?;
        Some(Self { program, dir, kind, child: None, workers: AtomicU64::new(0) })
    }

    fn launch(&mut self, is_synced: bool) {
        let mut command = Command::new(&self.program);
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--daemonize", "no"]);
        command.args(["--maxclients", "4000", "--maxmemory", "0"]);
        command.arg("--unixsocket").arg(self.dir.join("sock")).arg("--dir").arg(&self.dir);
        let policy = if is_synced { ["always", "100"] } else { ["no", "0"] };
        command.args(["--appendfsync", policy[0], "--auto-aof-rewrite-percentage", policy[1]]);
        self.child = Some(super::spawn(&mut command, &self.dir.join("log")));
    }

    fn fresh_with(&mut self, is_synced: bool) {
        self.kill();
        super::empty(&self.dir);
        self.launch(is_synced);
        if self.kind == Kind::Stream {
            let mut out = Vec::new();
            command(&mut out, &[b"XGROUP", b"CREATE", b"q", b"g", b"0", b"MKSTREAM"]);
            self.ask(&out, 1);
        } else {
            super::connect(&self.dir.join("sock"));
        }
    }

    /// Sends and awaits so many answers.
    fn ask(&self, out: &[u8], mut answers: usize) {
        let mut stream = super::connect(&self.dir.join("sock"));
        stream.write_all(out).unwrap();
        let (mut heard, mut piece) = (Vec::new(), vec![0; 65_536]);
        while answers > 0 {
            let length = stream.read(&mut piece).unwrap();
            assert!(length > 0, "Redis closed a connection");
            heard.extend_from_slice(&piece[..length]);
            while let Some(end) = answer(&heard, &mut Vec::new()) {
                heard.drain(..end);
                answers -= 1;
            }
        }
    }
}

impl Server for Redis {
    fn name(&self) -> &'static str {
        if self.kind == Kind::List { "Redis list" } else { "Redis stream" }
    }

    fn fresh(&mut self) {
        self.fresh_with(true);
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    fn dir(&self) -> PathBuf {
        self.dir.join("appendonlydir")
    }

    fn submitter(&self) -> Link {
        let talk = Submitter { payload: Payload::plain(), kind: self.kind };
        Link::new(super::connect(&self.dir.join("sock")), Box::new(talk))
    }

    fn worker(&self) -> Option<Link> {
        let name = format!("worker{}", self.workers.fetch_add(1, Ordering::Relaxed)).into_bytes();
        let talk = Worker { kind: self.kind, name, missing: 0 };
        Some(Link::new(super::connect(&self.dir.join("sock")), Box::new(talk)))
    }

    fn rest(&mut self) {
        self.kill();
        super::empty(&self.dir);
    }

    /// Without syncs, and pipelined; the files are the same.
    fn fill(&mut self, count: u64) {
        self.fresh_with(false);
        let mut submitter = Submitter { payload: Payload::random(), kind: self.kind };
        let mut number = 0;
        while number < count {
            let mut out = Vec::new();
            let until = count.min(number + 256);
            for at in number..until {
                submitter.ask(at, &mut out);
            }
            self.ask(&out, usize::try_from(until - number).unwrap());
            number = until;
        }
        process::settle(self.pid(), &self.dir);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            super::kill_tree(&mut child);
        }
        let _ = std::fs::remove_file(self.dir.join("sock"));
    }

    fn start_to_first(&mut self) -> Duration {
        let since = Instant::now();
        self.launch(true);
        let name = b"first".to_vec();
        let mut out = Vec::new();
        Worker { kind: self.kind, name, missing: 0 }.ask(0, &mut out);
        super::patiently(|| {
            // Until it has read its file it answers LOADING.
            let mut stream = super::connect(&self.dir.join("sock"));
            stream.write_all(&out).ok()?;
            let mut first = [0; 1];
            stream.read_exact(&mut first).ok()?;
            (first != *b"-").then_some(())
        });
        since.elapsed()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Submitter {
    payload: Payload,
    kind: Kind,
}

impl Talk for Submitter {
    fn ask(&mut self, number: u64, out: &mut Vec<u8>) {
        let payload = self.payload.next(number);
        match self.kind {
            Kind::List => command(out, &[b"RPUSH", b"ql", payload]),
            Kind::Stream => command(out, &[b"XADD", b"q", b"*", b"p", payload]),
        }
    }

    fn hear(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Heard {
        answer(bytes, &mut Vec::new()).map_or(Heard::Partly(0), Heard::Whole)
    }
}

struct Worker {
    kind: Kind,
    name: Vec<u8>,
    /// Answers to the report that the work is done.
    missing: u8,
}

impl Talk for Worker {
    fn ask(&mut self, _: u64, out: &mut Vec<u8>) {
        match self.kind {
            Kind::List => command(out, &[b"BLMOVE", b"ql", &self.name, b"LEFT", b"RIGHT", b"0"]),
            Kind::Stream => {
                let parts: [&[u8]; 11] = [
                    b"XREADGROUP",
                    b"GROUP",
                    b"g",
                    &self.name,
                    b"COUNT",
                    b"1",
                    b"BLOCK",
                    b"0",
                    b"STREAMS",
                    b"q",
                    b">",
                ];
                command(out, &parts);
            }
        }
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Heard {
        let mut leaves = Vec::new();
        let Some(used) = answer(bytes, &mut leaves) else { return Heard::Partly(0) };
        if self.missing > 0 {
            self.missing -= 1;
            if self.missing > 0 {
                return Heard::Partly(used);
            }
            return Heard::Whole(used);
        }
        match self.kind {
            Kind::List => {
                command(out, &[b"LPOP", &self.name]);
                self.missing = 1;
            }
            Kind::Stream => {
                // The stream's name, the entry's id, its fields.
                command(out, &[b"XACK", b"q", b"g", leaves[1]]);
                command(out, &[b"XDEL", b"q", leaves[1]]);
                self.missing = 2;
            }
        }
        Heard::Next(used)
    }
}

fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    write!(out, "*{}\r\n", parts.len()).unwrap();
    for part in parts {
        write!(out, "${}\r\n", part.len()).unwrap();
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// The end of the answer at the begin of `bytes`, once it is whole; its plain values go to `leaves`.
fn answer<'a>(bytes: &'a [u8], leaves: &mut Vec<&'a [u8]>) -> Option<usize> {
    let (mut at, mut missing) = (0, 1);
    while missing > 0 {
        let rest = &bytes[at..];
        let end = memchr::memchr(b'\n', rest)?;
        let text = &rest[1..end - 1];
        at += end + 1;
        missing -= 1;
        match rest[0] {
            b'+' | b':' => leaves.push(text),
            b'$' | b'*' => {
                let number: i64 = std::str::from_utf8(text).unwrap().parse().unwrap();
                let number = usize::try_from(number).unwrap_or(0);
                if rest[0] == b'*' {
                    missing += number;
                } else if text != b"-1" {
                    leaves.push(bytes.get(at..at + number)?);
                    at += number + 2;
                    if bytes.len() < at {
                        return None;
                    }
                }
            }
            _ => panic!("Redis: {}", String::from_utf8_lossy(text)),
        }
    }
    Some(at)
}
