//! Decides about attempts that an earlier run of the daemon left unfinished.
//!
//! What runs on under a keeper, or ended under one, is adopted. For the rest, which were interrupted:
//! [`decide`] is the whole policy, without side effects; `Core` gathers what it needs to know, carries out
//! the answer and reports. An interruption never uses up a try. The same policy ([`by_policy`]) holds for
//! attempts that are stopped because the daemon stops (`outcome`). Called by `engine::start` before
//! anything is claimed; by `engine::core` for the answers of probes.

use std::collections::{BTreeMap, HashMap};

use super::core::Core;
use super::outcome::end_attempt;
use crate::action::{Action, ActionId, AttemptEnd, Event, ProbeAnswer, Recovery, State, Timestamp};
use crate::runner::adoption::{Stated, Survey};
use crate::store::StoreError;

/// Deaths of the daemon by one action after which it is held whatever its policy.
const DEATHS_MAX: u32 = 3;

/// Starts on the same boot after which a reboot that an action has asked for is not asked for any more.
const STARTS_MAX: u64 = 3;

pub(super) const NO_HANDLER: &str = "interrupted, and no handler is configured for it any more";

/// An attempt whose in-process handler took the daemon down (panic or fatal signal), as the daemon's last
/// words say it (`daemon::last_words`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub id: ActionId,
    pub attempt: u32,
}

/// What becomes of an action whose attempt was interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Run it again.
    Requeue,
    /// Ask its handler whether it took effect.
    Probe,
    Fail,
    Hold(String),
    TimeOut,
    CancelDone,
    /// The reboot it asked for has happened.
    Rebooted,
    /// The reboot it asked for is still to come.
    Wait,
}

/// What a start knows about an interrupted attempt.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and any of them goes with any")]
pub(super) struct Facts<'a> {
    pub state: State,
    pub policy: Recovery,
    /// The one that was just found included.
    pub deaths: u32,
    /// What of it is still alive.
    pub survivor: Option<&'a str>,
    /// It is certain that its program was never started.
    pub unstarted: bool,
    /// The host has booted since the claim.
    pub rebooted: bool,
    /// Starts of the daemon since the claim, or since the attempt asked for a reboot.
    pub starts: u64,
    pub deadline_over: bool,
    pub has_handler: bool,
}

/// The policy of a start. Earlier rules outrank later ones: while something of an attempt is alive, nobody
/// touches its resource; then what was cancelled is done with; then what is dangerous to the daemon waits.
///
/// A deadline that has passed ends only what would be run again: a probe may still find that the action was
/// done, and what is held for a person stays for a person.
pub(super) fn decide(facts: Facts<'_>) -> Decision {
    if let Some(what) = facts.survivor {
        return Decision::Hold(format!(
            "interrupted, and something of its program is still alive: {what}; end it, then resume, resolve or \
             cancel the action"
        ));
    }
    match facts.state {
        State::Cancelling => return Decision::CancelDone,
        State::Rebooting if facts.rebooted => return Decision::Rebooted,
        State::Rebooting if facts.starts >= STARTS_MAX => {
            return Decision::Hold(format!(
                "asked for a reboot of the host; the daemon has started {} times since, on the same boot each time; look \
                 why, then resume it to run it again, or resolve or cancel it",
                facts.starts
            ));
        }
        State::Rebooting => return Decision::Wait,
        _ => {}
    }
    if facts.deaths >= DEATHS_MAX {
        return Decision::Hold(format!(
            "its handler took the daemon down {} times; resume it to try once more, or resolve or cancel it",
            facts.deaths
        ));
    }
    let decision = if facts.unstarted { Decision::Requeue } else { by_policy(facts.policy) };
    match decision {
        Decision::Requeue if facts.deadline_over => Decision::TimeOut,
        Decision::Requeue | Decision::Probe if !facts.has_handler => Decision::Hold(NO_HANDLER.into()),
        decision => decision,
    }
}

/// What the policy of an action says about an interrupted attempt of which nothing is alive.
pub(super) fn by_policy(policy: Recovery) -> Decision {
    match policy {
        // To resume is to run again: the handler gets the last checkpoint.
        Recovery::Rerun | Recovery::Resume => Decision::Requeue,
        Recovery::Probe => Decision::Probe,
        Recovery::Fail => Decision::Fail,
        Recovery::Hold => Decision::Hold(
            "interrupted: its effect may be half done; look, then resume it to run it again, or resolve or \
             cancel it"
                .into(),
        ),
    }
}

/// What the answer of a probe means.
pub(super) fn after_probe(answer: ProbeAnswer, deadline_over: bool) -> Option<Decision> {
    match answer {
        ProbeAnswer::Committed => None,
        ProbeAnswer::NotCommitted if deadline_over => Some(Decision::TimeOut),
        ProbeAnswer::NotCommitted => Some(Decision::Requeue),
        ProbeAnswer::Unknown => Some(Decision::Hold(
            "interrupted, and its probe cannot tell whether it took effect; look, then resume it to run it \
             again, or resolve or cancel it"
                .into(),
        )),
    }
}

impl Decision {
    fn word(&self) -> &'static str {
        match self {
            Self::Requeue => "requeued",
            Self::Probe => "probed",
            Self::Fail => "failed",
            Self::Hold(_) => "held",
            Self::TimeOut => "timed_out",
            Self::CancelDone => "cancelled",
            Self::Rebooted => "rebooted",
            Self::Wait => "rebooting",
        }
    }
}

impl Core {
    pub(super) fn recover(
        &mut self,
        interrupted: &[ActionId],
        survey: &Survey,
        survivors: &HashMap<ActionId, String>,
        death: Option<Death>,
    ) -> Result<(), StoreError> {
        let now = (self.clock)();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for id in interrupted {
            let Ok(Some(mut action)) = self.look_up(now, *id)? else { continue };
            if !action.status.state.is_active() {
                continue;
            }
            if action.status.ending.is_some() && !survivors.contains_key(id) {
                *counts.entry("undone").or_default() += 1;
                self.take_back(now, action, 0)?;
                continue;
            }
            if survey.adoptable.contains(id) && action.status.state != State::Rebooting {
                *counts.entry("adopted").or_default() += 1;
                self.adopt(action);
                continue;
            }
            if let Some(Stated { checkpoint, steps }) = survey.stated.get(id).cloned()
                && action.status.ending.is_none()
            {
                action.status.checkpoint = checkpoint.or(action.status.checkpoint);
                action.status.steps = steps.unwrap_or(action.status.steps);
            }
            if death == Some(Death { id: *id, attempt: action.status.attempt }) {
                action.status.deaths += 1;
            }
            let decision = decide(self.facts(now, &action, survey, survivors));
            *counts.entry(decision.word()).or_default() += 1;
            if decision == Decision::Probe && action.status.deaths > 0 {
                // The count must be durable before the probe may take the daemon down in its turn.
                action = self.change(action, Event::Note, |_| {})?;
            }
            self.carry_out(now, action, decision)?;
        }
        if !counts.is_empty() {
            let count = |word| counts.get(word).copied().unwrap_or(0);
            tracing::info!(
                adopted = count("adopted"),
                requeued = count("requeued"),
                probed = count("probed"),
                failed = count("failed"),
                held = count("held"),
                timed_out = count("timed_out"),
                cancelled = count("cancelled"),
                undone = count("undone"),
                rebooted = count("rebooted"),
                rebooting = count("rebooting"),
                "attempts of an earlier run taken up or recovered"
            );
        }
        Ok(())
    }

    /// Takes up an attempt that runs on, or has ended while no daemon ran.
    fn adopt(&mut self, action: Action) {
        let route = self.registry.find(&action.body.action, &action.body.resource_type);
        let handler = route.map(|route| &route.handler).filter(|handler| handler.outlives_daemon(&action));
        // Of a handler that is not configured so any more: how it ends is recorded all the same.
        let handler = std::sync::Arc::clone(handler.unwrap_or(&self.adopter));
        self.after.push(super::core::After::Adopt(std::sync::Arc::new(action), handler));
    }

    fn facts<'a>(
        &self,
        now: Timestamp,
        action: &Action,
        survey: &Survey,
        survivors: &'a HashMap<ActionId, String>,
    ) -> Facts<'a> {
        let claim = action.status.claim.as_ref();
        let route = self.registry.find(&action.body.action, &action.body.resource_type);
        Facts {
            state: action.status.state,
            policy: action.body.recovery,
            deaths: action.status.deaths,
            survivor: survivors.get(&action.id).map(String::as_str),
            unstarted: survey.unstarted.contains(&action.id),
            rebooted: claim.is_some_and(|claim| claim.boot_id != self.boot_id),
            starts: claim.map_or(0, |claim| self.incarnation.saturating_sub(claim.incarnation)),
            deadline_over: action.body.deadline.is_some_and(|deadline| deadline <= now),
            has_handler: route.is_some(),
        }
    }

    /// Takes the answer of a probe, if the action still waits for it.
    pub(super) fn probed(
        &mut self,
        now: Timestamp,
        id: ActionId,
        answer: ProbeAnswer,
    ) -> Result<(), StoreError> {
        let waits = |action: &Action| action.status.state == State::Running && action.status.claim.is_some();
        let Some(mut action) = self.unfinished(now, id)?.filter(waits) else { return Ok(()) };
        if self.live.contains_key(&id) {
            return Ok(());
        }
        tracing::debug!(action_id = id.0, ?answer, "probe answered");
        let deadline_over = action.body.deadline.is_some_and(|deadline| deadline <= now);
        if let Some(decision) = after_probe(answer, deadline_over) {
            return self.carry_out(now, action, decision);
        }
        end_attempt(&mut action.status, now, AttemptEnd::Interrupted, "interrupted");
        let text = "its attempt was interrupted, and its probe found that it had taken effect";
        self.finish(now, action, Event::Succeed, text, None).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'static> = Facts {
        state: State::Running,
        policy: Recovery::Rerun,
        deaths: 0,
        survivor: None,
        unstarted: false,
        rebooted: false,
        starts: 1,
        deadline_over: false,
        has_handler: true,
    };

    fn words(facts: Facts<'static>) -> Vec<&'static str> {
        Recovery::ALL.into_iter().map(|policy| decide(Facts { policy, ..facts }).word()).collect()
    }

    #[test]
    fn each_policy_gives_what_its_table_says() {
        // The columns: rerun, probe, resume, fail, hold.
        assert_eq!(words(FACTS), ["requeued", "probed", "requeued", "failed", "held"]);
        let late = Facts { deadline_over: true, ..FACTS };
        assert_eq!(words(late), ["timed_out", "probed", "timed_out", "failed", "held"]);
        let unhandled = Facts { has_handler: false, ..FACTS };
        assert_eq!(words(unhandled), ["held", "held", "held", "failed", "held"]);
        assert_eq!(words(Facts { unstarted: true, ..FACTS }), ["requeued"; 5]);
        assert_eq!(words(Facts { unstarted: true, ..late }), ["timed_out"; 5]);
        assert_eq!(words(Facts { deaths: 2, ..FACTS }), words(FACTS));
        assert_eq!(words(Facts { deaths: 3, ..FACTS }), ["held"; 5]);
    }

    #[test]
    fn nothing_is_done_while_something_of_the_attempt_is_alive() {
        for state in [State::Running, State::Cancelling, State::Rebooting] {
            let facts = Facts { state, survivor: Some("pid 4711"), deadline_over: true, ..FACTS };
            assert_eq!(words(facts), ["held"; 5]);
        }
    }

    #[test]
    fn cancelled_attempt_is_done_with_and_a_reboot_is_awaited() {
        assert_eq!(words(Facts { state: State::Cancelling, deaths: 3, ..FACTS }), ["cancelled"; 5]);
        assert_eq!(words(Facts { state: State::Rebooting, ..FACTS }), ["rebooting"; 5]);
        assert_eq!(
            words(Facts { state: State::Rebooting, rebooted: true, starts: 9, ..FACTS }),
            ["rebooted"; 5]
        );
        assert_eq!(words(Facts { state: State::Rebooting, starts: 2, ..FACTS }), ["rebooting"; 5]);
        assert_eq!(words(Facts { state: State::Rebooting, starts: 3, ..FACTS }), ["held"; 5]);
        assert_eq!(words(Facts { starts: 9, ..FACTS }), words(FACTS), "of a reboot only");
    }

    #[test]
    fn every_decision_is_a_legal_transition() {
        for state in [State::Running, State::Cancelling, State::Rebooting] {
            for survivor in [None, Some("pid 1")] {
                for rebooted in [false, true] {
                    for policy in Recovery::ALL {
                        let facts = Facts { state, survivor, rebooted, policy, deadline_over: true, ..FACTS };
                        let event = match decide(facts) {
                            Decision::Requeue => Event::Requeue,
                            Decision::Fail => Event::Fail,
                            Decision::Hold(_) => Event::Hold,
                            Decision::TimeOut => Event::TimeOut,
                            Decision::CancelDone => Event::CancelDone,
                            Decision::Rebooted => Event::Rebooted,
                            Decision::Probe | Decision::Wait => continue,
                        };
                        assert!(state.apply(event).is_ok(), "{facts:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn probe_reruns_only_what_was_not_done() {
        assert_eq!(after_probe(ProbeAnswer::Committed, true), None);
        assert_eq!(after_probe(ProbeAnswer::NotCommitted, false), Some(Decision::Requeue));
        assert_eq!(after_probe(ProbeAnswer::NotCommitted, true), Some(Decision::TimeOut));
        assert!(matches!(after_probe(ProbeAnswer::Unknown, false), Some(Decision::Hold(_))));
    }
}
