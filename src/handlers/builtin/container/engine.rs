//! A connection to an engine, the few requests that are made to it, and what its errors mean.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, HealthStatusEnum};
use bollard::query_parameters::{ListContainersOptions, StopContainerOptions};
use bollard::{API_DEFAULT_VERSION, Docker as Client};
use serde::{Deserialize, Serialize};

use super::super::Failure;
use super::super::run::Run;
use super::{CONTAINERS_MAX, Docker, ENGINES, ONE_OFF, PROJECT, SERVICE, all};

/// Longest wait for an answer, beside the time that a container has to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time that Podman may take to clean up after a container that has ended: until then it calls it "stopped", which is
/// no word of Docker's API and not understood.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(10);
const CLEANUP_PAUSE: Duration = Duration::from_millis(50);
/// Time that a container has to stop which says nothing of it.
const STOP_TIMEOUT_S: u32 = 10;

/// A connection of this attempt.
pub(super) struct Engine {
    client: Client,
    /// The target's name.
    pub(super) name: String,
    settings: Docker,
}

/// A container as its engine sees it.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    project: Option<String>,
    pub(super) state: State,
    pub(super) pid: i64,
    /// RFC 3339; new with each start.
    pub(super) started_at: String,
    /// None: it has no check of its health.
    pub(super) health: Option<Health>,
    pub(super) exit_code: i64,
    /// It is removed when it stops.
    pub(super) is_auto_removed: bool,
    /// Between its stop signal and SIGKILL, unless asked otherwise.
    pub(super) stop_timeout_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Running,
    Paused,
    /// Or never started.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

impl Engine {
    /// Connects to the engine of the target that is meant.
    ///
    /// # Errors
    ///
    /// Transient, if it does not answer.
    pub(super) async fn open(run: &Run) -> Result<Self, Failure> {
        let target = run.target(ENGINES, None)?;
        let settings: Docker = target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        let what = format!("cannot reach the engine {} ({})", target.name, settings.socket.display());
        let path = settings
            .socket
            .to_str()
            .ok_or_else(|| Failure::permanent("target", format!("{what}: no path in UTF-8")))?;
        let client = Client::connect_with_unix(path, PATIENCE.as_secs(), API_DEFAULT_VERSION)
            .map_err(|error| failure(&what, &error))?;
        // Engines refuse a version of the API that is newer than theirs.
        let client = client.negotiate_version().await.map_err(|error| failure(&what, &error))?;
        Ok(Self { client, name: target.name.clone(), settings })
    }

    /// Looks at a container, by its id, the beginning of it, or its name.
    ///
    /// # Errors
    ///
    /// There is none, or none that may be touched.
    pub(super) async fn look(&self, container: &str) -> Result<Container, Failure> {
        let looked = self.inspect(container).await;
        let looked =
            looked.map_err(|error| failure(&format!("cannot look at the container {container}"), &error))?;
        let seen = Container::read(looked).ok_or_else(|| {
            Failure::permanent("engine", format!("the engine says too little of {container}"))
        })?;
        if self.settings.may_touch(seen.project.as_deref()) {
            return Ok(seen);
        }
        let told = format!("the container {container} is of no project that the target {} allows", self.name);
        Err(Failure::permanent("not_allowed", told).with("project", seen.project))
    }

    async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, Error> {
        let until = tokio::time::Instant::now() + CLEANUP_PATIENCE;
        loop {
            match self.client.inspect_container(container, None).await {
                Err(Error::JsonDataError { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(CLEANUP_PAUSE).await;
                }
                looked => return looked,
            }
        }
    }

    /// The containers of a service, by their names.
    ///
    /// # Errors
    ///
    /// There is none, or none that may be touched; or there are such services in several projects.
    pub(super) async fn service(&self, name: &str, project: Option<&str>) -> Result<Vec<Container>, Failure> {
        let mut labels = vec![format!("{SERVICE}={name}")];
        labels.extend(project.map(|project| format!("{PROJECT}={project}")));
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let listed = self.client.list_containers(Some(options)).await;
        let listed =
            listed.map_err(|error| failure(&format!("cannot look for the service {name}"), &error))?;

        let label = |labels: &Option<HashMap<String, String>>, key| labels.as_ref()?.get(key).cloned();
        let mut ids = Vec::new();
        let mut projects = Vec::new();
        let mut is_elsewhere = false;
        for summary in listed {
            if label(&summary.labels, ONE_OFF).is_some_and(|one_off| one_off.eq_ignore_ascii_case("true")) {
                continue;
            }
            let of = label(&summary.labels, PROJECT);
            if !self.settings.may_touch(of.as_deref()) {
                is_elsewhere = true;
                continue;
            }
            projects.push(of.unwrap_or_default());
            ids.extend(summary.id);
        }
        projects.sort_unstable();
        projects.dedup();
        if projects.len() > 1 {
            let told = format!("the service {name} is in several projects: {}", projects.join(", "));
            return Err(Failure::permanent("ambiguous", told).with("hint", "say which with \"project\""));
        }
        if ids.is_empty() && is_elsewhere {
            let told = format!("the service {name} is in no project that the target {} allows", self.name);
            return Err(Failure::permanent("not_allowed", told));
        }
        if ids.is_empty() {
            let told = format!("there is no container of the service {name} on {}", self.name);
            return Err(Failure::permanent("not_found", told));
        }
        if ids.len() > CONTAINERS_MAX {
            let told =
                format!("the service {name} has {} containers; {CONTAINERS_MAX} can be done", ids.len());
            return Err(Failure::permanent("too_many", told));
        }
        let mut containers = all(ids.iter().map(|id| self.look(id))).await?;
        containers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(containers)
    }

    /// Stops a container that is not paused, or waits until an earlier request has stopped it.
    pub(super) async fn stop(&self, id: &str, name: &str, timeout_s: u32) -> Result<(), Failure> {
        let patience = PATIENCE + Duration::from_secs(timeout_s.into());
        let options = StopContainerOptions { t: i32::try_from(timeout_s).ok(), signal: None };
        let stopped = self.client.clone().with_timeout(patience).stop_container(id, Some(options)).await;
        stopped.map_err(|error| failure(&format!("cannot stop the container {name}"), &error))
    }

    /// Starts a container; one that runs is left as it is.
    pub(super) async fn start(&self, id: &str, name: &str) -> Result<(), Failure> {
        let started = self.client.start_container(id, None).await;
        started.map_err(|error| failure(&format!("cannot start the container {name}"), &error))
    }

    /// Pauses a container that runs; one that is paused is left as it is.
    pub(super) async fn pause(&self, id: &str, name: &str) -> Result<(), Failure> {
        let paused = self.client.pause_container(id).await;
        self.unless(State::Paused, id, &format!("cannot pause the container {name}"), paused).await
    }

    /// Lets a paused container go on; one that runs is left as it is.
    pub(super) async fn unpause(&self, id: &str, name: &str) -> Result<(), Failure> {
        let unpaused = self.client.unpause_container(id).await;
        self.unless(State::Running, id, &format!("cannot resume the container {name}"), unpaused).await
    }

    /// An answer that is an error is none if the container is as it should be: an earlier request may have come first.
    async fn unless(
        &self,
        state: State,
        id: &str,
        what: &str,
        answer: Result<(), Error>,
    ) -> Result<(), Failure> {
        let Err(error) = answer else { return Ok(()) };
        match self.look(id).await {
            Ok(seen) if seen.state == state => Ok(()),
            _ => Err(failure(what, &error)),
        }
    }
}

impl Container {
    fn read(looked: ContainerInspectResponse) -> Option<Self> {
        let state = looked.state?;
        let is = |fact: Option<bool>| fact == Some(true);
        let config = looked.config.unwrap_or_default();
        Some(Self {
            id: looked.id?,
            name: looked.name?.trim_start_matches('/').to_owned(),
            project: config.labels.and_then(|mut labels| labels.remove(PROJECT)),
            // Docker's paused containers run as well, Podman's do not.
            state: if is(state.paused) {
                State::Paused
            } else if is(state.running) || is(state.restarting) {
                State::Running
            } else {
                State::Stopped
            },
            pid: state.pid.unwrap_or(0),
            started_at: state.started_at?,
            health: state.health.and_then(|health| match health.status? {
                HealthStatusEnum::STARTING => Some(Health::Starting),
                HealthStatusEnum::HEALTHY => Some(Health::Healthy),
                HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
                _ => None,
            }),
            exit_code: state.exit_code.unwrap_or(0),
            is_auto_removed: is(looked.host_config.and_then(|host| host.auto_remove)),
            stop_timeout_s: config
                .stop_timeout
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(STOP_TIMEOUT_S),
        })
    }
}

/// What an error of the engine or of the way to it means (Docker's API 1.41 and Podman 4.3).
fn failure(what: &str, error: &Error) -> Failure {
    if let Error::DockerResponseServerError { status_code, message } = error {
        let told = format!("{what}: {message}");
        let failure = match status_code {
            400 => Failure::permanent("engine", told),
            // From what stands between, such as a proxy that lets only some requests through.
            401 | 403 => Failure::permanent("not_allowed", told),
            404 => Failure::permanent("not_found", told),
            _ => Failure::transient("engine", told),
        };
        return failure.with("http_status", *status_code);
    }
    let mut told = format!("{what}: {error}");
    let mut source = error.source();
    let mut is_denied = false;
    while let Some(cause) = source {
        told = format!("{told}: {cause}");
        let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        is_denied |= cause.downcast_ref().is_some_and(denied);
        source = cause.source();
    }
    match error {
        _ if is_denied => Failure::permanent("not_allowed", told),
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => Failure::permanent("engine", told),
        _ => Failure::transient("unreachable", told),
    }
}
