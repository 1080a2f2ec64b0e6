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
mod timers;

use std::collections::{BTreeSet, HashMap};

pub use self::messages::{Command, Input, QueueIndex, Ticket};
use self::timers::Timers;
use super::id_map::IdMap;
use super::lock_table::LockTable;
use crate::action::{ActionId, LockKey, State, Timestamp};

#[derive(Clone, Copy)]
struct Entry {
    /// The first lock; further ones are in `Scheduler::more_locks`.
    lock: Option<LockKeyPacked>,
    /// When it is due, while it is `scheduled` or `retry_wait`.
    due_at: Timestamp,
    deadline: Timestamp,
    queue: QueueIndex,
    kind: u16,
    priority: u8,
    state: State,
    holds_locks: bool,
    more_locks: bool,
}

/// For a due time or a deadline that an action does not have.
const NEVER: Timestamp = Timestamp(i64::MAX);

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
    timers: Timers,
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
            timers: Timers::default(),
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
                    entry.due_at = due_at;
                }
                self.watch(id);
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
        self.timers.next()
    }

    fn tick(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        while let Some(ids) = self.timers.take_due(now) {
            for id in ids {
                self.look_at(now, id, commands);
            }
        }
    }

    /// Does what is due for an action now, and watches it on.
    fn look_at(&mut self, now: Timestamp, id: ActionId, commands: &mut Vec<Command>) {
        let Some(entry) = self.entries.get(id).copied() else { return };
        if is_timed(entry.state) && entry.due_at <= now {
            self.queue(id);
            commands.push(Command::Due(id));
        }
        if (is_timed(entry.state) || entry.state == State::Queued) && entry.deadline <= now {
            // At once, so that nothing can start it in the same round.
            self.leave(id);
            commands.push(Command::Expire(id));
        }
        self.watch(id);
    }

    fn enter(&mut self, ticket: &Ticket) {
        let Ticket { id, queue, priority, kind, locks, state, attempt, locks_freed, due_at, deadline } =
            ticket;
        let (id, state) = (*id, *state);
        let holds_locks = state.is_active() || (*attempt > 0 && !locks_freed);
        let entry = Entry {
            lock: locks.first().copied().map(pack_lock),
            due_at: due_at.unwrap_or(NEVER),
            deadline: deadline.unwrap_or(NEVER),
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
        if let Some(queue) = self.queues.get_mut(usize::from(*queue)) {
            if occupies_slot(state) {
                queue.running += 1;
                self.running += 1;
            } else {
                queue.waiting += 1;
            }
        }
        if holds_locks {
            self.take_locks(id);
        } else if is_timed(state) {
            for key in self.locks_of(id) {
                self.locks.plan(key, id);
            }
        }
        if state == State::Queued {
            self.line_up(id);
        }
        self.watch(id);
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
        if self.entries.chunk_is_empty(id) {
            self.timers.forget(id);
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
        self.watch(id);
        self.line_up(id);
    }

    /// Has it looked at when it is due or its deadline is over. The deadline counts while it waits, also if it
    /// passed while it ran or was held: then its worker watches it, or a person.
    fn watch(&mut self, id: ActionId) {
        let Some(entry) = self.entries.get(id) else { return };
        let next = match entry.state {
            State::Queued => entry.deadline,
            state if is_timed(state) => entry.deadline.min(entry.due_at),
            _ => NEVER,
        };
        if next < NEVER {
            self.timers.watch(id, next);
        }
    }

    /// Takes the action out of the ready set, if it is there.
    fn step_out(&mut self, id: ActionId) {
        let Some(entry) = self.entries.get(id) else { return };
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
            if let Some(first) = self.locks.take(key, id) {
                self.not_ready(first);
            }
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.holds_locks = true;
        }
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

/// Whether it waits for its time.
fn is_timed(state: State) -> bool {
    matches!(state, State::Scheduled | State::RetryWait)
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
