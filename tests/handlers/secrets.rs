//! What nobody may see is nowhere but in its own file: not in what the daemon writes, answers, counts or has in memory.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Daemon, Home};

/// Longest piece of memory that is read at once.
const PIECE: usize = 1 << 20;

/// A secret of an action that has ended is in `file` at most.
pub fn assert_kept(secret: &str, file: Option<&Path>, home: &Home, daemon: &Daemon<'_>, action: &Value) {
    let escaped = serde_json::to_string(secret).expect("JSON");
    for form in [secret, escaped.trim_matches('"')] {
        assert!(!action.to_string().contains(form), "in {action}");
        // Store, journal, snapshots, logs of actions, files of attempts, and what the daemon itself says.
        let found = files_with(&home.path(""), form);
        let others: Vec<&PathBuf> = found.iter().filter(|found| Some(found.as_path()) != file).collect();
        assert!(others.is_empty(), "in {others:?}");
        assert!(!home.log().contains(form), "in what the daemon says");
        for path in ["/metrics", "/", "/readyz", "/v1/actions"] {
            let answer = daemon.status_get(path);
            assert!(!answer.text().contains(form), "in {path}");
        }
        let log = daemon.ask("GET", &format!("/v1/actions/{}/log", action["id"]), None);
        assert!(!log.text().contains(form), "in the action's log");
        // As a core dump would have it.
        assert!(!is_in_memory(daemon.pid(), form), "in the daemon's memory");
    }
    assert!(is_in_memory(daemon.pid(), "actiond.toml"), "memory can be searched");
    if let Some(file) = file {
        assert_eq!(files_with(file.parent().expect("its directory"), secret), [file], "a search finds it");
    }
}

/// The files below a directory that have those bytes in them.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if kind.is_file() {
            // A daemon that runs may have removed it.
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if memchr::memmem::find(&bytes, text.as_bytes()).is_some() {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Whether a process has that text anywhere in its memory that can be read.
fn is_in_memory(pid: u32, text: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let range = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let parse = |text: &str| u64::from_str_radix(text, 16).ok();
        rest.starts_with('r').then_some((parse(from)?, parse(to)?))
    };
    let finder = memchr::memmem::Finder::new(text);
    let mut piece = vec![0; PIECE];
    for (from, to) in maps.lines().filter_map(range) {
        let mut at = from;
        while at < to {
            let length = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
            let part = piece.get_mut(..length).expect("a piece");
            // Some cannot be read after all, such as [vvar].
            let Ok(read) = memory.read_at(part, at) else { break };
            if read == 0 {
                break;
            }
            if finder.find(&part[..read]).is_some() {
                return true;
            }
            // What lies across two pieces is in the next one.
            at += if read == PIECE { (PIECE - text.len()) as u64 } else { read as u64 };
        }
    }
    false
}
