//! Which handler carries out which action, from the configuration's `[[handler]]` tables.
//!
//! Built at a start and at each reload, as a whole or not at all; the engine asks it for each submission. A new
//! handler is one file and one line in `handler`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Handler;
use super::builtin::{self, Builtin};
use super::exec::Exec;
use super::noop::Noop;
use super::targets::Targets;
use crate::action::{Recovery, RetryPolicy, action_type};
use crate::runner::backend::Backend;

/// One `[[handler]]` table: what is common to all handlers, and the rest as it stands.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// An action type, or `*` for any that has no line of its own.
    pub action: String,
    /// Only for this resource type, if given.
    pub resource_type: Option<String>,
    /// `builtin`, `webhook`, `exec` or `noop`.
    pub handler: String,
    pub queue: String,
    /// The catalogue's default if none.
    pub recovery: Option<Recovery>,
    pub timeout_ms: u64,
    pub retry: RetryPolicy,
    pub exclusive: Option<bool>,
    /// Every other key of the table: the handler's own settings.
    pub own: toml::Table,
}

/// What handlers need of the daemon's surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// Directory of the files of attempts (`runner::keeper::place`), mode 0700.
    pub attempts_dir: PathBuf,
    /// Directory of the keepers' sockets.
    pub keepers_dir: PathBuf,
    /// Starts keepers.
    pub backend: Arc<dyn Backend>,
    /// How long a program has between SIGTERM and SIGKILL.
    pub kill_grace_ms: u64,
    /// Longest checkpoint and longest result of a program.
    pub result_bytes_max: usize,
    /// The daemon's own socket, for programs that have something to ask of it.
    pub socket: PathBuf,
    /// This very binary, in which built-in handlers are.
    pub binary: PathBuf,
    /// What built-in handlers act on.
    pub targets: Targets,
    /// Where they keep passwords that they make up.
    pub secrets_dir: PathBuf,
}

#[cfg(test)]
impl Surroundings {
    /// For tests that start nothing.
    pub(crate) fn of_tests(kill_grace_ms: u64) -> Self {
        Self {
            attempts_dir: "/a".into(),
            keepers_dir: "/k".into(),
            backend: Arc::new(crate::runner::backend::Sessions::new("/b".into())),
            kill_grace_ms,
            result_bytes_max: 1 << 16,
            socket: "/s".into(),
            binary: "/b".into(),
            targets: Targets::default(),
            secrets_dir: "/x".into(),
        }
    }
}

/// A handler with what holds for the actions it carries out.
pub struct Route {
    pub handler: Arc<dyn Handler>,
    pub queue: String,
    pub recovery: Recovery,
    pub timeout_ms: u64,
    pub retry: RetryPolicy,
    pub exclusive: bool,
}

/// The word that stands for any action without a line of its own.
pub(super) const ANY: &str = "*";

/// All routes. (action, resource_type) beats (action), which beats (`*`, resource_type), which beats `*`.
pub struct Registry {
    routes: HashMap<String, Routes>,
    any: Option<Routes>,
}

/// The routes of one action, or of `*`.
#[derive(Default)]
struct Routes {
    by_resource_type: HashMap<String, Row>,
    other: Option<Row>,
}

/// A table as written, and the route it makes for an action that is not named in it.
enum Row {
    Named(Route),
    /// Of a `*` table: the catalogue's defaults differ by action.
    Any {
        of: HashMap<&'static str, Route>,
        unknown: Route,
    },
}

impl Registry {
    /// Builds every handler; all problems are reported, not the first.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each naming the `[[handler]]` table (by action) and the key.
    pub fn build(routes: &[RouteSettings], around: &Surroundings) -> Result<Self, Vec<String>> {
        let mut registry = Self { routes: HashMap::new(), any: None };
        let mut problems = Vec::new();
        for settings in routes {
            let table = name(settings);
            if settings.action != ANY && !is_action_name(&settings.action) {
                problems.push(format!("{table}: action must be \"*\" or match ^[a-z][a-z0-9_]{{0,63}}$"));
            }
            let handler = match handler(settings, around) {
                Ok(handler) => handler,
                Err(found) => {
                    problems.extend(found.into_iter().map(|problem| format!("{table}: {problem}")));
                    continue;
                }
            };
            let of_action = if settings.action == ANY {
                registry.any.get_or_insert_default()
            } else {
                registry.routes.entry(settings.action.clone()).or_default()
            };
            let row = row(settings, &handler);
            let before = match &settings.resource_type {
                Some(resource_type) => of_action.by_resource_type.insert(resource_type.clone(), row),
                None => of_action.other.replace(row),
            };
            if before.is_some() {
                problems.push(format!("{table}: action and resource_type are those of an earlier table"));
            }
        }
        if problems.is_empty() { Ok(registry) } else { Err(problems) }
    }

    /// The route of an action on a resource of that type, if one is configured.
    pub fn find(&self, action: &str, resource_type: &str) -> Option<&Route> {
        [self.routes.get(action), self.any.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|routes| routes.by_resource_type.get(resource_type).or(routes.other.as_ref()))
            .map(|row| match row {
                Row::Named(route) => route,
                Row::Any { of, unknown } => of.get(action).unwrap_or(unknown),
            })
    }
}

/// The list of handlers.
fn handler(settings: &RouteSettings, around: &Surroundings) -> Result<Arc<dyn Handler>, Vec<String>> {
    match settings.handler.as_str() {
        "builtin" => Ok(Arc::new(Builtin::new(&settings.action, &settings.own, around)?)),
        #[cfg(feature = "webhooks")]
        "webhook" => Ok(Arc::new(Builtin::webhook(&settings.own, around)?)),
        "exec" => Ok(Arc::new(Exec::new(&settings.own, settings.recovery, around)?)),
        "noop" => Ok(Arc::new(Noop::new(&settings.own)?)),
        other => {
            let known = "\"builtin\", \"webhook\", \"exec\" and \"noop\"";
            Err(vec![format!("use = {other:?} is no handler; there are {known}")])
        }
    }
}

fn row(settings: &RouteSettings, handler: &Arc<dyn Handler>) -> Row {
    if settings.action != ANY {
        return Row::Named(route(settings, handler, &settings.action));
    }
    let of = crate::action::ACTION_TYPES.iter().map(|kind| (kind.name, route(settings, handler, kind.name)));
    Row::Any { of: of.collect(), unknown: route(settings, handler, ANY) }
}

fn route(settings: &RouteSettings, handler: &Arc<dyn Handler>, action: &str) -> Route {
    let kind = action_type(action);
    // Of an action outside the catalogue nothing is known: one at a time, and a person decides, unless it
    // certainly has no effect.
    let unknown = if settings.handler == "noop" { Recovery::Rerun } else { Recovery::Hold };
    // The catalogue's defaults are for programs that know nothing of what an earlier attempt did.
    let kind_recovery = match settings.handler.as_str() {
        "builtin" | "webhook" => builtin::RECOVERY,
        _ => kind.map_or(unknown, |kind| kind.recovery),
    };
    Route {
        handler: Arc::clone(handler),
        queue: settings.queue.clone(),
        recovery: settings.recovery.unwrap_or(kind_recovery),
        timeout_ms: settings.timeout_ms,
        retry: settings.retry,
        exclusive: settings.exclusive.unwrap_or_else(|| kind.is_none_or(|kind| kind.exclusive)),
    }
}

/// How a table is named in a problem.
fn name(settings: &RouteSettings) -> String {
    match &settings.resource_type {
        Some(resource_type) => format!("handler for {} on {resource_type}", settings.action),
        None => format!("handler for {}", settings.action),
    }
}

fn is_action_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(action: &str, resource_type: Option<&str>, queue: &str) -> RouteSettings {
        RouteSettings {
            action: action.to_owned(),
            resource_type: resource_type.map(str::to_owned),
            handler: "noop".to_owned(),
            queue: queue.to_owned(),
            recovery: None,
            timeout_ms: 1_000,
            retry: RetryPolicy::default(),
            exclusive: None,
            own: toml::Table::new(),
        }
    }

    fn around() -> Surroundings {
        Surroundings::of_tests(1)
    }

    #[test]
    fn the_closest_table_wins() {
        let tables = [
            table("*", None, "any"),
            table("*", Some("Stack"), "any-stack"),
            table("deploy", None, "deploy"),
            table("deploy", Some("Stack"), "deploy-stack"),
            table("restart", Some("Server"), "restart-server"),
        ];
        let registry = Registry::build(&tables, &around()).ok().unwrap();
        let queue = |action, resource_type| registry.find(action, resource_type).unwrap().queue.clone();
        assert_eq!(queue("deploy", "Stack"), "deploy-stack");
        assert_eq!(queue("deploy", "Server"), "deploy");
        assert_eq!(queue("restart", "Server"), "restart-server");
        assert_eq!(queue("restart", "Stack"), "any-stack");
        assert_eq!(queue("restart", "Database"), "any");
        let registry = Registry::build(&tables[2..], &around()).ok().unwrap();
        assert!(registry.find("restart", "Stack").is_none());
    }

    #[test]
    fn defaults_come_from_the_catalogue_also_under_a_star() {
        let registry = Registry::build(&[table("*", None, "q")], &around()).ok().unwrap();
        let recovery = |action| registry.find(action, "Stack").unwrap().recovery;
        assert_eq!(recovery("deploy"), Recovery::Hold);
        assert_eq!(recovery("restart"), Recovery::Rerun);
        assert_eq!(recovery("unheard_of"), Recovery::Rerun);
        let own = RouteSettings { recovery: Some(Recovery::Fail), ..table("deploy", None, "q") };
        let registry = Registry::build(&[own], &around()).ok().unwrap();
        assert_eq!(registry.find("deploy", "Stack").unwrap().recovery, Recovery::Fail);
    }

    #[test]
    fn all_problems_are_told() {
        let tables = [
            RouteSettings { handler: "exce".to_owned(), ..table("deploy", None, "q") },
            RouteSettings { handler: "exec".to_owned(), ..table("restart", None, "q") },
            table("Deploy", None, "q"),
            table("x", Some("Stack"), "q"),
            table("x", Some("Stack"), "q"),
        ];
        let problems = Registry::build(&tables, &around()).err().unwrap();
        let beginnings = [
            "handler for deploy: use = \"exce\"",
            "handler for restart: program",
            "handler for Deploy: action",
            "handler for x on Stack: action and resource_type",
        ];
        assert_eq!(problems.len(), beginnings.len(), "{problems:?}");
        for (problem, beginning) in problems.iter().zip(beginnings) {
            assert!(problem.starts_with(beginning), "{problem}");
        }
    }
}
