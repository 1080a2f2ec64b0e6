//! What every test of the binary stands on: a home, a daemon in it, an HTTP client that can misbehave.
//!
//! Ends by its process id whatever it started, also when a test fails, and then shows what the daemon said.

pub mod daemon;
pub mod home;
pub mod http;
pub mod sender;

use std::time::{Duration, Instant};

pub use self::daemon::Daemon;
pub use self::home::Home;
pub use self::http::{Connection, Response};
use serde_json::{Value, json};

/// Longest wait for anything that should happen soon; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until `found` has something, for [`PATIENCE`] at most.
///
/// For conditions that nothing announces (a file appears, a process is gone); what the daemon announces is
/// waited for with `?wait=` and `READY=1`.
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(it) = found() {
            return it;
        }
        assert!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A submission of `action` on a stack.
pub fn spec(action: &str, resource_id: u64) -> Value {
    json!({
        "user": "john@example.com",
        "resource_type": "Stack",
        "action": action,
        "resource_id": resource_id,
        "started_via": "api",
        "metadata": {},
    })
}

/// `object` with `key` set.
pub fn with(mut object: Value, key: &str, value: impl Into<Value>) -> Value {
    object[key] = value.into();
    object
}

/// Whether that very process is alive; a zombie is not.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
    })
}

/// The pids of all living processes.
pub fn all_processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    pids.filter(|pid| is_alive(*pid)).collect()
}

/// Processes that carry something of this home in their command line or environment, but the one given.
pub fn processes_of(home: &Home, but: u32) -> Vec<String> {
    let name = home.path("");
    let name = name.to_str().expect("ASCII").trim_end_matches('/').as_bytes().to_vec();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let (words, environment) = (read("cmdline"), read("environ"));
        let is_of_home = |bytes: &[u8]| bytes.windows(name.len()).any(|window| window == name);
        if pid != but && is_alive(pid) && (is_of_home(&words) || is_of_home(&environment)) {
            found.push(format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " ")));
        }
    }
    found
}

/// A wish that a daemon's test can state about root: mounts and namespaces need it.
pub fn demand_root(why: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root to {why}: run ./tests/run, which uses sudo where it is not root"
    );
}

/// The state of an action.
pub fn state(action: &Value) -> &str {
    action["state"].as_str().unwrap_or_else(|| panic!("an action without a state: {action}"))
}

pub fn is_final(action: &Value) -> bool {
    ["succeeded", "failed", "cancelled", "timed_out", "expired", "superseded"].contains(&state(action))
}

/// How the attempts ended, newest first.
pub fn attempts(action: &Value) -> Vec<String> {
    action["attempts"]
        .as_array()
        .unwrap_or_else(|| panic!("an action without attempts: {action}"))
        .iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap_or("?").to_owned())
        .collect()
}
