//! Deploys of a small application from a git repository: with two instances that are restarted by scripts, and with two that
//! are services ([`services`]).

mod mends;
mod origin;
mod server;
pub mod services;
mod storm;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Value, json};
use tempfile::TempDir;

use self::origin::Origin;
use self::server::Server;
pub use self::server::serve;
use crate::cases::Stage;
use crate::subject::Subject;

const INSTANCES: [&str; 2] = ["web-1", "worker-1"];

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    try_it(&Deploy::new());
}

/// `deploy`. The health of the first instance is asked for over HTTP, that of the second by a program.
struct Deploy {
    dir: TempDir,
    origin: Origin,
    server: Server,
    /// By branch: its commit, and the release that was current when it was made.
    made: Mutex<HashMap<String, (String, String)>>,
}

impl Deploy {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-deploy.").tempdir().expect("a directory");
        let origin = Origin::new(dir.path().join("origin"));
        let server = Server::start(dir.path().join("app"), dir.path().join("live-web-1"), "web-1");
        let deploy = Self { origin, server, made: Mutex::default(), dir };
        deploy.script("restart", "readlink \"$1/app/current\" > \"$1/live-$DEPLOY_INSTANCE\"\necho \"$DEPLOY_INSTANCE\" >> \"$1/restarts\"");
        deploy.script("health", "! grep -qx \"$DEPLOY_INSTANCE\" \"$DEPLOY_RELEASE/sick\"");
        deploy.origin.first_release(&deploy.path("app"));
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

    fn current(&self) -> String {
        let to = fs::read_link(self.path("app/current")).expect("a current release");
        to.file_name().and_then(|name| name.to_str()).expect("a name").to_owned()
    }

    fn release(&self, hash: &str) -> PathBuf {
        self.path("app/releases").join(hash)
    }

    fn live(&self, instance: &str) -> String {
        fs::read_to_string(self.path(&format!("live-{instance}"))).unwrap_or_default()
    }

    fn assert_live(&self, hash: &str, action: &Value) {
        for instance in INSTANCES {
            assert_eq!(self.live(instance), format!("releases/{hash}\n"), "{instance}: {action}");
        }
    }

    fn restarts(&self) -> usize {
        fs::read_to_string(self.path("restarts")).unwrap_or_default().lines().count()
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
        let instance = |name: &str, service: &str, health: &str| {
            format!(
                "[[targets.shop.instances]]\nname = \"{name}\"\nservice = \"{service}\"\nrestart = [\"{dir}/restart\", \"{dir}\"]\n{health}\n"
            )
        };
        let url = format!("health_url = \"http://{}/health\"\nhealth_status = [204]", self.server.address);
        format!(
            "[targets.shop]\nengine = \"app\"\nrepository = \"{dir}/origin\"\ndir = \"{dir}/app\"\nshared = [\"log\"]\nkeep = 3\n\
             health_timeout_s = 2\nhealthy_after = 1\n{}{}",
            instance("web-1", "web", &url),
            instance("worker-1", "worker", &format!("health = [\"{dir}/health\"]")),
        )
    }

    fn prepare(&self) -> Value {
        let branch = format!("release/{}", self.made.lock().expect("all").len());
        let made = (self.origin.commit(&branch, &[]), self.current());
        self.made.lock().expect("all").insert(branch.clone(), made);
        // As the user's document has it.
        json!({ "git_ref": branch, "deployment_strategy": "rolling" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let (hash, previous) = self.made(metadata);
        assert_eq!(self.current(), hash, "{action}");
        assert_eq!(self.origin.fault(&self.release(&hash)), None, "{action}");
        assert!(self.release(&hash).join("log").is_dir(), "what is shared is there");
        self.assert_live(&hash, action);
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
        assert_eq!(self.origin.fault(&self.release(&previous)), None, "{action}");
        for instance in INSTANCES {
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
        mends::all(self, stage);
        storm::storm(self, stage);
    }
}
