//! The daemon under measurement: the real binary with room for a large backlog.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running daemon. Killed when dropped, its directory then removed.
pub struct Daemon {
    dir: PathBuf,
    child: Child,
    keeps_dir: bool,
}

impl Daemon {
    pub fn start(name: &str) -> Self {
        Self::with_handler(name, "use = \"noop\"\nrecovery = \"rerun\"\n")
    }

    /// Every action is carried out by a handler with these settings.
    pub fn with_handler(name: &str, settings: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let config = format!(
            "[store]\ndir = \"{0}/store\"\n{1}\n[socket]\npath = \"{0}/sock\"\n[status]\nlisten = \"127.0.0.1:0\"\n\
             [limits]\nwaiting_max = 5000000\n\
             [[queue]]\nname = \"default\"\nconcurrency = 64\nlength_max = 5000000\n\
             [[handler]]\naction = \"*\"\n{settings}",
            dir.display(),
            std::env::var("STORE").unwrap_or_default(),
        );
        fs::write(dir.join("actiond.toml"), config).unwrap();
        Self::launch(dir)
    }

    fn launch(dir: PathBuf) -> Self {
        let _ = fs::remove_file(dir.join("notify"));
        let notify = UnixDatagram::bind(dir.join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_actiond"));
        command
            .args(["serve", "--config"])
            .arg(dir.join("actiond.toml"))
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(dir.join("log")).unwrap());
        let daemon = Self { child: command.spawn().unwrap(), dir, keeps_dir: false };
        let mut message = [0; 4_096];
        loop {
            let length = notify.recv(&mut message).unwrap_or_else(|error| {
                panic!(
                    "never ready ({error}): {}",
                    fs::read_to_string(daemon.dir.join("log")).unwrap_or_default()
                )
            });
            if String::from_utf8_lossy(message.get(..length).unwrap()).lines().any(|line| line == "READY=1") {
                return daemon;
            }
        }
    }

    /// The same store, started again after [`Self::kill`].
    pub fn again(mut self) -> Self {
        self.keeps_dir = true;
        Self::launch(self.dir.clone())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

    pub fn post(&self, path: &str) {
        self.ask("POST", path);
    }

    /// Waiting and running actions.
    pub fn unfinished(&self) -> u64 {
        let answer = self.ask("GET", "/v1/status");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let status: actiond::api::wire::Status = serde_json::from_str(body).unwrap();
        status.queues.iter().map(|queue| queue.waiting + queue.running).sum()
    }

    /// Resident memory, for people.
    pub fn resident(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap();
        format!("{} MB", kib * 1_024 / 1_000_000)
    }

    /// Allocated bytes of the store, for people.
    pub fn on_disk(&self) -> String {
        let output = Command::new("du").args(["-sm"]).arg(self.dir.join("store")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        format!("{} MiB", text.split_whitespace().next().unwrap_or("?"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if !self.keeps_dir {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A submission of about 512 bytes; `number` picks one of a million resources.
pub fn spec(number: u64) -> String {
    let resource = number % 1_000_000 + 1_000_000;
    format!(
        "{{\"user\":\"john@example.com\",\"resource_type\":\"Stack\",\"action\":\"restart\",\"resource_id\":{resource},\
         \"started_via\":\"api\",\"metadata\":{{\"git_ref\":\"main\",\"note\":\"{}\"}}}}",
        "n".repeat(360)
    )
}
