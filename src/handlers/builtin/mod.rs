//! Built-in handlers: `use = "builtin"` carries out the action types of the user's document against the real components.
//!
//! The daemon's side of them is here: it judges metadata at submission and starts a process for each attempt
//! (`process`), as `exec` starts a program; adoption, cancel, logs and limits are the same. What a type does is in the
//! file of its family, which has a line in `ALL` for each of its types.
//!
//! The handler `webhook` is one of them too, for actions of whatever type: it has an endpoint of its own instead of targets.
//!
//! Recovery is always `resume`, unless the configuration says otherwise: see `run`.

#![cfg_attr(
    not(all(feature = "caches", feature = "containers", feature = "databases", feature = "webhooks")),
    allow(dead_code, reason = "what only a family uses that is left out")
)]

mod breakpoint;
#[cfg(feature = "caches")]
mod caches;
mod child;
#[cfg(feature = "containers")]
mod container;
#[cfg(feature = "databases")]
mod database;
mod deploy;
mod door;
mod failure;
mod host;
mod kind;
mod maintenance;
mod page;
mod process;
mod restart;
mod run;
mod secret_file;
mod units;
#[cfg(feature = "webhooks")]
mod webhook;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::failure::Failure;
use self::kind::{Entry, entry};
pub use self::page::{common_page, page, pages};
pub use self::process::main;
use self::process::{Settings, Undo};
use super::exec::Exec;
use super::registry::Surroundings;
use super::targets::{Targets, read_settings};
use super::{Asked, Attempt, BoxFuture, Handler, InvalidMetadata, UndoReason};
use crate::action::{Action, LockKey, Outcome, ProbeAnswer, Recovery};

/// Every type that is built in: a line each.
static ALL: &[Entry] = &[
    entry::<deploy::Deploy>(),
    entry::<restart::Restart>(),
    #[cfg(feature = "databases")]
    entry::<database::DatabaseCreate>(),
    #[cfg(feature = "databases")]
    entry::<database::DatabaseDelete>(),
    #[cfg(feature = "databases")]
    entry::<database::DatabaseUserCreate>(),
    #[cfg(feature = "databases")]
    entry::<database::DatabaseUserDelete>(),
    entry::<host::StackReboot>(),
    #[cfg(feature = "caches")]
    entry::<caches::ClearCaches>(),
    entry::<maintenance::MaintenanceMode>(),
    #[cfg(feature = "databases")]
    entry::<database::Promote>(),
    #[cfg(feature = "databases")]
    entry::<database::Resync>(),
    #[cfg(feature = "databases")]
    entry::<database::DisableReplication>(),
    #[cfg(feature = "containers")]
    entry::<container::ContainerRestart>(),
    #[cfg(feature = "containers")]
    entry::<container::ServiceRestart>(),
    #[cfg(feature = "containers")]
    entry::<container::ServicePause>(),
    #[cfg(feature = "containers")]
    entry::<container::ServiceResume>(),
    entry::<units::ProcessRestart>(),
    entry::<units::ProcessPause>(),
    entry::<units::ProcessResume>(),
];

/// Every engine of targets, with what judges its settings.
static ENGINES: &[(&str, Judge)] = &[
    ("app", |settings| read_settings::<deploy::App>(settings)?.check()),
    #[cfg(feature = "databases")]
    ("postgresql", |settings| read_settings::<database::Postgresql>(settings)?.check()),
    #[cfg(feature = "databases")]
    ("mariadb", judged::<database::Mariadb>),
    (units::ENGINE, judged::<units::Systemd>),
    (host::ENGINE, host::judge),
    #[cfg(feature = "containers")]
    ("docker", judged::<container::Docker>),
    #[cfg(feature = "caches")]
    ("redis", judged::<caches::Redis>),
    #[cfg(feature = "caches")]
    ("memcached", judged::<caches::Memcached>),
    #[cfg(feature = "caches")]
    ("files", judged::<caches::Files>),
    ("nginx", judged::<maintenance::Nginx>),
];

type Judge = fn(&Map<String, Value>) -> Result<(), String>;

fn judged<T: DeserializeOwned>(settings: &Map<String, Value>) -> Result<(), String> {
    read_settings::<T>(settings).map(drop)
}

/// What recovery does with an interrupted attempt of a built-in handler.
pub(super) const RECOVERY: Recovery = Recovery::Resume;

/// Keys of a `[[handler]]` table that are for the handler's processes.
const OF_PROCESS: [&str; 4] = ["env", "kill_grace", "user", "unit"];

/// Between SIGTERM and SIGKILL, unless configured: to take back what was done takes longer than to die.
const KILL_GRACE: &str = "1m";

/// What carries out actions of whatever type, by the handler's name.
static OF_ANY: &[Entry] = &[
    #[cfg(feature = "webhooks")]
    entry::<webhook::Webhook>(),
];

/// What carries out an action: that kind, or else what its type says.
fn of(kind: Option<&str>, action: &str) -> Option<&'static Entry> {
    match kind {
        Some(kind) => OF_ANY.iter().find(|entry| entry.action == kind),
        None => find(action),
    }
}

/// The type of that name, if it is built in.
fn find(action: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.action == action)
}

/// Judges the settings of a target.
///
/// # Errors
///
/// What is wrong with them.
pub(crate) fn judge_target(engine: &str, settings: &Map<String, Value>) -> Result<(), String> {
    let Some((_, judge)) = ENGINES.iter().find(|(name, _)| *name == engine) else {
        let known: Vec<&str> = ENGINES.iter().map(|(name, _)| *name).collect();
        return Err(format!("engine = {engine:?} is none; there are {}", known.join(", ")));
    };
    judge(settings)
}

/// The handlers `builtin` and `webhook`.
pub struct Builtin {
    /// Starts its processes.
    exec: Exec,
    /// What carries out its actions, if that does not follow from their type.
    kind: Option<&'static str>,
    targets: Targets,
    around: Surroundings,
}

impl Builtin {
    /// Reads the handler's own keys of its `[[handler]]` table: `targets`, `env`, `kill_grace`, `user`, `unit`.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each naming the key.
    pub fn new(action: &str, own: &toml::Table, around: &Surroundings) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        if action != super::registry::ANY && find(action).is_none() {
            let known: Vec<&str> = ALL.iter().map(|entry| entry.action).collect();
            problems.push(format!("{action:?} is not built in; built in are {}", known.join(", ")));
        }
        let mut own = own.clone();
        let targets = match own.remove("targets").map(toml::Value::try_into::<Vec<String>>) {
            None => Ok(around.targets.clone()),
            Some(Ok(names)) => around.targets.only(&names),
            Some(Err(_)) => Err("must be a list of names of targets".to_owned()),
        };
        let targets =
            targets.map_err(|problem| problems.push(format!("targets {problem}"))).unwrap_or_default();
        Self::made(None, own, targets, problems, around)
    }

    /// The handler `webhook`. Reads its keys: those of its endpoint, `env`, `kill_grace`, `user`, `unit`.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each naming the key.
    #[cfg(feature = "webhooks")]
    pub fn webhook(own: &toml::Table, around: &Surroundings) -> Result<Self, Vec<String>> {
        let is_of_process = |key: &str| OF_PROCESS.contains(&key);
        let (own, endpoint): (toml::Table, toml::Table) =
            own.clone().into_iter().partition(|(key, _)| is_of_process(key));
        let (targets, problems) = match webhook::targets(&endpoint) {
            Ok(targets) => (targets, Vec::new()),
            Err(problem) => (Targets::default(), vec![problem]),
        };
        Self::made(Some(<webhook::Webhook as kind::Kind>::ACTION), own, targets, problems, around)
    }

    /// With those of its keys that are for its processes.
    fn made(
        kind: Option<&'static str>,
        mut own: toml::Table,
        targets: Targets,
        mut problems: Vec<String>,
        around: &Surroundings,
    ) -> Result<Self, Vec<String>> {
        let unknown: Vec<String> =
            own.keys().filter(|key| !OF_PROCESS.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            own.remove(&key);
            problems.push(format!("{key} is not a key of {}", kind.unwrap_or("builtin")));
        }
        let argv = [around.binary.to_string_lossy().into_owned(), "handle".to_owned()];
        own.insert("program".to_owned(), argv.to_vec().into());
        own.entry("kill_grace").or_insert_with(|| KILL_GRACE.into());
        match Exec::new(&own, None, around) {
            Ok(exec) if problems.is_empty() => {
                Ok(Self { exec: exec.of_ours("the handler"), kind, targets, around: around.clone() })
            }
            Ok(_) => Err(problems),
            Err(found) => {
                problems.extend(found);
                Err(problems)
            }
        }
    }

    /// What follows the action on the process's standard input.
    fn settings(&self, action: &Action, undo: Option<Undo>) -> Vec<u8> {
        let settings = Settings {
            undo,
            targets: self.targets.clone(),
            secrets_dir: self.around.secrets_dir.clone(),
            credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
            is_retried: action.status.tries_used + 1 < action.body.retry.attempts,
            result_bytes_max: self.around.result_bytes_max,
            kind: self.kind.map(str::to_owned),
        };
        let mut line = serde_json::to_vec(&settings).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// What its handler says of when to come back is taken from the result, where people see it too.
fn later(outcome: Outcome) -> Outcome {
    let Outcome::Failed { message, result: Some(result), retryable: true } = outcome else { return outcome };
    let read: Option<Value> = serde_json::from_str(result.as_str()).ok();
    let after_ms =
        read.as_ref().and_then(|read| read.get("error")?.get(failure::AFTER_MS)?.as_u64()).unwrap_or(0);
    if after_ms == 0 {
        return Outcome::Failed { message, result: Some(result), retryable: true };
    }
    Outcome::TryLater { message, result: Some(result), after_ms }
}

impl Handler for Builtin {
    fn validate(&self, asked: &Asked<'_>) -> Result<Vec<LockKey>, InvalidMetadata> {
        let Some(entry) = of(self.kind, asked.action) else {
            return Err(InvalidMetadata(format!("{} is not built in", asked.action)));
        };
        let locks = (entry.check)(asked, &self.targets).map_err(InvalidMetadata)?;
        Ok(locks.iter().map(|lock| LockKey::named(lock)).collect())
    }

    fn in_process(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Outcome> {
        Box::pin(
            async move { later(self.exec.outcome(attempt, &self.settings(&attempt.action, None)).await) },
        )
    }

    fn is_gated(&self, action: &Action) -> bool {
        self.exec.is_gated(action)
    }

    fn outlives_daemon(&self, action: &Action) -> bool {
        self.exec.outlives_daemon(action)
    }

    fn adopt<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { later(self.exec.adopt(attempt).await) })
    }

    fn undoes(&self, action: &Action, is_told: bool) -> bool {
        let steps = &action.status.steps;
        let is_undone = steps.iter().any(|step| step.name == run::UNDO && step.done_at.is_some());
        !(steps.is_empty() || is_undone && is_told)
    }

    fn undo<'a>(&'a self, attempt: &'a Attempt, why: UndoReason) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let settings = self.settings(&attempt.action, Some(why.into()));
            self.exec.undo(attempt, &settings).await
        })
    }

    fn probe<'a>(&'a self, _action: &'a Action, _mark: &'a str) -> BoxFuture<'a, ProbeAnswer> {
        Box::pin(async { ProbeAnswer::Unknown })
    }
}
