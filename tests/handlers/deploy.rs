//! Deploys of a small application from a git repository, with two instances.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cases::Stage;
use crate::common::Daemon;
use crate::servers::output;
use crate::subject::Subject;

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    try_it(&Deploy::new());
}

/// `deploy`.
struct Deploy {
    dir: TempDir,
    /// By branch: its commit, and the release that was current when it was made.
    made: Mutex<HashMap<String, (String, String)>>,
}

impl Deploy {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-deploy.").tempdir().expect("a directory");
        let deploy = Self { dir, made: Mutex::default() };
        output(
            Command::new("git").args(["init", "--quiet", "--initial-branch=main"]).arg(deploy.path("origin")),
        );
        fs::create_dir_all(deploy.path("app/releases")).expect("a directory");
        deploy.script("restart", "readlink \"$1/app/current\" > \"$1/live-$DEPLOY_INSTANCE\"\necho \"$DEPLOY_INSTANCE\" >> \"$1/restarts\"");
        deploy.script("health", "test -e \"$DEPLOY_RELEASE/healthy\"");
        // The first release, by hand.
        let first = deploy.commit("first", true);
        let release = deploy.path("app/releases").join(&first);
        output(Command::new("git").args(["clone", "--quiet"]).arg(deploy.path("origin")).arg(&release));
        std::os::unix::fs::symlink(format!("releases/{first}"), deploy.path("app/current")).expect("a link");
        deploy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\nset -eu\n{body}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    fn git(&self, args: &[&str]) -> String {
        let who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
        output(Command::new("git").arg("-C").arg(self.path("origin")).args(who).args(args))
    }

    /// A new commit on a branch; its id.
    fn commit(&self, branch: &str, is_healthy: bool) -> String {
        self.git(&["checkout", "--quiet", "-B", branch]);
        fs::write(self.path("origin/branch"), branch).expect("a file");
        let number = fs::read_to_string(self.path("origin/number")).unwrap_or_default();
        fs::write(self.path("origin/number"), format!("{number}+")).expect("a file");
        fs::create_dir_all(self.path("origin/config")).expect("a directory");
        fs::write(self.path("origin/config/settings"), "own").expect("a file");
        let healthy = self.path("origin/healthy");
        if is_healthy {
            fs::write(healthy, "").expect("a file");
        } else {
            fs::remove_file(healthy).expect("a file");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", branch]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn current(&self) -> String {
        let to = fs::read_link(self.path("app/current")).expect("a current release");
        to.file_name().and_then(|name| name.to_str()).expect("a name").to_owned()
    }

    fn live(&self, instance: &str) -> String {
        fs::read_to_string(self.path(&format!("live-{instance}"))).unwrap_or_default()
    }

    /// It is all of its commit, and what is shared is in it.
    fn assert_whole(&self, hash: &str) {
        let release = self.path("app/releases").join(hash);
        let branch = self.git(&["show", &format!("{hash}:branch")]);
        assert_eq!(fs::read_to_string(release.join("branch")).expect("a file of the commit"), branch);
        assert_eq!(fs::read_to_string(release.join("config/settings")).expect("a file of the commit"), "own");
    }

    fn made(&self, metadata: &Value) -> (String, String) {
        let branch = metadata["git_ref"].as_str().expect("a branch");
        self.made.lock().expect("all").get(branch).expect("a branch that was made").clone()
    }
}

impl Subject for Deploy {
    fn name(&self) -> String {
        "deploy".to_owned()
    }

    fn action(&self) -> &'static str {
        "deploy"
    }

    fn tables(&self) -> String {
        let dir = self.dir.path().display();
        let instance = |name: &str, service: &str| {
            format!(
                "[[targets.shop.instances]]\nname = \"{name}\"\nservice = \"{service}\"\nrestart = [\"{dir}/restart\", \"{dir}\"]\n\
                 health = [\"{dir}/health\"]\n"
            )
        };
        format!(
            "[targets.shop]\nengine = \"app\"\nrepository = \"{dir}/origin\"\ndir = \"{dir}/app\"\nshared = [\"log\"]\nkeep = 3\n\
             health_timeout_s = 1\nhealthy_after = 1\n{}{}",
            instance("web-1", "web"),
            instance("worker-1", "worker"),
        )
    }

    fn prepare(&self) -> Value {
        let branch = format!("release/{}", self.made.lock().expect("all").len());
        let made = (self.commit(&branch, true), self.current());
        self.made.lock().expect("all").insert(branch.clone(), made);
        // As the user's document has it.
        json!({ "git_ref": branch, "deployment_strategy": "rolling" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let (hash, previous) = self.made(metadata);
        assert_eq!(self.current(), hash, "{action}");
        self.assert_whole(&hash);
        assert!(self.path("app/releases").join(&hash).join("log").is_dir(), "what is shared is there");
        for instance in ["web-1", "worker-1"] {
            assert_eq!(self.live(instance), format!("releases/{hash}\n"));
        }
        let result = &action["finished_result"];
        assert_eq!((&result["git_hash"], &result["servers_deployed"]), (&json!(hash), &json!(2)), "{action}");
        assert_eq!(result["previous_git_hash"], json!(previous), "{action}");
        assert_eq!(result["deploy_session"].as_str().map(str::len), Some(10), "{action}");
        let releases = fs::read_dir(self.path("app/releases")).expect("releases").count();
        assert!(releases <= 3, "{releases} releases, although 3 are to be kept");
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let (_, previous) = self.made(metadata);
        assert_eq!(self.current(), previous, "{action}");
        self.assert_whole(&previous);
        for instance in ["web-1", "worker-1"] {
            let live = self.live(instance);
            assert!(
                live.is_empty() || live == format!("releases/{previous}\n"),
                "{instance} runs {live}: {action}"
            );
        }
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let of = |git_ref: &str| json!({ "git_ref": git_ref });
        vec![
            (json!({}), "git_ref"),
            (of(""), "git_ref"),
            (of("--upload-pack=touch /tmp/x"), "git_ref"),
            (of("a..b"), "git_ref"),
            (json!({ "git_ref": "main", "services": ["mailer"] }), "mailer"),
            (json!({ "git_ref": "main", "deployment_strategy": "sideways" }), "sideways"),
            (json!({ "git_ref": "main", "batch_size": 0 }), "batch_size"),
        ]
    }

    fn take_down(&self) {
        fs::rename(self.path("origin"), self.path("gone")).expect("a repository");
    }

    fn bring_up(&self) {
        fs::rename(self.path("gone"), self.path("origin")).expect("a repository");
    }

    fn special(&self, stage: &Stage<'_>) {
        let daemon = Daemon::start(&stage.home);
        // An instance that does not become healthy: all go back.
        let before = self.prepare();
        daemon.finished(daemon.accepted(&stage.spec(&before)));
        let previous = self.current();
        self.commit("broken", false);
        let action = daemon.finished(daemon.accepted(&stage.spec(&json!({ "git_ref": "broken" }))));
        let result = &action["finished_result"];
        assert_eq!(
            (&action["state"], &result["error"]["code"]),
            (&json!("failed"), &json!("unhealthy")),
            "{action}"
        );
        assert_eq!(result["rolled_back"], true, "{action}");
        assert_eq!(self.current(), previous);
        assert_eq!(self.live("web-1"), format!("releases/{previous}\n"));
        // A branch that moves while a deploy is interrupted.
        let metadata = self.prepare();
        let (hash, _) = self.made(&metadata);
        stage.breakpoint("fetch", "intent", "wait");
        let id = daemon.accepted(&stage.spec(&metadata));
        stage.await_reached(&daemon, id, "fetch", "intent");
        daemon.kill9();
        stage.home.kill_programs();
        stage.release("fetch", "intent");
        assert_ne!(self.commit(metadata["git_ref"].as_str().expect("a branch"), true), hash);
        let daemon = Daemon::start(&stage.home);
        let action = daemon.finished(id);
        assert_eq!((&action["state"], self.current()), (&json!("succeeded"), hash), "{action}");
    }
}
