//! Decides: what is accepted, what runs when, and what follows from what happens.
//!
//! One thread owns the scheduler and the writing half of the store (`core`). It takes all requests that
//! wait, decides each, claims what may start, makes all of it durable with one sync, and only then answers
//! and starts. So nothing is ever answered or begun that a crash could undo, and a busy daemon pays one sync
//! for many actions.
//!
//! ```text
//!  faces ──▶ Request ──▶ core: decide ──▶ scheduler ──▶ store.commit() ──▶ answers, starts
//!                          ▲                                                   │
//!                          └────── what attempts say ◀──── worker ◀────────────┘
//! ```
//!
//! [`Engine`] is the handle the faces use; reads go straight to the store's reader.

mod answers;
mod change;
mod commands;
mod core;
mod explain;
mod id_map;
mod lock_table;
mod outcome;
mod reboot;
mod recovery;
mod request;
mod scheduler;
mod start;
mod status;
mod submit;
#[cfg(test)]
mod tests;
mod undo;
mod worker;

use std::collections::HashMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{broadcast, oneshot, watch};

pub use self::reboot::Host;
pub use self::recovery::Death;
pub use self::request::{
    Accepted, Cause, Change, Command, CommandError, EngineStatus, Explanation, QueueStatus, Submission,
    SubmitError,
};
use self::request::{Request, Submitted};
pub use self::start::{Begin, Start, Started, start};
use crate::action::{Action, ActionId, Actor, Progress, State};
use crate::handlers::registry::Registry;
use crate::store::{Health, Reader, StoreError};

/// What the configuration says to the engine; replaced whole by a reload.
#[derive(Clone, Debug)]
pub struct Settings {
    pub queues: Vec<QueueSettings>,
    /// Attempts that run at once, over all queues. 1 or more.
    pub running_max: u32,
    /// Unfinished actions in all.
    pub waiting_max: u64,
    /// Longest result that is stored, in bytes of JSON.
    pub result_bytes_max: usize,
    /// How long what runs may go on when a reboot of the host is due.
    pub reboot_wait_ms: u64,
    /// Who may touch actions of others, beside root and the daemon's own user.
    pub operator_uids: Vec<u32>,
    pub operator_gids: Vec<u32>,
    /// Where handlers are configured, for the refusal of an action that has none.
    pub config_file: String,
}

/// One configured queue.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    pub name: String,
    pub concurrency: u32,
    /// Waiting actions; a submission beyond it is refused.
    pub length_max: u64,
}

/// What the engine's thread shows to everyone without being asked.
pub(crate) struct Shared {
    status: Mutex<EngineStatus>,
    /// What running attempts last said of their progress; not durable.
    progress: Mutex<HashMap<ActionId, Progress>>,
    waiters: Mutex<HashMap<ActionId, Vec<Waiter>>>,
    changes: broadcast::Sender<Change>,
    draining: watch::Sender<bool>,
}

/// Somebody who waits for an action's end, or for it to become held after what they saw.
struct Waiter {
    /// The version of the action that they know.
    seen: u64,
    done: oneshot::Sender<()>,
}

/// The handle that every face of the daemon uses. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inbox: mpsc::Sender<Request>,
    reader: Reader,
    shared: Arc<Shared>,
}

impl Engine {
    /// Answers in the order of the batch, when all of it is durable. If the store fails, each answer is
    /// [`SubmitError::Store`] and whether they were stored is unknown.
    pub async fn submit(&self, batch: Vec<Submission>) -> Vec<Result<Accepted, SubmitError>> {
        let count = batch.len();
        let (reply, answer) = oneshot::channel();
        let request = Request::Submit(Submitted { batch, reply, since: Instant::now() });
        if self.inbox.send(request).is_ok()
            && let Ok(answers) = answer.await
        {
            return answers;
        }
        (0..count).map(|_| Err(SubmitError::Store)).collect()
    }

    /// Carries out a command on one action; the answer is the action as it is durable now (for a retry, the
    /// new one).
    ///
    /// # Errors
    ///
    /// See [`CommandError`]; nothing has changed then.
    pub async fn command(
        &self,
        actor: Actor,
        id: ActionId,
        command: Command,
    ) -> Result<Arc<Action>, CommandError> {
        self.ask(|reply| Request::Command { actor, id, command, reply }).await
    }

    /// Pauses a queue, or lets it go on; durable when answered.
    pub async fn pause_queue(
        &self,
        actor: Actor,
        queue: String,
        paused: bool,
    ) -> Result<QueueStatus, CommandError> {
        self.ask(|reply| Request::PauseQueue { actor, queue, paused, reply }).await
    }

    /// Says why an action waits.
    pub async fn explain(&self, id: ActionId) -> Result<Explanation, CommandError> {
        self.ask(|reply| Request::Explain { id, reply }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Request,
    ) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(request(reply)).map_err(|_| CommandError::Stopping)?;
        answer.await.map_err(|_| CommandError::Stopping)?
    }

    /// The durable action, with the volatile progress of a running attempt. May block on the disk.
    pub fn read(&self, id: ActionId) -> Result<Option<Action>, StoreError> {
        let action = self.reader.get(id)?;
        Ok(action.map(|action| self.with_progress(action)))
    }

    /// Newest first below `before`; `visit` returns false to end. May block on the disk.
    pub fn scan_back(
        &self,
        before: Option<ActionId>,
        visit: &mut dyn FnMut(Action) -> bool,
    ) -> Result<(), StoreError> {
        self.reader.scan_back(before, &mut |action| visit(self.with_progress(action)))
    }

    fn with_progress(&self, mut action: Action) -> Action {
        if action.status.state.is_active()
            && let Some(progress) = unpoison(self.shared.progress.lock()).get(&action.id)
        {
            action.status.progress = Some(progress.clone());
        }
        action
    }

    /// All durable changes from now on; a slow follower loses the oldest and is told so.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// Waits until the action is final or gone, or held in a later version than `seen`; ends early with the
    /// daemon.
    pub async fn settled(&self, id: ActionId, seen: u64) {
        let (done, settled) = oneshot::channel();
        {
            let mut waiters = unpoison(self.shared.waiters.lock());
            let waiting = waiters.entry(id).or_default();
            waiting.retain(|waiter| !waiter.done.is_closed());
            waiting.push(Waiter { seen, done });
        }
        // Registered first, then looked: a change in between is seen by one of the two.
        let reader = self.reader.clone();
        let looked = tokio::task::spawn_blocking(move || reader.get(id)).await;
        let status = match looked {
            Ok(Ok(Some(action))) if !action.status.state.is_final() => action.status,
            _ => {
                unpoison(self.shared.waiters.lock()).remove(&id);
                return;
            }
        };
        if status.state != State::Held || status.version <= seen {
            let _ = settled.await;
        }
    }

    /// Becomes true when the daemon begins to stop: streams end then.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.shared.draining.subscribe()
    }

    pub fn status(&self) -> EngineStatus {
        unpoison(self.shared.status.lock()).clone()
    }

    pub fn store_health(&self) -> Health {
        self.reader.health()
    }

    /// Takes new settings; what runs goes on under the old ones.
    pub async fn reload(&self, settings: Settings, registry: Arc<Registry>) {
        let (reply, done) = oneshot::channel();
        let request = Request::Reload { settings: Box::new(settings), registry, reply };
        if self.inbox.send(request).is_ok() {
            let _ = done.await;
        }
    }

    /// Starts nothing more and refuses submissions; returns when nothing runs.
    pub async fn drain(&self) {
        let (reply, done) = oneshot::channel();
        if self.inbox.send(Request::Drain { reply }).is_ok() {
            let _ = done.await;
        }
    }

    /// Tells every running attempt to end; [`Self::drain`] returns when they have.
    pub fn stop_attempts(&self) {
        let _ = self.inbox.send(Request::StopAttempts);
    }

    /// Closes the store with a clean mark. Nothing is accepted or recorded after.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.inbox.send(Request::Close { reply }).is_ok() {
            let _ = done.await;
        }
    }
}

/// The data of a lock whose holder panicked: every value behind these locks is whole after each statement.
pub(crate) fn unpoison<T>(locked: Result<T, PoisonError<T>>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}
