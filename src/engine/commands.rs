//! What becomes of a command on an action or a queue.
//!
//! Who may: root, the daemon's own user, operators, and for an action of theirs its submitter. Nothing has
//! changed when the answer is an error.
//!
//! A held action that is resumed may begin at once, also before its `run_at`: whoever resumes it says "now".
//! Freed locks stay freed, over a restart too, until the action is claimed again; resumed, it takes its place in
//! the line by its id. Called by `engine::core`.

use std::sync::Arc;

use super::core::Core;
use super::outcome::{ago, excerpt};
use super::request::{Accepted, Command, CommandError, QueueStatus, Submission};
use super::scheduler::{Input, QueueIndex};
use super::worker;
use crate::action::{
    Action, ActionId, Actor, Body, CancelRequest, Ending, Event, State, Timestamp, Unsuccess,
};
use crate::handlers::StopReason;
use crate::store::StoreError;

/// An answer to a command, or why the engine cannot go on.
type Answer = Result<Result<Arc<Action>, CommandError>, StoreError>;

impl Core {
    pub(super) fn command(&mut self, now: Timestamp, actor: Actor, id: ActionId, command: Command) -> Answer {
        let action = match self.tell_of(id)? {
            Ok(Some(action)) => action,
            Ok(None) => return Ok(Err(CommandError::NoSuchAction(id))),
            Err(error) => return Ok(Err(error.into())),
        };
        let owner = action.body.submitter.uid;
        if actor.uid != owner && !self.is_operator(actor) {
            return Ok(Err(CommandError::NotAllowed { uid: actor.uid, owner }));
        }
        if let Err(detail) = allowed(&command, action.status.state) {
            return Ok(Err(CommandError::WrongState { id, state: action.status.state, detail }));
        }
        let changed = match command {
            Command::Cancel { reason } => self.cancel(now, actor, action, &reason)?,
            Command::Retry => return self.retry(now, actor, &action),
            Command::Hold { reason } => {
                let text = with_reason(format!("held by uid {}", actor.uid), &reason);
                self.step(now, Input::Hold(id));
                self.change(action, Event::Hold, |status| status.reason = excerpt(&text))?
            }
            Command::Resume => {
                let goes_back = action.status.cancel.is_some() && self.undoer(&action, false).is_some();
                self.step(now, Input::Queue(id));
                self.change(action, Event::Resume, |status| {
                    if goes_back {
                        status.ending.get_or_insert(Ending::interrupted(Unsuccess::Cancelled, ""));
                    } else if status.ending.is_none() {
                        // Whoever resumes it wants it to go on.
                        status.cancel = None;
                    }
                    // A person has looked: what counted towards holding it counts no more.
                    status.deaths = 0;
                    status.due_at = None;
                    status.reason.clear();
                })?
            }
            Command::Resolve { success, message } => {
                let event = if success { Event::Succeed } else { Event::Fail };
                let text = match message.trim() {
                    "" => format!("settled by uid {}", actor.uid),
                    message => format!("{message} (settled by uid {})", actor.uid),
                };
                self.finish(now, action, event, &text, None)?
            }
            Command::Unlock => {
                if action.status.locks_freed {
                    action
                } else {
                    tracing::warn!(action_id = id.0, peer_uid = actor.uid, "locks of a held action freed");
                    self.step(now, Input::Unlock(id));
                    self.change(action, Event::Note, |status| status.locks_freed = true)?
                }
            }
        };
        Ok(Ok(Arc::new(changed)))
    }

    fn cancel(
        &mut self,
        now: Timestamp,
        actor: Actor,
        mut action: Action,
        reason: &str,
    ) -> Result<Action, StoreError> {
        if action.status.state == State::Cancelling {
            return Ok(action);
        }
        let request = CancelRequest { uid: actor.uid, at: now, reason: excerpt(reason) };
        let waits = action.status.state != State::Running;
        let is_being_undone = action.status.cancel.is_some() && action.status.ending.is_some();
        if waits && is_being_undone && action.status.state != State::Held {
            // It waits for its turn to be taken back.
            return Ok(action);
        }
        if waits {
            action.status.cancel = Some(request);
            let why = format!("cancelled by uid {}", actor.uid);
            let ending = Ending::interrupted(Unsuccess::Cancelled, "");
            return match self.queue_undo(now, action, ending, &with_reason(why, reason))? {
                Ok(action) => Ok(action),
                Err(action) => {
                    let text = cancelled_text(&action, now);
                    self.finish(now, action, Event::Cancel, &text, None)
                }
            };
        }
        let id = action.id;
        let action = self.change(action, Event::Cancel, |status| status.cancel = Some(request))?;
        if let Some(live) = self.live.get(&id) {
            // What takes it back goes on.
            if live.undo.is_none() {
                let stop = live.stop.clone();
                self.then(move || worker::stop(&stop, StopReason::Cancel));
            }
            return Ok(action);
        }
        // Nothing of it runs: an interrupted attempt whose effect is being looked for.
        self.end(now, action, Ending::interrupted(Unsuccess::Cancelled, ""))
    }

    /// Submits the same request again, in the name of who asks for it.
    fn retry(&mut self, now: Timestamp, actor: Actor, action: &Action) -> Answer {
        let submission = again(&action.body, actor, now);
        let pressure = self.store.pressure();
        let answer = self.decide(now, submission, pressure, Some(action.id))?;
        Ok(answer
            .map(|accepted| match accepted {
                Accepted::New(action) | Accepted::Repeated(action) | Accepted::Joined(action) => action,
            })
            .map_err(CommandError::from))
    }

    pub(super) fn pause(
        &mut self,
        now: Timestamp,
        actor: Actor,
        queue: &str,
        paused: bool,
    ) -> Result<QueueStatus, CommandError> {
        if !self.is_operator(actor) {
            return Err(CommandError::NotAllowed { uid: actor.uid, owner: self.own_uid });
        }
        let no_such_queue = || CommandError::NoSuchQueue(queue.to_owned());
        let at = self.queue_names.iter().position(|name| name == queue).ok_or_else(no_such_queue)?;
        let at = QueueIndex::try_from(at).map_err(|_| no_such_queue())?;
        self.step(now, Input::PauseQueue(at, paused));
        self.store.pause_queue(queue, paused);
        self.queue_status(at).ok_or_else(no_such_queue)
    }

    fn is_operator(&self, actor: Actor) -> bool {
        actor.uid == 0
            || actor.uid == self.own_uid
            || self.settings.operator_uids.contains(&actor.uid)
            || self.settings.operator_gids.contains(&actor.gid)
    }
}

/// Whether a command makes sense in a state; if not, what to do instead.
fn allowed(command: &Command, state: State) -> Result<(), &'static str> {
    let active = state.is_active();
    match command {
        Command::Cancel { .. } | Command::Hold { .. } if state.is_final() => Err("it has ended already"),
        Command::Retry if !state.is_final() => Err("only an action that has ended can be submitted again"),
        Command::Hold { .. } if active => Err("it runs: cancel it, or wait"),
        Command::Hold { .. } if state == State::Held => Err("it is held already"),
        Command::Resume if state != State::Held => Err("only a held action can be resumed"),
        Command::Resolve { .. } if state != State::Held => Err("only a held action can be settled by hand"),
        Command::Unlock if state != State::Held => Err("only a held action's locks can be freed"),
        _ => Ok(()),
    }
}

/// The request that became `body`, once more: as it was, but now. A deadline that has passed is left out, and
/// so is the idempotency key, which stands for the first action.
fn again(body: &Body, actor: Actor, now: Timestamp) -> Submission {
    Submission {
        actor,
        user: body.user.clone(),
        resource_type: body.resource_type.clone(),
        action: body.action.clone(),
        resource_id: body.resource_id,
        started_via: body.started_via.clone(),
        metadata: body.metadata.clone(),
        queue: Some(body.queue.clone()),
        priority: Some(body.priority),
        run_at: None,
        deadline: body.deadline.filter(|deadline| *deadline > now),
        timeout_ms: Some(body.timeout_ms),
        on_conflict: body.on_conflict,
        idempotency_key: None,
        retry: Some(body.retry),
        digest: [0; 16],
    }
}

/// Who cancelled an action, and how long it had run.
pub(super) fn cancelled_text(action: &Action, now: Timestamp) -> String {
    let when = match &action.status.claim {
        Some(claim) => format!("after {}", ago(now.ms_since(claim.began_at))),
        None if action.status.attempt == 0 => "before it began".to_owned(),
        None => "between two attempts".to_owned(),
    };
    match &action.status.cancel {
        Some(cancel) => with_reason(format!("by uid {} {when}", cancel.uid), &cancel.reason),
        None => when,
    }
}

fn with_reason(text: String, reason: &str) -> String {
    match reason.trim() {
        "" => text,
        reason => format!("{text}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::outcome::tests::action;

    fn verdicts(command: &Command) -> String {
        let letter = |state| if allowed(command, state).is_ok() { 'y' } else { '.' };
        State::ALL.into_iter().map(letter).collect()
    }

    #[test]
    fn each_command_is_allowed_in_the_states_where_the_transition_is() {
        let text = String::new;
        // scheduled queued retry_wait held running cancelling rebooting | the six final states
        assert_eq!(verdicts(&Command::Cancel { reason: text() }), "yyyyyyy......");
        assert_eq!(verdicts(&Command::Retry), ".......yyyyyy");
        assert_eq!(verdicts(&Command::Hold { reason: text() }), "yyy..........");
        assert_eq!(verdicts(&Command::Resume), "...y.........");
        assert_eq!(verdicts(&Command::Resolve { success: true, message: text() }), "...y.........");
        assert_eq!(verdicts(&Command::Unlock), "...y.........");
        for (command, event) in [
            (Command::Hold { reason: text() }, Event::Hold),
            (Command::Resume, Event::Resume),
            (Command::Unlock, Event::Note),
            (Command::Resolve { success: true, message: text() }, Event::Succeed),
            (Command::Resolve { success: false, message: text() }, Event::Fail),
        ] {
            for state in State::ALL {
                assert!(
                    allowed(&command, state).is_err() || state.apply(event).is_ok(),
                    "{command:?} {state}"
                );
            }
        }
    }

    #[test]
    fn cancelled_action_says_by_whom_and_when() {
        let mut action = action(State::Running);
        let request = CancelRequest { uid: 1000, at: Timestamp(12_000), reason: "wrong branch".into() };
        action.status.cancel = Some(request);
        assert_eq!(cancelled_text(&action, Timestamp(12_000)), "by uid 1000 after 12 s: wrong branch");
        action.status.claim = None;
        action.status.attempt = 0;
        assert_eq!(cancelled_text(&action, Timestamp(12_000)), "by uid 1000 before it began: wrong branch");
    }

    #[test]
    fn repeated_request_keeps_its_fields_but_not_its_key_or_a_deadline_that_passed() {
        let mut body = (*action(State::Failed).body).clone();
        body.idempotency_key = Some("once".into());
        body.deadline = Some(Timestamp(100));
        let actor = Actor { uid: 7, gid: 7, pid: 7 };
        let request = again(&body, actor, Timestamp(100));
        assert_eq!((request.idempotency_key, request.deadline), (None, None));
        assert_eq!((request.actor, request.metadata), (actor, body.metadata.clone()));
        assert_eq!(again(&body, actor, Timestamp(99)).deadline, body.deadline);
    }
}
