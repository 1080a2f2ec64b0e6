//! The engine's thread: takes requests, decides, commits once, then answers and starts.
//!
//! # Guarantees
//!
//! - No answer leaves and no attempt begins before everything decided in the same turn is durable.
//! - If the store fails, the thread ends with its error; every unanswered request gets none, and the daemon
//!   exits to recover from disk.
//!
//! The decisions themselves are in the files beside this one (`submit`, `commands`, `outcome`, `recovery`),
//! each an `impl Core` of its own. Started by the daemon through [`start`].

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot, watch};

use super::request::{Change, EngineStatus, QueueStatus, Request, Submitted};
use super::scheduler::{Command, Input, QueueIndex, Scheduler, Ticket};
use super::{Engine, Settings, Shared, recovery, unpoison, worker};
use crate::action::{Action, ActionId, Claim, Event, Program, State, Status, Timestamp};
use crate::handlers::registry::Registry;
use crate::handlers::{Handler, StopReason};
use crate::runner::logs::Logs;
use crate::store::{self, Loader, Store, StoreError};

/// Requests decided in one turn, and so made durable by one sync.
const TURN_MAX: usize = 4_096;
/// How long a submission waits for the memory table before it is told to come back.
const PARKED_MAX: Duration = Duration::from_secs(5);
const PARKED_POLL: Duration = Duration::from_millis(20);
const HOUSEKEEPING: Duration = Duration::from_secs(1);
const EXPIRED_PER_ROUND: usize = 2_000;
const CHANGES_KEPT: usize = 4_096;

/// Everything the engine needs to begin.
pub struct Start {
    pub store: store::Options,
    pub settings: Settings,
    pub registry: Arc<Registry>,
    pub logs: Logs,
    pub runtime: Handle,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    /// The uid the daemon runs as; it may do everything, like root.
    pub own_uid: u32,
    /// The attempt that took the daemon down last time, if one did.
    pub death: Option<recovery::Death>,
}

/// An engine whose store is open and whose recovery is decided, but which starts nothing yet.
pub struct Started {
    pub engine: Engine,
    pub store_id: String,
    pub incarnation: u64,
    pub unfinished: usize,
    /// Programs of interrupted attempts, as their claims name them: to be ended before [`Begin::run`].
    pub programs: Vec<(ActionId, Program)>,
    pub begin: Begin,
}

/// Lets the engine go. Separate from opening, because programs left over by an earlier run must be ended
/// first, and that needs the store's id.
pub struct Begin {
    core: Core,
    inbox: Receiver<Request>,
    interrupted: Vec<ActionId>,
    death: Option<recovery::Death>,
}

/// Opens the store and takes up every unfinished action.
///
/// # Errors
///
/// Whatever the store says; nothing was started then.
pub fn start(start: Start) -> Result<Started, StoreError> {
    let Start { store, settings, registry, logs, runtime, clock, own_uid, death } = start;
    let mut found = Found::new(&settings);
    let opened = Store::open(&store, clock(), &mut found)?;
    let (inbox, requests) = channel();
    let (changes, _) = broadcast::channel(CHANGES_KEPT);
    let shared = Arc::new(Shared {
        status: Mutex::new(EngineStatus::default()),
        progress: Mutex::default(),
        waiters: Mutex::default(),
        changes,
        draining: watch::channel(false).0,
    });
    let Found { mut scheduler, queue_names, kinds, by_state, interrupted, programs, .. } = found;
    for (at, name) in (0..).zip(&queue_names) {
        if opened.paused_queues.contains(name) {
            scheduler.step(clock(), Input::PauseQueue(at, true), &mut Vec::new());
        }
    }
    let unfinished = scheduler.len();
    let engine = Engine { inbox: inbox.clone(), reader: opened.reader, shared: Arc::clone(&shared) };
    let core = Core {
        store: opened.store,
        scheduler,
        registry,
        settings,
        queue_names,
        kinds,
        next_id: opened.next_id,
        incarnation: opened.incarnation,
        boot_id: opened.boot_id,
        clock,
        own_uid,
        live: HashMap::new(),
        after: Vec::new(),
        by_state,
        accepted: 0,
        recovered: interrupted.len() as u64,
        parked: VecDeque::new(),
        drained: Vec::new(),
        shared,
        inbox,
        runtime,
        logs,
        last_housekeeping: Instant::now(),
    };
    Ok(Started {
        engine,
        store_id: opened.store_id,
        programs,
        incarnation: opened.incarnation,
        unfinished,
        begin: Begin { core, inbox: requests, interrupted, death },
    })
}

impl Begin {
    /// Decides about each interrupted attempt, makes that durable, and lets the engine's thread run.
    ///
    /// `survivors` are attempts of which something is still alive. The receiver gets the store's error if the
    /// thread ends by one.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub fn run(
        self,
        survivors: &HashMap<ActionId, String>,
    ) -> Result<(JoinHandle<()>, oneshot::Receiver<StoreError>), StoreError> {
        let Self { mut core, inbox, interrupted, death } = self;
        core.recover(&interrupted, survivors, death)?;
        core.commit_and_carry_out()?;
        let (failed, fatal) = oneshot::channel();
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            if let Err(error) = core.run(&inbox) {
                let _ = failed.send(error);
            }
        });
        Ok((thread.map_err(StoreError::thread)?, fatal))
    }
}

/// What a start finds, as the scheduler will know it.
struct Found {
    settings: Settings,
    scheduler: Scheduler,
    queue_names: Vec<String>,
    kinds: HashMap<String, u16>,
    by_state: [u64; 14],
    interrupted: Vec<ActionId>,
    programs: Vec<(ActionId, Program)>,
}

impl Found {
    fn new(settings: &Settings) -> Self {
        let concurrency: Vec<u32> = settings.queues.iter().map(|queue| queue.concurrency).collect();
        Self {
            settings: settings.clone(),
            scheduler: Scheduler::new(&concurrency, settings.running_max),
            queue_names: settings.queues.iter().map(|queue| queue.name.clone()).collect(),
            kinds: HashMap::new(),
            by_state: [0; 14],
            interrupted: Vec::new(),
            programs: Vec::new(),
        }
    }
}

impl Loader for Found {
    fn begin(&mut self) {
        *self = Self::new(&self.settings.clone());
    }

    fn load(&mut self, action: &Action) {
        let queue = queue_index(&mut self.queue_names, &action.body.queue);
        if usize::from(queue) >= self.settings.queues.len() {
            // A queue that the configuration no longer has: its actions still run, one at a time.
            let mut concurrency: Vec<u32> = self.settings.queues.iter().map(|q| q.concurrency).collect();
            concurrency.resize(self.queue_names.len(), 1);
            self.scheduler.set_limits(&concurrency, self.settings.running_max);
        }
        let kind = kind_number(&mut self.kinds, &action.body.action);
        let ticket = ticket(action, queue, kind);
        self.scheduler.step(Timestamp::default(), Input::Enter(ticket), &mut Vec::new());
        if let Some(count) = self.by_state.get_mut(action.status.state as usize) {
            *count += 1;
        }
        if action.status.state.is_active() {
            self.interrupted.push(action.id);
            let program = action.status.claim.as_ref().and_then(|claim| claim.program);
            self.programs.extend(program.map(|program| (action.id, program)));
        }
    }
}

pub(super) fn queue_index(names: &mut Vec<String>, name: &str) -> QueueIndex {
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    QueueIndex::try_from(at).unwrap_or(QueueIndex::MAX)
}

pub(super) fn kind_number(kinds: &mut HashMap<String, u16>, action: &str) -> u16 {
    if let Some(number) = kinds.get(action) {
        return *number;
    }
    let number = u16::try_from(kinds.len()).unwrap_or(u16::MAX);
    kinds.insert(action.to_owned(), number);
    number
}

pub(super) fn ticket(action: &Action, queue: QueueIndex, kind: u16) -> Ticket {
    Ticket {
        id: action.id,
        queue,
        priority: action.body.priority,
        kind,
        locks: action.body.locks.clone(),
        state: action.status.state,
        attempt: action.status.attempt,
        due_at: action.status.due_at,
        deadline: action.body.deadline,
    }
}

/// An attempt that runs now.
pub(super) struct Live {
    pub attempt: u32,
    pub stop: watch::Sender<Option<StopReason>>,
}

/// What is done once the turn is durable.
pub(super) enum After {
    Answer(Box<dyn FnOnce() + Send>),
    Start(Arc<Action>, Arc<dyn Handler>),
    Probe(Arc<Action>, Arc<dyn Handler>),
    Changed(Change),
}

pub(super) struct Core {
    pub store: Store,
    pub scheduler: Scheduler,
    pub registry: Arc<Registry>,
    pub settings: Settings,
    pub queue_names: Vec<String>,
    pub kinds: HashMap<String, u16>,
    pub next_id: ActionId,
    pub incarnation: u64,
    pub boot_id: String,
    pub clock: fn() -> Timestamp,
    pub own_uid: u32,
    pub live: HashMap<ActionId, Live>,
    pub after: Vec<After>,
    pub by_state: [u64; 14],
    pub accepted: u64,
    pub recovered: u64,
    pub parked: VecDeque<Submitted>,
    pub drained: Vec<oneshot::Sender<()>>,
    pub shared: Arc<Shared>,
    pub inbox: Sender<Request>,
    pub runtime: Handle,
    pub logs: Logs,
    pub last_housekeeping: Instant,
}

impl Core {
    fn run(mut self, inbox: &Receiver<Request>) -> Result<(), StoreError> {
        loop {
            let first = match inbox.recv_timeout(self.patience()) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.store.close(),
            };
            let now = (self.clock)();
            self.take_up_parked(now)?;
            for request in
                first.into_iter().chain(std::iter::from_fn(|| inbox.try_recv().ok())).take(TURN_MAX)
            {
                if let Request::Close { reply } = request {
                    self.commit_and_carry_out()?;
                    self.store.close()?;
                    let _ = reply.send(());
                    return Ok(());
                }
                self.take_in(now, request)?;
            }
            self.keep_house(now)?;
            self.commit_and_carry_out()?;
        }
    }

    /// How long nothing needs to be done if nobody asks.
    fn patience(&self) -> Duration {
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
            Request::Reload { settings, registry, reply } => {
                self.reload(*settings, registry);
                self.answer(move || drop(reply.send(())));
            }
            Request::Drain { reply } => {
                self.step(now, Input::Drain);
                self.shared.draining.send_replace(true);
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

    fn keep_house(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if self.last_housekeeping.elapsed() < HOUSEKEEPING {
            return Ok(());
        }
        self.last_housekeeping = Instant::now();
        let expired = self.store.expire(now, EXPIRED_PER_ROUND)?;
        if !expired.is_empty() {
            let logs = self.logs.clone();
            self.answer(move || expired.into_iter().for_each(|id| logs.remove(id)));
        }
        Ok(())
    }

    /// Lets the scheduler see the time, claims what may start, commits, and carries out what that allows.
    pub fn commit_and_carry_out(&mut self) -> Result<(), StoreError> {
        let now = (self.clock)();
        let mut commands = Vec::new();
        self.scheduler.step(now, Input::Tick, &mut commands);
        self.scheduler.start_ready(&mut commands);
        while !commands.is_empty() {
            for command in std::mem::take(&mut commands) {
                match command {
                    Command::Start(id) => self.claim(now, id)?,
                    Command::Due(id) => self.become_due(id)?,
                    Command::Expire(id) => self.expire(now, id)?,
                }
            }
            // An expiry, or a start that could not be, may have freed a resource.
            self.scheduler.start_ready(&mut commands);
        }
        self.store.commit()?;
        self.show_status();
        for effect in std::mem::take(&mut self.after) {
            match effect {
                After::Answer(answer) => answer(),
                After::Start(action, handler) => worker::spawn(self, action, handler),
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
        let Some(action) = self.store.get(id)? else {
            self.step(now, Input::Leave(id));
            return Ok(());
        };
        let Some(route) = self.registry.find(&action.body.action, &action.body.resource_type) else {
            self.step(now, Input::Unlock(id));
            self.step(now, Input::Hold(id));
            self.change(action, Event::Hold, |status| {
                "no handler is configured for it any more".clone_into(&mut status.reason);
            })?;
            return Ok(());
        };
        let handler = Arc::clone(&route.handler);
        let (incarnation, boot_id) = (self.incarnation, self.boot_id.clone());
        let action = self.change(action, Event::Claim, |status| {
            status.attempt += 1;
            status.due_at = None;
            status.reason.clear();
            status.claim = Some(Claim { incarnation, boot_id, began_at: now, program: None });
        })?;
        self.after.push(After::Start(Arc::new(action), handler));
        Ok(())
    }

    fn become_due(&mut self, id: ActionId) -> Result<(), StoreError> {
        if let Some(action) = self.store.get(id)? {
            // Already claimed in this very turn: the claim tells more.
            self.change(action, Event::Due, |status| status.due_at = None)?;
        }
        Ok(())
    }

    fn expire(&mut self, now: Timestamp, id: ActionId) -> Result<(), StoreError> {
        if let Some(action) = self.store.get(id)? {
            self.finish(now, action, Event::Expire, "its deadline was over before it ran to an end", None)?;
        }
        Ok(())
    }

    /// Stages one change of an action: its state by the transition function, the rest by `edit`.
    pub fn change(
        &mut self,
        mut action: Action,
        event: Event,
        edit: impl FnOnce(&mut Status),
    ) -> Result<Action, StoreError> {
        let before = action.status.state;
        let state = before.apply(event).map_err(|source| StoreError::Illegal { id: action.id, source })?;
        edit(&mut action.status);
        action.status.state = state;
        action.status.version += 1;
        self.store.change(action.id, event, action.status.clone())?;
        self.count(before, state);
        let Action { id, status, .. } = &action;
        self.after.push(After::Changed(Change { id: *id, state, version: status.version }));
        Ok(action)
    }

    pub fn count(&mut self, before: State, after: State) {
        if let Some(count) = self.by_state.get_mut(before as usize) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.by_state.get_mut(after as usize) {
            *count += 1;
        }
    }

    /// Feeds the scheduler; its starts are taken up at the end of the turn.
    pub fn step(&mut self, now: Timestamp, input: Input) {
        self.scheduler.step(now, input, &mut Vec::new());
    }

    pub fn answer(&mut self, answer: impl FnOnce() + Send + 'static) {
        self.after.push(After::Answer(Box::new(answer)));
    }

    fn tell(&self, change: Change) {
        if change.state.is_final() {
            unpoison(self.shared.progress.lock()).remove(&change.id);
            let waiting = unpoison(self.shared.waiters.lock()).remove(&change.id);
            for waiter in waiting.into_iter().flatten() {
                let _ = waiter.send(());
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
        self.registry = registry;
    }

    pub fn queue_status(&self, at: QueueIndex) -> Option<QueueStatus> {
        let name = self.queue_names.get(usize::from(at))?;
        let settings = self.settings.queues.iter().find(|queue| queue.name == *name);
        let (waiting, running, paused) = self.scheduler.queue_counts(at);
        Some(QueueStatus {
            name: name.clone(),
            concurrency: settings.map_or(1, |queue| queue.concurrency),
            paused,
            waiting,
            running: u64::from(running),
            length_max: settings.map_or(0, |queue| queue.length_max),
        })
    }

    fn show_status(&self) {
        let queues = (0..).zip(&self.queue_names).filter_map(|(at, _)| self.queue_status(at)).collect();
        *unpoison(self.shared.status.lock()) = EngineStatus {
            incarnation: self.incarnation,
            draining: self.scheduler.is_draining(),
            by_state: self.by_state,
            accepted: self.accepted,
            recovered: self.recovered,
            queues,
        };
    }
}
