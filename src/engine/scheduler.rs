//! Decides what runs next. Sans I/O: no clock, no disk, no threads; time and events come in, commands go out.
//!
//! # Guarantees
//!
//! - Never more running than a queue's concurrency and the global limit allow.
//! - Per lock one action at a time, in order of acceptance; locks stay taken through `retry_wait` and `held`.
//! - Between resources: higher priority first, then earlier acceptance.
//! - Each action waits in exactly one place, so a waiting action costs tens of bytes whatever its size.
//!
//! The engine carries out each command and makes it durable before its effect. Called by `engine::core` only.

mod messages;
mod queries;

use std::collections::{BTreeSet, HashMap};

pub use self::messages::{Command, Input, QueueIndex, Ticket};
use super::id_map::IdMap;
use super::lock_table::LockTable;
use crate::action::{ActionId, LockKey, State, Timestamp};

#[derive(Clone, Copy)]
struct Entry {
    /// The first lock; further ones are in `Scheduler::more_locks`.
    lock: Option<LockKeyPacked>,
    due_at: i64,
    queue: QueueIndex,
    kind: u16,
    priority: u8,
    state: State,
    holds_locks: bool,
    more_locks: bool,
}

/// A lock key that cannot be 0, so that "none" needs no space of its own.
type LockKeyPacked = std::num::NonZeroU64;

struct Queue {
    concurrency: u32,
    paused: bool,
    /// May start as soon as there is room: priority (9 first) and id in one number.
    ready: BTreeSet<u64>,
    waiting: u64,
    running: u32,
}

/// See the module.
pub struct Scheduler {
    entries: IdMap<Entry>,
    more_locks: HashMap<ActionId, Box<[LockKey]>>,
    locks: LockTable,
    queues: Vec<Queue>,
    timers: BTreeSet<(Timestamp, ActionId)>,
    deadlines: BTreeSet<(Timestamp, ActionId)>,
    deadline_of: IdMap<Timestamp>,
    running: u32,
    running_max: u32,
    draining: bool,
}

impl Scheduler {
    /// A scheduler of queues with these concurrency limits, and a limit over all of them.
    pub fn new(concurrency: &[u32], running_max: u32) -> Self {
        let mut scheduler = Self {
            entries: IdMap::new(),
            more_locks: HashMap::new(),
            locks: LockTable::default(),
            queues: Vec::new(),
            timers: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            deadline_of: IdMap::new(),
            running: 0,
            running_max,
            draining: false,
        };
        scheduler.set_limits(concurrency, running_max);
        scheduler
    }

    /// Takes new limits; queues may be added at the end, never removed.
    pub fn set_limits(&mut self, concurrency: &[u32], running_max: u32) {
        self.running_max = running_max;
        for (at, limit) in concurrency.iter().enumerate() {
            match self.queues.get_mut(at) {
                Some(queue) => queue.concurrency = *limit,
                None => self.queues.push(Queue {
                    concurrency: *limit,
                    paused: false,
                    ready: BTreeSet::new(),
                    waiting: 0,
                    running: 0,
                }),
            }
        }
    }

    /// Takes in what happened at `now` and appends what has to be done.
    pub fn step(&mut self, now: Timestamp, input: Input, commands: &mut Vec<Command>) {
        match input {
            Input::Enter(ticket) => self.enter(&ticket),
            Input::Leave(id) => self.leave(id),
            Input::RetryAt(id, due_at) => {
                self.set_state(id, State::RetryWait);
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.due_at = due_at.0;
                    self.timers.insert((due_at, id));
                }
                self.watch_deadline(id);
            }
            Input::Hold(id) => self.hold(id),
            Input::Queue(id) => self.queue(id),
            Input::Unlock(id) => self.release_locks(id),
            Input::PauseQueue(queue, paused) => {
                if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
                    queue.paused = paused;
                }
            }
            Input::Drain => self.draining = true,
            Input::Tick => self.tick(now, commands),
        }
    }

    /// Appends a start for everything that may run now. Called once after a round of inputs.
    pub fn start_ready(&mut self, commands: &mut Vec<Command>) {
        while !self.draining && self.running < self.running_max {
            let best = self
                .queues
                .iter()
                .filter(|queue| !queue.paused && queue.running < queue.concurrency)
                .filter_map(|queue| queue.ready.first().copied())
                .min();
            let Some(best) = best else { return };
            let id = unpack(best);
            self.set_state(id, State::Running);
            self.take_locks(id);
            commands.push(Command::Start(id));
        }
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_tick(&self) -> Option<Timestamp> {
        let due = self.timers.first().map(|(at, _)| *at);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        due.into_iter().chain(deadline).min()
    }

    fn tick(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            self.queue(id);
            commands.push(Command::Due(id));
        }
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            // While it runs, its worker watches the deadline; held, a person does.
            self.deadlines.remove(&(at, id));
            let state = self.entries.get(id).map(|entry| entry.state);
            if matches!(state, Some(State::Scheduled | State::Queued | State::RetryWait)) {
                // At once, so that nothing can start it in the same round.
                self.leave(id);
                commands.push(Command::Expire(id));
            }
        }
    }

    fn enter(&mut self, ticket: &Ticket) {
        let Ticket { id, queue, priority, kind, locks, state, attempt, due_at, deadline } = ticket;
        let (id, state) = (*id, *state);
        let waits_with_locks = matches!(state, State::Held | State::RetryWait) && *attempt > 0;
        let mut holds_locks = waits_with_locks || state.is_active();
        let entry = Entry {
            lock: locks.first().copied().map(pack_lock),
            due_at: due_at.map_or(0, |at| at.0),
            queue: *queue,
            kind: *kind,
            priority: *priority,
            state,
            holds_locks: false,
            more_locks: locks.len() > 1,
        };
        if let Some(more) = locks.get(1..).filter(|more| !more.is_empty()) {
            self.more_locks.insert(id, more.into());
        }
        self.entries.insert(id, entry);
        if let Some(deadline) = deadline {
            self.deadlines.insert((*deadline, id));
            self.deadline_of.insert(id, *deadline);
        }
        if let Some(queue) = self.queues.get_mut(usize::from(*queue)) {
            if occupies_slot(state) {
                queue.running += 1;
                self.running += 1;
            } else {
                queue.waiting += 1;
            }
        }
        if holds_locks {
            holds_locks = self.retake_locks(id);
        }
        match state {
            State::Scheduled | State::RetryWait => {
                if let Some(due_at) = due_at {
                    self.timers.insert((*due_at, id));
                }
                if !holds_locks {
                    for key in self.locks_of(id) {
                        self.locks.plan(key, id);
                    }
                }
            }
            State::Queued => self.line_up(id),
            _ => {}
        }
    }

    fn leave(&mut self, id: ActionId) {
        self.step_out(id);
        self.release_locks(id);
        if let Some(entry) = self.entries.remove(id)
            && let Some(queue) = self.queues.get_mut(usize::from(entry.queue))
        {
            if occupies_slot(entry.state) {
                queue.running -= 1;
                self.running -= 1;
            } else {
                queue.waiting -= 1;
            }
        }
        self.more_locks.remove(&id);
        if let Some(deadline) = self.deadline_of.remove(id) {
            self.deadlines.remove(&(deadline, id));
        }
    }

    fn hold(&mut self, id: ActionId) {
        self.step_out(id);
        self.set_state(id, State::Held);
        let holds = self.entries.get(id).is_some_and(|entry| entry.holds_locks);
        if !holds {
            // It has no claim on its turn while it is held; it comes back by its id.
            self.release_locks(id);
        }
    }

    fn queue(&mut self, id: ActionId) {
        self.step_out(id);
        self.set_state(id, State::Queued);
        self.watch_deadline(id);
        self.line_up(id);
    }

    /// The deadline counts while it waits, also if it passed while it ran or was held.
    fn watch_deadline(&mut self, id: ActionId) {
        if let Some(deadline) = self.deadline_of.get(id) {
            self.deadlines.insert((*deadline, id));
        }
    }

    /// Takes the action out of the timers and the ready set, wherever it is.
    fn step_out(&mut self, id: ActionId) {
        let Some(entry) = self.entries.get(id) else { return };
        self.timers.remove(&(Timestamp(entry.due_at), id));
        if let Some(queue) = self.queues.get_mut(usize::from(entry.queue)) {
            queue.ready.remove(&pack(entry.priority, id));
        }
    }

    /// Puts a queued action where it waits: at its locks, or in its queue if it has what it needs.
    fn line_up(&mut self, id: ActionId) {
        let Some(entry) = self.entries.get(id).copied() else { return };
        if !entry.holds_locks {
            let mut overtaken = Vec::new();
            for key in self.locks_of(id) {
                self.locks.leave(key, id);
                overtaken.extend(self.locks.wait(key, id));
            }
            for other in overtaken {
                self.not_ready(other);
            }
        }
        self.ready_if_free(id);
    }

    fn ready_if_free(&mut self, id: ActionId) {
        let Some(entry) = self.entries.get(id).copied() else { return };
        if entry.state != State::Queued {
            return;
        }
        let free = entry.holds_locks || self.locks_of(id).iter().all(|key| self.locks.is_next(*key, id));
        if free && let Some(queue) = self.queues.get_mut(usize::from(entry.queue)) {
            queue.ready.insert(pack(entry.priority, id));
        }
    }

    fn not_ready(&mut self, id: ActionId) {
        if let Some(entry) = self.entries.get(id)
            && !entry.holds_locks
            && let Some(queue) = self.queues.get_mut(usize::from(entry.queue))
        {
            queue.ready.remove(&pack(entry.priority, id));
        }
    }

    fn take_locks(&mut self, id: ActionId) {
        self.step_out(id);
        for key in self.locks_of(id) {
            self.locks.take(key, id);
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.holds_locks = true;
        }
    }

    /// Gives an action that was found at a start the locks it had. Says whether it has them now.
    ///
    /// That a person freed a held action's locks is not written anywhere; whoever got one since proves it.
    fn retake_locks(&mut self, id: ActionId) -> bool {
        let keys = self.locks_of(id);
        let rivals: Vec<ActionId> = keys.iter().filter_map(|key| self.locks.holder(*key)).collect();
        let state_of = |id| self.entries.get(id).map(|entry: &Entry| entry.state);
        if state_of(id) == Some(State::Held) && !rivals.is_empty() {
            return false;
        }
        for rival in rivals {
            self.release_locks(rival);
        }
        self.take_locks(id);
        true
    }

    fn release_locks(&mut self, id: ActionId) {
        for key in self.locks_of(id) {
            if let Some(first) = self.locks.leave(key, id) {
                self.ready_if_free(first);
            }
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.holds_locks = false;
        }
    }

    fn set_state(&mut self, id: ActionId, state: State) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let (was, is) = (occupies_slot(entry.state), occupies_slot(state));
        entry.state = state;
        let Some(queue) = self.queues.get_mut(usize::from(entry.queue)) else { return };
        match (was, is) {
            (false, true) => {
                queue.running += 1;
                queue.waiting -= 1;
                self.running += 1;
            }
            (true, false) => {
                queue.running -= 1;
                queue.waiting += 1;
                self.running -= 1;
            }
            _ => {}
        }
    }

    fn locks_of(&self, id: ActionId) -> Vec<LockKey> {
        let Some(entry) = self.entries.get(id) else { return Vec::new() };
        let first = entry.lock.map(|key| LockKey(key.get()));
        let more = if entry.more_locks { self.more_locks.get(&id) } else { None };
        first.into_iter().chain(more.into_iter().flat_map(|keys| keys.iter().copied())).collect()
    }
}

fn occupies_slot(state: State) -> bool {
    matches!(state, State::Running | State::Cancelling)
}

/// Ids are below 2^53 and priorities below 10, so both fit one number that sorts as they are served.
fn pack(priority: u8, id: ActionId) -> u64 {
    (u64::from(9 - priority.min(9)) << 53) | id.0
}

fn unpack(packed: u64) -> ActionId {
    ActionId(packed & ((1 << 53) - 1))
}

/// Key 0 shares its lock with key 1: two resources may then wait for each other, which harms nobody.
fn pack_lock(key: LockKey) -> LockKeyPacked {
    LockKeyPacked::new(key.0).unwrap_or(LockKeyPacked::MIN)
}

#[cfg(test)]
mod tests;
