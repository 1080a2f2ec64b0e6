//! What only a deploy has to show, one after the other.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

use super::Deploy;
use crate::cases::Stage;
use crate::common::Daemon;
use crate::servers::output;
use crate::subject::Subject as _;

type Show = fn(&Deploy, &Stage<'_>);

const ALL: &[(&str, Show)] = &[
    ("an instance that does not become healthy takes all back", unhealthy),
    ("a branch that moves is not followed", moved),
    ("what never came to its end is not deployed already", never_finished),
    ("nor is what other services run", other_services),
    ("what a killed git left does not matter", killed_git),
    ("it goes back to wherever current led", elsewhere),
    ("it does not go back to what is gone", gone),
    ("changed settings end it, or have it held", changed_settings),
    ("what git says is told", told),
    ("programs run before and after it, in the release", hooks),
];

pub fn all(deploy: &Deploy, stage: &Stage<'_>) {
    for (name, show) in ALL {
        show(deploy, stage);
        println!("deploy: {name}: ok");
    }
}

fn ask(daemon: &Daemon<'_>, stage: &Stage<'_>, metadata: &Value) -> Value {
    daemon.finished(daemon.accepted(&stage.spec(metadata)))
}

fn assert_failed(action: &Value, code: &str) {
    let found = (&action["state"], &action["finished_result"]["error"]["code"]);
    assert_eq!(found, (&json!("failed"), &json!(code)), "{action}");
}

fn assert_succeeded(action: &Value, changed: bool) {
    let found = (&action["state"], &action["finished_result"]["changed"]);
    assert_eq!(found, (&json!("succeeded"), &json!(changed)), "{action}");
}

fn unhealthy(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    assert_succeeded(&ask(&daemon, stage, &deploy.prepare()), true);
    let previous = deploy.current();
    deploy.origin.commit("sick", &["worker-1"]);
    let action = ask(&daemon, stage, &json!({ "git_ref": "sick" }));
    assert_failed(&action, "unhealthy");
    assert_eq!(action["finished_result"]["rolled_back"], true, "{action}");
    assert_eq!(deploy.current(), previous);
    deploy.assert_live(&previous, &action);
    // What it went back to is known to be deployed.
    let again = ask(&daemon, stage, &json!({ "git_ref": previous }));
    assert_succeeded(&again, false);
    // Nothing but the same one to go back to.
    let action = ask(&daemon, stage, &json!({ "git_ref": "sick", "rollback_on_failure": false }));
    assert_failed(&action, "unhealthy");
    let action = ask(&daemon, stage, &json!({ "git_ref": "sick" }));
    assert_failed(&action, "unhealthy");
    assert_eq!(action["finished_result"]["rolled_back"], false, "{action}");
}

fn moved(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let metadata = deploy.prepare();
    let (hash, _) = deploy.made(&metadata);
    stage.breakpoint("fetch", "intent", "wait");
    let id = daemon.accepted(&stage.spec(&metadata));
    stage.await_reached(&daemon, id, "fetch", "intent");
    daemon.kill9();
    stage.home.kill_programs();
    stage.release("fetch", "intent");
    assert_ne!(deploy.origin.commit(metadata["git_ref"].as_str().expect("a branch"), &[]), hash);
    let daemon = Daemon::start(&stage.home);
    let action = daemon.finished(id);
    assert_succeeded(&action, true);
    assert_eq!(deploy.current(), hash, "{action}");
}

fn never_finished(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let hash = deploy.origin.commit("unfinished", &["web-1"]);
    let metadata = json!({ "git_ref": "unfinished" });
    let stays = json!({ "git_ref": "unfinished", "rollback_on_failure": false });
    assert_failed(&ask(&daemon, stage, &stays), "unhealthy");
    assert_eq!(deploy.current(), hash);
    // Whatever was wrong is right now.
    fs::write(deploy.release(&hash).join("sick"), "").expect("a file");
    let restarts = deploy.restarts();
    let action = ask(&daemon, stage, &metadata);
    assert_succeeded(&action, true);
    deploy.assert_live(&hash, &action);
    assert_eq!(deploy.restarts(), restarts + 2, "{action}");
    assert_succeeded(&ask(&daemon, stage, &metadata), false);
    assert_eq!(deploy.restarts(), restarts + 2);
}

fn other_services(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let of = |branch: &str, services: &[&str]| json!({ "git_ref": branch, "services": services });
    let hash = deploy.origin.commit("partly", &[]);
    assert_succeeded(&ask(&daemon, stage, &of("partly", &["web"])), true);
    assert_ne!(deploy.live("worker-1"), format!("releases/{hash}\n"));
    let action = ask(&daemon, stage, &json!({ "git_ref": "partly" }));
    assert_succeeded(&action, true);
    deploy.assert_live(&hash, &action);
    assert_succeeded(&ask(&daemon, stage, &of("partly", &["worker"])), false);
    // One after the other they are all.
    deploy.origin.commit("parts", &[]);
    assert_succeeded(&ask(&daemon, stage, &of("parts", &["web"])), true);
    assert_succeeded(&ask(&daemon, stage, &of("parts", &["worker"])), true);
    assert_succeeded(&ask(&daemon, stage, &json!({ "git_ref": "parts" })), false);
}

fn killed_git(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let repo = deploy.path("app/repo.git");
    let done = |metadata: &Value, action: &Value| {
        assert_succeeded(action, true);
        deploy.assert_done(metadata, action);
        // The commit that is deployed, and nothing of single deploys.
        let refs = ["for-each-ref", "--format=%(refname) %(objectname)", "refs/actiond"];
        let refs = output(Command::new("git").arg("--git-dir").arg(&repo).args(refs));
        assert_eq!(refs, format!("refs/actiond/last {}", deploy.made(metadata).0), "{action}");
    };
    for lock in ["shallow.lock", "config.lock", "packed-refs.lock", "refs/actiond/last.lock"] {
        fs::write(repo.join(lock), "").expect("a lock");
        let metadata = deploy.prepare();
        done(&metadata, &ask(&daemon, stage, &metadata));
        assert!(!repo.join(lock).exists());
    }
    fs::remove_file(repo.join("HEAD")).expect("a file of git's");
    let metadata = deploy.prepare();
    done(&metadata, &ask(&daemon, stage, &metadata));
    // What was fetched is lost before it is unpacked.
    let metadata = deploy.prepare();
    stage.breakpoint("unpack", "intent", "wait");
    let id = daemon.accepted(&stage.spec(&metadata));
    stage.await_reached(&daemon, id, "unpack", "intent");
    fs::remove_dir_all(repo.join("objects/pack")).expect("packs");
    stage.release("unpack", "intent");
    done(&metadata, &daemon.finished(id));
}

fn elsewhere(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let current = deploy.path("app/current");
    fs::create_dir(deploy.path("app/by-hand")).expect("a directory");
    fs::write(deploy.path("app/by-hand/sick"), "").expect("a file");
    fs::remove_file(&current).expect("a link");
    symlink("by-hand", &current).expect("a link");
    deploy.origin.commit("sick", &["web-1"]);
    let action = ask(&daemon, stage, &json!({ "git_ref": "sick" }));
    assert_failed(&action, "unhealthy");
    assert_eq!(action["finished_result"]["rolled_back"], true, "{action}");
    assert_eq!(fs::read_link(&current).expect("a link").to_str(), Some("by-hand"), "{action}");
    assert_eq!(deploy.live("web-1"), "by-hand\n");
    // What is no link cannot be switched, and is left alone.
    fs::remove_file(&current).expect("a link");
    fs::create_dir(&current).expect("a directory");
    assert_failed(&ask(&daemon, stage, &json!({ "git_ref": "parts" })), "current");
    fs::remove_dir(&current).expect("a directory that is empty");
    symlink("by-hand", &current).expect("a link");
}

/// Ends a held action, as a person would.
fn settle(daemon: &Daemon<'_>, id: u64) {
    let settled = daemon.cli(&["resolve", &id.to_string(), "--failed", "--message", "seen"]);
    assert!(settled.status.success(), "{settled:?}");
}

fn gone(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let hash = deploy.origin.commit("sick", &["web-1"]);
    stage.breakpoint("restart.1", "intent", "wait");
    let id = daemon.accepted(&stage.spec(&json!({ "git_ref": "sick" })));
    stage.await_reached(&daemon, id, "restart.1", "intent");
    fs::remove_dir_all(deploy.path("app/by-hand")).expect("a directory");
    stage.release("restart.1", "intent");
    let action = daemon.in_state(id, "held");
    let reason = action["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("web-1 is not healthy") && reason.contains("by-hand, is not there"), "{action}");
    assert_eq!(deploy.current(), hash, "it leads to something: {action}");
    settle(&daemon, id);
    assert_succeeded(&ask(&daemon, stage, &deploy.prepare()), true);
}

fn changed_settings(deploy: &Deploy, stage: &Stage<'_>) {
    let config = fs::read_to_string(stage.home.config()).expect("the configuration");
    for step in ["fetch", "restart.1"] {
        let daemon = Daemon::start(&stage.home);
        let metadata = deploy.prepare();
        stage.breakpoint(step, "intent", "wait");
        let id = daemon.accepted(&stage.spec(&metadata));
        stage.await_reached(&daemon, id, step, "intent");
        daemon.kill9();
        stage.home.kill_programs();
        stage.release(step, "intent");
        fs::write(stage.home.config(), config.replace("keep = 3", "keep = 4")).expect("the configuration");
        let daemon = Daemon::start(&stage.home);
        if step == "fetch" {
            let action = daemon.finished(id);
            assert_failed(&action, "target_changed");
            deploy.assert_undone(&metadata, &action);
        } else {
            let action = daemon.in_state(id, "held");
            assert!(
                action["reason"].as_str().is_some_and(|told| told.contains("target shop have changed")),
                "{action}"
            );
            assert_eq!(deploy.current(), deploy.made(&metadata).0, "{action}");
            settle(&daemon, id);
        }
        fs::write(stage.home.config(), &config).expect("the configuration");
    }
    let daemon = Daemon::start(&stage.home);
    assert_succeeded(&ask(&daemon, stage, &deploy.prepare()), true);
}

fn told(deploy: &Deploy, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let metadata = deploy.prepare();
    deploy.take_down();
    let action = ask(&daemon, stage, &metadata);
    deploy.bring_up();
    assert_failed(&action, "unreachable");
    let message = action["finished_message"].as_str().unwrap_or_default();
    assert!(message.contains("does not appear to be a git repository"), "{message}");
}

/// As [`Daemon::start`], with further keys of the application.
fn start_with<'a>(stage: &'a Stage<'_>, config: &str, keys: &str) -> Daemon<'a> {
    let config = config.replace("keep = 3", &format!("keep = 3\n{keys}"));
    fs::write(stage.home.config(), config).expect("the configuration");
    Daemon::start(&stage.home)
}

fn hooks(deploy: &Deploy, stage: &Stage<'_>) {
    let config = fs::read_to_string(stage.home.config()).expect("the configuration");
    let dir = deploy.path("").display().to_string();
    deploy.script(
        "hook",
        "echo \"$2 $DEPLOY_HASH $(cat branch) $(readlink \"$1/app/current\")\" >> \"$1/hooks\"",
    );
    deploy.script("fails", "echo 'this is why' >&2\nexit 3");
    let hook = |name: &str| format!("{name} = [\"{dir}/hook\", \"{dir}\", \"{name}\"]\n");
    let previous = deploy.current();

    let daemon = start_with(stage, &config, &(hook("before") + &hook("after")));
    let metadata = deploy.prepare();
    let action = ask(&daemon, stage, &metadata);
    deploy.assert_done(&metadata, &action);
    let (hash, branch) = (deploy.current(), metadata["git_ref"].as_str().expect("a branch"));
    let line = |name: &str, current: &str| format!("{name} {hash} {branch} releases/{current}\n");
    let said = fs::read_to_string(deploy.path("hooks")).expect("lines");
    assert_eq!(said, line("before", &previous) + &line("after", &hash), "{action}");
    drop(daemon);

    for name in ["before", "after"] {
        let daemon = start_with(stage, &config, &format!("{name} = [\"{dir}/fails\"]"));
        let metadata = deploy.prepare();
        let action = ask(&daemon, stage, &metadata);
        assert_failed(&action, "hook");
        assert!(
            action["finished_message"]
                .as_str()
                .is_some_and(|told| told.ends_with("exit code 3: this is why")),
            "{action}"
        );
        deploy.assert_undone(&metadata, &action);
    }
    fs::write(stage.home.config(), config).expect("the configuration");
}
