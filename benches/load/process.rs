//! What processes use: CPU and memory of a server with all its descendants, disk of a directory.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A measurement that runs.
pub struct Watch {
    pid: u32,
    since: Instant,
    server: Duration,
    own: Duration,
}

/// What was spent between begin and end.
#[derive(Clone, Copy)]
pub struct Spent {
    pub time: Duration,
    server: Duration,
    own: Duration,
}

impl Watch {
    pub fn begin(pid: u32) -> Self {
        Self { pid, since: Instant::now(), server: cpu(pid), own: cpu(std::process::id()) }
    }

    pub fn end(self) -> Spent {
        Spent {
            time: self.since.elapsed(),
            server: cpu(self.pid).saturating_sub(self.server),
            own: cpu(std::process::id()).saturating_sub(self.own),
        }
    }
}

impl Spent {
    /// Microseconds of the server's CPU for each of `count` things: comparable also when others share the machine.
    pub fn each(&self, count: u64) -> f64 {
        self.server.as_secs_f64() * 1e6 / count.max(1) as f64
    }

    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64()
    }

    /// Percent of one core.
    pub fn server_share(&self) -> f64 {
        100.0 * self.server.as_secs_f64() / self.time.as_secs_f64()
    }

    pub fn own_share(&self) -> f64 {
        100.0 * self.own.as_secs_f64() / self.time.as_secs_f64()
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU: server {:.0} %, generator {:.0} %", self.server_share(), self.own_share())
    }
}

/// User and system time of a process: fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms on every Linux of ours. Of its
/// descendants, who may be many with little each, the time on a CPU as proc_pid_schedstat(5) has it in nanoseconds. The
/// generator's own descendants are not its work.
fn cpu(pid: u32) -> Duration {
    let ticks: u64 = stat(pid).iter().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    let mut time = Duration::from_millis(10 * ticks);
    if pid != std::process::id() {
        let nanos = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
            stat.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        time += Duration::from_nanos(tree(pid).into_iter().skip(1).map(nanos).sum());
    }
    time
}

/// The fields of proc_pid_stat(5) after the name, from the state on; none if it is gone.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').map(str::to_owned).collect()
}

/// A process and all its descendants. The kernel's own list of children leaves some out while others end.
pub fn tree(pid: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let parents: Vec<(u32, u32)> = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid).get(1)?.parse().ok()?)))
        .collect();
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    all
}

/// Proportional set size of a process and its descendants in bytes: pages that they share count once.
pub fn memory(pid: u32) -> u64 {
    tree(pid).into_iter().map(|pid| mapped(pid, "Pss")).sum()
}

/// Bytes of a process's mappings, by their name in proc_pid_smaps(5): `Rss`, `Pss`, `Anonymous`. 0 if it is gone.
pub fn mapped(pid: u32, what: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// The name of a process's main thread; empty if it is gone.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Allocated bytes below a directory.
pub fn on_disk(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // A file may be gone by now.
        let Ok(meta) = entry.metadata() else { continue };
        sum += meta.blocks() * 512;
        if meta.is_dir() {
            sum += on_disk(&entry.path());
        }
    }
    sum
}

/// Waits until a server has done what it does in the background: a second in which it used less than 3 % of a core
/// and its files did not change in size; two minutes at most.
pub fn settle(pid: u32, dir: &Path) {
    let limit = Instant::now() + Duration::from_secs(120);
    let mut before = on_disk(dir);
    while Instant::now() < limit {
        let watch = Watch::begin(pid);
        thread::sleep(Duration::from_secs(1));
        let (share, size) = (watch.end().server_share(), on_disk(dir));
        if share < 3.0 && size == before {
            return;
        }
        before = size;
    }
}
