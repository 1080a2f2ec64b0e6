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

#[cfg(test)]
mod bench;
mod entries;
mod messages;
mod queries;
mod queues;
mod ready;
mod timers;

use self::entries::{Entries, Entry, NEVER};
pub use self::messages::{Command, Input, QueueIndex, Ticket};
use self::queues::Queues;
use self::timers::Timers;
use super::lock_table::LockTable;
use crate::action::{ActionId, State, Timestamp};

/// See the module.
pub struct Scheduler {
    entries: Entries,
    locks: LockTable,
    queues: Queues,
    timers: Timers,
    running_max: u32,
    draining: bool,
    starts_nothing: bool,
}

impl Scheduler {
    /// A scheduler of queues with these concurrency limits, and a limit over all of them.
    pub fn new(concurrency: &[u32], running_max: u32) -> Self {
        let mut queues = Queues::default();
        queues.set_limits(concurrency);
        Self {
            entries: Entries::default(),
            locks: LockTable::default(),
            queues,
            timers: Timers::default(),
            running_max,
            draining: false,
            starts_nothing: false,
        }
    }

    /// Takes new limits; queues may be added at the end, never removed.
    pub fn set_limits(&mut self, concurrency: &[u32], running_max: u32) {
        self.running_max = running_max;
        self.queues.set_limits(concurrency);
    }

    /// Takes in what happened at `now` and appends what has to be done.
    pub fn step(&mut self, now: Timestamp, input: Input<'_>, commands: &mut Vec<Command>) {
        match input {
            Input::Enter(ticket) => self.enter(&ticket),
            Input::Leave(id) => self.leave(id),
            Input::RetryAt(id, due_at) => self.retry_at(id, due_at),
            Input::Hold(id) => self.hold(id),
            Input::Reboot(id) => _ = self.set_state(id, State::Rebooting),
            Input::StartNothing(nothing) => self.starts_nothing = nothing,
            Input::Queue(id) => self.queue(id),
            Input::Unlock(id) => self.unlock(id),
            Input::PauseQueue(queue, paused) => {
                if let Some(queue) = self.queues.get_mut(queue) {
                    queue.paused = paused;
                }
            }
            Input::Drain => self.draining = true,
            Input::Tick => self.tick(now, commands),
        }
    }

    /// Appends a start for everything that may run now. Called once after a round of inputs.
    pub fn start_ready(&mut self, commands: &mut Vec<Command>) {
        while !self.draining && !self.starts_nothing && self.queues.running() < self.running_max {
            let Some((place, queue)) = self.queues.first() else { return };
            if let Some(queue) = self.queues.get_mut(queue) {
                queue.ready.remove(place);
            }
            let id = place.id();
            let Some(entry) = self.set_state(id, State::Running) else { continue };
            // Who is ready without them is the next at each: nobody else is ready who would wait now.
            self.take_locks(id, &entry);
            commands.push(Command::Start(id));
        }
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_tick(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    fn tick(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        while let Some(chunk) = self.timers.take_due(now) {
            let mut later = None;
            let mut come = Vec::new();
            for (id, times) in self.entries.times.chunk(chunk) {
                let next = times.due_at.min(times.deadline);
                if next <= now {
                    come.push(id);
                } else if next < NEVER && later.is_none_or(|(_, at)| next < at) {
                    later = Some((id, next));
                }
            }
            if let Some((id, at)) = later {
                self.timers.watch(id, at);
            }
            for id in come {
                self.look_at(now, id, commands);
            }
        }
    }

    /// Does what is due for an action now, and watches it on.
    fn look_at(&mut self, now: Timestamp, id: ActionId, commands: &mut Vec<Command>) {
        let (Some(entry), Some(times)) = (self.entries.get(id).copied(), self.entries.times.get(id).copied())
        else {
            return;
        };
        let is_due = is_timed(entry.state) && times.due_at <= now;
        let is_over = (is_timed(entry.state) || entry.state == State::Queued) && times.deadline <= now;
        if is_due {
            commands.push(Command::Due(id));
        }
        if is_over {
            // At once, so that nothing can start it in the same round.
            if entry.holds_locks {
                self.step_out(id, &entry);
                self.forget_times(id);
            } else {
                self.leave(id);
            }
            commands.push(Command::Expire(id));
        } else if is_due {
            self.queue(id);
        } else {
            self.watch(id, entry.state);
        }
    }

    fn enter(&mut self, ticket: &Ticket<'_>) {
        let (id, state) = (ticket.id, ticket.state);
        if self.entries.get(id).is_some() {
            self.leave(id);
        }
        let mut entry = self.entries.insert(ticket);
        self.queues.count(entry.queue, None, Some(state));
        if state.is_active() || (ticket.attempt > 0 && !ticket.locks_freed) {
            self.take_locks(id, &entry);
            entry.holds_locks = true;
        } else if is_timed(state) {
            for key in self.entries.keys(id, &entry).as_slice() {
                self.locks.plan(*key, id, &self.entries);
            }
        }
        if state == State::Queued {
            self.line_up(id, &entry);
        }
        self.watch(id, state);
    }

    fn leave(&mut self, id: ActionId) {
        let Some(entry) = self.entries.get(id).copied() else { return };
        self.step_out(id, &entry);
        self.release_locks(id, &entry);
        self.queues.count(entry.queue, Some(entry.state), None);
        if self.entries.remove(id) {
            self.timers.forget(id);
        }
    }

    fn retry_at(&mut self, id: ActionId, due_at: Timestamp) {
        let Some(entry) = self.set_state(id, State::RetryWait) else { return };
        self.step_out(id, &entry);
        self.entries.set_due(id, due_at);
        self.watch(id, State::RetryWait);
    }

    fn hold(&mut self, id: ActionId) {
        let Some(entry) = self.set_state(id, State::Held) else { return };
        self.step_out(id, &entry);
        if !entry.holds_locks {
            // It has no claim on its turn while it is held; it comes back by its id.
            self.release_locks(id, &entry);
        }
    }

    fn queue(&mut self, id: ActionId) {
        let Some(entry) = self.set_state(id, State::Queued) else { return };
        if self.entries.forget_due(id) {
            self.timers.forget(id);
        }
        self.line_up(id, &entry);
        self.watch(id, State::Queued);
    }

    fn forget_times(&mut self, id: ActionId) {
        if self.entries.forget_times(id) {
            self.timers.forget(id);
        }
    }

    fn unlock(&mut self, id: ActionId) {
        if let Some(entry) = self.entries.get(id).copied() {
            self.release_locks(id, &entry);
        }
    }

    /// Has it looked at when it is due or its deadline is over.
    fn watch(&mut self, id: ActionId, state: State) {
        let Some(times) = self.entries.times.get(id) else { return };
        let next = times.next(state);
        if next < NEVER {
            self.timers.watch(id, next);
        }
    }

    /// Puts a queued action where it waits: at its locks, or in its queue if it has what it needs.
    fn line_up(&mut self, id: ActionId, entry: &Entry) {
        let mut is_free = true;
        if !entry.holds_locks {
            for key in self.entries.keys(id, entry).as_slice() {
                let turn = self.locks.wait(*key, id, &self.entries);
                is_free &= turn.is_next;
                if let Some(other) = turn.overtaken {
                    self.not_ready(other);
                }
            }
        }
        if is_free && let Some(queue) = self.queues.get_mut(entry.queue) {
            queue.ready.insert(entry.place(id));
        }
    }

    /// Lets an action start that waits, if no other lock keeps it.
    fn ready_if_free(&mut self, id: ActionId) {
        let Some(entry) = self.entries.get(id).copied() else { return };
        if entry.state != State::Queued || entry.holds_locks {
            return;
        }
        let keys = self.entries.keys(id, &entry);
        let is_free = match keys.as_slice() {
            // Where it is the next, as the caller has seen.
            [_] => true,
            keys => keys.iter().all(|key| self.locks.is_next(*key, id, &self.entries)),
        };
        if is_free && let Some(queue) = self.queues.get_mut(entry.queue) {
            queue.ready.insert(entry.place(id));
        }
    }

    fn not_ready(&mut self, id: ActionId) {
        if let Some(entry) = self.entries.get(id).copied()
            && !entry.holds_locks
        {
            self.step_out(id, &entry);
        }
    }

    /// Takes the action out of the ready set, if it may be there.
    fn step_out(&mut self, id: ActionId, entry: &Entry) {
        if entry.state == State::Queued
            && let Some(queue) = self.queues.get_mut(entry.queue)
        {
            queue.ready.remove(entry.place(id));
        }
    }

    fn take_locks(&mut self, id: ActionId, entry: &Entry) {
        if entry.holds_locks {
            return;
        }
        for key in self.entries.keys(id, entry).as_slice() {
            if let Some(first) = self.locks.take(*key, id, &self.entries) {
                self.not_ready(first);
            }
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.holds_locks = true;
        }
    }

    fn release_locks(&mut self, id: ActionId, entry: &Entry) {
        for key in self.entries.keys(id, entry).as_slice() {
            if let Some(next) = self.locks.leave(*key, id, &self.entries) {
                self.ready_if_free(next);
            }
        }
        if entry.holds_locks
            && let Some(entry) = self.entries.get_mut(id)
        {
            entry.holds_locks = false;
        }
    }

    /// Gives an action its new state; says how it was before.
    fn set_state(&mut self, id: ActionId, state: State) -> Option<Entry> {
        let entry = self.entries.get_mut(id)?;
        let before = *entry;
        entry.state = state;
        self.queues.count(before.queue, Some(before.state), Some(state));
        Some(before)
    }
}

/// Whether it waits for its time.
fn is_timed(state: State) -> bool {
    matches!(state, State::Scheduled | State::RetryWait)
}

#[cfg(test)]
mod tests;
