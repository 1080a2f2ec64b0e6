//! The instances of an application: restarted batch by batch, each of which has to become healthy before the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::app::{App, Instance};
use super::{Params, Strategy, health};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child::{self, command};
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::builtin::units::{self, Service};
use crate::handlers::targets::{Choice, Target, Targets};

/// Steps that restart instances, at most: an action has 64 in all, and these may all be taken back.
const BATCHES_MAX: usize = 24;

/// A release that is to run, as programs are told.
pub(super) struct Live<'a> {
    pub(super) hash: &'a str,
    pub(super) session: &'a str,
    pub(super) dir: PathBuf,
}

/// An instance as it stands in the result.
#[derive(Serialize, Deserialize)]
pub(super) struct Server {
    name: String,
    status: String,
    health_ms: u64,
}

/// By instance: the invocation ID of its service before the restart. One that has another has been restarted.
type Before = BTreeMap<String, String>;

/// The instances that are meant, in their order.
pub(super) fn chosen<'a>(params: &Params, app: &'a App) -> Result<Vec<&'a Instance>, String> {
    let service = |instance: &'a Instance| instance.service.as_deref().unwrap_or(&instance.name);
    let Some(services) = &params.services else { return Ok(app.instances.iter().collect()) };
    if let Some(unknown) =
        services.iter().find(|wanted| !app.instances.iter().any(|it| service(it) == wanted.as_str()))
    {
        return Err(format!("services: {unknown:?} is none of this application"));
    }
    Ok(app.instances.iter().filter(|it| services.iter().any(|wanted| wanted == service(it))).collect())
}

pub(super) fn batches<'a>(params: &Params, app: &'a App) -> Result<Vec<Vec<&'a Instance>>, Failure> {
    let instances = chosen(params, app).map_err(|problem| Failure::permanent("target", problem))?;
    let size = match params.deployment_strategy {
        Strategy::Rolling => usize::try_from(params.batch_size).unwrap_or(usize::MAX),
        Strategy::Serial => 1,
        Strategy::Parallel => instances.len(),
    };
    let size = size.max(instances.len().div_ceil(BATCHES_MAX)).max(1);
    Ok(instances.chunks(size).map(<[_]>::to_vec).collect())
}

/// The locks of the services that these instances are. Judged at submission.
///
/// # Errors
///
/// A service may not be touched, with the key.
pub(super) fn locks(
    instances: &[&Instance],
    app: &App,
    targets: &Targets,
    resource_id: u64,
) -> Result<Vec<String>, String> {
    let mut locks = Vec::new();
    for instance in instances {
        let Some(unit) = &instance.unit else { continue };
        let told = |problem| format!("instances: {}: {problem}", instance.name);
        locks.push(units::lock(systemd(app, targets, resource_id).map_err(told)?, unit).map_err(told)?);
    }
    Ok(locks)
}

fn systemd<'a>(app: &App, targets: &'a Targets, resource_id: u64) -> Result<&'a Target, String> {
    let name = app.systemd.as_deref();
    targets.choose(Choice { engines: &[units::ENGINE], name, server: None, resource_id })
}

async fn service(run: &Run, app: &App, unit: &str) -> Result<Service, Failure> {
    let target = systemd(app, &run.targets, run.resource_id);
    Service::open(target.map_err(|problem| Failure::permanent("target", problem))?, unit).await
}

/// The step that restarts these instances, all at once, and waits until each is healthy. A service that has been restarted
/// is not restarted again after an interruption.
pub(super) async fn restart(
    run: &Run,
    app: &App,
    step: &str,
    batch: &[&Instance],
    live: &Live<'_>,
) -> Result<Vec<Server>, Failure> {
    let before = async || {
        let mut before = Before::new();
        for instance in batch {
            if let Some(unit) = &instance.unit {
                let invocation_id = service(run, app, unit).await?.invocation_id().await?;
                before.insert(instance.name.clone(), invocation_id);
            }
        }
        Ok(before)
    };
    let act = async |before: &Before| {
        let each = batch.iter().map(|instance| restart_one(run, app, instance, before, live));
        futures_util::future::try_join_all(each).await
    };
    run.step(step, before, act, async |_| Ok(Found::NotDone)).await
}

async fn restart_one(
    run: &Run,
    app: &App,
    instance: &Instance,
    before: &Before,
    live: &Live<'_>,
) -> Result<Server, Failure> {
    let name = instance.name.as_str();
    if let Some(unit) = &instance.unit {
        let service = service(run, app, unit).await?;
        if before.get(name) == Some(&service.invocation_id().await?) {
            service.restart(run).await?;
        }
    } else {
        let ended = program("restart", &instance.restart, live, name).await?;
        if !ended.is_success() {
            return Err(Failure::permanent(
                "restart",
                format!("{name} cannot be restarted: {}", ended.told()),
            ));
        }
    }
    let since = Instant::now();
    health::wait(app, instance, live).await?;
    run.log(&format!("{name} runs {}", live.hash));
    let health_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Server { name: name.to_owned(), status: "healthy".to_owned(), health_ms })
}

/// The step of a program of the operator's for the whole application, if there is one.
pub(super) async fn hook(run: &Run, name: &str, argv: &[String], live: &Live<'_>) -> Result<(), Failure> {
    if argv.is_empty() {
        return Ok(());
    }
    run.repeatable(name, async || {
        let ended = program(name, argv, live, "").await?;
        if ended.is_success() {
            return Ok(());
        }
        Err(Failure::permanent("hook", format!("the program {name} failed: {}", ended.told())))
    })
    .await
}

/// Runs a program of the operator's, in the release.
pub(super) async fn program(
    what: &str,
    argv: &[String],
    live: &Live<'_>,
    instance: &str,
) -> Result<child::Ended, Failure> {
    let Some((path, words)) = argv.split_first() else {
        return Err(Failure::permanent("target", format!("{what} is no program")));
    };
    let release_path = live.dir.to_string_lossy();
    let env = [
        ("DEPLOY_HASH", live.hash),
        ("DEPLOY_SESSION", live.session),
        ("DEPLOY_RELEASE", &*release_path),
        ("DEPLOY_INSTANCE", instance),
    ];
    let dir: &Path = if live.dir.is_dir() { &live.dir } else { Path::new("/") };
    child::run(&format!("{what} {instance}"), &mut command(path, words, &env, dir)).await
}
