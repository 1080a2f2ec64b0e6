//! The real daemon as a child process of the test.

use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::http::{Connection, Response};
use super::{Home, PATIENCE, until};

/// The binary under test.
pub const ACTIOND: &str = env!("CARGO_BIN_EXE_actiond");

/// A running daemon. Killed when dropped.
pub struct Daemon<'a> {
    pub home: &'a Home,
    child: Child,
    notify: UnixDatagram,
}

/// How to start it, beyond the usual.
#[derive(Default)]
pub struct Start<'a> {
    /// Put before the command, such as `strace -D ...`; has to become the daemon by exec.
    pub wrapper: &'a [&'a str],
    pub environment: &'a [(&'a str, &'a str)],
}

impl<'a> Daemon<'a> {
    /// Starts the daemon and returns when it says that it is ready.
    pub fn start(home: &'a Home) -> Self {
        Self::start_as(home, &Start::default()).unwrap_or_else(|status| {
            panic!("the daemon did not start ({status}); it said:\n{}", tail(&home.log()))
        })
    }

    /// The exit status, if it ends before it is ready.
    pub fn start_as(home: &'a Home, start: &Start<'_>) -> Result<Self, ExitStatus> {
        let mut daemon = Self::launch(home, start);
        daemon.ready().map(|()| daemon)
    }

    /// Starts it without waiting.
    pub fn launch(home: &'a Home, start: &Start<'_>) -> Self {
        let socket = home.path("notify");
        let _ = std::fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).expect("the notify socket");
        notify.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let log = OpenOptions::new().create(true).append(true).open(home.path("stderr")).expect("a log");
        let mut words: Vec<&str> = start.wrapper.to_vec();
        words.extend([ACTIOND, "serve", "--config"]);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(home.config())
            .env("NOTIFY_SOCKET", &socket)
            .envs(start.environment.iter().copied())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(File::create(home.path("stdout")).expect("a file for stdout"))
            .stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
        Self { home, child, notify }
    }

    /// Waits for `READY=1`; the exit status, if the daemon ends instead.
    pub fn ready(&mut self) -> Result<(), ExitStatus> {
        self.told("READY=1")
    }

    /// Waits until the daemon tells systemd this state; the exit status, if it ends instead.
    pub fn told(&mut self, state: &str) -> Result<(), ExitStatus> {
        let since = Instant::now();
        let mut message = [0; 4_096];
        loop {
            if let Ok(length) = self.notify.recv(&mut message)
                && String::from_utf8_lossy(&message[..length]).lines().any(|line| line == state)
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().expect("the child") {
                return Err(status);
            }
            assert!(since.elapsed() < PATIENCE, "never told {state}; it said:\n{}", tail(&self.home.log()));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("a signal sent");
    }

    /// `kill -9`: nothing of the daemon's own runs after this.
    pub fn kill9(mut self) {
        self.kill_now();
    }

    fn kill_now(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and how it ended.
    pub fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// How it ended, once it has.
    pub fn ended(mut self) -> ExitStatus {
        until("the daemon's end", || self.child.try_wait().expect("the child"))
    }

    /// `kill -9` and a new start.
    pub fn crash(self) -> Self {
        let home = self.home;
        self.kill9();
        Self::start(home)
    }

    /// `kill -9` of the daemon and of its keepers, so that what ran is interrupted, and a new start.
    pub fn crash_with_keepers(self) -> Self {
        let home = self.home;
        self.kill9();
        home.kill_keepers();
        Self::start(home)
    }

    /// A connection to the socket.
    pub fn connect(&self) -> Connection {
        Connection::unix(&self.home.socket()).expect("a connection")
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let text = body.map(Value::to_string);
        self.connect().ask(method, path, text.as_deref().map(str::as_bytes)).expect("an answer")
    }

    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, None);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    pub fn submit(&self, spec: &Value) -> Response {
        self.ask("POST", "/v1/actions", Some(spec))
    }

    /// Submits what must be accepted as a new action; its id.
    pub fn accepted(&self, spec: &Value) -> u64 {
        let answer = self.submit(spec);
        assert_eq!(answer.status, 202, "{spec}: {}", answer.text());
        answer.json()["id"].as_u64().expect("an id")
    }

    pub fn action(&self, id: u64) -> Value {
        self.get(&format!("/v1/actions/{id}"))
    }

    /// The action once it is final.
    pub fn finished(&self, id: u64) -> Value {
        let since = Instant::now();
        loop {
            let action = self.get(&format!("/v1/actions/{id}?wait=10s"));
            if super::is_final(&action) {
                return action;
            }
            assert!(since.elapsed() < PATIENCE, "action {id} does not end: {action}");
        }
    }

    /// The action once it is in that state.
    pub fn in_state(&self, id: u64, state: &str) -> Value {
        let mut last = Value::Null;
        let since = Instant::now();
        loop {
            let action = self.action(id);
            if super::state(&action) == state {
                return action;
            }
            assert!(
                !super::is_final(&action) && since.elapsed() < PATIENCE,
                "action {id} does not become {state}: {action}; before: {last}"
            );
            last = action;
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// `POST /v1/actions/{id}:{verb}`.
    pub fn command(&self, id: u64, verb: &str) -> Response {
        self.ask("POST", &format!("/v1/actions/{id}:{verb}"), None)
    }

    /// A command that must be carried out.
    pub fn commanded(&self, id: u64, verb: &str) -> Value {
        let answer = self.command(id, verb);
        assert!((200..300).contains(&answer.status), "{verb} {id}: {}", answer.text());
        answer.json()
    }

    pub fn pause_queue(&self, queue: &str, paused: bool) {
        let verb = if paused { "pause" } else { "resume" };
        let answer = self.ask("POST", &format!("/v1/queues/{queue}:{verb}"), None);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Waiting and running actions, over all queues.
    pub fn unfinished(&self) -> u64 {
        let status = self.get("/v1/status");
        let queues = status["queues"].as_array().expect("queues");
        queues
            .iter()
            .map(|queue| queue["waiting"].as_u64().unwrap() + queue["running"].as_u64().unwrap())
            .sum()
    }

    /// Every action there is, oldest first.
    pub fn all_actions(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut before = String::new();
        loop {
            let mut page = self.get(&format!("/v1/actions?limit=500{before}"));
            let Value::Array(actions) = page["actions"].take() else { panic!("no list: {page}") };
            all.extend(actions);
            match page["next"].as_u64() {
                Some(next) => before = format!("&before={next}"),
                None => break,
            }
        }
        all.reverse();
        all
    }

    /// The address of the status endpoint, as the daemon tells it.
    pub fn status_address(&self) -> String {
        self.get("/v1/status")["status_address"].as_str().expect("a status address").to_owned()
    }

    /// One GET on the status endpoint.
    pub fn status_get(&self, path: &str) -> Response {
        let mut door = Connection::tcp(&self.status_address()).expect("the status endpoint");
        door.ask("GET", path, None).expect("an answer of the status endpoint")
    }

    /// Fails unless a new action is accepted and carried out.
    pub fn assert_healthy(&self, spec: &Value, after: &str) {
        let id = self.accepted(spec);
        let action = self.finished(id);
        assert_eq!(super::state(&action), "succeeded", "after {after}: {action}");
    }

    /// Runs the command line against this daemon.
    pub fn cli(&self, words: &[&str]) -> Output {
        cli(self.home, words)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.kill_now();
        if std::thread::panicking() {
            println!("the daemon said:\n{}", tail(&self.home.log()));
        }
    }
}

/// Runs the command line against whatever is, or is not, behind the home's socket.
pub fn cli(home: &Home, words: &[&str]) -> Output {
    let mut command = Command::new(ACTIOND);
    command.args(words).env("ACTIOND_SOCKET", home.socket()).env("NO_COLOR", "1").stdin(Stdio::null());
    command.output().expect("the command line")
}

/// The exit code; a signal as a shell tells it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
