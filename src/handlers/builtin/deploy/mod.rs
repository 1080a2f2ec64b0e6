//! `deploy`: a commit of a git repository becomes the current release of an application, and its instances run it.
//!
//! The commit is pinned in the intent of the first step: a deploy that goes on after an interruption does not follow a branch
//! that has moved. `current` is switched atomically and always leads to a whole release.

mod app;
mod git;
mod health;
mod instances;
mod mark;
mod release;

use std::io;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(super) use self::app::App;
use self::instances::{Live, Server};
use self::mark::Mark;
use self::release::Link;
use super::Failure;
use super::kind::{Around, Done, Kind, Page};
use super::run::{Found, Run};
use crate::handlers::targets::{Choice, Target};

const ENGINES: &[&str] = &["app"];
const FETCH: &str = "fetch";
const SWITCH: &str = "switch";
const NOTE_BYTES_MAX: usize = 4_096;

pub(super) struct Deploy;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// A branch, a tag, or a whole commit id.
    git_ref: String,
    /// How the instances are restarted: "rolling" and "serial" by batches, of which each has to be healthy before the next;
    /// "parallel" all at once.
    #[serde(default)]
    deployment_strategy: Strategy,
    /// Instances of a batch, when rolling. 1 or more.
    #[serde(default = "one")]
    batch_size: u32,
    /// Only these services of the application; else all.
    services: Option<Vec<String>>,
    /// Whether it goes back to the release before if an instance does not become healthy.
    #[serde(default = "yes")]
    rollback_on_failure: bool,
    /// Restart also if all that is asked for is deployed already.
    #[serde(default)]
    force: bool,
    /// Anything, for whoever reads the action.
    note: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    #[default]
    Rolling,
    /// As "rolling" with batches of one.
    Serial,
    Parallel,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// What is deployed, and with which settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pinned {
    hash: String,
    session: String,
    target: String,
    /// A digest.
    settings: String,
}

/// What was current before, and what was known of it.
#[derive(Clone, Serialize, Deserialize)]
struct Before {
    previous: Option<Link>,
    mark: Option<Mark>,
}

#[derive(Serialize)]
struct Deployed<'a> {
    deploy_session: &'a str,
    git_hash: &'a str,
    git_ref: &'a str,
    previous_git_hash: Option<String>,
    #[serde(rename = "servers_deployed")]
    count: usize,
    servers: Vec<Server>,
    rolled_back: bool,
    release_path: String,
    pruned: Vec<String>,
}

impl Kind for Deploy {
    const ACTION: &'static str = "deploy";
    const PAGE: Page = Page {
        does: "Fetches a commit, unpacks it as a release, makes that the current one atomically, and restarts the instances of the \
               application batch by batch, each of which has to become healthy.",
        engines: ENGINES,
        result: &[
            ("deploy_session", "a word of its own for this deploy"),
            ("git_hash", "the commit that was deployed"),
            ("git_ref", "what was asked for"),
            ("previous_git_hash", "the release before"),
            ("servers_deployed", "how many instances run it"),
            ("servers", "each: name, status, health_ms"),
            ("rolled_back", "whether the release before is the current one again"),
            ("release_path", "where it is"),
            ("pruned", "old releases that were removed"),
        ],
        recovery: "Goes on with the same commit, whatever the branch is at now. Programs that were interrupted are run again; a service of \
                   systemd is not restarted again. If the target's settings have changed meanwhile it fails, or is held once it has \
                   switched.",
        undo: "Makes the release before current again, restarts and checks the instances that were restarted, batch by batch, the last one \
               first, unless rollback_on_failure is false or there was none.",
        rights: "To write the application's directory, to read the repository (ssh and https without a question), and what its programs \
                 need; for instances that are services what process_restart needs.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let name = around.common.target.as_deref();
        let target = around.targets.choose(Choice {
            engines: ENGINES,
            name,
            server: None,
            resource_id: around.resource_id,
        })?;
        let app: App = target.settings()?;
        git::check_ref(&params.git_ref)?;
        if params.batch_size == 0 {
            return Err("batch_size must be 1 or more".to_owned());
        }
        if params.note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
            return Err(format!("note may have {NOTE_BYTES_MAX} bytes"));
        }
        let chosen = instances::chosen(params, &app)?;
        let mut locks = instances::locks(&chosen, &app, around.targets, around.resource_id)?;
        locks.push(format!("app:{}", target.name));
        Ok(locks)
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let app = app(run)?;
        let hash = git::resolve(&app, &params.git_ref).await?;
        let batches = instances::batches(params, &app)?;
        if !params.force && is_deployed(&app, &hash, &App::names(&batches.concat()))? {
            return Ok(Vec::new());
        }
        let restarts = batches
            .iter()
            .enumerate()
            .map(|(at, batch)| json!({ "step": restart(at), "instances": App::names(batch) }));
        let first = [
            json!({ "step": FETCH, "git_hash": hash }),
            json!({ "step": "unpack", "release_path": app.release(&hash) }),
            json!({ "step": SWITCH, "from": release::current_hash(&app)?, "to": hash }),
        ];
        let last = [json!({ "step": "mark" }), json!({ "step": "prune", "keep": app.keep })];
        Ok(first.into_iter().chain(restarts).chain(last).collect())
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let app = app(run)?;
        let _alone = release::alone(&app)?;
        run.progress(5, "fetching");
        let pinned = fetch(params, run, &app).await?;
        let hash = pinned.hash.as_str();
        let batches = instances::batches(params, &app)?;
        let names = App::names(&batches.concat());
        if !params.force && !run.is_begun(SWITCH) && is_deployed(&app, hash, &names)? {
            git::forget(&app, run.id, None).await;
            let deployed = deployed(params, &app, &pinned, Some(hash.to_owned()), Vec::new(), Vec::new());
            return Ok(Done::new(format!("{hash} is deployed already"), false, &deployed));
        }
        run.progress(20, "unpacking");
        run.repeatable("unpack", async || unpack(params, run, &app, hash).await).await?;
        let live = Live { hash, session: &pinned.session, dir: app.release(hash) };
        instances::hook(run, "before", &app.before, &live).await?;
        let before = switch(run, &app, hash).await?;
        let mut servers = Vec::new();
        for (at, batch) in batches.iter().enumerate() {
            run.progress(
                u8::try_from(30 + 60 * at / batches.len()).unwrap_or(90),
                &format!("restarting batch {}", at + 1),
            );
            servers.extend(instances::restart(run, &app, &restart(at), batch, &live).await?);
        }
        instances::hook(run, "after", &app.after, &live).await?;
        run.repeatable("mark", async || mark(hash, &names, before.mark.as_ref()).write(&app)).await?;
        let previous = before.previous.as_ref().and_then(|link| link.hash(&app));
        let never: Vec<&str> = previous.into_iter().chain([hash]).collect();
        // What runs is right: nobody goes back because something old cannot be removed.
        let prune = async || {
            git::forget(&app, run.id, Some(hash)).await;
            Ok(release::prune(&app, &never).unwrap_or_else(|failure| {
                run.warn(failure.message());
                Vec::new()
            }))
        };
        let pruned = run.repeatable("prune", prune).await?;
        let deployed = deployed(params, &app, &pinned, previous.map(str::to_owned), servers, pruned);
        Ok(Done::new(format!("deployed {hash} to {} instances", deployed.count), true, &deployed))
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let trace = run.trace::<Before, Before>(SWITCH)?;
        let app = match app(run) {
            Ok(app) => app,
            // Nothing but the cache has been touched.
            Err(_) if trace.is_none() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let _alone = release::alone(&app)?;
        git::forget(&app, run.id, None).await;
        let Some(Before { previous, mark }) = trace.map(|trace| trace.intent) else { return Ok(()) };
        let Some(previous) = previous else {
            run.warn("there was no release before: the new one stays the current one");
            return Ok(());
        };
        if !params.rollback_on_failure {
            run.warn("rollback_on_failure is false: the new release stays the current one");
            return Ok(());
        }
        let is_same = run
            .trace::<Pinned, Value>(FETCH)?
            .is_some_and(|fetched| previous.hash(&app) == Some(fetched.intent.hash.as_str()));
        run.repeatable("undo.switch", async || switch_back(run, &app, &previous)).await?;
        run.add_result("rolled_back", !is_same);
        let dir = previous.dir(&app);
        let live = Live { hash: previous.hash(&app).unwrap_or_default(), session: "rollback", dir };
        for (at, batch) in instances::batches(params, &app)?.iter().enumerate().rev() {
            if !run.is_begun(&restart(at)) {
                continue;
            }
            match instances::restart(run, &app, &format!("undo.{}", restart(at)), batch, &live).await {
                // There is nothing else to go back to.
                Err(failure) if is_same => run.warn(failure.message()),
                restarted => drop(restarted?),
            }
        }
        let Some(mark) = mark.filter(|_| !is_same) else { return Ok(()) };
        run.repeatable("undo.mark", async || mark.write(&app)).await
    }
}

/// The target: the one that is meant, and once something has begun the same one with the same settings.
fn target(run: &Run) -> Result<&Target, Failure> {
    let Some(fetch) = run.trace::<Pinned, Value>(FETCH)? else { return run.target(ENGINES, None) };
    let pinned = fetch.intent;
    let changed = match run.targets.by_name(&pinned.target) {
        Some(target) if digest(target) == pinned.settings => return Ok(target),
        Some(_) => "have changed",
        None => "are gone",
    };
    let told = format!("the settings of the target {} {changed} since this deploy began", pinned.target);
    // What the old settings have set going nobody can take back with the new ones.
    Err(if run.is_begun(SWITCH) {
        Failure::unknown("target_changed", told)
    } else {
        Failure::permanent("target_changed", told)
    })
}

fn digest(target: &Target) -> String {
    let digest = Sha256::digest(Value::Object(target.settings.clone()).to_string());
    digest.iter().fold(String::new(), |all, byte| all + &format!("{byte:02x}"))
}

fn app(run: &Run) -> Result<App, Failure> {
    target(run)?.settings().map_err(|problem| Failure::permanent("target", problem))
}

fn restart(at: usize) -> String {
    format!("restart.{}", at + 1)
}

/// Whether that is the current release, and these instances are known to run it.
fn is_deployed(app: &App, hash: &str, instances: &[&str]) -> Result<bool, Failure> {
    let is_current = release::current_hash(app)?.as_deref() == Some(hash) && app.release(hash).is_dir();
    Ok(is_current && Mark::read(app).is_some_and(|mark| mark.covers(hash, instances)))
}

/// That these run it, beside those that did before.
fn mark(hash: &str, instances: &[&str], before: Option<&Mark>) -> Mark {
    let before = before.filter(|mark| mark.hash == hash).map(|mark| mark.instances.clone());
    let mut all = before.unwrap_or_default();
    all.extend(instances.iter().map(|name| (*name).to_owned()));
    all.sort_unstable();
    all.dedup();
    Mark { hash: hash.to_owned(), instances: all }
}

async fn fetch(params: &Params, run: &Run, app: &App) -> Result<Pinned, Failure> {
    let pin = async || {
        let session = std::iter::repeat_with(fastrand::alphanumeric).take(10).collect();
        let target = target(run)?;
        let hash = git::resolve(app, &params.git_ref).await?;
        Ok(Pinned { hash, session, target: target.name.clone(), settings: digest(target) })
    };
    let fetch = async |pinned: &Pinned| {
        git::fetch(app, run.id, &params.git_ref, &pinned.hash).await?;
        Ok(pinned.clone())
    };
    run.step(FETCH, pin, fetch, async |_| Ok(Found::NotDone)).await
}

async fn unpack(params: &Params, run: &Run, app: &App, hash: &str) -> Result<(), Failure> {
    match release::unpack(app, hash).await {
        // The cache has lost something since.
        Err(failure) if failure.code() == "git" => {
            run.log(&format!("{}; fetching anew", failure.message()));
            git::make_anew(app).await?;
            git::fetch(app, run.id, &params.git_ref, hash).await?;
            release::unpack(app, hash).await
        }
        unpacked => unpacked,
    }
}

async fn switch(run: &Run, app: &App, hash: &str) -> Result<Before, Failure> {
    let before = async || Ok(Before { previous: release::current(app)?, mark: Mark::read(app) });
    let act = async |before: &Before| {
        Mark::remove(app)?;
        release::switch(app, run.id, &Link::to(hash))?;
        Ok(before.clone())
    };
    run.step(SWITCH, before, act, async |_| Ok(Found::NotDone)).await
}

fn switch_back(run: &Run, app: &App, previous: &Link) -> Result<(), Failure> {
    if !previous.dir(app).is_dir() {
        let told = format!("the release before, {}, is not there any more", previous.as_str());
        return Err(Failure::permanent("no_release", told));
    }
    Mark::remove(app)?;
    if release::current(app)?.as_ref() == Some(previous) {
        return Ok(());
    }
    release::switch(app, run.id, previous)
}

fn deployed<'a>(
    params: &'a Params,
    app: &App,
    pinned: &'a Pinned,
    previous: Option<String>,
    servers: Vec<Server>,
    pruned: Vec<String>,
) -> Deployed<'a> {
    Deployed {
        deploy_session: &pinned.session,
        git_hash: &pinned.hash,
        git_ref: &params.git_ref,
        previous_git_hash: previous,
        count: servers.len(),
        servers,
        rolled_back: false,
        release_path: app.release(&pinned.hash).to_string_lossy().into_owned(),
        pruned,
    }
}

fn disk(what: &str, error: &io::Error) -> Failure {
    let told = format!("{what}: {error}");
    let failure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::transient("disk_full", told),
        _ => Failure::permanent("disk", told),
    };
    failure.with("errno", error.raw_os_error())
}
