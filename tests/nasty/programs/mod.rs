//! Programs that do not want to end, and how each is made to: the same for every place where programs run.
//!
//! A [`Scenario`] is a script and when it counts as under way. [`play`] runs it on a [`Stage`] (a daemon in plain sessions in
//! the crate `whole`, the shipped service with its units in the crate `systemd`), has it ended, and looks itself whether
//! anything of it is alive: every process has a number in its command line that no other has, and all processes of the
//! machine are looked at, those of containers too. What the daemon says is only compared with that.
//!
//! # How long it may take
//!
//! [`GRACE`] and 2 s, from the request to the final answer. On a machine that is busy with other work the 2 s are
//! multiplied by how much longer than alone a piece of work takes there, measured just before ([`slowness`]). One scenario
//! takes the processor from everybody and has longer in units: [`Scenario::starves`].
//!
//! `SCENARIO=name` in the environment plays one alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Between SIGTERM and SIGKILL, in [`tables`].
pub const GRACE: Duration = Duration::from_millis(700);
const BEYOND: Duration = Duration::from_secs(2);
/// Between SIGTERM and SIGKILL of systemd for a unit.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer everybody takes, this test's own requests too, beside a program that [`Scenario::starves`] them.
const STARVED: f64 = 5.0;
/// Longest wait for an end, which then has failed.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// Until a program is under way, which takes long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon whose configuration has [`tables`].
pub trait Stage {
    /// Submits with these members beyond the required ones; the id.
    fn submit(&self, action: &str, more: &Value) -> u64;
    fn cancel(&self, id: u64);
    /// The action once it is final or held, or after [`SETTLED_WITHIN`].
    fn settled(&self, id: u64) -> Value;
    /// Whether programs run in units.
    fn has_units(&self) -> bool;
}

/// How it comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Cancel,
    /// After so many seconds; the member of the submission that says so.
    TimeOut(u32),
    Deadline(u32),
    /// It kills its keeper, and nobody says anything.
    KeeperKilled,
}

/// What is frozen from outside when all of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    Nothing,
    Program,
    /// Its keeper too: that cannot act any more.
    All,
    /// The program, by the freezer of cgroup version 1, in which SIGKILL does not work.
    ProgramV1,
}

/// A program that does not want to end.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// In it `$W` is the number by which all of it is found.
    script: &'static str,
    /// When it counts as under way: processes, and one in that state of proc_pid_stat(5).
    processes: usize,
    state: Option<char>,
    frozen: Frozen,
    stop: Stop,
    /// It gets away from a keeper in a plain session on purpose.
    is_escape: bool,
    /// Its sessions take the processor from everybody, as the kernel gives each session the same share of it (autogroups
    /// of sched(7)). In a unit also from its keeper, which is not root there and cannot ask for more.
    starves: bool,
}

const PLAIN: Scenario = Scenario {
    name: "ends_at_once",
    script: "exec sleep $W",
    processes: 1,
    state: None,
    frozen: Frozen::Nothing,
    stop: Stop::Cancel,
    is_escape: false,
    starves: false,
};

/// Ignores SIGTERM, with a child that it goes on to wait for.
const DEAF: &str = "trap '' TERM; sleep $W & while :; do sleep $W; done";
/// In its own session below nobody, without the attempt's environment; the rest of the script goes on.
const ESCAPED: &str =
    "(env -i setsid /bin/sh -c 'trap \"\" TERM; /bin/sleep $0 & while :; do /bin/sleep $0; done' $W &)\n";
/// Runs what follows as a user with at most 300 processes: the keeper's, or another if that is root, who has no limit.
const LIMITED: &str = "[ $(id -u) != 0 ] || set -- setpriv --reuid=61234 --regid=61234 --clear-groups
    exec prlimit --nproc=300 \"$@\" ";

pub const ALL: &[Scenario] = &[
    PLAIN,
    Scenario { name: "ignores_sigterm", script: DEAF, processes: 3, ..PLAIN },
    Scenario {
        name: "double_fork_with_setsid",
        script: "(setsid sh -c 'trap \"\" TERM; sleep $0 & while :; do sleep $0; done' $W &); exec sleep $W",
        processes: 4,
        ..PLAIN
    },
    Scenario {
        name: "double_fork_with_setsid_and_no_environment",
        script: "@escaped exec sleep $W",
        processes: 4,
        ..PLAIN
    },
    Scenario { name: "stopped", script: "kill -STOP $$", state: Some('T'), ..PLAIN },
    Scenario {
        name: "stopped_and_deaf_with_stopped_children",
        script: "trap '' TERM; sleep $W & kill -STOP $!; setsid sleep $W & kill -STOP $!; kill -STOP $$",
        processes: 3,
        state: Some('T'),
        ..PLAIN
    },
    Scenario { name: "frozen", script: DEAF, processes: 3, frozen: Frozen::Program, ..PLAIN },
    Scenario { name: "frozen_with_its_keeper", script: DEAF, processes: 3, frozen: Frozen::All, ..PLAIN },
    Scenario { name: "frozen_in_version_1", script: DEAF, processes: 3, frozen: Frozen::ProgramV1, ..PLAIN },
    Scenario {
        name: "stops_its_keeper",
        script: "@escaped trap '' TERM; kill -STOP $PPID; exec sleep $W",
        processes: 4,
        ..PLAIN
    },
    Scenario {
        name: "waits_in_vfork_for_a_stopped_child",
        script: "exec python3 -c 'import ctypes, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
libc = ctypes.PyDLL(None)
if libc.vfork() == 0: libc.kill(libc.getpid(), signal.SIGSTOP)' $W",
        processes: 2,
        state: Some('T'),
        ..PLAIN
    },
    Scenario {
        name: "fork_bomb",
        script: "@limited perl -e 'while (1) { fork }' $W",
        processes: 200,
        ..PLAIN
    },
    Scenario {
        name: "deaf_fork_bomb_of_process_groups",
        script: "@limited perl -e '$SIG{TERM} = q(IGNORE); while (1) { defined(fork) and setpgrp }' $W",
        processes: 200,
        ..PLAIN
    },
    Scenario {
        name: "deaf_fork_bomb_of_sessions_without_environment",
        script: "@limited env -i python3 -c 'import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try: os.fork() or os.setsid()
    except OSError: pass' $W",
        processes: 200,
        starves: true,
        ..PLAIN
    },
    Scenario {
        name: "times_out",
        script: "@escaped trap '' TERM; kill -STOP $$",
        processes: 4,
        stop: Stop::TimeOut(3),
        ..PLAIN
    },
    Scenario {
        name: "has_a_deadline",
        script: "@limited perl -e '$SIG{TERM} = q(IGNORE); while (1) { fork }' $W",
        processes: 200,
        stop: Stop::Deadline(4),
        ..PLAIN
    },
    Scenario {
        name: "kills_its_keeper",
        script: "(setsid sh -c 'trap \"\" TERM; sleep $0 & while :; do sleep $0; done' $W &)
            until [ $(pgrep -f \"sleep $W\" | wc -l) -ge 2 ]; do :; done; trap '' TERM; kill -KILL $PPID; exec sleep $W",
        processes: 0,
        stop: Stop::KeeperKilled,
        ..PLAIN
    },
    Scenario {
        name: "escapes_and_kills_its_keeper",
        script: "@escaped until [ $(pgrep -f \"sleep $W\" | wc -l) -ge 2 ]; do :; done
            kill -KILL $PPID; exec sleep $W",
        processes: 0,
        stop: Stop::KeeperKilled,
        is_escape: true,
        ..PLAIN
    },
];

/// A number that no other process has in its command line.
fn witness(index: usize) -> String {
    format!("9{:08}{index:02}", std::process::id())
}

impl Scenario {
    /// The whole script, and its path in that directory.
    fn file(&self, dir: &Path, index: usize) -> (PathBuf, String) {
        let witness = witness(index);
        let body = self.script.replace("@escaped ", ESCAPED).replace("@limited ", LIMITED);
        (dir.join(format!("{}.{witness}", self.name)), format!("#!/bin/sh\nW={witness}\n{body}\n"))
    }
}

/// The paths and texts of the scripts, which have to be executable.
pub fn scripts(dir: &Path) -> Vec<(PathBuf, String)> {
    ALL.iter().enumerate().map(|(index, scenario)| scenario.file(dir, index)).collect()
}

/// The handlers for all scenarios; each action is named as its scenario.
pub fn tables(dir: &Path) -> String {
    let grace = GRACE.as_millis();
    let table = |name: &str, path: &Path| {
        let path = path.display();
        format!(
            "[[handler]]\naction = \"{name}\"\nuse = \"exec\"\nprogram = [\"{path}\"]\n\
             recovery = \"fail\"\nkill_grace = \"{grace}ms\"\n"
        )
    };
    ALL.iter().zip(scripts(dir)).map(|(scenario, (path, _))| table(scenario.name, &path)).collect()
}

/// Plays all scenarios that this stage can have, one after the other, and then says what went wrong.
pub fn play_all(stage: &dyn Stage) {
    let only = std::env::var("SCENARIO").ok();
    let mut wrong = Vec::new();
    for (index, scenario) in ALL.iter().enumerate() {
        let is_out = scenario.frozen == Frozen::ProgramV1 && (stage.has_units() || freezer_v1().is_none());
        if is_out || only.as_ref().is_some_and(|only| only != scenario.name) {
            continue;
        }
        if let Err(what) = play(stage, scenario, &witness(index)) {
            wrong.push(format!("{}: {what}", scenario.name));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn play(stage: &dyn Stage, scenario: &Scenario, witness: &str) -> Result<(), String> {
    let _all_ends = AllEnds(witness);
    let mut slowness = self::slowness();
    let now = chrono::Utc::now();
    let more = match scenario.stop {
        Stop::TimeOut(seconds) => json!({ "timeout": format!("{seconds}s") }),
        Stop::Deadline(seconds) => {
            let deadline = now + Duration::from_secs(seconds.into());
            json!({ "deadline": deadline.to_rfc3339_opts(chrono::SecondsFormat::Millis, true) })
        }
        Stop::Cancel | Stop::KeeperKilled => json!({}),
    };
    let id = stage.submit(scenario.name, &more);
    let mut begun = Instant::now();
    let mut most = 0;
    loop {
        let alive = alive(witness);
        most = most.max(alive.len());
        let in_state = |state| alive.values().any(|process| process.state == state);
        if alive.len() >= scenario.processes && scenario.state.is_none_or(in_state) {
            break;
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("not under way: {alive:?}: {}", stage.settled(id)));
        }
    }
    let _thawed = freeze(scenario.frozen, witness)?;
    if scenario.starves && stage.has_units() {
        slowness *= STARVED;
    }
    let mut bound = GRACE + BEYOND.mul_f64(slowness);
    if scenario.stop == Stop::Cancel {
        begun = Instant::now();
        stage.cancel(id);
    }
    let action = stage.settled(id);
    let took = match scenario.stop {
        Stop::Cancel => begun.elapsed(),
        Stop::TimeOut(seconds) => since(&action, &action["started_at"], seconds),
        Stop::Deadline(seconds) => since(&action, &json!(now.to_rfc3339()), seconds),
        Stop::KeeperKilled => since(&action, &action["started_at"], 0),
    };
    // systemd itself ends what the main process of a unit leaves, with a patience of its own: TimeoutStopSec=.
    if scenario.stop == Stop::KeeperKilled && stage.has_units() {
        bound += STOP_TIMEOUT;
    }
    let left = alive(witness);
    println!("{:50} {took:?} of {bound:?}, {} of {most} alive", scenario.name, left.len());
    let expected = match scenario.stop {
        Stop::Cancel => "cancelled",
        Stop::TimeOut(_) | Stop::Deadline(_) => "timed_out",
        Stop::KeeperKilled => "failed",
    };
    let is_excused = scenario.is_escape && !stage.has_units();
    if !left.is_empty() && !is_excused {
        return Err(format!("alive: {left:?}: {action}"));
    }
    if action["state"] != expected {
        return Err(format!("not {expected}: {action}"));
    }
    if took > bound {
        return Err(format!("it took {took:?}, more than {bound:?} (slowness {slowness:.1}): {action}"));
    }
    Ok(())
}

/// From so many seconds after that time to the action's end.
fn since(action: &Value, from: &Value, seconds: u32) -> Duration {
    let time =
        |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap_or("")).expect("a time");
    if action["finished_at"].is_null() {
        return SETTLED_WITHIN;
    }
    let took = time(&action["finished_at"]) - time(from);
    took.to_std().unwrap_or_default().saturating_sub(Duration::from_secs(seconds.into()))
}

/// How many times longer than on an idle machine a piece of work takes.
fn slowness() -> f64 {
    let worked = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time").as_secs_f64();
    let (since, before) = (Instant::now(), worked());
    while worked() < before + 0.05 {}
    since.elapsed().as_secs_f64() / (worked() - before)
}

/// A living process.
#[derive(Debug)]
struct Process {
    state: char,
    parent: u32,
    #[expect(dead_code, reason = "read by whoever reads a failure")]
    words: String,
}

/// All processes of this machine that have that in their command line, by their pids.
fn alive(witness: &str) -> BTreeMap<u32, Process> {
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
struct AllEnds<'a>(&'a str);

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
struct Group {
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
fn freeze(what: Frozen, witness: &str) -> Result<Option<Group>, String> {
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

fn freezer_v1() -> Option<PathBuf> {
    Some(PathBuf::from("/sys/fs/cgroup/freezer")).filter(|path| path.join("cgroup.procs").exists())
}
