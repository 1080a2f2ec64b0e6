//! The reboot of the host that actions have asked for: who waits for it, when it is asked for, and what if it does not come.
//!
//! ```text
//!  an attempt asks ─▶ waits: nothing more is claimed ──(nothing runs, or `[reboot] wait` is over)──▶ asked ─▶ the host is gone
//!                       │ nobody waits any more: claims go on                                         │ the command failed, or
//!                       ▼                                                                             ▼ the host is still here
//!                      idle                                                                          held, and claims go on
//! ```
//!
//! # Guarantees
//!
//! - Asked for only when the action's new state is durable: after the boot it goes on, and never asks again for the same
//!   reboot. A daemon that dies in between finds the action on the same boot id and asks once more; but not for ever, since a
//!   host whose boot id cannot be told from its last one would be rebooted for ever.
//! - Not asked for by a daemon that stops: its next start does that.
//!
//! [`Reboot`] decides, without side effects; `Core` carries it out through a [`Host`]. Called by `engine::core` in each turn.

use std::collections::BTreeMap;

use super::core::{After, Core};
use super::outcome::{ago, excerpt};
use super::request::Request;
use super::scheduler::Input;
use crate::action::{Action, ActionId, Event, Outcome, REBOOTS_MAX, Timestamp};
use crate::crash_point::crash_point;
use crate::handlers::BoxFuture;
use crate::store::StoreError;

/// How long the host may take to go down after it was asked to.
const GOING_DOWN_MAX_MS: u64 = 300_000;
/// What failed may have been ended by the shutdown that it began: the daemon hears of that within this time.
const FAILED_MS: u64 = 3_000;

/// The host, as far as the engine has anything to do with it.
pub trait Host: Send + Sync {
    /// Why it cannot be rebooted from here, if that is known beforehand. Must not block.
    fn cannot_reboot(&self) -> Option<String>;

    /// Asks for the reboot; true when that has been taken, which may be long before the host goes down.
    ///
    /// # Errors
    ///
    /// In words, what was tried and what it said.
    fn reboot(&self) -> BoxFuture<'static, Result<(), String>>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// For what still runs.
    Waits {
        since: Timestamp,
    },
    Asked {
        since: Timestamp,
        failed: Option<(Timestamp, String)>,
    },
}

/// What has to be done about a reboot now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    Ask,
    GiveUp(String),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reboot {
    /// Those that are `rebooting`, with their deadlines.
    waiting: BTreeMap<ActionId, Option<Timestamp>>,
    stage: Stage,
}

impl Reboot {
    /// An action waits for it from now on.
    pub fn wanted(&mut self, now: Timestamp, id: ActionId, deadline: Option<Timestamp>) {
        self.waiting.insert(id, deadline);
        if self.stage == Stage::Idle {
            self.stage = Stage::Waits { since: now };
        }
    }

    /// An action does not wait for it any more. What was asked for cannot be called back.
    pub fn not_wanted(&mut self, id: ActionId) {
        self.waiting.remove(&id);
        if self.waiting.is_empty() && matches!(self.stage, Stage::Waits { .. }) {
            self.stage = Stage::Idle;
        }
    }

    /// Whether nothing may be started.
    pub fn is_due(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// Those whose deadline is over before it was asked for.
    fn over(&self, now: Timestamp) -> Vec<ActionId> {
        let waits = matches!(self.stage, Stage::Waits { .. });
        let over = |deadline: &Option<Timestamp>| waits && deadline.is_some_and(|deadline| deadline <= now);
        self.waiting.iter().filter(|(_, deadline)| over(deadline)).map(|(id, _)| *id).collect()
    }

    fn next(&self, now: Timestamp, running: u32, wait_ms: u64) -> Next {
        match &self.stage {
            Stage::Waits { since } if running == 0 || now.ms_since(*since) >= wait_ms => Next::Ask,
            Stage::Asked { failed: Some((at, said)), .. } if now.ms_since(*at) >= FAILED_MS => {
                Next::GiveUp(said.clone())
            }
            Stage::Asked { since, failed: None } if now.ms_since(*since) >= GOING_DOWN_MAX_MS => {
                let limit = ago(GOING_DOWN_MAX_MS);
                Next::GiveUp(format!("it was asked for, and the host has not gone down {limit} later"))
            }
            _ => Next::Nothing,
        }
    }

    fn asked(&mut self, now: Timestamp) {
        self.stage = Stage::Asked { since: now, failed: None };
    }

    fn failed(&mut self, now: Timestamp, said: String) {
        if let Stage::Asked { failed, .. } = &mut self.stage {
            *failed = Some((now, said));
        }
    }

    /// It does not come: those that waited for it, who have to be told.
    fn given_up(&mut self) -> Vec<ActionId> {
        self.stage = Stage::Idle;
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// What it waits for, for people.
    pub fn explain(&self, now: Timestamp, running: &[ActionId], wait_ms: u64) -> String {
        match &self.stage {
            Stage::Idle => "it is not due".to_owned(),
            Stage::Waits { since } => {
                let left = ago(wait_ms.saturating_sub(now.ms_since(*since)));
                let listed: Vec<String> = running.iter().take(10).map(ToString::to_string).collect();
                let more = if running.len() > listed.len() { ", ..." } else { "" };
                let listed = match listed.join(", ") {
                    none if none.is_empty() => none,
                    listed => format!(" (action {listed}{more})"),
                };
                format!("it is asked for when what runs has ended{listed}, or in {left}")
            }
            Stage::Asked { since, failed: None } => {
                format!("it was asked for {} ago", ago(now.ms_since(*since)))
            }
            Stage::Asked { failed: Some((_, said)), .. } => said.clone(),
        }
    }
}

impl Core {
    /// What an attempt that asks for a reboot gets: that, or a failure that says why not.
    pub(super) fn reboot_or_failure(&self, reboots: u32, message: String) -> Outcome {
        const { assert!(REBOOTS_MAX == 3, "the text says how many") };
        let refused = if reboots >= REBOOTS_MAX {
            Some("asked for a reboot a fourth time".to_owned())
        } else {
            self.host.cannot_reboot().map(|why| format!("asked for a reboot: {why}"))
        };
        match refused {
            None => Outcome::Reboot { message },
            Some(mut refused) => {
                if !message.trim().is_empty() {
                    refused = format!("{refused}; {message}");
                }
                Outcome::Failed { message: refused, result: None, retryable: false }
            }
        }
    }

    /// The action waits for a reboot of the host from now on.
    pub(super) fn await_reboot(
        &mut self,
        now: Timestamp,
        action: Action,
        message: &str,
    ) -> Result<(), StoreError> {
        let count = action.status.reboots + 1;
        let reason = format!(
            "asked for reboot {count} of {REBOOTS_MAX} of the host, which comes when what runs has ended: {message}"
        );
        let incarnation = self.incarnation;
        self.step(now, Input::Reboot(action.id));
        self.reboot.wanted(now, action.id, action.body.deadline);
        // Its claim stays: by the boot in it the next start knows whether the host has rebooted.
        self.change(action, Event::Reboot, |status| {
            status.reboots = count;
            status.reason = excerpt(&reason);
            if let Some(claim) = &mut status.claim {
                // It has begun, and so has done what no claim without a program says.
                (claim.is_gated, claim.program) = (false, None);
                // From here on the starts of the daemon are counted: see `recovery`.
                claim.incarnation = incarnation;
            }
        })?;
        Ok(())
    }

    /// Does what is due about a reboot, and lets the scheduler know whether it may start anything.
    pub(super) fn look_after_reboot(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if !self.reboot.is_due() && !self.scheduler.starts_nothing() {
            return Ok(());
        }
        for id in self.reboot.over(now) {
            if let Ok(Some(action)) = self.look_up(now, id)? {
                let text = "its deadline was over while it waited for the reboot of the host";
                self.finish(now, action, Event::TimeOut, text, None)?;
            }
        }
        // The next start asks, if that is on the same boot.
        if !self.scheduler.is_draining() {
            match self.reboot.next(now, self.scheduler.running(), self.settings.reboot_wait_ms) {
                Next::Nothing => {}
                Next::Ask => {
                    self.reboot.asked(now);
                    self.ask_for_reboot();
                }
                Next::GiveUp(said) => self.give_up_reboot(now, &said)?,
            }
        }
        let is_due = self.reboot.is_due();
        self.step(now, Input::StartNothing(is_due));
        Ok(())
    }

    /// Once the turn is durable.
    fn ask_for_reboot(&mut self) {
        let (host, inbox) = (std::sync::Arc::clone(&self.host), self.inbox.clone());
        let (runtime, running) = (self.runtime.clone(), self.scheduler.running());
        self.after.push(After::Do(Box::new(move || {
            crash_point("reboot_recorded");
            tracing::warn!(running, "rebooting the host, as an action has asked");
            runtime.spawn(async move {
                let asked = host.reboot().await;
                crash_point("reboot_asked");
                let _ = inbox.send(Request::RebootAsked(asked));
            });
        })));
    }

    /// Takes what became of asking.
    pub(super) fn reboot_asked(&mut self, now: Timestamp, asked: Result<(), String>) {
        match asked {
            Ok(()) => tracing::info!("the reboot of the host was asked for"),
            Err(said) => {
                tracing::error!(error = said, "the host cannot be rebooted");
                self.reboot.failed(now, said);
            }
        }
    }

    fn give_up_reboot(&mut self, now: Timestamp, said: &str) -> Result<(), StoreError> {
        for id in self.reboot.given_up() {
            if let Ok(Some(action)) = self.look_up(now, id)? {
                let reason = format!(
                    "the reboot of the host that it has asked for did not come: {said}; see to it, then resume the \
                     action to run it again, or resolve or cancel it"
                );
                self.hold(now, action, &reason)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: u64 = 600_000;

    fn wanted() -> Reboot {
        let mut reboot = Reboot::default();
        reboot.wanted(Timestamp(1_000), ActionId(1), None);
        reboot
    }

    #[test]
    fn it_is_asked_for_when_nothing_runs_or_the_wait_is_over() {
        let reboot = wanted();
        assert_eq!(reboot.next(Timestamp(1_000), 0, WAIT), Next::Ask);
        assert_eq!(reboot.next(Timestamp(600_999), 1, WAIT), Next::Nothing);
        assert_eq!(reboot.next(Timestamp(601_000), 1, WAIT), Next::Ask);
        assert_eq!(Reboot::default().next(Timestamp(601_000), 0, WAIT), Next::Nothing);
    }

    #[test]
    fn second_action_that_asks_does_not_begin_the_wait_anew() {
        let mut reboot = wanted();
        reboot.wanted(Timestamp(500_000), ActionId(2), None);
        assert_eq!(reboot.next(Timestamp(601_000), 1, WAIT), Next::Ask);
        reboot.not_wanted(ActionId(1));
        assert!(reboot.is_due());
        reboot.not_wanted(ActionId(2));
        assert!(!reboot.is_due(), "nobody wants it any more");
    }

    #[test]
    fn what_was_asked_for_stays_due_until_it_fails_or_does_not_come() {
        let mut reboot = wanted();
        reboot.asked(Timestamp(2_000));
        reboot.not_wanted(ActionId(1));
        assert!(reboot.is_due(), "it cannot be called back");
        assert_eq!(reboot.next(Timestamp(301_999), 0, WAIT), Next::Nothing);
        assert!(matches!(reboot.next(Timestamp(302_000), 0, WAIT), Next::GiveUp(_)));
        reboot.wanted(Timestamp(3_000), ActionId(2), None);
        reboot.failed(Timestamp(4_000), "no such command".into());
        assert_eq!(reboot.next(Timestamp(6_999), 0, WAIT), Next::Nothing, "the shutdown may have ended it");
        assert_eq!(reboot.next(Timestamp(7_000), 0, WAIT), Next::GiveUp("no such command".into()));
        assert_eq!(reboot.given_up(), [ActionId(2)]);
        assert!(!reboot.is_due());
    }

    #[test]
    fn deadline_counts_until_it_is_asked_for() {
        let mut reboot = wanted();
        reboot.wanted(Timestamp(1_000), ActionId(2), Some(Timestamp(5_000)));
        assert_eq!(reboot.over(Timestamp(4_999)), []);
        assert_eq!(reboot.over(Timestamp(5_000)), [ActionId(2)]);
        reboot.asked(Timestamp(5_000));
        assert_eq!(reboot.over(Timestamp(9_000)), []);
    }

    #[test]
    fn explanation_names_what_it_waits_for() {
        let mut reboot = wanted();
        let text = reboot.explain(Timestamp(61_000), &[ActionId(3), ActionId(7)], WAIT);
        assert_eq!(text, "it is asked for when what runs has ended (action 3, 7), or in 9 min");
        reboot.asked(Timestamp(61_000));
        assert_eq!(reboot.explain(Timestamp(73_000), &[], WAIT), "it was asked for 12 s ago");
    }
}
