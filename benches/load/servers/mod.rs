//! The servers that are measured: actiond through its two doors for submissions, and what one would pick instead.
//!
//! Each is started here with a durable acknowledgement, on a Unix socket, in a fresh directory on the disk under
//! measurement, and is ended by its process id.

pub mod actiond;
pub mod beanstalkd;
pub mod postgres;
pub mod redis;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::closed_loop::Link;
use super::process;
use super::settings::Settings;

/// A server under measurement, started on demand.
pub trait Server {
    fn name(&self) -> &'static str;

    /// Starts it with nothing in it.
    fn fresh(&mut self);

    /// Its main process.
    fn pid(&self) -> u32;

    /// What it keeps on disk.
    fn dir(&self) -> PathBuf;

    fn submitter(&self) -> Link;

    /// A connection that takes work and reports it done; none where the server carries it out itself.
    fn worker(&self) -> Option<Link> {
        None
    }

    /// After a run on it: nothing of it may disturb the next one.
    fn rest(&mut self);

    /// Makes `count` things wait in the fresh server, as fast as it goes, and lets it come to rest.
    fn fill(&mut self, count: u64);

    /// Where the server itself carries out what waits: it may from now on.
    fn let_go(&mut self) {}

    /// SIGKILL, to all of it.
    fn kill(&mut self);

    /// Starts it again on the same files; returns when the first of what waits was handed out.
    fn start_to_first(&mut self) -> Duration;
}

/// The peers of `settings` that are installed; what is said of the others.
pub fn peers(settings: &Settings) -> (Vec<Box<dyn Server>>, Vec<String>) {
    let (mut servers, mut missing): (Vec<Box<dyn Server>>, _) = (Vec::new(), Vec::new());
    for name in &settings.peers {
        let dir = settings.dir.join(name);
        let server: Option<Box<dyn Server>> = match name.as_str() {
            "redis-list" => redis::Redis::find(dir, redis::Kind::List).map(|server| Box::new(server) as _),
            "redis-stream" => {
                redis::Redis::find(dir, redis::Kind::Stream).map(|server| Box::new(server) as _)
            }
            "beanstalkd" => beanstalkd::Beanstalkd::find(dir).map(|server| Box::new(server) as _),
            "postgres" => postgres::Postgres::find(dir).map(|server| Box::new(server) as _),
            _ => panic!("PEERS: {name} is not one of {}", super::settings::PEERS),
        };
        match server {
            Some(server) => servers.push(server),
            None => missing.push(format!("{name}: not installed, not measured")),
        }
    }
    (servers, missing)
}

pub fn submitters(server: &dyn Server, count: u64) -> Vec<Link> {
    (0..count).map(|_| server.submitter()).collect()
}

pub fn workers(server: &dyn Server, count: u64) -> Vec<Link> {
    (0..count).filter_map(|_| server.worker()).collect()
}

/// Where a program is, if it is installed.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/bin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

fn empty(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).unwrap();
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Connects as soon as the server listens.
fn connect(socket: &Path) -> UnixStream {
    patiently(|| UnixStream::connect(socket).ok())
}

/// Tries every millisecond, for two minutes at most.
fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < limit, "a server did not answer in two minutes");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Ends a process with its descendants.
fn kill_tree(child: &mut Child) {
    let mut tree = process::tree(child.id());
    let _ = child.kill();
    let _ = child.wait();
    tree.remove(0);
    for pid in tree.into_iter().filter_map(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
