//! A container engine that speaks Docker's API: Docker or Podman from Debian's packages, with one image made of busybox.
//!
//! Its containers have no network, so neither engine needs a bridge or rules of a firewall. What it needs is to be root, with
//! mounts and cgroups (`docker run --privileged`, or a virtual machine).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::{Resource, Signal, getrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, output};
use crate::common::{Connection, Response, until};

const IMAGE: &str = "localhost/actiond-busybox:latest";
/// The version that Debian's packages of both engines have.
const API: &str = "/v1.41";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brand {
    Docker,
    Podman,
}

pub struct Engine {
    dir: TempDir,
    pub brand: Brand,
    server: Mutex<Option<Process>>,
}

impl Engine {
    pub fn start(brand: Brand) -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-engine.").tempdir().expect("a directory");
        let engine = Self { dir, brand, server: Mutex::new(None) };
        engine.bring_up();
        engine.make_image();
        engine
    }

    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn bring_up(&self) {
        let mut server = self.server.lock().expect("the engine");
        // A crash leaves them, and their processes may be seen for a while after their end.
        for left in ["pid", "socket", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(self.path(left));
        }
        let mut command = match self.brand {
            Brand::Docker => self.dockerd(),
            Brand::Podman => self.podman(),
        };
        *server = Some(Process::start(&mut command, &self.path("log")));
        drop(server);
        until("the engine", || {
            let answer =
                Connection::unix(&self.socket()).ok()?.ask("GET", &format!("{API}/_ping"), None).ok()?;
            (answer.status == 200).then_some(())
        });
    }

    /// As a crash. Its containers go on.
    pub fn take_down(&self) {
        if let Some(mut server) = self.server.lock().expect("the engine").take() {
            server.end(Signal::KILL);
        }
    }

    fn dockerd(&self) -> Command {
        let mut command = Command::new("dockerd");
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(option).arg(self.path(name));
        }
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        command.args(["--exec-opt=native.cgroupdriver=cgroupfs", "--oom-score-adjust=0", "--live-restore"]);
        command
    }

    fn podman(&self) -> Command {
        // Its service asks for more than who is not allowed to raise a limit can have.
        let limit = |resource| getrlimit(resource).maximum.unwrap_or(1 << 20);
        let pid_max: u64 = fs::read_to_string("/proc/sys/kernel/pid_max")
            .ok()
            .and_then(|max| max.trim().parse().ok())
            .expect("pid_max");
        let (files, processes) = (limit(Resource::Nofile), limit(Resource::Nproc).min(pid_max));
        let settings = format!(
            "[containers]\nnetns = \"none\"\nlog_driver = \"k8s-file\"\ndefault_sysctls = []\n\
             default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
             [engine]\nruntime = \"runc\"\nevents_logger = \"file\"\ncgroup_manager = \"cgroupfs\"\n"
        );
        fs::write(self.path("containers.conf"), settings).expect("containers.conf");
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.arg("--root").arg(self.path("data")).arg("--runroot").arg(self.path("exec"));
        command.args(["--cgroup-manager=cgroupfs", "system", "service", "--time=0"]);
        command.arg(format!("unix://{}", self.socket().display()));
        command
    }

    fn make_image(&self) {
        let root = self.path("image");
        fs::create_dir_all(root.join("bin")).expect("a directory");
        for name in ["dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir(root.join(name)).expect("a directory");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static: tests/run installs it");
        for name in ["sh", "sleep", "true", "false"] {
            symlink("busybox", root.join("bin").join(name)).expect("a link");
        }
        let tar = self.path("image.tar");
        output(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
        let tar = fs::read(tar).expect("an image");
        let path = format!("{API}/images/create?fromSrc=-&repo=localhost/actiond-busybox&tag=latest");
        let answer = self.connect().ask("POST", &path, Some(&tar)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn connect(&self) -> Connection {
        Connection::unix(&self.socket()).expect("the engine's socket")
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let body = body.map(|body| body.to_string().into_bytes());
        let path = format!("{API}/containers/{path}");
        let answer = self.connect().ask(method, &path, body.as_deref()).expect("an answer");
        assert!(answer.status < 400, "{method} {path}: {} {}", answer.status, answer.text());
        answer
    }

    /// Creates a container; without a name it gets one, and further keys are those of `POST /containers/create`. Its id.
    pub fn create(&self, name: &str, project: &str, service: &str, shell: &str, more: &Value) -> String {
        let mut body = json!({
            "Image": IMAGE,
            "Cmd": ["sh", "-c", shell],
            "Labels": { "com.docker.compose.project": project, "com.docker.compose.service": service },
            "HostConfig": { "NetworkMode": "none" },
        });
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        let path = if name.is_empty() { "create".to_owned() } else { format!("create?name={name}") };
        let made = self.ask("POST", &path, Some(&body)).json();
        made["Id"].as_str().expect("an id").to_owned()
    }

    /// `start`, `pause`, ...
    pub fn command(&self, id: &str, command: &str) {
        self.ask("POST", &format!("{id}/{command}"), None);
    }

    pub fn remove(&self, id: &str) {
        self.ask("DELETE", &format!("{id}?force=true"), None);
    }

    /// Its status, and when it was started.
    pub fn look(&self, id: &str) -> (String, String) {
        let state = self.ask("GET", &format!("{id}/json"), None).json()["State"].clone();
        let text = |key: &str| state[key].as_str().expect("a text").to_owned();
        (text("Status"), text("StartedAt"))
    }

    /// How often a word stands in its output.
    pub fn count(&self, id: &str, word: &str) -> usize {
        self.ask("GET", &format!("{id}/logs?stdout=true"), None).text().matches(word).count()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.server.lock().is_ok_and(|server| server.is_some()) {
            let all = self.ask("GET", "json?all=true", None).json();
            for container in all.as_array().into_iter().flatten() {
                self.remove(container["Id"].as_str().unwrap_or_default());
            }
        }
        if let Ok(mut server) = self.server.lock()
            && let Some(mut server) = server.take()
        {
            server.end(Signal::TERM);
        }
        unmount(self.dir.path());
    }
}

/// Unmounts everything below a directory.
fn unmount(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(mount).starts_with(dir) {
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }
}
