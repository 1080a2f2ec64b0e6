//! Says why an action waits: every cause with a stable code, a sentence for people, and the action it waits
//! for.
//!
//! | code | the action |
//! | --- | --- |
//! | `scheduled` | waits for its `run_at` |
//! | `retry_wait` | waits after a failed try |
//! | `held` | waits for a person |
//! | `rebooting` | waits for the host to reboot |
//! | `behind_resource` | waits for an earlier action on its resource |
//! | `queue_paused`, `queue_full`, `running_limit`, `draining` | could start, but for this |
//! | `reboot_due` | could start, but for the reboot of the host that another action has asked for |
//! | `behind_in_queue` | could start, but others are served first |
//! | `running`, `final` | does not wait |
//!
//! Called by `engine::core`.

use super::core::Core;
use super::outcome::ago;
use super::request::{Cause, CommandError, Explanation};
use crate::action::{Action, ActionId, State, Timestamp};
use crate::store::StoreError;

/// Actions ahead in the queue are counted up to here; beyond, "at least".
const AHEAD_MAX: usize = 10_000;

impl Core {
    pub(super) fn explain(&self, id: ActionId) -> Result<Result<Explanation, CommandError>, StoreError> {
        let action = match self.tell_of(id)? {
            Ok(Some(action)) => action,
            Ok(None) => return Ok(Err(CommandError::NoSuchAction(id))),
            Err(error) => return Ok(Err(error.into())),
        };
        let now = (self.clock)();
        let state = action.status.state;
        let causes = match state {
            State::Queued => self.why_queued(now, &action)?,
            State::Rebooting => vec![cause("rebooting", self.why_rebooting(now, &action))],
            _ => vec![why(&action, now)],
        };
        Ok(Ok(Explanation { state, causes }))
    }

    fn why_queued(&self, now: Timestamp, action: &Action) -> Result<Vec<Cause>, StoreError> {
        let id = action.id;
        let mut causes = Vec::new();
        if let Some(other) = self.scheduler.behind(id) {
            let text = match self.tell_of(other)? {
                Ok(Some(other)) => behind(action, &other, now),
                _ => format!("action {other} comes first on its resource"),
            };
            causes.push(Cause { code: "behind_resource", text, behind: Some(other) });
        }
        let queue = self.scheduler.queue_of(id).unwrap_or_default();
        let (_, running, paused) = self.scheduler.queue_counts(queue);
        if paused {
            causes.push(cause("queue_paused", format!("queue {} is paused", action.body.queue)));
        }
        if self.scheduler.queue_is_full(queue) {
            let text = format!("queue {} runs {running} actions, as many as it may", action.body.queue);
            causes.push(cause("queue_full", text));
        }
        let (running, running_max) = (self.scheduler.running(), self.scheduler.running_max());
        if running >= running_max {
            causes.push(cause("running_limit", format!("{running} of {running_max} actions run in all")));
        }
        if self.scheduler.starts_nothing() {
            let text = format!("a reboot of the host is due: {}", self.reboot_text(now));
            causes.push(cause("reboot_due", text));
        }
        if self.scheduler.is_draining() {
            causes.push(cause("draining", "the daemon is stopping and starts nothing more".into()));
        }
        if let Some(ahead) = self.scheduler.ahead_in_queue(id, AHEAD_MAX).filter(|ahead| *ahead > 0) {
            let least = if ahead == AHEAD_MAX { "at least " } else { "" };
            let noun = if ahead == 1 { "action" } else { "actions" };
            let text = format!("{least}{ahead} {noun} of queue {} served before it", action.body.queue);
            causes.push(cause("behind_in_queue", text));
        }
        if causes.is_empty() {
            causes.push(cause("behind_in_queue", "it is about to begin".into()));
        }
        Ok(causes)
    }
}

impl Core {
    fn why_rebooting(&self, now: Timestamp, action: &Action) -> String {
        format!("{} ({})", why(action, now).text, self.reboot_text(now))
    }

    fn reboot_text(&self, now: Timestamp) -> String {
        let mut running: Vec<ActionId> = self.live.keys().copied().collect();
        running.sort_unstable();
        self.reboot.explain(now, &running, self.settings.reboot_wait_ms)
    }
}

/// Why an action that is not queued stands where it does.
fn why(action: &Action, now: Timestamp) -> Cause {
    let status = &action.status;
    let due = || ago(status.due_at.map_or(0, |due| due.ms_since(now)));
    let reason = |other: &str| match status.reason.as_str() {
        "" => other.to_owned(),
        reason => reason.to_owned(),
    };
    match status.state {
        State::Scheduled => cause("scheduled", format!("its time comes in {}", due())),
        State::RetryWait => {
            let after = reason("an earlier try failed");
            cause("retry_wait", format!("the next try begins in {}, because {after}", due()))
        }
        State::Held => {
            let why = reason("held");
            cause("held", format!("{why} (it waits for a person)"))
        }
        State::Rebooting => cause("rebooting", reason("it waits for a reboot of the host")),
        State::Running | State::Cancelling => {
            let ran = status.claim.as_ref().map_or(0, |claim| now.ms_since(claim.began_at));
            let verb = if status.state == State::Cancelling { "is being stopped" } else { "runs" };
            cause("running", format!("attempt {} {verb}; it began {} ago", status.attempt, ago(ran)))
        }
        state => cause("final", format!("it has ended: {state}")),
    }
}

/// Who has, or will have, the resource of `action`, and since when.
fn behind(action: &Action, other: &Action, now: Timestamp) -> String {
    let resource = format!("{} {}", action.body.resource_type, action.body.resource_id);
    let (id, name, state) = (other.id, &other.body.action, other.status.state);
    match &other.status.claim {
        Some(claim) => {
            let since = ago(now.ms_since(claim.began_at));
            format!("action {id} ({name}, {state}) has had {resource} for {since}")
        }
        None if other.status.attempt > 0 && state != State::Queued => {
            format!("action {id} ({name}) has {resource} while it is {state}")
        }
        None => format!("action {id} ({name}, {state}) was accepted before it and is next on {resource}"),
    }
}

fn cause(code: &'static str, text: String) -> Cause {
    Cause { code, text, behind: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::outcome::tests::action;

    #[test]
    fn every_state_has_a_cause_with_its_code() {
        let code = |state| why(&action(state), Timestamp(0)).code;
        assert_eq!(code(State::Scheduled), "scheduled");
        assert_eq!(code(State::RetryWait), "retry_wait");
        assert_eq!(code(State::Held), "held");
        assert_eq!(code(State::Running), "running");
        assert_eq!(code(State::Cancelling), "running");
        assert_eq!(code(State::Rebooting), "rebooting");
        for state in State::ALL.into_iter().filter(|state| state.is_final()) {
            assert_eq!(code(state), "final");
        }
    }

    #[test]
    fn text_names_the_time_and_who_has_the_resource() {
        let mut waiting = action(State::Scheduled);
        waiting.status.due_at = Some(Timestamp(90_000));
        assert_eq!(why(&waiting, Timestamp(0)).text, "its time comes in 90 s");
        let holder = action(State::Running);
        let text = behind(&waiting, &holder, Timestamp(5_000));
        assert_eq!(text, "action 1 (deploy, running) has had Stack 7 for 5 s");
    }
}
