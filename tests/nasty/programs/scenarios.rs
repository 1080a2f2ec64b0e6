//! The list: each program that does not want to end, when it counts as under way, and how its end comes.
//!
//! The scripts of them all and their handlers are made here; they are played by [`super::play_all`].

use std::path::{Path, PathBuf};

use super::GRACE;

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
    pub processes: usize,
    pub state: Option<char>,
    pub frozen: Frozen,
    pub stop: Stop,
    /// It gets away from a keeper in a plain session on purpose.
    pub is_escape: bool,
    /// Its sessions take the processor from everybody, as the kernel gives each session the same share of it (autogroups
    /// of sched(7)).
    pub starves: bool,
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
        name: "frozen_with_its_keeper_until_it_times_out",
        script: DEAF,
        processes: 3,
        frozen: Frozen::All,
        stop: Stop::TimeOut(3),
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
pub fn witness(index: usize) -> String {
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
