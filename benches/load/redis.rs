//! The peer to be compared with: Redis with `appendfsync always` on the same disk, over its Unix socket.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::closed_loop::Speech;

/// A running `redis-server`. Killed when dropped, its directory then removed.
pub struct Redis {
    dir: PathBuf,
    child: Child,
}

impl Redis {
    /// None if it is not installed.
    pub fn start() -> Option<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-redis-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let child = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
                "--maxclients",
                "4000",
            ])
            .arg("--unixsocket")
            .arg(dir.join("sock"))
            .arg("--dir")
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let redis = Self { dir, child };
        let since = Instant::now();
        while UnixStream::connect(redis.socket()).is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(redis)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// One command each; `begin` is all of it before the payload.
pub struct Push {
    pub begin: &'static str,
}

pub const LIST: Push = Push { begin: "*3\r\n$5\r\nRPUSH\r\n$1\r\nq\r\n" };
pub const STREAM: Push = Push { begin: "*5\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\np\r\n" };

impl Speech for Push {
    fn ask(&self, out: &mut Vec<u8>, number: u64) {
        let body = super::daemon::spec(number);
        write!(out, "{}${}\r\n{body}\r\n", self.begin, body.len()).unwrap();
    }

    fn is_whole(&self, answer: &[u8]) -> bool {
        assert!(matches!(answer.first(), Some(b':' | b'$')), "{}", String::from_utf8_lossy(answer));
        answer.ends_with(b"\r\n")
            && (answer.starts_with(b":") || answer.iter().filter(|b| **b == b'\n').count() == 2)
    }
}
