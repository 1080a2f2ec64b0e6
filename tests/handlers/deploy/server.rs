//! A small web server for a release: its files, and at `/health` 204 or 503.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Among the instances that are not healthy: all of them take a while to start, as real ones do.
pub const SLOW: &str = "slow";
const START: Duration = Duration::from_millis(300);

/// Answers one request.
fn answer(stream: &mut (impl Read + Write), release: &Path, instance: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (status, body) = if path == "/health" {
        let sick = fs::read_to_string(release.join("sick"));
        let is_healthy = sick.is_ok_and(|sick| sick.lines().all(|name| name != instance));
        (if is_healthy { "204 No Content" } else { "503 Service Unavailable" }, Vec::new())
    } else {
        let file = fs::read(release.join(path.trim_start_matches('/')));
        file.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body))
    };
    let length =
        if status.starts_with("204") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "HTTP/1.1 {status}\r\n{length}Connection: close\r\n\r\n")?;
    stream.write_all(&body)
}

/// A process that serves the release in which it was started, over a Unix socket. Each start is a line of `SOCKET.starts`.
pub fn serve(socket: &Path, instance: &str) -> ExitCode {
    let release = std::env::current_dir().expect("a release");
    let _ = fs::remove_file(socket);
    if fs::read_to_string("sick").is_ok_and(|sick| sick.lines().any(|word| word == SLOW)) {
        std::thread::sleep(START);
    }
    let listener = UnixListener::bind(socket).expect("a socket");
    let starts = OpenOptions::new().create(true).append(true).open(socket.with_extension("starts"));
    writeln!(starts.expect("a file"), "{}", release.display()).expect("a line");
    for stream in listener.incoming() {
        let _ = stream.and_then(|mut stream| answer(&mut stream, &release, instance));
    }
    ExitCode::FAILURE
}

/// A thread that answers on a loopback address for the release that a file names.
pub struct Server {
    pub address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `live` has the path of the release, relative to `app`.
    pub fn start(app: PathBuf, live: PathBuf, instance: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let release = fs::read_to_string(&live).unwrap_or_default();
                let _ =
                    stream.and_then(|mut stream| answer(&mut stream, &app.join(release.trim()), instance));
            }
        });
        Self { address, is_over, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
