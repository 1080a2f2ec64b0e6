//! The daemon of this project: the real binary over its real socket, as NDJSON streams and as single HTTP requests.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::closed_loop::{Heard, Link, Talk};
use crate::flood;
use crate::http::{self, Lines};
use crate::payload::{self, Payload};
use crate::process;

use super::Server;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A stream kept open, one line outstanding.
    Lines,
    /// One request at a time on a kept-open connection.
    Requests,
}

/// A daemon, running or not. Killed when dropped, its directory then removed.
pub struct Actiond {
    dir: PathBuf,
    /// Where its socket lies, with those of its keepers beside it.
    run_dir: PathBuf,
    door: Door,
    child: Option<Child>,
    /// Whether its queue is paused right after a fresh start.
    paused: bool,
    config: String,
}

impl Actiond {
    /// `noop` for all actions, 64 at a time, in one queue that is paused.
    pub fn new(dir: PathBuf, door: Door) -> Self {
        let handler = "[[handler]]\naction = \"*\"\nuse = \"noop\"\nrecovery = \"rerun\"\n";
        Self::with(dir, door, 64, handler, "")
    }

    pub fn with(dir: PathBuf, door: Door, concurrency: u64, handler: &str, more: &str) -> Self {
        let mut config = String::new();
        let run_dir = run_dir(&dir);
        write!(
            config,
            "[store]\ndir = \"{0}/store\"\n{1}\n[socket]\npath = \"{2}/sock\"\n[status]\nlisten = \"\"\n\
             [limits]\nwaiting_max = 20000000\nconnections_max = 2000\n{more}\n\
             [[queue]]\nname = \"default\"\nconcurrency = {concurrency}\nlength_max = 20000000\n{handler}",
            dir.display(),
            std::env::var("STORE").unwrap_or_default(),
            run_dir.display(),
        )
        .unwrap();
        Self { dir, run_dir, door, child: None, paused: true, config }
    }

    /// Its queue runs right after a fresh start.
    pub fn running(mut self) -> Self {
        self.paused = false;
        self
    }

    /// Whether the daemon takes its configuration.
    pub fn is_possible(&self) -> bool {
        self.place_config();
        let mut command = Command::new(program());
        command.args(["check-config", "--config"]).arg(self.dir.join("actiond.toml"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    fn place_config(&self) {
        super::empty(&self.dir);
        super::empty(&self.run_dir);
        fs::write(self.dir.join("actiond.toml"), &self.config).unwrap();
    }

    fn launch(&mut self) {
        let mut command = Command::new(program());
        command.args(["serve", "--config"]).arg(self.dir.join("actiond.toml"));
        command.env("NOTIFY_SOCKET", self.dir.join("notify"));
        let _ = fs::remove_file(self.socket());
        self.child = Some(super::spawn(&mut command, &self.dir.join("log")));
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("sock")
    }

    /// A stream for NDJSON: the request's head is sent and that of the answer received.
    pub fn open_stream(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let head = "POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        stream
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        answer
    }

    pub fn pause(&self) {
        self.ask("POST", "/v1/queues/default:pause");
    }

    pub fn resume(&self) {
        self.ask("POST", "/v1/queues/default:resume");
    }

    pub fn status(&self) -> actiond::api::wire::Status {
        let answer = self.ask("GET", "/v1/status");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Waiting and running actions.
    pub fn unfinished(&self) -> u64 {
        self.status().queues.iter().map(|queue| queue.waiting + queue.running).sum()
    }

    /// Waits until every action has ended.
    pub fn drain(&self) {
        while self.unfinished() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many ended well since this process began.
    fn succeeded(&self) -> u64 {
        let metrics = self.ask("GET", "/metrics");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("actiond_actions_finished_total{state=\"succeeded\"} "));
        line.map_or(0, |text| text.trim().parse().unwrap())
    }
}

impl Server for Actiond {
    fn name(&self) -> &'static str {
        match self.door {
            Door::Lines => "actiond NDJSON",
            Door::Requests => "actiond HTTP",
        }
    }

    fn fresh(&mut self) {
        self.kill();
        self.place_config();
        let notify = UnixDatagram::bind(self.dir.join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        self.launch();
        let mut message = [0; 4_096];
        loop {
            let length = notify.recv(&mut message).unwrap_or_else(|error| {
                panic!(
                    "never ready ({error}): {}",
                    fs::read_to_string(self.dir.join("log")).unwrap_or_default()
                )
            });
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        if self.paused {
            self.pause();
        }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running daemon").id()
    }

    fn dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn submitter(&self) -> Link {
        match self.door {
            Door::Lines => {
                let talk = LineTalk { payload: Payload::plain(), lines: Lines::default() };
                Link::new(self.open_stream(), Box::new(talk))
            }
            Door::Requests => {
                let stream = UnixStream::connect(self.socket()).unwrap();
                Link::new(stream, Box::new(RequestTalk { payload: Payload::plain() }))
            }
        }
    }

    fn rest(&mut self) {
        self.kill();
        super::empty(&self.dir);
    }

    /// Its queue is paused until this has come to rest, and runs at the next start.
    fn fill(&mut self, count: u64) {
        flood::fill(self, 2, 0, count, true);
        process::settle(self.pid(), &self.dir());
    }

    fn let_go(&mut self) {
        self.resume();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The first is known to be handed out when the first has ended: the bound is from above, by one commit.
    fn start_to_first(&mut self) -> Duration {
        let since = Instant::now();
        self.launch();
        super::patiently(|| UnixStream::connect(self.socket()).ok());
        super::patiently(|| (self.succeeded() > 0).then_some(()));
        since.elapsed()
    }
}

impl Drop for Actiond {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_dir_all(&self.run_dir);
    }
}

/// An open stream: a chunk of one line there, a line back.
struct LineTalk {
    payload: Payload,
    lines: Lines,
}

impl Talk for LineTalk {
    fn ask(&mut self, number: u64, out: &mut Vec<u8>) {
        const { assert!(payload::BYTES + 1 == 0x201) };
        out.extend_from_slice(b"201\r\n");
        out.extend_from_slice(self.payload.next(number));
        out.extend_from_slice(b"\n\r\n");
    }

    fn hear(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Heard {
        let (used, lines) = self.lines.take(bytes);
        if lines == 0 { Heard::Partly(used) } else { Heard::Whole(used) }
    }
}

struct RequestTalk {
    payload: Payload,
}

impl Talk for RequestTalk {
    fn ask(&mut self, number: u64, out: &mut Vec<u8>) {
        const { assert!(payload::BYTES == 512) };
        out.extend_from_slice(
            b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 512\r\n\r\n",
        );
        out.extend_from_slice(self.payload.next(number));
    }

    fn hear(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Heard {
        let Some(head) = http::head(bytes) else { return Heard::Partly(0) };
        assert_eq!(head.status, 202, "refused: {}", String::from_utf8_lossy(bytes));
        let whole = head.bytes + head.length.expect("an answer with its length");
        if bytes.len() < whole { Heard::Partly(0) } else { Heard::Whole(whole) }
    }
}

/// The binary of this build, or another one to compare with.
fn program() -> PathBuf {
    std::env::var_os("ACTIOND").map_or_else(|| env!("CARGO_BIN_EXE_actiond").into(), PathBuf::from)
}

/// A directory for sockets, in memory as /run is where the daemon is installed: a program under a keeper makes two files
/// there, and what a disk takes for these is no cost of it. Below the daemon's own directory on a host without one.
fn run_dir(dir: &Path) -> PathBuf {
    const TMPFS_MAGIC: i64 = 0x0102_1994; // statfs(2)
    let name = dir.strip_prefix("/").unwrap_or(dir).to_string_lossy().replace('/', "-");
    let in_memory = ["/run", "/dev/shm"]
        .map(Path::new)
        .into_iter()
        .filter(|path| rustix::fs::statfs(*path).is_ok_and(|found| found.f_type == TMPFS_MAGIC));
    let mut possible = in_memory.map(|path| path.join(&name)).filter(|path| fs::create_dir_all(path).is_ok());
    possible.next().unwrap_or_else(|| dir.join("run"))
}

/// A directory of its own for each daemon.
pub fn place(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("actiond-{name}"))
}
