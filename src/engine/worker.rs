//! Carries one attempt: its time limit, its stop, a panic in it, and what it says.
//!
//! An attempt runs as a task of its own. All it says goes to the engine's thread as a request; only
//! progress, which is not durable, is shown at once. A handler that is told to stop is waited for without
//! a limit: it returns when nothing of the attempt is alive, and until then its resource stays taken.
//! Called by `engine::core` once the claim is durable.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};

use super::core::{Core, Live};
use super::outcome::excerpt;
use super::request::{Request, Said};
use super::{Shared, unpoison};
use crate::action::{
    Action, ActionId, Ending, JsonText, Outcome, ProbeAnswer, Program, Progress, State, Step, Timestamp,
};
use crate::handlers::in_process::Marked;
use crate::handlers::{Attempt, BoxFuture, Handler, NotRecorded, Port, StopReason, UndoReason};
use crate::runner::leftovers::mark;

/// Longest time for a probe; then its answer is "unknown".
const PROBE_MAX: Duration = Duration::from_secs(60);
/// Longest time to take something back; then its handler is told to stop.
const UNDO_MAX: Duration = Duration::from_secs(3_600);

/// Tells an attempt to stop. The first reason stands.
pub(super) fn stop(stop: &watch::Sender<Option<StopReason>>, reason: StopReason) {
    stop.send_if_modified(|told| {
        let first = told.is_none();
        if first {
            *told = Some(reason);
        }
        first
    });
}

/// What there is to do about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Run,
    /// Take it up: an earlier run of the daemon has started it.
    Adopt,
    /// Take back what it and those before it have done. `lost`: how often what did that was killed.
    Undo {
        lost: u32,
    },
}

/// Starts what there is to do about the attempt that `action` was claimed for.
pub(super) fn spawn(core: &mut Core, action: &Arc<Action>, handler: Arc<dyn Handler>, task: Task) {
    let (id, number) = (action.id, action.status.attempt);
    // That it is cancelled was told to the daemon that has died.
    let undo = if let Task::Undo { lost } = task { Some(lost) } else { None };
    let is_undo = undo.is_some();
    let is_stopped = action.status.state == State::Cancelling && !is_undo;
    let first = is_stopped.then_some(StopReason::Cancel);
    let (stop, stopped) = watch::channel(first);
    let live = Live {
        attempt: number,
        body: Arc::clone(&action.body),
        stop: stop.clone(),
        outlives: handler.outlives_daemon(action) && !is_undo,
        undo,
    };
    core.live.insert(id, live);
    let port = Arc::new(EnginePort {
        id,
        attempt: number,
        inbox: core.inbox.clone(),
        shared: Arc::clone(&core.shared),
        clock: core.clock,
        open: Mutex::new(true),
    });
    let attempt = Attempt::new(
        Arc::clone(action),
        core.logs.writer(id, number),
        mark(&core.store_id, id, number),
        Arc::<EnginePort>::clone(&port),
        stopped,
    );
    let limit = if is_undo { UNDO_MAX } else { time_limit(action, (core.clock)()) };
    let inbox = core.inbox.clone();
    let why = action.status.ending.as_ref().map_or(UndoReason::Cancelled, Ending::why);
    core.runtime.spawn(async move {
        let outcome = {
            let work = AssertUnwindSafe(async {
                match task {
                    Task::Run => handler.run(&attempt).await,
                    Task::Adopt => handler.adopt(&attempt).await,
                    Task::Undo { .. } => handler.undo(&attempt, why).await,
                }
            });
            let work = work.catch_unwind();
            let work: BoxFuture<'_, _> = if handler.in_process() {
                Box::pin(Marked::new(id, number, Box::pin(work)))
            } else {
                Box::pin(work)
            };
            within(limit, &stop, work).await
        };
        port.close();
        let said = Said::Ended(outcome, attempt.take_afterwards());
        let _ = inbox.send(Request::Attempt { id, attempt: number, said });
    });
}

/// Asks the handler, beside everything else, whether an interrupted attempt took effect.
pub(super) fn spawn_probe(core: &Core, action: Arc<Action>, handler: Arc<dyn Handler>) {
    let (id, number) = (action.id, action.status.attempt);
    let mark = mark(&core.store_id, id, number);
    let inbox = core.inbox.clone();
    core.runtime.spawn(async move {
        let probe = AssertUnwindSafe(async { handler.probe(&action, &mark).await }).catch_unwind();
        let probe: BoxFuture<'_, _> = if handler.in_process() {
            Box::pin(Marked::new(id, number, Box::pin(probe)))
        } else {
            Box::pin(probe)
        };
        let answer = match tokio::time::timeout(PROBE_MAX, probe).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => ProbeAnswer::Unknown,
        };
        let _ = inbox.send(Request::Probed { id, answer });
    });
}

/// How long the attempt may run: until its timeout or the action's deadline, whichever comes first.
fn time_limit(action: &Action, now: Timestamp) -> Duration {
    let began = action.status.claim.as_ref().map_or(now, |claim| claim.began_at);
    let timeout = began.plus_ms(action.body.timeout_ms);
    let end = action.body.deadline.map_or(timeout, |deadline| deadline.min(timeout));
    Duration::from_millis(end.ms_since(now))
}

/// Runs an attempt to its end, and tells it to stop when its time is over. A panic is a failure.
async fn within(
    limit: Duration,
    stop_it: &watch::Sender<Option<StopReason>>,
    work: BoxFuture<'_, std::thread::Result<Outcome>>,
) -> Outcome {
    let mut work = pin!(work);
    let ended = if let Ok(ended) = tokio::time::timeout(limit, &mut work).await {
        ended
    } else {
        stop(stop_it, StopReason::TimeOut);
        work.await
    };
    ended.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let what = what.or_else(|| panic.downcast_ref::<String>().cloned());
        let message = format!("its handler panicked: {}", what.as_deref().unwrap_or("no message"));
        Outcome::Failed { message: excerpt(&message), result: None, retryable: false }
    })
}

/// Where an attempt's statements go.
struct EnginePort {
    id: ActionId,
    attempt: u32,
    inbox: Sender<Request>,
    shared: Arc<Shared>,
    clock: fn() -> Timestamp,
    /// Whether the attempt still runs: what is said later, by something it left behind, is not shown.
    open: Mutex<bool>,
}

impl EnginePort {
    fn close(&self) {
        *unpoison(self.open.lock()) = false;
    }

    fn say(
        &self,
        said: impl FnOnce(oneshot::Sender<Result<(), NotRecorded>>) -> Said,
    ) -> BoxFuture<'_, Result<(), NotRecorded>> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Attempt { id: self.id, attempt: self.attempt, said: said(reply) };
        let sent = self.inbox.send(request);
        Box::pin(async move {
            sent.map_err(|_| NotRecorded::Stopping)?;
            answer.await.unwrap_or(Err(NotRecorded::Stopping))
        })
    }
}

impl Port for EnginePort {
    fn progress(&self, percent: u8, message: &str) {
        let progress = Progress { percent: percent.min(100), message: excerpt(message), at: (self.clock)() };
        let open = unpoison(self.open.lock());
        if *open {
            let mut all: std::sync::MutexGuard<'_, HashMap<ActionId, Progress>> =
                unpoison(self.shared.progress.lock());
            all.insert(self.id, progress);
        }
    }

    fn checkpoint(&self, checkpoint: JsonText) -> BoxFuture<'_, Result<(), NotRecorded>> {
        self.say(|reply| Said::Checkpoint(checkpoint, reply))
    }

    fn steps(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<(), NotRecorded>> {
        self.say(|reply| Said::Steps(steps, reply))
    }

    fn program_started(&self, program: Program) -> BoxFuture<'_, Result<(), NotRecorded>> {
        self.say(|reply| Said::Program(program, reply))
    }
}

#[cfg(test)]
mod tests;
