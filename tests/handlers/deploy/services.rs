//! Deploys to instances that are services of a real systemd, each of which serves its release over HTTP.
//!
//! Targets are those of `config/examples/deploy.toml`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::origin::Origin;
use super::server::SLOW;
use crate::cases::Stage;
use crate::common::{Connection, Daemon, until};
use crate::servers::systemd::Systemd;
use crate::subject::Subject;

const INSTANCES: [&str; 2] = ["web", "worker"];

/// This very program is the server: see `main`.
const UNIT: &str = "\
[Unit]
StartLimitIntervalSec=0
[Service]
WorkingDirectory=/srv/shop/current
ExecStart=/usr/local/bin/serve-release serve-release /run/shop-%i.sock %i
";

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    try_it(&Services::new());
}

struct Made {
    hash: String,
    previous: String,
    /// How often each instance had been started.
    starts: [usize; 2],
}

struct Services {
    dir: TempDir,
    systemd: Systemd,
    origin: Origin,
    made: Mutex<HashMap<String, Made>>,
}

impl Services {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-deploy.").tempdir().expect("a directory");
        let origin = Origin::new(dir.path().join("origin"));
        let services = Self { origin, systemd: Systemd::start(), made: Mutex::default(), dir };
        let this = std::env::current_exe().expect("this program");
        fs::copy(this, services.systemd.outside("/usr/local/bin/serve-release")).expect("a server");
        services.origin.first_release(&services.app());
        services.systemd.write("/run/systemd/system/shop@.service", UNIT);
        services.systemd.run("systemctl daemon-reload; systemctl start shop@web.service shop@worker.service");
        for instance in INSTANCES {
            until("a server", || is_up(&services.socket(instance)).then_some(()));
        }
        services
    }

    fn app(&self) -> PathBuf {
        self.systemd.outside("/srv/shop")
    }

    fn socket(&self, instance: &str) -> PathBuf {
        self.systemd.outside(&format!("/run/shop-{instance}.sock"))
    }

    fn current(&self) -> String {
        let to = fs::read_link(self.app().join("current")).expect("a current release");
        to.file_name().and_then(|name| name.to_str()).expect("a name").to_owned()
    }

    fn starts(&self) -> [usize; 2] {
        let starts = |instance| self.socket(instance).with_extension("starts");
        INSTANCES.map(|instance| fs::read_to_string(starts(instance)).unwrap_or_default().lines().count())
    }

    fn commit(&self, branch: &str, sick: &[&str]) {
        let made =
            Made { hash: self.origin.commit(branch, sick), previous: self.current(), starts: self.starts() };
        self.made.lock().expect("all").insert(branch.to_owned(), made);
    }

    /// It is the current release, and what all instances serve.
    fn assert_live(&self, hash: &str, action: &Value) {
        assert_eq!(self.current(), hash, "{action}");
        assert_eq!(self.origin.fault(&self.app().join("releases").join(hash)), None, "{action}");
        for instance in INSTANCES {
            let served = ask(&self.socket(instance), "/number").expect("a file over HTTP");
            assert_eq!(served, (200, self.origin.file(hash, "number")), "{instance}: {action}");
        }
    }

    /// One deploy of that branch, and how often each instance was seen down meanwhile, and both at once.
    fn watched(&self, daemon: &Daemon<'_>, stage: &Stage<'_>, metadata: &Value) -> (Value, [u32; 2], u32) {
        let sockets = INSTANCES.map(|instance| self.socket(instance));
        let is_over = AtomicBool::new(false);
        let (downs, both) = ([AtomicU32::new(0), AtomicU32::new(0)], AtomicU32::new(0));
        let watch = || {
            while !is_over.load(Ordering::SeqCst) {
                if !is_up(&sockets[0]) {
                    downs[0].fetch_add(1, Ordering::SeqCst);
                    // Each goes down once: one that is down before and after the other is down was so all the time.
                    if !is_up(&sockets[1]) && !is_up(&sockets[0]) {
                        both.fetch_add(1, Ordering::SeqCst);
                    }
                } else if !is_up(&sockets[1]) {
                    downs[1].fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let action = std::thread::scope(|scope| {
            scope.spawn(watch);
            let asked =
                std::panic::AssertUnwindSafe(|| daemon.finished(daemon.accepted(&stage.spec(metadata))));
            let action = std::panic::catch_unwind(asked);
            is_over.store(true, Ordering::SeqCst);
            action.expect("an end")
        });
        (action, downs.map(AtomicU32::into_inner), both.into_inner())
    }
}

fn ask(socket: &Path, path: &str) -> std::io::Result<(u16, String)> {
    let answer = Connection::unix(socket)?.ask("GET", path, None)?;
    Ok((answer.status, answer.text()))
}

fn is_up(socket: &Path) -> bool {
    ask(socket, "/health").is_ok_and(|(status, _)| status < 300)
}

impl Subject for Services {
    fn name(&self) -> String {
        "deploy (services)".to_owned()
    }

    fn action(&self) -> &'static str {
        "deploy"
    }

    fn tables(&self) -> String {
        let example = include_str!("../../../config/examples/deploy.toml");
        let targets: &str = example.split("[[handler]]").next().expect("targets");
        let outside = |path: &str| self.systemd.outside(path).display().to_string();
        targets
            .replace("ssh://deploy@git.example.com/shop.git", &self.origin.dir().display().to_string())
            .replace("/var/cache", &self.dir.path().display().to_string())
            .replace("\"/srv/shop\"", &format!("\"{}\"", outside("/srv/shop")))
            .replace("unix:/run/shop", &format!("unix:{}", outside("/run/shop")))
            .replace("unix:path=/run", &format!("unix:path={}", outside("/run")))
            .replace("\"/sys/fs/cgroup\"", &format!("\"{}\"", outside("/sys/fs/cgroup")))
            .replace("keep = 5", "keep = 3")
            .replace("health_timeout_s = 60", "health_timeout_s = 10")
    }

    fn prepare(&self) -> Value {
        let branch = format!("release/{}", self.made.lock().expect("all").len());
        self.commit(&branch, &[]);
        json!({ "git_ref": branch })
    }

    /// Each instance was started once, whatever was interrupted.
    fn assert_done(&self, metadata: &Value, action: &Value) {
        let made = self.made.lock().expect("all");
        let Made { hash, previous, starts } = &made[metadata["git_ref"].as_str().expect("a branch")];
        self.assert_live(hash, action);
        assert_eq!(self.starts(), starts.map(|count| count + 1), "{action}");
        let result = &action["finished_result"];
        assert_eq!((&result["git_hash"], &result["servers_deployed"]), (&json!(hash), &json!(2)), "{action}");
        assert_eq!(result["previous_git_hash"], json!(previous), "{action}");
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let made = self.made.lock().expect("all");
        self.assert_live(&made[metadata["git_ref"].as_str().expect("a branch")].previous, action);
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![(json!({ "git_ref": "main", "services": ["worker"] }), "none of this application")]
    }

    fn take_down(&self) {
        fs::rename(self.origin.dir(), self.dir.path().join("gone")).expect("a repository");
        self.systemd.take_down();
    }

    fn bring_up(&self) {
        self.systemd.bring_up();
        fs::rename(self.dir.path().join("gone"), self.origin.dir()).expect("a repository");
    }

    fn special(&self, stage: &Stage<'_>) {
        let daemon = Daemon::start(&stage.home);
        // So slow that nobody can miss it while it is down.
        self.commit("slow", &[SLOW]);
        let metadata = json!({ "git_ref": "slow" });
        let (action, downs, both) = self.watched(&daemon, stage, &metadata);
        assert_eq!((&action["state"], both), (&json!("succeeded"), 0), "{downs:?} {action}");
        assert!(downs.iter().all(|count| *count > 0), "{downs:?} {action}");
        self.assert_done(&metadata, &action);

        // Its second instance does not become healthy: both go back, one after the other.
        let previous = self.current();
        self.commit("sick", &["worker", SLOW]);
        let (action, downs, both) = self.watched(&daemon, stage, &json!({ "git_ref": "sick" }));
        let result = &action["finished_result"];
        let found = (&action["state"], &result["error"]["code"], &result["rolled_back"]);
        assert_eq!(found, (&json!("failed"), &json!("unhealthy"), &json!(true)), "{action}");
        assert!(downs[1] > 0 && both == 0, "{downs:?} {both} {action}");
        self.assert_live(&previous, &action);

        // That the watch sees it when both are down at once.
        self.commit("worse", &INSTANCES);
        let metadata = json!({ "git_ref": "worse", "deployment_strategy": "parallel" });
        let (action, downs, both) = self.watched(&daemon, stage, &metadata);
        assert_eq!(action["state"], "failed", "{action}");
        assert!(both > 0, "{downs:?} {action}");
        self.assert_live(&previous, &action);
        drop(daemon);

        // A service that the target does not allow (any more).
        let config = fs::read_to_string(stage.home.config()).expect("the configuration");
        fs::write(stage.home.config(), config.replace("shop@*.service", "web.service"))
            .expect("the configuration");
        let daemon = Daemon::start(&stage.home);
        let answer = daemon.submit(&stage.spec(&self.prepare()));
        assert!(
            (400..500).contains(&answer.status) && answer.text().contains("none of the units"),
            "{}",
            answer.text()
        );
    }
}
