//! Ends all of an attempt, a step at a time, so that the keeper can do other things meanwhile.
//!
//! SIGTERM to each process once, and SIGCONT, or a stopped one would not hear it (to the program alone, if that ends by itself
//! what it has started: `Order::asks_program_only`); after the grace SIGKILL to all of them, again
//! and again, until nothing is alive or that is in vain ([`Kill`]).

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::leaf::{self, Leaf};
use crate::action::Program;
use crate::runner::orphans;
use crate::runner::proc::{self, Process};
use crate::runner::tree::{Kill, Search};

/// Between two looks for what is still alive: at first, and at most. Most ends are told by SIGCHLD, and
/// a look at every process of the host, for as long as a grace of an hour, has its price.
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// An end that is on its way.
pub(super) struct Ending {
    kill_at: Instant,
    asked: HashSet<(u32, u64)>,
    /// While this one is alive nobody else is asked.
    first: Option<Program>,
    look_at: Instant,
    pause: Duration,
    kill: Kill,
}

/// How an end stands.
pub(super) enum Stand {
    GoesOn,
    /// Nothing is alive.
    Over,
    /// These are, and cannot be ended.
    GivenUp(Vec<Process>),
}

impl Ending {
    pub(super) fn new(grace: Duration, first: Option<Program>, leaf: Option<&Leaf>) -> Self {
        leaf::comes_first();
        if let Some(leaf) = leaf {
            leaf.kill_after(grace);
        }
        let now = Instant::now();
        Self {
            kill_at: now + grace,
            asked: HashSet::new(),
            first,
            look_at: now,
            pause: LOOK_FIRST,
            kill: Kill::default(),
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Instant {
        self.look_at
    }

    /// Somebody has ended: it may have been the last.
    pub(super) fn hurry(&mut self) {
        self.look_at = Instant::now();
    }

    /// Does what is due. `group` is that of [`Kill::step`].
    pub(super) fn step(&mut self, search: &Search, group: u32, leaf: Option<&Leaf>) -> io::Result<Stand> {
        let now = Instant::now();
        if now < self.look_at {
            return Ok(Stand::GoesOn);
        }
        let is_killing = now >= self.kill_at;
        let _still = leaf.filter(|_| !is_killing).and_then(Leaf::hold_still);
        let alive: Vec<Process> = search.find()?.into_iter().map(|(_, process)| process).collect();
        if alive.is_empty() && is_alone(group)? {
            return Ok(Stand::Over);
        }
        if self.kill.is_in_vain() {
            return Ok(Stand::GivenUp(alive));
        }
        if is_killing {
            if let Some(leaf) = leaf {
                leaf.kill();
            }
            let pause = self.kill.step(alive.iter(), Some(group));
            self.look_at = Instant::now() + pause;
            return Ok(Stand::GoesOn);
        }
        let first = self.first.filter(|first| alive.iter().any(|process| process.program == *first));
        for process in alive.iter().filter(|process| first.is_none_or(|first| process.program == first)) {
            if self.asked.insert((process.program.pid, process.program.start_ticks)) {
                let _ = proc::signal_each(process.program, &[Signal::TERM, Signal::CONT]);
            }
        }
        let now = Instant::now();
        self.look_at = (now + self.pause).min(self.kill_at.max(now));
        self.pause = (self.pause * 2).min(LOOK_MAX);
        Ok(Stand::GoesOn)
    }
}

/// Whether this keeper has no child but the program, which has ended: then nothing of the attempt is alive, as the orphans come
/// to the keeper before the end of their parent can be seen. Where the kernel does not tell, the look has to do.
fn is_alone(program: u32) -> io::Result<bool> {
    Ok(orphans::none_but(program)? || !orphans::are_adopted())
}
