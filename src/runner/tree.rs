//! Finds and ends all processes of an attempt, or of every attempt of a store.
//!
//! A process belongs to an attempt if it carries the mark in its environment, is the attempt's program, is of
//! the session that the program leads or led, or descends from one of these. Zombies count as gone. Between two
//! looks a process may appear; so ending is repeated until a look finds none, within a bound. Blocks: callers
//! in async code use a blocking thread.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process_group};

use super::freezer;
use super::leftovers::MARK;
use super::proc::{self, Process};
use crate::action::{ActionId, Program};

/// After SIGKILL a process is gone within milliseconds, unless it hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks for what is killed.
const LOOK_KILLED: Duration = Duration::from_millis(5);

/// More processes than this may be about to fork.
pub(crate) const MANY: usize = 16;

/// Looks in a row after which everything is only stopped.
const STOPS_MAX: u32 = 20;

/// What to look for.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// A whole mark, or the beginning of many, which then ends in `/`.
    pub(crate) mark: String,
    /// Programs that are known to carry actions.
    pub(crate) known: Vec<(ActionId, Program)>,
    /// A process whose descendants belong to an action, though it does not itself: a keeper.
    pub(crate) below: Option<(ActionId, u32)>,
    /// Actions that are let alone.
    pub(crate) spared: HashSet<ActionId>,
    /// Processes that started before this cannot belong to it: spares reading their environment.
    pub(crate) since_ticks: u64,
}

impl Search {
    /// All that is alive, each with its action. This process itself never belongs to it. While the host is short
    /// of what looking takes, it waits: an action whose processes cannot be looked for would have to be held.
    ///
    /// A look goes through the pids from low to high, and so misses whom a process forks and leaves behind just then, if
    /// pids have begun again at their lowest. So nobody is found only if two looks in a row find nobody.
    pub(crate) fn find(&self) -> io::Result<Vec<(ActionId, Process)>> {
        let found = proc::while_short(|| self.look())?;
        if found.is_empty() { proc::while_short(|| self.look()) } else { Ok(found) }
    }

    fn look(&self) -> io::Result<Vec<(ActionId, Process)>> {
        let all = proc::all()?;
        let own = std::process::id();
        let by_pid: HashMap<u32, &Process> =
            all.iter().map(|process| (process.program.pid, process)).collect();
        let mut owners: HashMap<u32, ActionId> = HashMap::new();
        // All of one action: their environments need not be read, which a keeper that gets little of the processor
        // has no time for.
        self.inherit(&all, &mut owners);
        for process in &all {
            let pid = process.program.pid;
            if pid != own
                && !owners.contains_key(&pid)
                && process.program.start_ticks >= self.since_ticks
                && let Some(id) = self.owner_by_itself(process, &by_pid)?
                && !self.spared.contains(&id)
            {
                owners.insert(pid, id);
            }
        }
        self.inherit(&all, &mut owners);
        Ok(all
            .iter()
            .filter(|process| process.is_alive())
            .filter_map(|process| Some((*owners.get(&process.program.pid)?, process.clone())))
            .collect())
    }

    /// Gives what descends from a process of an action, or from the keeper, to that action: down the generations; a parent
    /// can have a higher pid than its child, so until nothing changes.
    fn inherit(&self, all: &[Process], owners: &mut HashMap<u32, ActionId>) {
        let own = std::process::id();
        loop {
            let heirs: Vec<(u32, ActionId)> = all
                .iter()
                .filter(|process| process.program.pid != own && !owners.contains_key(&process.program.pid))
                .filter_map(|process| {
                    let of_keeper = self.below.filter(|(_, keeper)| *keeper == process.parent);
                    let owner = of_keeper.map(|(id, _)| id).or_else(|| owners.get(&process.parent).copied());
                    Some((process.program.pid, owner?))
                })
                .collect();
            if heirs.is_empty() {
                return;
            }
            owners.extend(heirs);
        }
    }

    fn owner_by_itself(
        &self,
        process: &Process,
        by_pid: &HashMap<u32, &Process>,
    ) -> io::Result<Option<ActionId>> {
        let of_program = self.known.iter().find(|(_, program)| {
            // A session keeps its number from being reused as a pid: if the pid is another process by now, the
            // session is another one too.
            process.program == *program
                || process.session == program.pid
                    && process.program.start_ticks >= program.start_ticks
                    && by_pid.get(&program.pid).is_none_or(|leader| leader.program == *program)
        });
        if let Some((id, _)) = of_program {
            return Ok(Some(*id));
        }
        let Some(mark) = process.environment(MARK)? else { return Ok(None) };
        let is_ours = mark == self.mark || self.mark.ends_with('/') && mark.starts_with(&self.mark);
        Ok(mark.split('/').nth(1).filter(|_| is_ours).and_then(|id| id.parse().ok()))
    }

    /// Ends all that is found: SIGTERM, after `patience` SIGKILL, until nothing is left. Returns what could
    /// not be ended. `group` is that of [`Kill::step`].
    pub(crate) fn end(&self, patience: Duration, group: Option<u32>) -> io::Result<Vec<(ActionId, Process)>> {
        let until = Instant::now() + patience;
        let mut asked = HashSet::new();
        let mut pause = Duration::from_millis(2);
        loop {
            let alive = self.find()?;
            if alive.is_empty() {
                return Ok(alive);
            }
            if Instant::now() >= until {
                break;
            }
            for (_, process) in &alive {
                if asked.insert((process.program.pid, process.program.start_ticks)) {
                    send(process, Signal::TERM);
                }
            }
            std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        let mut kill = Kill::default();
        loop {
            let alive = self.find()?;
            if alive.is_empty() || kill.is_in_vain() {
                return Ok(alive);
            }
            let pause = kill.step(alive.iter().map(|(_, process)| process), group);
            std::thread::sleep(pause);
        }
    }
}

/// Kills, look by look, also what forks faster than it can be killed.
///
/// Many processes, and those among which a look finds somebody new although all that was alive before has got its SIGKILL,
/// are stopped first, until a look finds nobody new: then nobody is left that could fork. What is stopped still counts
/// against a limit on processes and is not replaced, as what is killed would be.
#[derive(Default)]
pub(crate) struct Kill {
    seen: HashSet<(u32, u64)>,
    stops: u32,
    since: Option<Instant>,
}

impl Kill {
    /// Whether what is alive now will stay so. Counted from the first SIGKILL: on a busy host the looks before it may
    /// take longer than that.
    pub(crate) fn is_in_vain(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= KILL_PATIENCE)
    }

    /// Does what is due with all that a look has found alive. Gives the time until the next look.
    ///
    /// `group` is a process group that cannot have been reused because its leader was not reaped yet: that is killed at
    /// once.
    pub(crate) fn step<'a>(
        &mut self,
        alive: impl Iterator<Item = &'a Process>,
        group: Option<u32>,
    ) -> Duration {
        let before = self.seen.len();
        let alive: Vec<&Process> = alive.collect();
        self.seen.extend(alive.iter().map(|process| (process.program.pid, process.program.start_ticks)));
        let has_new = self.seen.len() > before;
        if has_new && (before > 0 || alive.len() > MANY) && self.stops < STOPS_MAX {
            self.stops += 1;
            for process in alive {
                send(process, Signal::STOP);
            }
            return Duration::ZERO;
        }
        self.stops = 0;
        self.since.get_or_insert_with(Instant::now);
        if let Some(group) = group.and_then(proc::pid) {
            // Nobody left in it is no error; a failure shows in what is found next.
            let _ = kill_process_group(group, Signal::KILL);
        }
        for process in alive {
            kill(process);
        }
        LOOK_KILLED
    }
}

/// SIGKILL, which takes effect even in a frozen cgroup.
fn kill(process: &Process) {
    send(process, Signal::KILL);
    if process.state == 'D' {
        freezer::thaw(process.program.pid);
    }
}

fn send(process: &Process, signal: Signal) {
    if let Err(error) = proc::signal(process.program, signal) {
        tracing::warn!(pid = process.program.pid, ?signal, %error, "cannot signal a process of an attempt");
    }
}

/// What is alive and may not have been found, for people: `process 42 (sleep, state D), process 43 (sh, state S)`.
pub(crate) fn describe<'a>(processes: impl IntoIterator<Item = &'a Process>) -> String {
    let mut all: Vec<String> = processes
        .into_iter()
        .map(|process| format!("process {} ({}, state {})", process.program.pid, process.name, process.state))
        .collect();
    if all.is_empty() {
        return "processes that come and go faster than they are found".to_owned();
    }
    let more = all.len().saturating_sub(10);
    all.truncate(10);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join(", ")
}
