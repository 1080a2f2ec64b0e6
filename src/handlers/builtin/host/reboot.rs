//! The reboot of a host: asked for once, or once more if nobody can tell that it was, and done when the boot is another one.
//!
//! ```text
//!  may it? ─▶ {old_boot_id, deadline} durable ─▶ asks logind ─▶ the host goes down, and this process with it
//!                                                                  │ an attempt after the boot
//!                                                                  ▼
//!                            the boot id is another one: done, if the units of post_checks are active
//! ```
//!
//! The handler asks by itself, not by the exit code that programs have for that (194): only so the answer of logind, the
//! time of the request and its deadline are this action's own. What else runs is ended by the shutdown, and goes on after it
//! as its recovery policy says.
//!
//! An attempt on the same boot id finds the reboot under way (then it waits), or not (then it asks, once more at most), or its
//! deadline over: `not_rebooted`.

use std::cell::Cell;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::logind::{Asked, Logind};
use super::{Host, Wish, rfc3339};
use crate::action::Timestamp;
use crate::clock;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::failure::Kind;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const REBOOT: &str = "reboot";
/// Begun before the host is asked a second time; there is no third.
const AGAIN: &str = "reboot.again";

/// How often it is looked whether the host has rebooted.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// After the boot, until its bus can be asked.
const BUS_PATIENCE: Duration = Duration::from_secs(60);
/// After the boot, until all units are active.
const UNITS_PATIENCE: Duration = Duration::from_secs(90);

/// What is durable before the host is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    old_boot_id: String,
    requested_at_ms: i64,
    /// When it is to go down, if that is not at once.
    scheduled_for_ms: Option<i64>,
    deadline_ms: i64,
}

impl Before {
    fn requested_at(&self) -> Timestamp {
        Timestamp(self.requested_at_ms)
    }

    fn scheduled_for(&self) -> Option<Timestamp> {
        self.scheduled_for_ms.map(Timestamp)
    }

    fn deadline(&self) -> Timestamp {
        Timestamp(self.deadline_ms)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct After {
    new_boot_id: String,
}

/// How the host stands to a reboot that an attempt may have asked for.
enum Stand {
    Rebooted(After),
    UnderWay,
    NotAsked,
}

/// A host to be rebooted.
pub(super) struct Rebooting<'a> {
    run: &'a Run,
    host: Host,
    target: String,
    wish: Wish<'a>,
}

impl<'a> Rebooting<'a> {
    pub(super) fn new(run: &'a Run, target: &Target, wish: Wish<'a>) -> Result<Self, Failure> {
        let host = target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        Ok(Self { run, host, target: target.name.clone(), wish })
    }

    pub(super) async fn plan(&self) -> Result<Vec<Value>, Failure> {
        self.logind_that_may().await?;
        Ok(vec![json!({
            "step": REBOOT,
            "target": self.target,
            "boot_id": self.boot_id().await?,
            "delay_s": self.wish.delay_s,
        })])
    }

    pub(super) async fn execute(&self) -> Result<Done, Failure> {
        let (run, is_again) = (self.run, Cell::new(false));
        if let Some(reason) = self.wish.reason {
            run.log(&format!("reason: {}", reason.escape_debug()));
        }
        let act = async |before: &Before| {
            if is_again.get() {
                run.repeatable(AGAIN, async || self.ask(before).await).await?;
            } else {
                self.ask(before).await?;
            }
            self.rebooted(before).await
        };
        let found = async |before: &Before| {
            Ok(match self.stands(before).await? {
                Stand::Rebooted(after) => Found::Done(after),
                Stand::NotAsked if !run.is_begun(AGAIN) => {
                    is_again.set(true);
                    Found::NotDone
                }
                Stand::NotAsked | Stand::UnderWay => Found::Done(self.rebooted(before).await?),
            })
        };
        let After { new_boot_id } = run.step(REBOOT, async || self.before().await, act, found).await?;
        let Some(trace) = run.trace::<Before, After>(REBOOT)? else {
            return Err(Failure::permanent("internal", "the step reboot left nothing"));
        };
        let before = trace.intent;
        let mut result = Map::new();
        // Also of one that fails from here on.
        let mut tell = |key: &str, value: Value| {
            run.add_result(key, value.clone());
            result.insert(key.to_owned(), value);
        };
        tell("old_boot_id", before.old_boot_id.as_str().into());
        tell("new_boot_id", new_boot_id.into());
        tell("asked_again", run.is_begun(AGAIN).into());
        tell("requested_at", rfc3339(before.requested_at()).into());
        let logind = self.logind_after_boot().await?;
        let booted_at = logind.booted_at().await?;
        let down = Duration::from_millis(
            booted_at.ms_since(before.scheduled_for().unwrap_or(before.requested_at())),
        );
        tell("booted_at", rfc3339(booted_at).into());
        tell("down_s", down.as_secs_f64().into());
        self.check_units(&logind).await?;
        Ok(Done {
            message: format!("rebooted {}; it was down for {down:?}", self.target),
            changed: true,
            result,
        })
    }

    /// Takes a scheduled reboot back. One that was to be at once cannot be called back.
    pub(super) async fn undo(&self) -> Result<(), Failure> {
        let Some(trace) = self.run.trace::<Before, After>(REBOOT)? else { return Ok(()) };
        let Some(at) = trace.intent.scheduled_for().filter(|_| trace.result.is_none()) else { return Ok(()) };
        if self.boot_id().await? != trace.intent.old_boot_id {
            return Ok(());
        }
        let logind = Logind::connect(&self.host).await?;
        if !logind.has_scheduled(at).await? {
            return Ok(());
        }
        self.run.repeatable("undo.reboot", async || logind.cancel().await).await
    }

    async fn logind_that_may(&self) -> Result<Logind, Failure> {
        let logind = Logind::connect(&self.host).await?;
        logind.may_reboot(self.wish.ignore_inhibitors).await?;
        if let Some((kind, at)) = logind.scheduled().await?.filter(|_| self.wish.delay_s > 0) {
            let told = format!("a shutdown is scheduled already: {kind} at {}", rfc3339(at));
            return Err(Failure::transient("scheduled", told));
        }
        Ok(logind)
    }

    async fn before(&self) -> Result<Before, Failure> {
        self.logind_that_may().await?;
        let old_boot_id = self.boot_id().await?;
        let requested_at = clock::now();
        let delay_s = self.wish.delay_s;
        let scheduled_for = (delay_s > 0).then(|| requested_at.plus_ms(u64::from(delay_s) * 1_000));
        let from = scheduled_for.unwrap_or(requested_at);
        let deadline = from.plus_ms(u64::from(self.wish.deadline_s) * 1_000);
        Ok(Before {
            old_boot_id,
            requested_at_ms: requested_at.0,
            scheduled_for_ms: scheduled_for.map(|at| at.0),
            deadline_ms: deadline.0,
        })
    }

    /// Asks the host to go down, now or when it is time.
    async fn ask(&self, before: &Before) -> Result<(), Failure> {
        let logind = Logind::connect(&self.host).await?;
        let ignore_inhibitors = self.wish.ignore_inhibitors;
        if let Some(reason) = self.wish.reason
            && let Err(why) = logind.announce(reason).await
        {
            self.run.log(&format!("the reason is not told to those who are logged in: {why}"));
        }
        let asked = match before.scheduled_for() {
            Some(at) if at > clock::now() => logind.schedule(at, ignore_inhibitors).await?,
            _ => logind.reboot(ignore_inhibitors).await?,
        };
        match asked {
            Asked::Taken => self.run.log("logind has taken it"),
            Asked::Unknown => self.run.log("logind was gone before it answered"),
        }
        Ok(())
    }

    /// Returns when the host has rebooted; mostly this process does not live to see that.
    async fn rebooted(&self, before: &Before) -> Result<After, Failure> {
        self.run.progress(50, "waiting for the reboot");
        loop {
            if let Some(after) = self.after(before).await {
                return Ok(after);
            }
            in_time(before)?;
            sleep(LOOK_PAUSE).await;
        }
    }

    async fn stands(&self, before: &Before) -> Result<Stand, Failure> {
        loop {
            if let Some(after) = self.after(before).await {
                return Ok(Stand::Rebooted(after));
            }
            in_time(before)?;
            match self.is_under_way(before).await {
                Ok(true) => return Ok(Stand::UnderWay),
                Ok(false) => return Ok(Stand::NotAsked),
                // A host that goes down has no bus any more at some time.
                Err(failure) if failure.kind == Kind::Transient => sleep(LOOK_PAUSE).await,
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn is_under_way(&self, before: &Before) -> Result<bool, Failure> {
        let logind = Logind::connect(&self.host).await?;
        if logind.is_going_down().await? {
            return Ok(true);
        }
        match before.scheduled_for() {
            Some(at) => logind.has_scheduled(at).await,
            None => Ok(false),
        }
    }

    /// None: it is the same boot, or that cannot be seen now.
    async fn after(&self, before: &Before) -> Option<After> {
        let new_boot_id = self.boot_id().await.ok()?;
        (new_boot_id != before.old_boot_id).then_some(After { new_boot_id })
    }

    async fn boot_id(&self) -> Result<String, Failure> {
        let file = &self.host.boot_id;
        let read = tokio::fs::read_to_string(file).await;
        let id = read.map_err(|error| {
            Failure::transient("boot_id", format!("cannot read {}: {error}", file.display()))
        })?;
        let id = id.trim();
        if id.is_empty() {
            return Err(Failure::transient("boot_id", format!("{} is empty", file.display())));
        }
        Ok(id.to_owned())
    }

    async fn logind_after_boot(&self) -> Result<Logind, Failure> {
        let connected = self.run.wait_for(BUS_PATIENCE, async || match Logind::connect(&self.host).await {
            Err(failure) if failure.kind == Kind::Transient => Ok(None),
            connected => connected.map(Some),
        });
        connected.await?.ok_or_else(|| {
            let told = format!("the host has rebooted, but its bus does not answer within {BUS_PATIENCE:?}");
            Failure::transient("unreachable", told)
        })
    }

    /// All units that were asked for are active.
    async fn check_units(&self, logind: &Logind) -> Result<(), Failure> {
        let mut units: Vec<&String> = self.host.post_checks.iter().chain(self.wish.post_checks).collect();
        units.sort_unstable();
        units.dedup();
        let checked = self.run.wait_for(UNITS_PATIENCE, async || {
            let (mut told, mut bad) = (Vec::new(), None);
            let mut is_settled = true;
            for unit in &units {
                let (load, active) = logind.unit(unit).await?;
                let is_over = load != "loaded" || active == "failed";
                is_settled &= is_over || active == "active";
                let state = if load == "loaded" { &active } else { &load };
                if active != "active" {
                    bad.get_or_insert_with(|| format!("{unit} is {state}"));
                }
                told.push(json!({ "unit": unit, "active_state": state }));
            }
            self.run.add_result("post_checks", told);
            Ok(is_settled.then_some(bad))
        });
        let bad = match checked.await? {
            Some(None) => return Ok(()),
            Some(Some(bad)) => bad,
            None => format!("not all of its units are active after {UNITS_PATIENCE:?}"),
        };
        Err(Failure::permanent("post_check_failed", format!("the host has rebooted, but {bad}")))
    }
}

fn in_time(before: &Before) -> Result<(), Failure> {
    if clock::now() < before.deadline() {
        return Ok(());
    }
    let told = format!(
        "the host has not rebooted by {}: it still is on boot {}",
        rfc3339(before.deadline()),
        before.old_boot_id
    );
    Err(Failure::permanent("not_rebooted", told)
        .with("boot_id", before.old_boot_id.as_str())
        .with("requested_at", rfc3339(before.requested_at())))
}
