//! How much of the CPU the daemon and this generator used, and for how long.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// A measurement that runs.
pub struct Watch {
    pid: u32,
    since: Instant,
    daemon: Duration,
    own: Duration,
}

/// What was spent between begin and end.
pub struct Spent {
    pub time: Duration,
    daemon: Duration,
    own: Duration,
}

impl Spent {
    /// What one of `count` things cost the daemon: comparable also when other programs share the machine.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn each(&self, count: u64) -> String {
        let micros = self.daemon.as_secs_f64() * 1e6 / count.max(1) as f64;
        format!("{self}; daemon {micros:.1} µs CPU each")
    }
}

impl Watch {
    pub fn begin(pid: u32) -> Self {
        Self { pid, since: Instant::now(), daemon: of_process(pid), own: of_process(std::process::id()) }
    }

    pub fn end(self) -> Spent {
        Spent {
            time: self.since.elapsed(),
            daemon: of_process(self.pid).saturating_sub(self.daemon),
            own: of_process(std::process::id()).saturating_sub(self.own),
        }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: Duration| 100.0 * part.as_secs_f64() / self.time.as_secs_f64();
        write!(f, "CPU: daemon {:.0} %, generator {:.0} %", percent(self.daemon), percent(self.own))
    }
}

/// User and system time: fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms on every Linux of ours.
fn of_process(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}
