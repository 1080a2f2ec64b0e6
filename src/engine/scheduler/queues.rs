//! The queues: how many run in each and in all, which are paused, and who of all of them is served next.
//!
//! Whoever may be served is the first of a queue that is not paused and has room. Those firsts are kept in order, and
//! only a queue in which something changed is looked at again, so a start costs the same with a thousand queues as
//! with one. Used by the scheduler only.

use std::collections::BTreeSet;

use super::QueueIndex;
use super::ready::{Place, Ready};
use crate::action::State;

#[derive(Default)]
pub(super) struct Queue {
    pub concurrency: u32,
    pub paused: bool,
    pub ready: Ready,
    pub waiting: u64,
    pub running: u32,
    /// Its entry in [`Queues::firsts`].
    shown: Option<Place>,
    /// It has changed since, and is one of [`Queues::stale`].
    is_stale: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Queues {
    all: Vec<Queue>,
    running: u32,
    firsts: BTreeSet<(Place, QueueIndex)>,
    stale: Vec<QueueIndex>,
}

impl Queues {
    pub fn get(&self, at: QueueIndex) -> Option<&Queue> {
        self.all.get(usize::from(at))
    }

    /// A queue that is about to change.
    pub fn get_mut(&mut self, at: QueueIndex) -> Option<&mut Queue> {
        let queue = self.all.get_mut(usize::from(at))?;
        if !queue.is_stale {
            queue.is_stale = true;
            self.stale.push(at);
        }
        Some(queue)
    }

    /// Takes new limits; queues may be added at the end, never removed.
    pub fn set_limits(&mut self, concurrency: &[u32]) {
        self.all.resize_with(self.all.len().max(concurrency.len()), Queue::default);
        for (at, limit) in (0..).zip(concurrency) {
            if let Some(queue) = self.get_mut(at) {
                queue.concurrency = *limit;
            }
        }
    }

    /// Running in all queues.
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Counts an action that changes its state, comes (from none) or goes (to none).
    pub fn count(&mut self, at: QueueIndex, before: Option<State>, after: Option<State>) {
        let places = |state: Option<State>| match state {
            None => (0, 0),
            Some(state) if occupies_slot(state) => (1, 0),
            Some(_) => (0, 1),
        };
        let (was, is) = (places(before), places(after));
        if was == is {
            return;
        }
        if let Some(queue) = self.get_mut(at) {
            queue.running = queue.running + is.0 - was.0;
            queue.waiting = queue.waiting + is.1 - was.1;
            self.running = self.running + is.0 - was.0;
        }
    }

    /// Who of all queues is served next.
    pub fn first(&mut self) -> Option<(Place, QueueIndex)> {
        while let Some(at) = self.stale.pop() {
            let Some(queue) = self.all.get_mut(usize::from(at)) else { continue };
            queue.is_stale = false;
            let has_room = !queue.paused && queue.running < queue.concurrency;
            let first = if has_room { queue.ready.first() } else { None };
            let shown = std::mem::replace(&mut queue.shown, first);
            if shown != first {
                if let Some(shown) = shown {
                    self.firsts.remove(&(shown, at));
                }
                if let Some(first) = first {
                    self.firsts.insert((first, at));
                }
            }
        }
        self.firsts.first().copied()
    }
}

fn occupies_slot(state: State) -> bool {
    matches!(state, State::Running | State::Cancelling)
}
