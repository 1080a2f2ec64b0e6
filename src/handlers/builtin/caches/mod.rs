//! `clear_caches`: caches of the application, by their targets: Redis, memcached, directories of files.
//!
//! A cache that is cleared once too often costs time and nothing else, so an interrupted step is done again; but one that is
//! seen to be empty is left alone. A cache that fails keeps none of the others from being cleared. There is nothing to take back.

mod files;
mod memcached;
mod redis;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(super) use self::files::Files;
pub(super) use self::memcached::Memcached;
pub(super) use self::redis::Redis;
use super::Failure;
use super::failure::Kind as Consequence;
use super::kind::{Around, Done, Kind, Page};
use super::run::Run;
use crate::handlers::targets::{Choice, Target, Targets};

/// A step has a note of its own, and an action at most 64 of them.
const CACHES_MAX: usize = 24;

pub(super) struct ClearCaches;

/// A kind of cache; the engines of its targets have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Redis,
    Memcached,
    Files,
}

impl Engine {
    const ALL: [Self; 3] = [Self::Redis, Self::Memcached, Self::Files];

    const fn word(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Memcached => "memcached",
            Self::Files => "files",
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Only caches of these kinds; none: all that are configured.
    #[serde(default)]
    only: Vec<Engine>,
}

/// What came of one cache.
#[derive(Debug, Serialize, Deserialize)]
struct Cleared {
    changed: bool,
    entries_before: u64,
    /// What others have put there since counts as well.
    entries_after: u64,
    /// Of files.
    bytes_freed: Option<u64>,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    engine: Engine,
    ok: bool,
    #[serde(flatten)]
    cleared: Option<Cleared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

impl Kind for ClearCaches {
    const ACTION: &'static str = "clear_caches";
    const PAGE: Page = Page {
        does: "Clears the caches that are configured for the resource, or those of some kinds; each also if another fails.",
        engines: &["redis", "memcached", "files"],
        result: &[(
            "caches",
            "of each cache: name, engine, ok, changed, entries_before, entries_after, bytes_freed of files, or error",
        )],
        recovery: "Goes on with the caches that are not known to be cleared. One that was being cleared is cleared again, unless \
                   it is empty.",
        undo: "Nothing: what was in a cache can be made again. Files that were moved aside are deleted by the next clear_caches.",
        rights: "Redis: +dbsize +flushdb +select, with a pattern +scan +unlink. memcached: its socket. \
                 Files: to write the directory and all below it.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let caches = meant(params, around.targets, around.common.target.as_deref(), around.resource_id)?;
        Ok(caches.iter().map(|(_, target)| format!("cache:{}", target.name)).collect())
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let mut plan = Vec::new();
        for (engine, target) in of(params, run)? {
            let entries = match engine {
                Engine::Redis => redis::count(run, target).await?,
                Engine::Memcached => memcached::count(target).await?,
                Engine::Files => files::count(target)?,
            };
            plan.push(
                json!({ "step": step(target), "target": target.name, "engine": engine, "entries": entries }),
            );
        }
        Ok(plan)
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let caches = of(params, run)?;
        let (mut listed, mut failures) = (Vec::new(), Vec::new());
        for (engine, target) in &caches {
            let cleared = match engine {
                Engine::Redis => redis::clear(run, target).await,
                Engine::Memcached => memcached::clear(run, target).await,
                Engine::Files => files::clear(run, target).await,
            };
            let (cleared, error) = match cleared {
                Ok(cleared) => (Some(cleared), None),
                Err(failure) if failure.kind == Consequence::Unknown => return Err(failure),
                Err(failure) => {
                    run.log(&format!("{} is not cleared: {}", target.name, failure.message()));
                    let error = failure.to_json();
                    failures.push(failure);
                    (None, Some(error))
                }
            };
            let ok = error.is_none();
            listed.push(Listed { name: &target.name, engine: *engine, ok, cleared, error });
        }
        let list = json!({ "caches": listed });
        if let Some(failure) = summed(&failures, caches.len()) {
            return Err(failure.with("caches", list.get("caches").cloned().unwrap_or_default()));
        }
        let changed = listed.iter().any(|one| one.cleared.as_ref().is_some_and(|cleared| cleared.changed));
        let names: Vec<&str> = listed.iter().map(|one| one.name).collect();
        Ok(Done::new(format!("cleared {}", names.join(", ")), changed, &list))
    }
}

/// One failure for all: if another try helps any of them, it is tried.
fn summed(failures: &[Failure], caches: usize) -> Option<Failure> {
    let worst = failures.iter().find(|failure| failure.kind == Consequence::Transient).or(failures.first())?;
    let told: Vec<&str> = failures.iter().map(Failure::message).collect();
    let told = format!("{} of {caches} caches could not be cleared: {}", failures.len(), told.join("; "));
    Some(match worst.kind {
        Consequence::Transient => Failure::transient(worst.code(), told),
        _ => Failure::permanent(worst.code(), told),
    })
}

/// The step that clears this cache.
fn step(target: &Target) -> String {
    format!("clear.{}", target.name)
}

fn of<'a>(params: &Params, run: &'a Run) -> Result<Vec<(Engine, &'a Target)>, Failure> {
    meant(params, &run.targets, run.common.target.as_deref(), run.resource_id)
        .map_err(|problem| Failure::permanent("target", problem))
}

/// The caches that are meant. Of each kind, those that are configured for this very resource go before those for all.
fn meant<'a>(
    params: &Params,
    targets: &'a Targets,
    name: Option<&str>,
    resource_id: u64,
) -> Result<Vec<(Engine, &'a Target)>, String> {
    let mut caches = Vec::new();
    for engine in
        Engine::ALL.into_iter().filter(|engine| params.only.is_empty() || params.only.contains(engine))
    {
        let engines = [engine.word()];
        let choice = Choice { engines: &engines, name, server: None, resource_id };
        let fitting = targets.fitting(choice);
        if fitting.is_empty() && params.only.contains(&engine) {
            return Err(format!("only: {}", targets.choose(choice).err().unwrap_or_default()));
        }
        caches.extend(fitting.into_iter().map(|target| (engine, target)));
    }
    match caches.len() {
        0 => Err(format!(
            "no cache is configured for resource {resource_id}: a [targets.*] table with engine = \"redis\", \
                          \"memcached\" or \"files\""
        )),
        1..=CACHES_MAX => Ok(caches),
        many => Err(format!("{many} caches are configured for it; an action clears at most {CACHES_MAX}")),
    }
}
