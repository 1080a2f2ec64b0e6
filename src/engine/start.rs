//! Begins the engine: opens the store, takes up every unfinished action, then lets the thread go.
//!
//! In two steps, because what an earlier run left must be looked for in between, and ended where nobody can take it up:
//! [`start`] opens, [`Begin::run`] adopts what runs on, decides about interrupted attempts and starts to claim.
//! Called by the daemon.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot, watch};

use super::answers::Answers;
use super::core::Core;
use super::reboot::{Host, Reboot};
use super::request::{EngineStatus, Request};
use super::scheduler::{Input, QueueIndex, Scheduler, Ticket};
use super::{Engine, Settings, Shared, recovery, unpoison};
use crate::action::{ActionId, Timestamp, Unfinished};
use crate::crash_point::crash_point;
use crate::handlers::Handler;
use crate::handlers::registry::Registry;
use crate::runner::adoption::{Claimed, Survey};
use crate::runner::logs::Logs;
use crate::store::{self, Loader, Store, StoreError};

const CHANGES_KEPT: usize = 4_096;

/// Everything the engine needs to begin.
pub struct Start {
    pub store: store::Options,
    pub settings: Settings,
    pub registry: Arc<Registry>,
    /// Takes up what a handler left running that is not configured any more.
    pub adopter: Arc<dyn Handler>,
    pub logs: Logs,
    /// Where attempts run.
    pub runtime: Handle,
    /// Where the faces run, which wait for answers.
    pub faces: Handle,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    /// The uid the daemon runs as; it may do everything, like root.
    pub own_uid: u32,
    /// What reboots the host.
    pub host: Arc<dyn Host>,
    /// The attempt that took the daemon down last time, if one did.
    pub death: Option<recovery::Death>,
}

/// An engine whose store is open and whose recovery is decided, but which starts nothing yet.
pub struct Started {
    pub engine: Engine,
    pub store_id: String,
    pub boot_id: String,
    /// Attempts that an earlier run claimed and did not end: to be looked for before [`Begin::run`].
    pub claimed: Vec<Claimed>,
    pub begin: Begin,
}

/// Lets the engine go. Separate from opening, because what an earlier run left must be looked for first, and that needs
/// the claims and the store's id.
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
    let Start { store, settings, registry, adopter, logs, runtime, faces, clock, own_uid, host, death } =
        start;
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
    for name in &opened.paused_queues {
        // Also one that is not configured now: it is still paused when the configuration has it again.
        let at = found.queue(name);
        found.scheduler.step(clock(), Input::PauseQueue(at, true), &mut Vec::new());
    }
    let Found { scheduler, queue_names, by_state, interrupted, claimed, .. } = found;
    let engine = Engine { inbox: inbox.clone(), reader: opened.reader, shared: Arc::clone(&shared) };
    let boot_id = opened.boot_id.clone();
    let core = Core {
        store: opened.store,
        scheduler,
        registry,
        adopter,
        settings,
        queue_names,
        next_id: opened.next_id,
        store_id: opened.store_id.clone(),
        incarnation: opened.incarnation,
        claims: 0,
        boot_id: opened.boot_id,
        clock,
        own_uid,
        live: HashMap::new(),
        after: Vec::new(),
        turn_answers: Vec::new(),
        answers: Answers::on(&faces),
        by_state,
        accepted: 0,
        recovered: interrupted.len() as u64,
        host,
        reboot: Reboot::default(),
        parked: VecDeque::new(),
        drained: Vec::new(),
        shared,
        inbox,
        runtime,
        logs,
        is_brisk: false,
        last_housekeeping: Instant::now(),
        more_to_expire: false,
        queues_changed: true,
    };
    Ok(Started {
        engine,
        store_id: opened.store_id,
        boot_id,
        claimed,
        begin: Begin { core, inbox: requests, interrupted, death },
    })
}

impl Begin {
    /// Decides about each interrupted attempt, makes that durable, and lets the engine's thread run.
    ///
    /// `survey` says what became of the attempts; `survivors` are those that are gone and of which something is still
    /// alive. The receiver gets the store's error if the
    /// thread ends by one.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub fn run(
        self,
        survey: &Survey,
        survivors: &HashMap<ActionId, String>,
    ) -> Result<(JoinHandle<()>, oneshot::Receiver<StoreError>), StoreError> {
        let Self { mut core, inbox, interrupted, death } = self;
        crash_point("recovery_leftovers_ended");
        core.recover(&interrupted, survey, survivors, death)?;
        crash_point("recovery_decided");
        core.commit_and_carry_out()?;
        let (failed, fatal) = oneshot::channel();
        let shared = Arc::clone(&core.shared);
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            // A panic here is a mistake of ours: like a failed store, it ends the daemon, which recovers from
            // disk.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| core.run(&inbox)));
            let ended = ended.unwrap_or(Err(StoreError::Poisoned));
            // Nothing ends any more: whoever waits for an action is let go.
            unpoison(shared.waiters.lock()).clear();
            if let Err(error) = ended {
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
    by_state: [u64; 14],
    interrupted: Vec<ActionId>,
    claimed: Vec<Claimed>,
}

impl Found {
    fn new(settings: &Settings) -> Self {
        let concurrency: Vec<u32> = settings.queues.iter().map(|queue| queue.concurrency).collect();
        Self {
            settings: settings.clone(),
            scheduler: Scheduler::new(&concurrency, settings.running_max),
            queue_names: settings.queues.iter().map(|queue| queue.name.clone()).collect(),
            by_state: [0; 14],
            interrupted: Vec::new(),
            claimed: Vec::new(),
        }
    }

    /// The number of a queue. One that the configuration no longer has runs its actions one at a time.
    fn queue(&mut self, name: &str) -> QueueIndex {
        let known = self.queue_names.len();
        let at = queue_index(&mut self.queue_names, name);
        if self.queue_names.len() > known {
            let mut concurrency: Vec<u32> = self.settings.queues.iter().map(|q| q.concurrency).collect();
            concurrency.resize(self.queue_names.len(), 1);
            self.scheduler.set_limits(&concurrency, self.settings.running_max);
        }
        at
    }
}

impl Loader for Found {
    fn begin(&mut self) {
        *self = Self::new(&self.settings.clone());
    }

    fn load(&mut self, action: &Unfinished<'_>) {
        let queue = self.queue(action.queue);
        let ticket = ticket(action, queue);
        self.scheduler.step(Timestamp::default(), Input::Enter(ticket), &mut Vec::new());
        if let Some(count) = self.by_state.get_mut(action.state as usize) {
            *count += 1;
        }
        if action.state.is_active() {
            self.interrupted.push(action.id);
            let (id, attempt) = (action.id, action.attempt);
            self.claimed.extend(action.claim.cloned().map(|claim| Claimed { id, attempt, claim }));
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

pub(super) fn ticket<'a>(action: &Unfinished<'a>, queue: QueueIndex) -> Ticket<'a> {
    let Unfinished {
        id,
        queue: _,
        kind,
        priority,
        deadline,
        locks,
        state,
        attempt,
        locks_freed,
        due_at,
        claim: _,
    } = *action;
    Ticket { id, queue, priority, kind, locks: locks.into(), state, attempt, locks_freed, due_at, deadline }
}
