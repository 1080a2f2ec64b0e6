//! The processes of a scenario as the kernel shows them, whatever a daemon says; to freeze them, and to end them at last.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;
use super::scenarios::Frozen;

/// A living process.
#[derive(Debug)]
pub struct Process {
    pub state: char,
    pub parent: u32,
    #[expect(dead_code, reason = "read by whoever reads a failure")]
    words: String,
}

/// All processes of this machine that have that in their command line, by their pids.
pub fn alive(witness: &str) -> BTreeMap<u32, Process> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        let state = fields.next().and_then(|state| state.chars().next()).unwrap_or('X');
        let parent = fields.next().and_then(|parent| parent.parse().ok()).unwrap_or(0);
        if words.contains(witness) && !matches!(state, 'Z' | 'X') {
            found.insert(pid, Process { state, parent, words });
        }
    }
    found
}

/// Ends what a failed scenario leaves.
pub struct AllEnds<'a>(pub &'a str);

impl Drop for AllEnds<'_> {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let alive = alive(self.0);
            for pid in alive.keys() {
                let _ = kill_process(pid_of(*pid), Signal::STOP);
            }
            for pid in alive.keys() {
                let _ = kill_process(pid_of(*pid), Signal::KILL);
            }
            if alive.is_empty() || Instant::now() > end {
                return;
            }
        }
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).expect("a pid")
}

/// A cgroup that is thawed and removed when dropped.
pub struct Group {
    path: PathBuf,
    thaw: (&'static str, &'static str),
}

impl Drop for Group {
    fn drop(&mut self) {
        let (file, word) = self.thaw;
        let _ = fs::write(self.path.join(file), word);
        let end = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.path).is_err() && self.path.exists() && Instant::now() < end {}
    }
}

/// Puts the program, or its keeper too, into a cgroup below the one that it is in, and freezes that.
pub fn freeze(what: Frozen, witness: &str) -> Result<Option<Group>, String> {
    let mut pids: Vec<u32> = alive(witness).into_keys().collect();
    let (root, line, file, word, thawed) = match what {
        Frozen::Nothing => return Ok(None),
        Frozen::ProgramV1 => (freezer_v1(), ":freezer:", "freezer.state", "FROZEN", "THAWED"),
        Frozen::Program | Frozen::All => (unified(), "0::", "cgroup.freeze", "1", "0"),
    };
    let first = *pids.first().ok_or("no process")?;
    if what == Frozen::All {
        pids.push(alive(witness)[&first].parent);
    }
    let groups = fs::read_to_string(format!("/proc/{first}/cgroup")).map_err(|error| error.to_string())?;
    let of = groups.lines().find_map(|text| text.split_once(line)).ok_or("no cgroup")?.1;
    let path = root.ok_or("no cgroups")?.join(of.trim_start_matches('/')).join(format!("frozen-{witness}"));
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir(&path).map_err(told)?;
    let group = Group { path: path.clone(), thaw: (file, thawed) };
    for pid in pids {
        fs::write(path.join("cgroup.procs"), pid.to_string()).map_err(told)?;
    }
    fs::write(path.join(file), word).map_err(told)?;
    let (state, frozen) =
        if what == Frozen::ProgramV1 { (file, "FROZEN") } else { ("cgroup.events", "frozen 1") };
    let end = Instant::now() + PATIENCE;
    while !fs::read_to_string(path.join(state)).map_err(told)?.contains(frozen) {
        if Instant::now() > end {
            return Err("it does not freeze".to_owned());
        }
    }
    Ok(Some(group))
}

fn unified() -> Option<PathBuf> {
    let paths = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    paths.into_iter().find(|path| path.join("cgroup.procs").exists())
}

pub fn freezer_v1() -> Option<PathBuf> {
    Some(PathBuf::from("/sys/fs/cgroup/freezer")).filter(|path| path.join("cgroup.procs").exists())
}
