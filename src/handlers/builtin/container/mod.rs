//! Containers, and the services of Compose projects, on an engine that speaks Docker's API: Docker itself, or Podman.
//!
//! A service is the containers that carry the labels `com.docker.compose.project` and `com.docker.compose.service`.
//!
//! The two engines answer the same mistake with different codes, so no code is relied on: a container is looked at, what is
//! missing is done, and it is looked at again ([`engine`]). An engine also goes on with a request whose client is gone; each
//! request that is made here can therefore be made twice, beside an earlier one, with the effect of one.

mod engine;
mod pause;
mod restart;
mod service;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::pause::{ServicePause, ServiceResume};
pub(super) use self::restart::ContainerRestart;
pub(super) use self::service::ServiceRestart;
use super::Failure;
use super::kind::Around;
use crate::handlers::targets::{Choice, Target};

/// The engines of containers.
const ENGINES: &[&str] = &["docker"];

/// Compose project of a container.
const PROJECT: &str = "com.docker.compose.project";
/// Compose service of a container.
const SERVICE: &str = "com.docker.compose.service";
/// "True" for a container of `docker compose run`, which is no part of its service.
const ONE_OFF: &str = "com.docker.compose.oneoff";

/// Most containers of a service: what is remembered of each has to fit into the action.
const CONTAINERS_MAX: usize = 60;
/// Longest name.
const NAME_BYTES_MAX: usize = 255;
/// In `allowed_projects`: every container.
const ANY: &str = "*";

/// `[targets.NAME]` with `engine = "docker"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Docker {
    /// The engine's Unix socket.
    socket: PathBuf,
    /// Compose projects whose containers may be touched; "*": every container of the engine.
    allowed_projects: Vec<String>,
}

impl Docker {
    fn may_touch(&self, project: Option<&str>) -> bool {
        self.allowed_projects.iter().any(|allowed| allowed == ANY || Some(allowed.as_str()) == project)
    }
}

/// The target that is meant, at submission, and its settings.
fn target_of<'a>(around: &Around<'a>) -> Result<(&'a Target, Docker), String> {
    let target = around.targets.choose(Choice {
        engines: ENGINES,
        name: around.common.target.as_deref(),
        server: None,
        resource_id: around.resource_id,
    })?;
    let settings = target.settings()?;
    Ok((target, settings))
}

/// Judges the name or id of a container, a service or a project.
fn check_name(key: &str, name: &str) -> Result<(), String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() {
        return Err(format!("{key} must not be empty"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("{key} must have at most {NAME_BYTES_MAX} bytes"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(is_part) {
        return Err(format!(
            "{key} must begin with a letter or digit, and have only letters, digits, \"_\", \".\" and \"-\""
        ));
    }
    Ok(())
}

/// Judges the names of a service, and gives what no other action may touch meanwhile.
fn check_service(name: &str, project: Option<&str>, around: &Around<'_>) -> Result<Vec<String>, String> {
    check_name("service_name", name)?;
    let (target, settings) = target_of(around)?;
    if let Some(project) = project {
        check_name("project", project)?;
        if !settings.may_touch(Some(project)) {
            return Err(format!("project: {project} is none that the target {} allows", target.name));
        }
    }
    // Without the project: it may be left out where there is only one.
    Ok(vec![format!("service:{}:{name}", target.name)])
}

/// All of them, or the first failure, once none is on its way any more.
async fn all<T>(
    each: impl Iterator<Item = impl Future<Output = Result<T, Failure>>>,
) -> Result<Vec<T>, Failure> {
    futures_util::future::join_all(each).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_go_into_a_path_of_the_api() {
        for good in ["a", "281220e08783", "shop-web-1", "a_b.c", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(check_name("container", good), Ok(()));
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "-a", "a/b", "a b", "../x", "a?all=1", "ä", "a%2f", "a\n", long.as_str()] {
            assert!(check_name("container", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn container_of_no_project_is_touched_only_if_all_are() {
        let settings = |allowed: &[&str]| Docker {
            socket: PathBuf::new(),
            allowed_projects: allowed.iter().map(|&project| project.to_owned()).collect(),
        };
        assert!(settings(&["shop"]).may_touch(Some("shop")));
        assert!(!settings(&["shop"]).may_touch(Some("other")));
        assert!(!settings(&["shop"]).may_touch(None));
        assert!(!settings(&[]).may_touch(Some("shop")));
        assert!(settings(&["*"]).may_touch(None));
    }
}
