//! `container_restart`, and how a container is restarted.
//!
//! It is stopped and started by a request each, not by the one request for both: an engine goes on with a request whose
//! client was killed, and a second restart beside it would restart the container twice. A second stop only waits for the
//! end of the first, and a second start finds the container running.
//!
//! A container is restarted once it runs with another `StartedAt` than before.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::engine::{Container, Engine, Health, State};
use super::{all, check_name, target_of};
use crate::clock;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::{Found, Run};

const RESTART: &str = "restart";
/// Longest wait for a container without a check of its health to have run for `settle_s`, beside those.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);

pub(in super::super) struct ContainerRestart;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Params {
    /// Name or id of the container; the beginning of its id will do.
    container: String,
    /// Seconds that it has to stop before it is killed; else what the container says, or 10.
    #[schemars(range(max = 3600))]
    stop_timeout_s: Option<u32>,
    /// Whether to wait until it is healthy, if it has a check of its health.
    #[serde(default = "yes")]
    wait_healthy: bool,
    /// Seconds that it has to become healthy.
    #[serde(default = "health_timeout_s")]
    #[schemars(range(min = 1, max = 3600))]
    health_timeout_s: u32,
    /// Seconds that it has to run before that counts as a success.
    #[serde(default = "settle_s")]
    #[schemars(range(max = 3600))]
    settle_s: u32,
}

pub(super) fn yes() -> bool {
    true
}

pub(super) fn health_timeout_s() -> u32 {
    60
}

pub(super) fn settle_s() -> u32 {
    1
}

/// How long what may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) stop_timeout_s: Option<u32>,
    pub(super) wait_healthy: bool,
    pub(super) health_timeout_s: u32,
    pub(super) settle_s: u32,
}

impl Limits {
    pub(super) fn check(self) -> Result<(), String> {
        const S_MAX: u32 = 3_600;
        let all = [
            ("stop_timeout_s", self.stop_timeout_s.unwrap_or(0), 0),
            ("health_timeout_s", self.health_timeout_s, 1),
            ("settle_s", self.settle_s, 0),
        ];
        match all.iter().find(|(_, seconds, min)| !(*min..=S_MAX).contains(seconds)) {
            Some((key, _, min)) => Err(format!("{key} must be {min} to {S_MAX}")),
            None => Ok(()),
        }
    }
}

/// A container before its restart.
#[derive(Serialize, Deserialize)]
pub(super) struct Before {
    id: String,
    name: String,
    pid: i64,
    started_at: String,
}

/// A container after its restart.
#[derive(Serialize, Deserialize)]
pub(super) struct Restarted {
    id: String,
    name: String,
    old_pid: i64,
    new_pid: i64,
    old_started_at: String,
    pub(super) started_at: String,
    state: State,
    health: Option<Health>,
}

impl Kind for ContainerRestart {
    const ACTION: &'static str = "container_restart";
    const PAGE: Page = Page {
        does: "Restarts a container, or starts one that is stopped, and waits until it runs and is healthy.",
        engines: super::ENGINES,
        result: &[(
            "containers",
            "what was restarted: id, name, old_pid, new_pid, old_started_at, started_at, state, health",
        )],
        recovery: "Goes on. StartedAt is durable before it is stopped: a container that runs with another one was restarted.",
        undo: "Nothing; a restart that has begun is finished, so that the container is not left stopped.",
        rights: "Access to the engine's socket, which is as good as root with Docker; a proxy before it has to let through \
                 GET /version, /containers/json and /containers/*/json, and POST /containers/*/(stop|start|unpause).",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        check_name("container", &params.container)?;
        params.limits().check()?;
        let (target, _) = target_of(around)?;
        Ok(vec![format!("container:{}:{}", target.name, params.container)])
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let engine = Engine::open(run).await?;
        let seen = engine.look(&params.container).await?;
        Before::of(&seen)?;
        Ok(vec![json!({ "step": RESTART, "target": engine.name, "containers": [seen.name] })])
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let engine = Engine::open(run).await?;
        let limits = params.limits();
        let mut containers = restart(run, &engine, RESTART, &[params.container.as_str()], limits).await?;
        settle(run, &engine, &mut containers, limits).await?;
        let message = format!("restarted the container {} on {}", params.container, engine.name);
        Ok(Done::new(message, true, &json!({ "containers": containers })))
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        finish(run, RESTART, params.limits()).await
    }
}

impl Params {
    const fn limits(&self) -> Limits {
        let Self { stop_timeout_s, wait_healthy, health_timeout_s, settle_s, .. } = *self;
        Limits { stop_timeout_s, wait_healthy, health_timeout_s, settle_s }
    }
}

impl Before {
    pub(super) fn of(seen: &Container) -> Result<Self, Failure> {
        if seen.is_auto_removed {
            let told = format!("the container {} would be removed by a stop (--rm)", seen.name);
            return Err(Failure::permanent("auto_removed", told));
        }
        Ok(Self {
            id: seen.id.clone(),
            name: seen.name.clone(),
            pid: seen.pid,
            started_at: seen.started_at.clone(),
        })
    }

    /// What was restarted, if it was.
    fn restarted(&self, now: &Container) -> Option<Restarted> {
        let is_restarted = now.state != State::Stopped && now.started_at != self.started_at;
        is_restarted.then(|| Restarted {
            id: self.id.clone(),
            name: self.name.clone(),
            old_pid: self.pid,
            new_pid: now.pid,
            old_started_at: self.started_at.clone(),
            started_at: now.started_at.clone(),
            state: now.state,
            health: now.health,
        })
    }
}

/// The step that restarts these containers beside each other.
pub(super) async fn restart(
    run: &Run,
    engine: &Engine,
    step: &str,
    containers: &[&str],
    limits: Limits,
) -> Result<Vec<Restarted>, Failure> {
    let before = async || {
        let seen = all(containers.iter().map(|container| engine.look(container))).await?;
        seen.iter().map(Before::of).collect::<Result<Vec<_>, _>>()
    };
    let act = async |before: &Vec<Before>| all(before.iter().map(|before| one(engine, before, limits))).await;
    let found = async |before: &Vec<Before>| {
        let now = all(before.iter().map(|before| engine.look(&before.id))).await?;
        let restarted: Option<Vec<_>> =
            before.iter().zip(&now).map(|(before, now)| before.restarted(now)).collect();
        // What of it is done, `one` finds.
        Ok(restarted.map_or(Found::NotDone, Found::Done))
    };
    run.step(step, before, act, found).await
}

/// Restarts a container, unless it is restarted.
async fn one(engine: &Engine, before: &Before, limits: Limits) -> Result<Restarted, Failure> {
    let Before { id, name, .. } = before;
    let now = engine.look(id).await?;
    if let Some(restarted) = before.restarted(&now) {
        return Ok(restarted);
    }
    if now.state == State::Paused {
        // Podman stops no paused one.
        engine.unpause(id, name).await?;
    }
    if now.state != State::Stopped {
        engine.stop(id, name, limits.stop_timeout_s.unwrap_or(now.stop_timeout_s)).await?;
    }
    engine.start(id, name).await?;
    let now = engine.look(id).await?;
    before.restarted(&now).ok_or_else(|| {
        let told = format!("the container {name} was started and ended at once, with {}", now.exit_code);
        Failure::permanent("stopped", told).with("exit_code", now.exit_code)
    })
}

/// Waits until containers that were restarted have run for a while and are healthy.
///
/// # Errors
///
/// One has ended, does not become healthy, or does not stay up.
pub(super) async fn settle(
    run: &Run,
    engine: &Engine,
    containers: &mut [Restarted],
    limits: Limits,
) -> Result<(), Failure> {
    for container in containers {
        let is_settled = async || {
            let now = engine.look(&container.id).await?;
            if now.state == State::Stopped {
                let told =
                    format!("the container {} ended after its restart, with {}", now.name, now.exit_code);
                return Err(Failure::permanent("stopped", told).with("exit_code", now.exit_code));
            }
            let health = now.health.filter(|_| limits.wait_healthy);
            if health == Some(Health::Unhealthy) {
                let told = format!("the container {} is unhealthy after its restart", now.name);
                return Err(Failure::permanent("unhealthy", told).with("container", now.name));
            }
            let is_settled =
                has_run_for(&now.started_at, limits.settle_s) && health != Some(Health::Starting);
            Ok(is_settled.then_some(now))
        };
        let patience = Duration::from_secs(limits.settle_s.into())
            + if limits.wait_healthy {
                Duration::from_secs(limits.health_timeout_s.into())
            } else {
                SETTLE_PATIENCE
            };
        let Some(now) = run.wait_for(patience, is_settled).await? else {
            let told =
                format!("the container {} does not become healthy, or does not stay up", container.name);
            return Err(Failure::permanent("unhealthy", told).with("container", container.name.as_str()));
        };
        (container.state, container.health) = (now.state, now.health);
    }
    Ok(())
}

/// Whether that time is so many seconds ago.
fn has_run_for(started_at: &str, seconds: u32) -> bool {
    // What cannot be read is not waited for.
    chrono::DateTime::parse_from_rfc3339(started_at)
        .is_ok_and(|started_at| clock::now().0 - started_at.timestamp_millis() >= i64::from(seconds) * 1_000)
}

/// Brings a restart that has begun to its end: a stop that has been asked for takes place even now, and nobody would start
/// the container.
///
/// # Errors
///
/// The engine cannot be reached. That a container cannot be started is a warning: nothing more can be done for it here.
pub(super) async fn finish(run: &Run, step: &str, limits: Limits) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Vec<Before>, Vec<Restarted>>(step)? else { return Ok(()) };
    if trace.result.is_some() {
        return Ok(());
    }
    let engine = Engine::open(run).await?;
    let finished =
        futures_util::future::join_all(trace.intent.iter().map(|before| one(&engine, before, limits))).await;
    for failure in finished.into_iter().filter_map(Result::err) {
        if failure.code() == "unreachable" {
            return Err(failure);
        }
        run.warn(failure.message());
    }
    Ok(())
}
