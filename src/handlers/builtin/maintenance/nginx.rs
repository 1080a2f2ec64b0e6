//! One nginx: the directory of which it reads two files, its test, its reload.
//!
//! ```text
//! DIR/current -> on-17        the link; absent: off
//! DIR/on-17/http.conf         include DIR/current/http.conf*;    in http
//! DIR/on-17/server.conf       include DIR/current/server.conf*;  in each server of the site
//! ```
//!
//! With the asterisk an include of nothing is none; both files change in the one rename of the link.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::super::Failure;
use super::super::run::Run;
use super::page::{MARK, Page};
use super::probe::{self, Answer};
use crate::handlers::builtin::door::Door;
use crate::handlers::targets::Target;

const LINK: &str = "current";
const ON: &str = "on-";
/// What the kernel calls a process of nginx.
const COMM: &str = "nginx";
/// What its workers call themselves, and once they take no more connections.
const WORKER: &[u8] = b"nginx: worker process";
const WORKER_ENDS: &[u8] = b"nginx: worker process is shutting down";
const TEST_PATIENCE: Duration = Duration::from_secs(60);
/// Starts of a test that is killed.
const TESTS_MAX: u32 = 10;
const SAID_BYTES_MAX: usize = 2_000;

/// `[targets.NAME]` with `engine = "nginx"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Nginx {
    /// A directory for this target alone, of which nginx includes `current/http.conf*` and `current/server.conf*`.
    dir: PathBuf,
    /// File with the process id of nginx's master.
    #[serde(default = "pid_file")]
    pid_file: PathBuf,
    /// The program that tests the configuration, with its arguments.
    #[serde(default = "test")]
    test: Vec<String>,
    /// Where nginx is asked whether it is on: `unix:/PATH` or a loopback address with a port.
    pub(super) check: Door,
    /// Name of the site that is asked for.
    #[serde(default = "host")]
    host: String,
    /// The path that is asked for.
    #[serde(default = "path")]
    path: String,
    /// Longest wait for nginx to answer as it should after a reload, in seconds.
    #[serde(default = "verify_s")]
    verify_s: u32,
}

fn pid_file() -> PathBuf {
    "/run/nginx.pid".into()
}

fn test() -> Vec<String> {
    vec!["/usr/sbin/nginx".to_owned(), "-t".to_owned()]
}

fn host() -> String {
    "localhost".to_owned()
}

fn path() -> String {
    "/".to_owned()
}

fn verify_s() -> u32 {
    10
}

/// Name of the directory of what that action turned on.
pub(super) fn link_of(id: u64) -> String {
    format!("{ON}{id}")
}

/// The action that turned it on.
pub(super) fn id_of(link: &str) -> Option<u64> {
    link.strip_prefix(ON)?.parse().ok()
}

/// nginx's master process.
pub(super) struct Master {
    pid: Pid,
    /// No other process can take its place.
    handle: OwnedFd,
}

impl Master {
    /// Its workers; none where the kernel does not tell (proc_pid_task(5), children).
    fn workers(&self) -> Vec<u32> {
        let pid = self.pid.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| takes_connections(*pid))
            .collect()
    }
}

/// Whether that is a worker which was not told to end yet; one that was says so in its title.
fn takes_connections(pid: u32) -> bool {
    let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    title.starts_with(WORKER) && !title.starts_with(WORKER_ENDS)
}

/// The nginx of a target.
pub(super) struct Instance {
    pub(super) name: String,
    settings: Nginx,
}

impl Instance {
    pub(super) fn of(target: &Target) -> Result<Self, Failure> {
        let settings = target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        Ok(Self { name: target.name.clone(), settings })
    }

    pub(super) fn link(&self) -> PathBuf {
        self.settings.dir.join(LINK)
    }

    /// What that link leads to.
    pub(super) fn path(&self, link: &str) -> PathBuf {
        self.settings.dir.join(link)
    }

    pub(super) fn read_link(&self) -> Result<Option<String>, Failure> {
        match fs::read_link(self.link()) {
            Ok(to) => Ok(Some(to.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure("cannot read the link", &self.link(), &error)),
        }
    }

    /// Whether that is what was written.
    pub(super) fn has(&self, page: &Page) -> bool {
        let dir = self.path(&page.link);
        page.files()
            .iter()
            .all(|(name, text)| fs::read_to_string(dir.join(name)).is_ok_and(|has| has == *text))
    }

    /// Writes what a link will lead to.
    pub(super) fn write(&self, page: &Page) -> Result<(), Failure> {
        let dir = self.path(&page.link);
        let written = (|| {
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            for (name, text) in page.files() {
                let new = dir.join(format!("{name}.new"));
                let mut file = File::create(&new)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&new, dir.join(name))?;
            }
            File::open(&dir)?.sync_all()
        })();
        written.map_err(|error| failure("cannot write", &dir, &error))
    }

    /// The link leads there, durably.
    pub(super) fn set_link(&self, to: Option<&str>) -> Result<(), Failure> {
        let link = self.link();
        let set = (|| {
            if let Some(to) = to {
                let new = self.settings.dir.join(format!(".{LINK}.new"));
                match fs::remove_file(&new) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                std::os::unix::fs::symlink(to, &new)?;
                fs::rename(&new, &link)?;
            } else {
                match fs::remove_file(&link) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            File::open(&self.settings.dir)?.sync_all()
        })();
        set.map_err(|error| failure("cannot switch", &link, &error))
    }

    /// The link leads to `to`, and nginx takes the configuration.
    ///
    /// # Errors
    ///
    /// It does not; then the link leads to `from` again.
    pub(super) async fn switch(&self, from: Option<&str>, to: Option<&str>) -> Result<(), Failure> {
        self.set_link(to)?;
        if let Err(refused) = self.test().await {
            self.set_link(from)?;
            return Err(refused);
        }
        Ok(())
    }

    /// nginx takes its configuration as it stands.
    pub(super) async fn test(&self) -> Result<(), Failure> {
        let [program, arguments @ ..] = self.settings.test.as_slice() else {
            return Err(Failure::permanent("target", format!("targets.{}: test is empty", self.name)));
        };
        let mut output = None;
        // Whoever is told to end is told so with all its children, and a test that takes back what was done is one.
        for _ in 0..TESTS_MAX {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
            match tokio::time::timeout(TEST_PATIENCE, command.output()).await {
                Ok(Ok(ended)) if ended.status.signal().is_some() => output = None,
                Ok(Ok(ended)) => {
                    output = Some(ended);
                    break;
                }
                Ok(Err(error)) => {
                    return Err(Failure::permanent(
                        "config_test",
                        format!("cannot start {program}: {error}"),
                    ));
                }
                Err(_) => break,
            }
        }
        let Some(output) = output else {
            return Err(Failure::transient("config_test", format!("{program} does not come to its end")));
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.chars().take(SAID_BYTES_MAX).collect();
        let told = format!("nginx refuses its configuration ({}): {}", output.status, said.trim());
        Err(Failure::permanent("config_test", told))
    }

    /// nginx's master process, if it runs.
    pub(super) fn master(&self) -> Result<Option<Master>, Failure> {
        let pid_file = &self.settings.pid_file;
        let text = match fs::read_to_string(pid_file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failure("cannot read", pid_file, &error)),
        };
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(None) };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        // The file may be older than the process that has the number now.
        let comm = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        Ok((comm.trim_end() == COMM).then_some(Master { pid, handle }))
    }

    /// nginx is told to read its configuration; when it has, [`Self::verified`] tells by the workers that it has now.
    pub(super) fn reload(&self) -> Result<Vec<u32>, Failure> {
        let Some(master) = self.master()? else { return Err(self.unreachable("it does not run")) };
        let workers = master.workers();
        pidfd_send_signal(&master.handle, Signal::HUP).map_err(|error| {
            let told = format!("cannot send SIGHUP to nginx: {error}");
            match error {
                rustix::io::Errno::SRCH => self.unreachable("it does not run"),
                _ => Failure::permanent("not_allowed", told),
            }
        })?;
        Ok(workers)
    }

    /// What it answers now.
    pub(super) async fn ask(&self) -> Result<Answer, Failure> {
        let Nginx { check, host, path, .. } = &self.settings;
        probe::ask(check, host, path).await.map_err(|error| self.unreachable(&error.to_string()))
    }

    /// Whether nginx has read that link.
    pub(super) fn shows(&self, answer: &Answer, link: Option<&str>) -> bool {
        let Some(link) = link else { return answer.mark.is_none() && answer.status != 503 };
        let is_marked =
            fs::read_to_string(self.path(link).join("server.conf")).is_ok_and(|text| text.contains(MARK));
        answer.status == 503 && (!is_marked || answer.has_retry_after && answer.mark.as_deref() == Some(link))
    }

    /// Waits until none of those workers takes connections any more, and nginx answers as that link has it; the status.
    ///
    /// Old and new workers take connections beside each other for a while: one right answer says little.
    pub(super) async fn verified(&self, run: &Run, old: &[u32], link: Option<&str>) -> Result<u16, Failure> {
        let mut last = self.unreachable("it was not asked");
        let limit = Duration::from_secs(self.settings.verify_s.into());
        let seen = run.wait_for(limit, async || {
            if old.iter().any(|worker| takes_connections(*worker)) {
                last =
                    Failure::permanent("not_verified", "nginx was told to reload, and its old workers go on");
                return Ok(None);
            }
            match self.ask().await {
                Ok(answer) if self.shows(&answer, link) => return Ok(Some(answer.status)),
                Ok(answer) => {
                    let told = format!("nginx was told to reload, and still answers {}", answer.status);
                    last = Failure::permanent("not_verified", told).with("http_status", answer.status);
                }
                Err(failure) => last = failure,
            }
            Ok(None)
        });
        seen.await?.ok_or(last)
    }

    /// Deletes what earlier actions wrote, but for what these links lead to. What is left harms nobody.
    pub(super) fn tidy(&self, run: &Run, keep: &[Option<&str>]) {
        let Ok(all) = fs::read_dir(&self.settings.dir) else { return };
        for entry in all.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if id_of(name).is_none() || keep.contains(&Some(name)) {
                continue;
            }
            let Ok(files) = fs::read_dir(entry.path()) else { continue };
            let deleted = files.flatten().try_for_each(|file| fs::remove_file(file.path()));
            if let Err(error) = deleted.and_then(|()| fs::remove_dir(entry.path())) {
                run.log(&format!("cannot delete {}: {error}", entry.path().display()));
            }
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::transient("unreachable", format!("cannot reach nginx of {}: {why}", self.name))
    }
}

fn failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    let told = format!("{what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Failure::permanent("not_allowed", told)
        }
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => Failure::permanent("target", told),
        _ => Failure::transient("files", told),
    }
}
