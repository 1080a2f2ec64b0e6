//! PostgreSQL as a queue: a table, and workers that take rows with `FOR UPDATE SKIP LOCKED`. Synchronous commit, as is
//! its default; prepared statements over the protocol of version 3.
//!
//! It refuses to run as root, so root starts it as the user `postgres` that its package makes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Server;
use crate::closed_loop::{self, Heard, Link, Plan, Talk};
use crate::payload::Payload;
use crate::process;

const TABLE: &str = "CREATE TABLE jobs(id bigserial PRIMARY KEY, state smallint NOT NULL DEFAULT 0, payload text NOT NULL, \
     created timestamptz NOT NULL DEFAULT now(), started timestamptz); \
     CREATE INDEX jobs_ready ON jobs(id) WHERE state = 0; \
     ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.01, fillfactor = 80)";
const SUBMIT: &str = "INSERT INTO jobs(payload) VALUES ($1)";
const RESERVE: &str = "UPDATE jobs SET state = 1, started = now() WHERE id = \
     (SELECT id FROM jobs WHERE state = 0 ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id, payload";
const FINISH: &str = "DELETE FROM jobs WHERE id = $1";
const CONFIG: &str = "listen_addresses = ''\nmax_connections = 1200\nshared_buffers = 1GB\nmax_wal_size = 4GB\n\
     synchronous_commit = on\nfsync = on\n";

pub struct Postgres {
    programs: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

impl Postgres {
    pub fn find(dir: PathBuf) -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let programs =
            versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("postgres").exists());
        Some(Self { programs: programs.max()?, dir, child: None })
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !rustix::process::geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(program);
        command
    }

    fn launch(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.dir.join("db")).arg("-k").arg(&self.dir);
        self.child = Some(super::spawn(&mut command, &self.dir.join("out")));
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(".s.PGSQL.5432")
    }

    fn sql(&self, text: &str) {
        let mut stream = super::patiently(|| open(&self.socket()));
        let mut out = Vec::new();
        message(&mut out, b'Q', &[text.as_bytes(), b"\0"]);
        stream.write_all(&out).unwrap();
        assert!(until_ready(&mut stream), "PostgreSQL refused: {text}");
    }

    fn link(&self, statements: &[&str], talk: Box<dyn Talk + Send>) -> Link {
        let mut stream = super::patiently(|| open(&self.socket()));
        for (name, statement) in ["a\0", "b\0"].iter().zip(statements) {
            let mut out = Vec::new();
            message(&mut out, b'P', &[name.as_bytes(), statement.as_bytes(), b"\0\0\0"]);
            message(&mut out, b'S', &[]);
            stream.write_all(&out).unwrap();
            assert!(until_ready(&mut stream), "PostgreSQL refused: {statement}");
        }
        Link::new(stream, talk)
    }
}

impl Server for Postgres {
    fn name(&self) -> &'static str {
        "PostgreSQL"
    }

    /// The cluster is made once; later it is only emptied.
    fn fresh(&mut self) {
        if self.child.is_some() {
            return;
        }
        super::empty(&self.dir);
        if rustix::process::geteuid().is_root() {
            // Each directory above is its way in; mkdir made them for all to pass.
            let owned = Command::new("chown").arg("postgres:").arg(&self.dir).status().unwrap();
            assert!(owned.success(), "no user postgres");
        }
        let mut init = self.command("initdb");
        init.arg("-D").arg(self.dir.join("db")).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "--locale=C",
            "-E",
            "UTF8",
        ]);
        assert!(
            init.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success(),
            "initdb failed"
        );
        let config = self.dir.join("db/postgresql.conf");
        std::fs::OpenOptions::new().append(true).open(config).unwrap().write_all(CONFIG.as_bytes()).unwrap();
        self.launch();
        self.sql(TABLE);
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    fn dir(&self) -> PathBuf {
        self.dir.join("db/base")
    }

    fn submitter(&self) -> Link {
        self.link(&[SUBMIT], Box::new(Submitter { payload: Payload::plain() }))
    }

    fn worker(&self) -> Option<Link> {
        Some(self.link(&[RESERVE, FINISH], Box::new(Worker { deletes: false })))
    }

    fn rest(&mut self) {
        if self.child.is_some() {
            self.sql("TRUNCATE jobs");
            self.sql("CHECKPOINT");
        }
    }

    /// Most of it in one statement before a checkpoint, the last tenth one by one: a start has a log to replay.
    fn fill(&mut self, count: u64) {
        self.fresh();
        self.rest();
        let tenth = count / 10;
        let text = "string_agg(md5(random()::text), '')";
        self.sql(&format!(
            "INSERT INTO jobs(payload) SELECT (SELECT {text} FROM generate_series(1, 16) WHERE g > 0) \
             FROM generate_series(1, {}) g",
            count - tenth
        ));
        self.sql("CHECKPOINT");
        let plan = Plan {
            warm: Duration::ZERO,
            time: Duration::from_secs(600),
            count_max: tenth,
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
        let _ = std::fs::remove_file(self.dir.join("db/postmaster.pid"));
        let _ = std::fs::remove_file(self.socket());
        let _ = std::fs::remove_file(self.dir.join(".s.PGSQL.5432.lock"));
    }

    fn start_to_first(&mut self) -> Duration {
        let since = Instant::now();
        self.launch();
        // `open` is refused as long as it recovers.
        let mut stream = super::patiently(|| open(&self.socket()));
        let mut out = Vec::new();
        message(&mut out, b'Q', &[RESERVE.as_bytes(), b"\0"]);
        stream.write_all(&out).unwrap();
        assert!(until_ready(&mut stream));
        since.elapsed()
    }
}

impl Drop for Postgres {
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
        execute(out, "a", Some(self.payload.next(number)));
    }

    fn hear(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Heard {
        ready(bytes).map_or(Heard::Partly(0), |(used, _)| Heard::Whole(used))
    }
}

struct Worker {
    /// Whether the answer that is awaited is that to the deletion.
    deletes: bool,
}

impl Talk for Worker {
    fn ask(&mut self, _: u64, out: &mut Vec<u8>) {
        self.deletes = false;
        execute(out, "a", None);
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Heard {
        let Some((used, row)) = ready(bytes) else { return Heard::Partly(0) };
        match row {
            _ if self.deletes => Heard::Whole(used),
            Some(id) => {
                execute(out, "b", Some(id));
                self.deletes = true;
                Heard::Next(used)
            }
            None => Heard::Nothing(used),
        }
    }
}

/// Startup without a password; nothing while the server does not take sessions yet.
fn open(socket: &Path) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let mut out = u32::try_from(parameters.len() + 8).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(&196_608_u32.to_be_bytes());
    out.extend_from_slice(parameters);
    stream.write_all(&out).ok()?;
    until_ready(&mut stream).then_some(stream)
}

/// Whether the server says that it is ready, and no error before.
fn until_ready(stream: &mut UnixStream) -> bool {
    let mut is_fine = true;
    loop {
        let mut head = [0; 5];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        let mut body = vec![0; length(&head) - 4];
        if stream.read_exact(&mut body).is_err() {
            return false;
        }
        match head[0] {
            b'E' => is_fine = false,
            b'Z' => return is_fine,
            _ => {}
        }
    }
}

fn length(head: &[u8]) -> usize {
    usize::try_from(u32::from_be_bytes(head[1..5].try_into().unwrap())).unwrap()
}

fn message(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&u32::try_from(length + 4).unwrap().to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Bind, execute and sync of a prepared statement, with one parameter as text or none.
fn execute(out: &mut Vec<u8>, statement: &str, parameter: Option<&[u8]>) {
    let name = [b"\0", statement.as_bytes(), b"\0"].concat();
    match parameter {
        Some(value) => {
            let length = u32::try_from(value.len()).unwrap().to_be_bytes();
            message(out, b'B', &[&name, &[0, 0, 0, 1], &length, value, &[0, 0]]);
        }
        None => message(out, b'B', &[&name, &[0, 0, 0, 0, 0, 0]]),
    }
    message(out, b'E', &[&[0, 0, 0, 0, 0]]);
    message(out, b'S', &[]);
}

/// Where the answer ends, once the server is ready again, and the first column of its row.
fn ready(bytes: &[u8]) -> Option<(usize, Option<&[u8]>)> {
    let (mut at, mut row) = (0, None);
    loop {
        let head = bytes.get(at..at + 5)?;
        let end = at + 1 + length(head);
        let body = bytes.get(at + 5..end)?;
        match head[0] {
            b'E' => panic!("PostgreSQL: {}", String::from_utf8_lossy(body)),
            b'D' => {
                let length = usize::try_from(u32::from_be_bytes(body[2..6].try_into().unwrap())).unwrap();
                row = Some(&body[6..6 + length]);
            }
            b'Z' => return Some((end, row)),
            _ => {}
        }
        at = end;
    }
}
