//! A connection to systemd about one service, and what its answers mean.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use super::{ENGINE, Systemd};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;
use crate::runner::units::bus::{Bus, Removed, SERVICE, UNIT, is_bus_away, is_named};

/// After so long without a word about a job it is looked whether there still is one: a signal can be lost.
const JOB_SILENCE: Duration = Duration::from_secs(1);

/// Longest wait for the kernel to stop or go on with the processes of a cgroup, and for systemd to say so.
const FREEZER_PATIENCE: Duration = Duration::from_secs(10);

/// Since this version systemd stops the watchdog of a unit while it is frozen (systemd 258, NEWS).
const WATCHDOG_IS_FROZEN_SINCE: u32 = 258;

/// A service of a target that is allowed, and there.
pub(super) struct Session {
    bus: Bus,
    pub(super) unit: String,
    pub(super) target: String,
    cgroups: PathBuf,
}

/// What systemd and the kernel say of a service.
#[derive(Debug)]
pub(super) struct State {
    /// Its own name: the one by which it was asked for may be an alias.
    id: String,
    load: String,
    pub(super) active: String,
    pub(super) sub: String,
    /// Why it ended, if it did: `success`, `exit-code`, `watchdog`, `start-limit-hit`, ...
    pub(super) result: String,
    /// `simple`, `notify`, `oneshot`, ...
    kind: String,
    /// Another one for each start.
    pub(super) invocation_id: String,
    pub(super) main_pid: u32,
    pub(super) n_restarts: u32,
    pub(super) can_freeze: bool,
    watchdog_us: u64,
    has_job: bool,
    /// As systemd has it: `running`, `freezing`, `frozen`, `thawing`.
    pub(super) freezer: String,
    /// As the kernel has it; none if it has no cgroup, or that cannot be seen.
    is_frozen: Option<bool>,
}

impl State {
    /// Its processes stand still. systemd's word counts only where the kernel's cannot be had: up to 252 at least a frozen
    /// service that was killed and started again is `frozen` to systemd although it runs.
    pub(super) fn is_paused(&self) -> bool {
        self.is_frozen.unwrap_or(self.active == "active" && self.freezer == "frozen")
    }

    /// There is something to thaw: its processes, or systemd's idea of them. It refuses to thaw what is not active.
    pub(super) fn needs_thaw(&self) -> bool {
        self.active == "active" && (self.is_paused() || self.freezer == "frozen")
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// It is as a service is after a start that succeeded.
    pub(super) fn is_up(&self) -> bool {
        // One that is over when it has done its work.
        self.is_active() || (self.kind == "oneshot" && self.active == "inactive" && self.result == "success")
    }

    /// With the keys that tell why something went wrong with it.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        failure
            .with("active_state", self.active.as_str())
            .with("sub_state", self.sub.as_str())
            .with("unit_result", self.result.as_str())
    }

    /// As it stands in results.
    pub(super) fn to_json(&self, unit: &str) -> Map<String, Value> {
        let fields: [(&str, Value); 6] = [
            ("unit", unit.into()),
            ("active_state", self.active.as_str().into()),
            ("sub_state", self.sub.as_str().into()),
            ("main_pid", self.main_pid.into()),
            ("n_restarts", self.n_restarts.into()),
            ("freezer_state", if self.is_paused() { "frozen" } else { "running" }.into()),
        ];
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl Session {
    /// Finds the target and the service.
    ///
    /// # Errors
    ///
    /// Transient, if systemd cannot be asked. The service is not allowed (any more), or not there.
    pub(super) async fn open(run: &Run, unit: &str) -> Result<(Self, State), Failure> {
        Self::open_of(run.target(&[ENGINE], None)?, unit).await
    }

    /// As [`Self::open`], with the target that is meant.
    pub(super) async fn open_of(target: &Target, unit: &str) -> Result<(Self, State), Failure> {
        let settings: Systemd = target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        settings.allows(unit).map_err(|problem| Failure::permanent("not_allowed", problem))?;
        let bus = Bus::connect(settings.bus.as_deref())
            .await
            .map_err(|error| failure("cannot connect to the bus", &error))?;
        let (unit, target) = (unit.to_owned(), target.name.clone());
        let session = Self { bus, unit, target, cgroups: settings.cgroups.clone() };
        let state = session.look().await?;
        if state.load != "loaded" {
            let code = if state.load == "masked" { "masked" } else { "not_found" };
            let told = format!("systemd cannot load {} ({})", session.unit, state.load);
            return Err(Failure::permanent(code, told));
        }
        settings.allows(&state.id).map_err(|problem| {
            Failure::permanent("not_allowed", format!("{} is an alias: {problem}", session.unit))
        })?;
        Ok((session, state))
    }

    pub(super) async fn look(&self) -> Result<State, Failure> {
        let look = async {
            let path = self.bus.load(&self.unit).await?;
            let unit = self.bus.get_all(&path, UNIT).await?;
            Ok((unit, self.bus.get_all(&path, SERVICE).await?))
        };
        let (mut unit, mut service) = look.await.map_err(|error| self.failure("look at", &error))?;
        let invocation: Vec<u8> = take(&mut unit, "InvocationID")?;
        let job: (u32, OwnedObjectPath) = take(&mut unit, "Job")?;
        let cgroup: String = take(&mut service, "ControlGroup")?;
        Ok(State {
            id: take(&mut unit, "Id")?,
            load: take(&mut unit, "LoadState")?,
            active: take(&mut unit, "ActiveState")?,
            sub: take(&mut unit, "SubState")?,
            result: take(&mut service, "Result")?,
            kind: take(&mut service, "Type")?,
            invocation_id: invocation.iter().fold(String::new(), |all, byte| all + &format!("{byte:02x}")),
            main_pid: take(&mut service, "MainPID")?,
            n_restarts: take(&mut service, "NRestarts")?,
            can_freeze: take(&mut unit, "CanFreeze")?,
            watchdog_us: take(&mut service, "WatchdogUSec")?,
            has_job: job.0 != 0,
            freezer: take(&mut unit, "FreezerState")?,
            is_frozen: self.is_frozen(&cgroup).await,
        })
    }

    /// What the kernel says (cgroups(7), `cgroup.events`).
    async fn is_frozen(&self, cgroup: &str) -> Option<bool> {
        let cgroup = cgroup.strip_prefix('/').filter(|path| !path.is_empty())?;
        let events = tokio::fs::read_to_string(self.cgroups.join(cgroup).join("cgroup.events")).await.ok()?;
        events.lines().find_map(|line| line.strip_prefix("frozen ")).map(|frozen| frozen == "1")
    }

    /// Returns when systemd has nothing to do for it any more: what was asked for earlier is not overtaken.
    pub(super) async fn idle(&self) -> Result<State, Failure> {
        loop {
            let state = self.look().await?;
            if !state.has_job && !matches!(state.freezer.as_str(), "freezing" | "thawing") {
                return Ok(state);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn reset_failed(&self) -> Result<(), Failure> {
        self.bus.reset_failed(&self.unit).await.map_err(|error| self.failure("reset", &error))
    }

    /// Restarts it; the number of systemd's job and how that ended, if it was said.
    pub(super) async fn restart(&self) -> Result<(u32, Option<String>), Failure> {
        // Heard before it is asked for: the job may be over before the answer is here.
        let removed = self.bus.removed_jobs();
        let job = self.bus.restart(&self.unit).await.map_err(|error| self.failure("restart", &error))?;
        let id = job.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or_default();
        Ok((id, self.ended(&job, removed).await?))
    }

    async fn ended(
        &self,
        job: &OwnedObjectPath,
        mut removed: Receiver<Removed>,
    ) -> Result<Option<String>, Failure> {
        loop {
            match timeout(JOB_SILENCE, removed.recv()).await {
                Ok(Ok(said)) if said.job == *job => return Ok(Some(said.result)),
                Ok(Ok(_)) => continue,
                // Words were lost, or the bus is away, which the question finds out.
                Ok(Err(_)) | Err(_) => {}
            }
            let has_job = self.bus.has_job(&self.unit).await;
            if !has_job.map_err(|error| self.failure("ask about the job of", &error))? {
                return Ok(None);
            }
        }
    }

    /// Stops its processes where they are, or lets them go on; returns when the kernel says so too.
    pub(super) async fn pause(&self, run: &Run, is_paused: bool) -> Result<State, Failure> {
        let asked =
            if is_paused { self.bus.freeze(&self.unit).await } else { self.bus.thaw(&self.unit).await };
        let what = if is_paused { "freeze" } else { "thaw" };
        asked.map_err(|error| self.failure(what, &error))?;
        let is_so = run.wait_for(FREEZER_PATIENCE, async || {
            let state = self.look().await?;
            Ok((state.is_paused() == is_paused).then_some(state))
        });
        is_so.await?.ok_or_else(|| {
            let told =
                format!("systemd was to {what} {}, but the kernel does not say that it is so", self.unit);
            Failure::transient("busy", told)
        })
    }

    /// Whether it is killed for its silence while it is paused.
    pub(super) async fn is_killed_when_paused(&self, state: &State) -> Result<bool, Failure> {
        if matches!(state.watchdog_us, 0 | u64::MAX) {
            return Ok(false);
        }
        let version =
            self.bus.version().await.map_err(|error| failure("cannot ask for systemd's version", &error))?;
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse::<u32>().unwrap_or_default() < WATCHDOG_IS_FROZEN_SINCE)
    }

    fn failure(&self, verb: &str, error: &zbus::Error) -> Failure {
        failure(&format!("cannot {verb} {}", self.unit), error)
    }
}

fn take<T>(properties: &mut HashMap<String, OwnedValue>, name: &str) -> Result<T, Failure>
where
    T: TryFrom<OwnedValue>,
{
    let value = properties.remove(name).and_then(|value| T::try_from(value).ok());
    value.ok_or_else(|| Failure::permanent("systemd", format!("systemd says nothing of {name}")))
}

/// What an error of systemd or of the way to it means.
fn failure(what: &str, error: &zbus::Error) -> Failure {
    if is_bus_away(error) {
        return Failure::transient("unreachable", format!("{what}: {error}"));
    }
    let zbus::Error::MethodError(name, detail, _) = error else {
        return Failure::permanent("systemd", format!("{what}: {error}"));
    };
    let told = format!("{what}: {}", detail.as_deref().unwrap_or(name.as_str()));
    let is = |last| is_named(error, last);
    let failure = if is("AccessDenied") || is("InteractiveAuthorizationRequired") {
        Failure::permanent("not_allowed", told).with(
            "hint",
            "does a polkit rule name the unit (51-actiond-units.rules), and is the policy of the bus installed?",
        )
    } else {
        let code = match () {
            () if is("NoSuchUnit") || is("NotLoaded") => "not_found",
            () if is("UnitMasked") => "masked",
            () => "systemd",
        };
        Failure::permanent(code, told)
    };
    failure.with("dbus_error", name.as_str())
}
