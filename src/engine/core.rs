//! The engine's thread: takes requests, decides, commits once, then answers and starts.
//!
//! # Guarantees
//!
//! - No answer leaves and no attempt begins before everything decided in the same turn is durable.
//! - If the store fails, the thread ends with its error; every unanswered request gets none, and the daemon
//!   exits to recover from disk.
//!
//! The thread writes and syncs itself. To decide the next turn while another thread writes this one was measured: on two
//! processors it made more and smaller groups, each with its own system calls and wakes, and a fifth fewer submissions.
//!
//! The decisions themselves are in the files beside this one (`change`, `submit`, `commands`, `outcome`, `recovery`),
//! each an `impl Core` of its own. Made and let go by `start`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::answers::{Answer, Answers};
use super::change::Held;
use super::reboot::{Host, Reboot};
use super::request::{Change, Request, Submitted};
use super::scheduler::{Command, Input, Scheduler};
use super::start::queue_index;
use super::worker::Task;
use super::{Settings, Shared, unpoison, worker};
use crate::action::{Action, ActionId, Body, Claim, Ending, Event, State, Timestamp, Unsuccess};
use crate::crash_point::crash_point;
use crate::handlers::registry::Registry;
use crate::handlers::{Handler, StopReason};
use crate::runner::logs::Logs;
use crate::store::{Store, StoreError};

/// Requests decided in one turn, and so made durable by one sync.
const TURN_MAX: usize = 4_096;
/// How long a submission waits for the memory table before it is told to come back.
const PARKED_MAX: Duration = Duration::from_secs(5);
const PARKED_POLL: Duration = Duration::from_millis(20);
/// Requests that come sooner than this one after the other are waited for awake: about as long as a sync takes.
const BRISK: Duration = Duration::from_micros(100);
/// More requests in one turn than this are many.
const FEW: usize = 4;
const HOUSEKEEPING: Duration = Duration::from_secs(1);
const EXPIRED_PER_ROUND: usize = 2_000;

/// An attempt that runs now.
pub(super) struct Live {
    pub attempt: u32,
    /// Of its action: what ends an attempt needs it again.
    pub body: Arc<Body>,
    pub stop: watch::Sender<Option<StopReason>>,
    /// It goes on when the daemon stops.
    pub outlives: bool,
    /// It only takes back what was done; how often what did that was killed before.
    pub undo: Option<u32>,
}

/// What is done once the turn is durable.
pub(super) enum After {
    /// Whatever must not be late, done by the engine's thread itself.
    Do(Box<dyn FnOnce() + Send>),
    Start(Arc<Action>, Arc<dyn Handler>),
    /// An attempt that an earlier run left.
    Adopt(Arc<Action>, Arc<dyn Handler>),
    /// Takes back what attempts have done. `lost`: how often what did that was killed.
    Undo {
        action: Arc<Action>,
        handler: Arc<dyn Handler>,
        lost: u32,
    },
    Probe(Arc<Action>, Arc<dyn Handler>),
    Changed(Change),
}

pub(super) struct Core {
    pub store: Store,
    pub scheduler: Scheduler,
    pub registry: Arc<Registry>,
    pub adopter: Arc<dyn Handler>,
    pub settings: Settings,
    pub queue_names: Vec<String>,
    pub next_id: ActionId,
    pub store_id: String,
    pub incarnation: u64,
    /// Claims of this incarnation so far: what their fences are made of.
    pub claims: u64,
    pub boot_id: String,
    pub clock: fn() -> Timestamp,
    pub own_uid: u32,
    pub live: HashMap<ActionId, Live>,
    pub after: Vec<After>,
    /// To the faces, once the turn is durable.
    pub turn_answers: Vec<Answer>,
    pub answers: Answers,
    pub by_state: [u64; 14],
    pub accepted: u64,
    pub recovered: u64,
    pub host: Arc<dyn Host>,
    pub reboot: Reboot,
    pub parked: VecDeque<Submitted>,
    pub drained: Vec<oneshot::Sender<()>>,
    pub shared: Arc<Shared>,
    pub inbox: Sender<Request>,
    pub runtime: Handle,
    pub logs: Logs,
    /// The last request came soon after the turn before it, and the few that came with it are waited for by a face.
    pub is_brisk: bool,
    pub last_housekeeping: Instant,
    /// The last round of retention did not see its end.
    pub more_to_expire: bool,
    /// The shown list of queues is not that of the settings any more.
    pub queues_changed: bool,
}

impl Core {
    pub fn run(mut self, inbox: &Receiver<Request>) -> Result<(), StoreError> {
        loop {
            let first = match self.next(inbox) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.store.close(),
            };
            let now = (self.clock)();
            self.take_up_parked(now)?;
            let mut count = 0;
            for request in
                first.into_iter().chain(std::iter::from_fn(|| inbox.try_recv().ok())).take(TURN_MAX)
            {
                count += 1;
                if let Request::Close { reply } = request {
                    self.refuse_parked(now)?;
                    self.commit_and_carry_out()?;
                    self.store.close()?;
                    let _ = reply.send(());
                    return Ok(());
                }
                self.take_in(now, request)?;
            }
            self.is_brisk &= count <= FEW && !self.turn_answers.is_empty();
            self.keep_house(now)?;
            self.commit_and_carry_out()?;
        }
    }

    /// The next request. While a few callers ask again as soon as they are answered it is waited for awake: to be woken for
    /// each takes as long as a good part of a sync, and costs whoever sends it a system call. With many of them, and
    /// for attempts, the processor is needed elsewhere.
    fn next(&mut self, inbox: &Receiver<Request>) -> Result<Request, RecvTimeoutError> {
        let since = Instant::now();
        while self.is_brisk && since.elapsed() < BRISK {
            if let Ok(request) = inbox.try_recv() {
                return Ok(request);
            }
            std::thread::yield_now();
        }
        let next = inbox.recv_timeout(self.patience());
        self.is_brisk = since.elapsed() < BRISK;
        next
    }

    /// How long nothing needs to be done if nobody asks.
    fn patience(&self) -> Duration {
        if self.more_to_expire {
            return Duration::ZERO;
        }
        if !self.parked.is_empty() {
            return PARKED_POLL;
        }
        let until_tick =
            self.scheduler.next_tick().map(|at| Duration::from_millis(at.ms_since((self.clock)())));
        until_tick.map_or(HOUSEKEEPING, |wait| wait.min(HOUSEKEEPING))
    }

    fn take_in(&mut self, now: Timestamp, request: Request) -> Result<(), StoreError> {
        match request {
            Request::Submit(submitted) => self.submit(now, submitted)?,
            Request::Command { actor, id, command, reply } => {
                let answer = self.command(now, actor, id, command)?;
                self.answer(move || drop(reply.send(answer)));
            }
            Request::PauseQueue { actor, queue, paused, reply } => {
                let answer = self.pause(now, actor, &queue, paused);
                self.answer(move || drop(reply.send(answer)));
            }
            Request::Explain { id, reply } => {
                let answer = self.explain(id)?;
                self.answer(move || drop(reply.send(answer)));
            }
            Request::Attempt { id, attempt, said } => self.attempt_said(now, id, attempt, said)?,
            Request::Probed { id, answer } => self.probed(now, id, answer)?,
            Request::RebootAsked(asked) => self.reboot_asked(now, asked),
            Request::Reload { settings, registry, reply } => {
                self.reload(*settings, registry);
                self.answer(move || _ = reply.send(()));
            }
            Request::Drain { reply } => {
                self.step(now, Input::Drain);
                self.shared.draining.send_replace(true);
                for live in self.live.values().filter(|live| live.outlives) {
                    worker::stop(&live.stop, StopReason::Shutdown);
                }
                self.drained.push(reply);
            }
            Request::StopAttempts => {
                for live in self.live.values() {
                    worker::stop(&live.stop, StopReason::Shutdown);
                }
            }
            Request::Close { .. } => {}
        }
        Ok(())
    }

    fn take_up_parked(&mut self, now: Timestamp) -> Result<(), StoreError> {
        for submitted in std::mem::take(&mut self.parked) {
            let late = submitted.since.elapsed() >= PARKED_MAX;
            self.submit_or_park(now, submitted, late)?;
        }
        Ok(())
    }

    /// Answers those that still wait for room: nobody will make room any more.
    fn refuse_parked(&mut self, now: Timestamp) -> Result<(), StoreError> {
        for submitted in std::mem::take(&mut self.parked) {
            self.submit_or_park(now, submitted, true)?;
        }
        Ok(())
    }

    fn keep_house(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if !self.more_to_expire && self.last_housekeeping.elapsed() < HOUSEKEEPING {
            return Ok(());
        }
        self.last_housekeeping = Instant::now();
        let expired = match self.store.expire(now, EXPIRED_PER_ROUND) {
            // What is past retention is found again when it can be read.
            Err(StoreError::Rebuilding) => Vec::new(),
            expired => expired?,
        };
        // Each turn takes its share until nothing is left, so that no rate of submissions outruns retention.
        self.more_to_expire = expired.len() >= EXPIRED_PER_ROUND;
        if !expired.is_empty() {
            let (logs, runtime) = (self.logs.clone(), self.runtime.clone());
            self.then(move || {
                runtime.spawn_blocking(move || expired.into_iter().for_each(|id| logs.remove(id)));
            });
        }
        Ok(())
    }

    /// Lets the scheduler see the time, claims what may start, commits, and carries out what that allows.
    pub fn commit_and_carry_out(&mut self) -> Result<(), StoreError> {
        let now = (self.clock)();
        self.look_after_reboot(now)?;
        let mut commands = Vec::new();
        self.scheduler.step(now, Input::Tick, &mut commands);
        self.scheduler.start_ready(&mut commands);
        while !commands.is_empty() {
            for command in std::mem::take(&mut commands) {
                match command {
                    // In this order: the tick's own commands come before the starts that follow from them.
                    Command::Start(id) => self.claim(now, id)?,
                    Command::Due(id) => self.become_due(now, id)?,
                    Command::Expire(id) => self.expire(now, id)?,
                }
            }
            // An expiry, or a start that could not be, may have freed a resource.
            self.scheduler.start_ready(&mut commands);
        }
        self.store.commit()?;
        crash_point("turn_committed");
        self.show_status();
        self.answers.give(std::mem::take(&mut self.turn_answers));
        for effect in std::mem::take(&mut self.after) {
            match effect {
                After::Do(effect) => effect(),
                After::Start(action, handler) => {
                    crash_point("attempt_claimed");
                    worker::spawn(self, &action, handler, Task::Run);
                }
                After::Adopt(action, handler) => worker::spawn(self, &action, handler, Task::Adopt),
                After::Undo { action, handler, lost } => {
                    worker::spawn(self, &action, handler, Task::Undo { lost });
                }
                After::Probe(action, handler) => worker::spawn_probe(self, action, handler),
                After::Changed(change) => self.tell(change),
            }
        }
        if self.live.is_empty() {
            for drained in self.drained.drain(..) {
                let _ = drained.send(());
            }
        }
        Ok(())
    }

    fn claim(&mut self, now: Timestamp, id: ActionId) -> Result<(), StoreError> {
        let action = match self.look_up(now, id)? {
            Ok(Some(action)) => action,
            Err(Held) => return Ok(()),
            Ok(None) => {
                self.step(now, Input::Leave(id));
                return Ok(());
            }
        };
        let Some(route) = self.registry.find(&action.body.action, &action.body.resource_type) else {
            if action.status.attempt == 0 || action.status.locks_freed {
                // It has not touched its resource since it had no lock on it, so others may.
                self.step(now, Input::Unlock(id));
            }
            return self.hold(now, action, "no handler is configured for it any more");
        };
        let handler = Arc::clone(&route.handler);
        let (fence, is_gated) = (self.next_fence(), handler.is_gated(&action));
        let (incarnation, boot_id) = (self.incarnation, self.boot_id.clone());
        let mut action = self.change(action, Event::Claim, |status| {
            status.attempt += 1;
            status.locks_freed = false;
            status.due_at = None;
            status.reason.clear();
            status.claim =
                Some(Claim { incarnation, boot_id, began_at: now, fence, is_gated, program: None });
        })?;
        if action.status.ending.is_none() {
            self.after.push(After::Start(Arc::new(action), handler));
            return Ok(());
        }
        if action.status.cancel.is_some() {
            action = self.change(action, Event::Cancel, |_| {})?;
        }
        self.take_back(now, action, 0).map(drop)
    }

    fn next_fence(&mut self) -> u64 {
        loop {
            self.claims += 1;
            if let Some(fence) = Claim::fence(self.incarnation, self.claims) {
                return fence;
            }
            self.incarnation = self.store.begin_incarnation(&self.boot_id);
            self.claims = 0;
        }
    }

    fn become_due(&mut self, now: Timestamp, id: ActionId) -> Result<(), StoreError> {
        if let Ok(Some(action)) = self.look_up(now, id)? {
            self.change(action, Event::Due, |status| status.due_at = None)?;
        }
        Ok(())
    }

    fn expire(&mut self, now: Timestamp, id: ActionId) -> Result<(), StoreError> {
        let Ok(found) = self.look_up(now, id)? else { return Ok(()) };
        let Some(action) = found else {
            self.step(now, Input::Leave(id));
            return Ok(());
        };
        let told = "its deadline was over before it ran to an end";
        let ending = Ending::interrupted(Unsuccess::TimedOut, told);
        if let Err(action) = self.queue_undo(now, action, ending, "its deadline is over")? {
            self.finish(now, action, Event::Expire, told, None)?;
        }
        Ok(())
    }

    /// Feeds the scheduler; its starts are taken up at the end of the turn.
    pub fn step(&mut self, now: Timestamp, input: Input<'_>) {
        self.scheduler.step(now, input, &mut Vec::new());
    }

    /// Answers a face once the turn is durable.
    pub fn answer(&mut self, answer: impl FnOnce() + Send + 'static) {
        self.turn_answers.push(Box::new(answer));
    }

    /// Does something else once the turn is durable; it must not block.
    pub fn then(&mut self, effect: impl FnOnce() + Send + 'static) {
        self.after.push(After::Do(Box::new(effect)));
    }

    fn tell(&self, change: Change) {
        if change.state.is_final() {
            unpoison(self.shared.progress.lock()).remove(&change.id);
            let waiting = unpoison(self.shared.waiters.lock()).remove(&change.id);
            for waiter in waiting.into_iter().flatten() {
                let _ = waiter.done.send(());
            }
        } else if change.state == State::Held
            && let Some(waiting) = unpoison(self.shared.waiters.lock()).get_mut(&change.id)
        {
            for waiter in waiting.extract_if(.., |waiter| waiter.seen < change.version) {
                let _ = waiter.done.send(());
            }
        }
        if self.shared.changes.receiver_count() > 0 {
            let _ = self.shared.changes.send(change);
        }
    }

    fn reload(&mut self, settings: Settings, registry: Arc<Registry>) {
        for queue in &settings.queues {
            queue_index(&mut self.queue_names, &queue.name);
        }
        let concurrency: Vec<u32> = self
            .queue_names
            .iter()
            .map(|name| settings.queues.iter().find(|q| q.name == *name).map_or(1, |q| q.concurrency))
            .collect();
        self.scheduler.set_limits(&concurrency, settings.running_max);
        self.settings = settings;
        self.queues_changed = true;
        self.registry = registry;
    }
}
