//! What becomes of a submission: policy, limits, idempotency, conflicts; then a new action, or a clear no.

use std::sync::Arc;

use super::core::Core;
use super::request::{Accepted, Change, Submission, SubmitError, Submitted};
use super::scheduler::Input;
use super::start::ticket;
use crate::action::{
    Action, ActionId, Body, Event, LockKey, OnConflict, State, Status, Timestamp, Unfinished, kind_number,
};
use crate::handlers::Asked;
use crate::store::{Pressure, StoreError};

impl Core {
    pub(super) fn submit(&mut self, now: Timestamp, submitted: Submitted) -> Result<(), StoreError> {
        self.submit_or_park(now, submitted, false)
    }

    /// Decides a batch; one that finds the memory table full, or its keys unknown for now, waits its turn again,
    /// unless it is `late`.
    pub(super) fn submit_or_park(
        &mut self,
        now: Timestamp,
        submitted: Submitted,
        late: bool,
    ) -> Result<(), StoreError> {
        let pressure = self.store.pressure();
        let has_key = submitted.batch.iter().any(|submission| submission.idempotency_key.is_some());
        let must_wait = pressure == Pressure::MemoryFull || (has_key && !self.store.knows_keys());
        // Earlier ones that wait keep their place.
        if (must_wait || !self.parked.is_empty()) && !late {
            self.parked.push_back(submitted);
            return Ok(());
        }
        let Submitted { batch, reply, .. } = submitted;
        let mut answers = Vec::with_capacity(batch.len());
        for submission in batch {
            answers.push(self.decide(now, submission, pressure, None)?);
        }
        self.answer(move || drop(reply.send(answers)));
        Ok(())
    }

    /// Accepts one submission into the turn, or says why not.
    pub(super) fn decide(
        &mut self,
        now: Timestamp,
        submission: Submission,
        pressure: Pressure,
        retry_of: Option<ActionId>,
    ) -> Result<Result<Accepted, SubmitError>, StoreError> {
        if self.scheduler.is_draining() {
            return Ok(Err(SubmitError::Draining));
        }
        if let Some(key) = &submission.idempotency_key
            && let Some(used) = match self.store.key_use(submission.actor.uid, key) {
                Err(StoreError::Rebuilding) => return Ok(Err(SubmitError::Busy)),
                used => used?,
            }
        {
            let id = used.id;
            if used.digest != submission.digest {
                return Ok(Err(SubmitError::KeyReused { id }));
            }
            return Ok(self.tell_of(id)?.and_then(|first| {
                first.map(|action| Accepted::Repeated(Arc::new(action))).ok_or(SubmitError::Gone { id })
            }));
        }
        match pressure {
            Pressure::None => {}
            Pressure::MemoryFull => return Ok(Err(SubmitError::Busy)),
            Pressure::DiskLow => return Ok(Err(SubmitError::DiskLow)),
        }
        match self.prepare(now, submission, retry_of) {
            Ok(body) => self.accept(now, body),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Fills in what the submission leaves open; refuses what cannot be run.
    fn prepare(
        &self,
        now: Timestamp,
        submission: Submission,
        retry_of: Option<ActionId>,
    ) -> Result<Body, SubmitError> {
        let Submission {
            actor,
            user,
            resource_type,
            action,
            resource_id,
            started_via,
            metadata,
            queue,
            priority,
            run_at,
            deadline,
            timeout_ms,
            on_conflict,
            idempotency_key,
            retry,
            digest,
        } = submission;
        let Some(route) = self.registry.find(&action, &resource_type) else {
            let config_file = self.settings.config_file.clone();
            return Err(SubmitError::UnknownAction { action, resource_type, config_file });
        };
        let asked =
            Asked { action: &action, resource_type: &resource_type, resource_id, metadata: &metadata };
        let further =
            route.handler.validate(&asked).map_err(|error| SubmitError::InvalidMetadata(error.0))?;
        let queue = queue.unwrap_or_else(|| route.queue.clone());
        let Some(settings) = self.settings.queues.iter().find(|known| known.name == queue) else {
            return Err(SubmitError::UnknownQueue(queue));
        };
        let at = self.queue_names.iter().position(|name| *name == queue).unwrap_or(0);
        let (waiting, ..) = self.scheduler.queue_counts(u16::try_from(at).unwrap_or(u16::MAX));
        if waiting >= settings.length_max {
            return Err(SubmitError::QueueFull { queue, limit: settings.length_max });
        }
        if self.scheduler.len() as u64 >= self.settings.waiting_max {
            return Err(SubmitError::TooManyWaiting { limit: self.settings.waiting_max });
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(SubmitError::DeadlinePassed);
        }
        let takes_lock = route.exclusive && on_conflict != OnConflict::Parallel;
        let own = takes_lock.then(|| LockKey::resource(&resource_type, resource_id));
        // To run beside what runs on the resource does not mean to be in the way of what runs on another.
        let mut locks: Vec<LockKey> = own.into_iter().chain(further).collect();
        locks.sort_unstable();
        locks.dedup();
        Ok(Body {
            user,
            resource_type,
            action,
            resource_id,
            started_via,
            metadata,
            accepted_at: now,
            submitter: actor,
            queue,
            priority: priority.unwrap_or(5),
            run_at: run_at.filter(|at| *at > now),
            deadline,
            timeout_ms: timeout_ms.unwrap_or(route.timeout_ms),
            on_conflict,
            idempotency_key,
            request_digest: digest,
            retry: retry.unwrap_or(route.retry),
            recovery: route.recovery,
            locks,
            retry_of,
        })
    }

    fn accept(&mut self, now: Timestamp, body: Body) -> Result<Result<Accepted, SubmitError>, StoreError> {
        let kind = kind_number(&body.action);
        let mut replaced = Vec::new();
        // Without locks (a shared type) nobody stands in the way: every choice is then like `queue`.
        match body.on_conflict {
            OnConflict::Queue | OnConflict::Parallel => {}
            OnConflict::Reject => {
                if let Some(id) = self.scheduler.first_standing(&body.locks) {
                    return Ok(Err(SubmitError::Conflict { id }));
                }
            }
            OnConflict::Join => {
                if let Some(other) = self.joinable(&body, kind)? {
                    return Ok(Ok(Accepted::Joined(Arc::new(other))));
                }
            }
            OnConflict::ReplaceQueued => replaced = self.scheduler.standing(&body.locks).collect(),
        }
        let id = self.next_id;
        self.next_id = ActionId(id.0 + 1);
        let state = if body.run_at.is_some() { State::Scheduled } else { State::Queued };
        let status = Status::accepted(state, body.run_at);
        let action = Action { id, body: Arc::new(body), status };
        let queue = self.queue_names.iter().position(|name| *name == action.body.queue).unwrap_or(0);
        self.store.submit(id, Arc::clone(&action.body), action.status.clone())?;
        let ticket = ticket(&Unfinished::of(&action), u16::try_from(queue).unwrap_or(u16::MAX));
        self.step(now, Input::Enter(ticket));
        if let Some(count) = self.by_state.get_mut(state as usize) {
            *count += 1;
        }
        // Behind its successor in the journal: a turn that is torn between the two leaves both waiting.
        self.supersede(now, replaced, &action.body, kind)?;
        self.accepted += 1;
        self.after.push(super::core::After::Changed(Change { id, state, version: 1 }));
        Ok(Ok(Accepted::New(Arc::new(action))))
    }

    /// The first action of the same type on the same resource whose end is also an answer to this one.
    fn joinable(&self, body: &Body, kind: u16) -> Result<Option<Action>, StoreError> {
        for id in self.scheduler.standing(&body.locks) {
            if self.scheduler.same_kind(id, kind).is_some()
                // One that cannot be read is held when its turn comes.
                && let Ok(Some(other)) = self.tell_of(id)?
                && other.body.action == body.action
                && other.status.state != State::Cancelling
                && other.status.ending.is_none()
            {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Ends those of `standing` that are of the same type, wait, and have never begun.
    fn supersede(
        &mut self,
        now: Timestamp,
        standing: Vec<ActionId>,
        body: &Body,
        kind: u16,
    ) -> Result<(), StoreError> {
        for id in standing {
            let waits = matches!(self.scheduler.same_kind(id, kind), Some(State::Scheduled | State::Queued));
            if waits
                && let Ok(Some(action)) = self.look_up(now, id)?
                && action.body.action == body.action
                && action.status.attempt == 0
            {
                self.finish(now, action, Event::Supersede, "a later submission took its place", None)?;
            }
        }
        Ok(())
    }
}
