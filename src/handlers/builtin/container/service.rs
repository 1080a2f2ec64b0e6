//! `service_restart`: the containers of a service, a few at a time or all at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::engine::{Container, Engine, State};
use super::restart::{Before, Limits, finish, restart, settle};
use super::{CONTAINERS_MAX, check_service};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

const MATCH: &str = "match";

pub(in super::super) struct ServiceRestart;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Params {
    /// Name of the service (`com.docker.compose.service`).
    service_name: String,
    /// Compose project; needed where several have such a service.
    project: Option<String>,
    /// "rolling": `batch_size` at a time, each settled before the next; "parallel": all at once.
    #[serde(default)]
    strategy: Strategy,
    /// Containers that are restarted at a time; rolling only.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 60))]
    batch_size: u32,
    /// Whether containers that are stopped are started too; else they are left alone.
    #[serde(default)]
    include_stopped: bool,
    /// Seconds that each has to stop before it is killed; else what the container says, or 10.
    #[schemars(range(max = 3600))]
    stop_timeout_s: Option<u32>,
    /// Whether to wait until each is healthy that has a check of its health.
    #[serde(default = "super::restart::yes")]
    wait_healthy: bool,
    /// Seconds that each has to become healthy.
    #[serde(default = "super::restart::health_timeout_s")]
    #[schemars(range(min = 1, max = 3600))]
    health_timeout_s: u32,
    /// Seconds that each has to run before that counts as a success.
    #[serde(default = "super::restart::settle_s")]
    #[schemars(range(max = 3600))]
    settle_s: u32,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    #[default]
    Rolling,
    Parallel,
}

fn batch_size() -> u32 {
    1
}

/// What was found of the service; durable, so that the batches are the same after an interruption.
#[derive(Serialize, Deserialize)]
struct Matched {
    /// Ids of the containers to be restarted, in their order.
    ids: Vec<String>,
    /// Names of those that are stopped, and stay so.
    skipped: Vec<String>,
}

impl Kind for ServiceRestart {
    const ACTION: &'static str = "service_restart";
    const PAGE: Page = Page {
        does: "Restarts the containers of a Compose service, and waits until they run and are healthy. A rolling restart \
               ends at the first that does not.",
        engines: super::ENGINES,
        result: &[
            (
                "containers",
                "what was restarted: id, name, old_pid, new_pid, old_started_at, started_at, state, health",
            ),
            ("matched", "how many containers the service has"),
            ("skipped", "names of those that were stopped and are left so"),
        ],
        recovery: "Goes on with the batch it was in. StartedAt of each container is durable before it is stopped: one that runs \
                   with another was restarted.",
        undo: "Nothing; the restart of a batch that has begun is finished, so that no container is left stopped.",
        rights: "As container_restart.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        params.limits().check()?;
        if !(1..=CONTAINERS_MAX).contains(&params.batch_size()) {
            return Err(format!("batch_size must be 1 to {CONTAINERS_MAX}"));
        }
        check_service(&params.service_name, params.project.as_deref(), around)
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let engine = Engine::open(run).await?;
        let (matched, _) = params.matched(&engine).await?;
        let step = |(number, batch): (usize, &[Container])| {
            batch.iter().try_for_each(|seen| Before::of(seen).map(drop))?;
            let names: Vec<&str> = batch.iter().map(|seen| seen.name.as_str()).collect();
            Ok(json!({ "step": name(number), "target": engine.name, "containers": names }))
        };
        matched.chunks(params.at_a_time(matched.len())).enumerate().map(step).collect()
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let engine = Engine::open(run).await?;
        let matched: Matched = run
            .repeatable(MATCH, async || {
                let (matched, skipped) = params.matched(&engine).await?;
                Ok(Matched { ids: matched.into_iter().map(|seen| seen.id).collect(), skipped })
            })
            .await?;
        let ids: Vec<&str> = matched.ids.iter().map(String::as_str).collect();
        let limits = params.limits();
        let mut restarted = Vec::with_capacity(ids.len());
        for (number, batch) in ids.chunks(params.at_a_time(ids.len())).enumerate() {
            let mut containers = restart(run, &engine, &name(number), batch, limits).await?;
            settle(run, &engine, &mut containers, limits).await?;
            restarted.append(&mut containers);
            let percent = u8::try_from(restarted.len() * 100 / ids.len()).unwrap_or(100);
            run.progress(percent, &format!("restarted {} of {} containers", restarted.len(), ids.len()));
        }
        if !matched.skipped.is_empty() {
            run.warn(format!("stopped and left so: {}", matched.skipped.join(", ")));
        }
        let service = &params.service_name;
        let message =
            format!("restarted {} containers of the service {service} on {}", ids.len(), engine.name);
        let result = json!({
            "containers": restarted,
            "matched": ids.len() + matched.skipped.len(),
            "skipped": matched.skipped,
        });
        Ok(Done::new(message, true, &result))
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        for number in 0..CONTAINERS_MAX {
            finish(run, &name(number), params.limits()).await?;
        }
        Ok(())
    }
}

impl Params {
    const fn limits(&self) -> Limits {
        let Self { stop_timeout_s, wait_healthy, health_timeout_s, settle_s, .. } = *self;
        Limits { stop_timeout_s, wait_healthy, health_timeout_s, settle_s }
    }

    fn batch_size(&self) -> usize {
        usize::try_from(self.batch_size).unwrap_or(usize::MAX)
    }

    fn at_a_time(&self, containers: usize) -> usize {
        match self.strategy {
            Strategy::Rolling => self.batch_size(),
            Strategy::Parallel => containers,
        }
        .max(1)
    }

    /// The containers to be restarted, and the names of those that are stopped and stay so.
    async fn matched(&self, engine: &Engine) -> Result<(Vec<Container>, Vec<String>), Failure> {
        let containers = engine.service(&self.service_name, self.project.as_deref()).await?;
        let (matched, stopped): (Vec<_>, Vec<_>) =
            containers.into_iter().partition(|seen| self.include_stopped || seen.state != State::Stopped);
        if matched.is_empty() {
            let told = format!("no container of the service {} runs", self.service_name);
            return Err(Failure::permanent("not_running", told)
                .with("hint", "include_stopped = true starts those that are stopped"));
        }
        Ok((matched, stopped.into_iter().map(|seen| seen.name).collect()))
    }
}

/// The step of a batch.
fn name(number: usize) -> String {
    format!("restart.{}", number + 1)
}
