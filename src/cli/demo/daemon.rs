//! The daemon as a process of its own: started, killed, started again, stopped.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::place::Place;
use crate::api::wire;
use crate::cli::exit::Exit;
use crate::cli::follow;
use crate::cli::output::Failure;
use crate::client::Client;

const START_LIMIT: Duration = Duration::from_secs(20);
/// The daemon promises to be gone within 30 s of SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: u64 = 64 << 10;

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub pid: u32,
}

impl Daemon {
    /// Starts the daemon and returns when it answers over its socket.
    pub async fn start(place: &Place, client: &Client) -> Result<(Self, wire::Status), Failure> {
        let spawn = || {
            let log = OpenOptions::new().append(true).create(true).mode(0o600).open(place.log_file())?;
            Command::new(std::env::current_exe()?)
                .arg("serve")
                .arg("--config")
                .arg(place.config_file())
                .current_dir(&place.dir)
                // Whoever started the demo may be a service itself; the daemon is not its main process.
                .env_remove("NOTIFY_SOCKET")
                .env_remove("WATCHDOG_USEC")
                .env_remove("LISTEN_FDS")
                .env_remove("LISTEN_PID")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
        };
        let mut child = spawn().map_err(|error| failed(&format!("cannot start the daemon: {error}")))?;
        let pid = child.id().unwrap_or_default();
        tokio::select! {
            answered = follow::daemon_answers(client, START_LIMIT) => {
                let status = answered.map_err(|error| failed(&format!("the daemon does not get ready: {error}")))?;
                Ok((Self { child, pid }, status))
            }
            ended = child.wait() => Err(failed(&format!("the daemon ended at once: {}", told(&ended)))),
        }
    }

    /// Ends it as a crash would: no handler of its own runs.
    pub async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| failed(&format!("cannot kill the daemon: {error}")))
    }

    /// Asks it to stop and waits for its end; an exit code other than 0 is a failure.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed("the daemon has no pid"))?;
        kill_process(pid, Signal::TERM).map_err(|error| failed(&format!("cannot stop it: {error}")))?;
        match timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(ended) => Err(failed(&format!("the daemon did not stop well: {}", told(&ended)))),
            Err(_) => Err(failed("the daemon did not stop within 30 s of SIGTERM")),
        }
    }
}

/// The status code that the status endpoint answers to a GET over TCP.
pub async fn get_over_tcp(address: &str, path: &str) -> Result<u16, Failure> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(Duration::from_secs(5), ask).await;
    let answer = answer.map_err(|_| failed("the status endpoint does not answer"))?;
    let answer = answer.map_err(|error| failed(&format!("the status endpoint at {address}: {error}")))?;
    let code = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| failed("the status endpoint does not speak HTTP"))
}

pub fn failed(text: &str) -> Failure {
    Failure::new(Exit::Failed, text)
}

fn told(ended: &std::io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}
