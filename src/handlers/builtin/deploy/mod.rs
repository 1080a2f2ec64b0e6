//! `deploy`: a commit of a git repository becomes the current release of an application, and its instances run it.
//!
//! The commit is pinned in the intent of the first step: a deploy that goes on after an interruption does not follow a branch
//! that has moved. `current` is switched atomically and always leads to a whole release.

mod app;
mod release;

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(super) use self::app::App;
use self::app::Instance;
use super::Failure;
use super::child::{self, command};
use super::kind::{Around, Done, Kind, Page};
use super::run::{Found, Run};
use crate::handlers::targets::Choice;

const ENGINES: &[&str] = &["app"];
const SWITCH: &str = "switch";
/// Steps that restart instances, at most: an action has 64 in all.
const BATCHES_MAX: usize = 24;
const NOTE_BYTES_MAX: usize = 4_096;
const HEALTH_EVERY: Duration = Duration::from_millis(500);

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
    /// Restart also if the commit is the current release already.
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

/// What is deployed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pinned {
    hash: String,
    session: String,
}

/// What was current before.
#[derive(Serialize, Deserialize)]
struct Before {
    previous: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Server {
    name: String,
    status: String,
    health_ms: u64,
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
        recovery: "Goes on with the same commit, whatever the branch is at now. Hooks and restarts that were interrupted are run again.",
        undo: "Makes the release before current again, restarts and checks the instances, unless rollback_on_failure is false or there was \
               none.",
        rights: "To write the application's directory, to read the repository (ssh and https without a question), and what its programs need.",
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
        check_ref(&params.git_ref)?;
        if params.batch_size == 0 {
            return Err("batch_size must be 1 or more".to_owned());
        }
        if params.note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
            return Err(format!("note may have {NOTE_BYTES_MAX} bytes"));
        }
        chosen(params, &app)?;
        Ok(vec![format!("app:{}", target.name)])
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let app = app(run)?;
        let hash = release::resolve(&app, &params.git_ref).await?;
        let current = release::current(&app);
        if current.as_ref() == Some(&hash) && !params.force {
            return Ok(Vec::new());
        }
        let batches = batches(params, &app)?;
        let restarts = batches.iter().enumerate().map(|(at, batch)| {
            let names: Vec<&str> = batch.iter().map(|instance| instance.name.as_str()).collect();
            json!({ "step": restart(at), "instances": names })
        });
        let first = [
            json!({ "step": "fetch", "git_hash": hash }),
            json!({ "step": "unpack", "release_path": app.release(&hash) }),
            json!({ "step": SWITCH, "from": current, "to": hash }),
        ];
        Ok(first.into_iter().chain(restarts).chain([json!({ "step": "prune", "keep": app.keep })]).collect())
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let app = app(run)?;
        let pinned = fetch(params, run, &app).await?;
        let hash = pinned.hash.as_str();
        let is_begun = run.is_begun(SWITCH);
        if !is_begun && !params.force && release::current(&app).as_deref() == Some(hash) {
            let deployed = deployed(params, &app, &pinned, Some(hash.to_owned()), Vec::new(), Vec::new());
            return Ok(Done::new(format!("{hash} is the current release already"), false, &deployed));
        }
        run.progress(20, "unpacking");
        run.repeatable("unpack", async || release::unpack(&app, hash).await).await?;
        hook(run, &app, "before", &app.before, &pinned).await?;
        let before = run
            .step(
                SWITCH,
                async || Ok(Before { previous: release::current(&app) }),
                async |before: &Before| {
                    release::switch(&app, run.id, hash)?;
                    Ok(before.previous.clone())
                },
                async |before: &Before| {
                    let is_current = release::current(&app).as_deref() == Some(hash);
                    Ok(if is_current { Found::Done(before.previous.clone()) } else { Found::NotDone })
                },
            )
            .await?;
        let mut servers = Vec::new();
        let batches = batches(params, &app)?;
        for (at, batch) in batches.iter().enumerate() {
            run.progress(
                u8::try_from(30 + 60 * at / batches.len()).unwrap_or(90),
                &format!("restarting batch {}", at + 1),
            );
            servers.extend(
                run.repeatable(&restart(at), async || restarted(run, &app, batch, &pinned).await).await?,
            );
        }
        hook(run, &app, "after", &app.after, &pinned).await?;
        let never: Vec<&str> = before.as_deref().into_iter().chain([hash]).collect();
        // What runs is right: nobody goes back because something old cannot be removed.
        let prune = async || {
            Ok(release::prune(&app, &never).unwrap_or_else(|failure| {
                run.warn(failure.message());
                Vec::new()
            }))
        };
        let pruned = run.repeatable("prune", prune).await?;
        let deployed = deployed(params, &app, &pinned, before, servers, pruned);
        Ok(Done::new(format!("deployed {hash} to {} instances", deployed.count), true, &deployed))
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let app = app(run)?;
        let Some(trace) = run.trace::<Before, Option<String>>(SWITCH)? else { return Ok(()) };
        let Some(previous) = trace.intent.previous else {
            run.warn("there was no release before: the new one stays the current one");
            return Ok(());
        };
        if !params.rollback_on_failure {
            run.warn("rollback_on_failure is false: the new release stays the current one");
            return Ok(());
        }
        let back = run.repeatable("undo.switch", async || {
            let is_back = release::current(&app).as_deref() == Some(previous.as_str());
            if is_back { Ok(()) } else { release::switch(&app, run.id, &previous) }
        });
        back.await?;
        run.add_result("rolled_back", true);
        let pinned = Pinned { hash: previous, session: "rollback".to_owned() };
        let mut begun = Vec::new();
        for (at, batch) in batches(params, &app)?.into_iter().enumerate() {
            if run.is_begun(&restart(at)) {
                begun.extend(batch);
            }
        }
        if !begun.is_empty() {
            run.repeatable("undo.restart", async || restarted(run, &app, &begun, &pinned).await.map(drop))
                .await?;
        }
        Ok(())
    }
}

fn app(run: &Run) -> Result<App, Failure> {
    run.target(ENGINES, None)?.settings().map_err(|problem| Failure::permanent("target", problem))
}

/// A name that git takes for nothing else (git-check-ref-format(1)).
fn check_ref(git_ref: &str) -> Result<(), String> {
    let forbidden = |letter: char| letter.is_control() || " ~^:?*[\\".contains(letter);
    let is_lock = |part: &str| Path::new(part).extension().is_some_and(|end| end == "lock");
    let is_wrong = git_ref.is_empty()
        || git_ref.len() > 255
        || git_ref.contains(forbidden)
        || ["..", "//", "@{"].iter().any(|part| git_ref.contains(part))
        || git_ref.split('/').any(|part| part.starts_with(['.', '-', '+']) || is_lock(part))
        || git_ref.ends_with(['/', '.'])
        || git_ref.starts_with('/');
    if is_wrong {
        Err(format!("git_ref {git_ref:?} is no name of a branch, a tag or a commit"))
    } else {
        Ok(())
    }
}

/// The instances that are meant, in their order.
fn chosen<'a>(params: &Params, app: &'a App) -> Result<Vec<&'a Instance>, String> {
    let service = |instance: &'a Instance| instance.service.as_deref().unwrap_or(&instance.name);
    let Some(services) = &params.services else { return Ok(app.instances.iter().collect()) };
    if let Some(unknown) =
        services.iter().find(|wanted| !app.instances.iter().any(|it| service(it) == wanted.as_str()))
    {
        return Err(format!("services: {unknown:?} is none of this application"));
    }
    Ok(app.instances.iter().filter(|it| services.iter().any(|wanted| wanted == service(it))).collect())
}

fn batches<'a>(params: &Params, app: &'a App) -> Result<Vec<Vec<&'a Instance>>, Failure> {
    let instances = chosen(params, app).map_err(|problem| Failure::permanent("target", problem))?;
    let size = match params.deployment_strategy {
        Strategy::Rolling => usize::try_from(params.batch_size).unwrap_or(usize::MAX),
        Strategy::Serial => 1,
        Strategy::Parallel => instances.len(),
    };
    let size = size.max(instances.len().div_ceil(BATCHES_MAX)).max(1);
    Ok(instances.chunks(size).map(<[_]>::to_vec).collect())
}

fn restart(at: usize) -> String {
    format!("restart.{}", at + 1)
}

async fn fetch(params: &Params, run: &Run, app: &App) -> Result<Pinned, Failure> {
    run.progress(5, "fetching");
    let fetch = async |pinned: &Pinned| {
        release::fetch(app, run.id, &params.git_ref, &pinned.hash).await?;
        Ok(pinned.clone())
    };
    let pin = async || {
        let session = std::iter::repeat_with(fastrand::alphanumeric).take(10).collect();
        Ok(Pinned { hash: release::resolve(app, &params.git_ref).await?, session })
    };
    run.step("fetch", pin, fetch, async |_| Ok(Found::NotDone)).await
}

async fn hook(run: &Run, app: &App, name: &str, argv: &[String], pinned: &Pinned) -> Result<(), Failure> {
    if argv.is_empty() {
        return Ok(());
    }
    run.repeatable(name, async || {
        let ended = program(app, name, argv, pinned, "").await?;
        if ended.is_success() {
            return Ok(());
        }
        Err(Failure::permanent("hook", format!("the program {name} failed: {}", ended.told())))
    })
    .await
}

async fn program(
    app: &App,
    what: &str,
    argv: &[String],
    pinned: &Pinned,
    instance: &str,
) -> Result<child::Ended, Failure> {
    let Some((path, words)) = argv.split_first() else {
        return Err(Failure::permanent("target", format!("{what} is no program")));
    };
    let release = app.release(&pinned.hash);
    let release_path = release.to_string_lossy();
    let env = [
        ("DEPLOY_HASH", pinned.hash.as_str()),
        ("DEPLOY_SESSION", pinned.session.as_str()),
        ("DEPLOY_RELEASE", &*release_path),
        ("DEPLOY_INSTANCE", instance),
    ];
    let dir: &Path = if release.is_dir() { &release } else { Path::new("/") };
    child::run(&format!("{what} {instance}"), &mut command(path, words, &env, dir)).await
}

/// Restarts these instances, all at once, and waits until each is healthy.
async fn restarted(
    run: &Run,
    app: &App,
    batch: &[&Instance],
    pinned: &Pinned,
) -> Result<Vec<Server>, Failure> {
    let each = batch.iter().map(|instance| restarted_one(run, app, instance, pinned));
    futures_util::future::try_join_all(each).await
}

async fn restarted_one(
    run: &Run,
    app: &App,
    instance: &Instance,
    pinned: &Pinned,
) -> Result<Server, Failure> {
    let name = instance.name.as_str();
    let ended = program(app, "restart", &instance.restart, pinned, name).await?;
    if !ended.is_success() {
        return Err(Failure::permanent("restart", format!("{name} cannot be restarted: {}", ended.told())));
    }
    let since = tokio::time::Instant::now();
    let mut healthy = 0;
    let mut last = None;
    let limit = Duration::from_secs(app.health_timeout_s.into());
    while !instance.health.is_empty() && healthy < app.healthy_after {
        let asked = tokio::time::timeout(limit, program(app, "health", &instance.health, pinned, name)).await;
        match asked {
            Ok(Ok(ended)) if ended.is_success() => healthy += 1,
            Ok(Ok(ended)) => (healthy, last) = (0, Some(ended.told())),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => (healthy, last) = (0, Some("it does not answer".to_owned())),
        }
        if healthy < app.healthy_after {
            if since.elapsed() >= limit {
                let told = format!(
                    "{name} is not healthy after {} s: {}",
                    limit.as_secs(),
                    last.unwrap_or_default()
                );
                return Err(Failure::permanent("unhealthy", told).with("instance", name));
            }
            tokio::time::sleep(HEALTH_EVERY.min(limit / 10)).await;
        }
    }
    run.log(&format!("{name} runs {}", pinned.hash));
    let health_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Server { name: name.to_owned(), status: "healthy".to_owned(), health_ms })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_branches_tags_and_commits_are_taken_and_nothing_else() {
        for good in
            ["main", "release/2026.11", "v1.2.3", "07d55a7255c06d71627ce31c23f17009e8d54aed", "feature/a-b_c"]
        {
            assert_eq!(check_ref(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-x",
            "a/-b",
            "a..b",
            "a b",
            "a:b",
            "x^{}",
            "a//b",
            "/a",
            "a/",
            "a.lock",
            "@{u}",
            "a\n",
            "+a",
            "--upload-pack=x",
        ] {
            assert!(check_ref(bad).is_err(), "{bad}");
        }
    }
}
