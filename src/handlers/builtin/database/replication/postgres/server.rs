//! The processes and files of a server on this host: what no statement does.
//!
//! Its programs run as the user that the server runs as. It is started and stopped by what the configuration says, never as
//! a child of ours: that would end with the action.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::User;
use tokio::process::Command;

use super::super::super::Postgresql;
use super::super::super::postgres::{Cluster, application};
use super::control::Control;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child::{self, Ended, command};
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;

/// Makes a server that has this file come up as a replica, and never as a primary (PostgreSQL 15, 27.2.2).
const STANDBY: &str = "standby.signal";

/// A server of which the configuration has a `cluster`.
pub(super) struct Server {
    target: String,
    cluster: Cluster,
    user: User,
}

impl Server {
    /// The server of that target.
    ///
    /// # Errors
    ///
    /// The configuration does not have it, or its user is not known or not to be had.
    pub(super) fn of(target: &Target) -> Result<Self, Failure> {
        let told =
            |problem: String| Failure::permanent("target", format!("targets.{}: {problem}", target.name));
        let settings: Postgresql =
            target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        let cluster = settings.cluster.ok_or_else(|| told("there is no cluster".to_owned()))?;
        let user = User::from_name(&cluster.system_user)
            .ok()
            .flatten()
            .ok_or_else(|| told(format!("there is no user {}", cluster.system_user)))?;
        let own = nix::unistd::geteuid();
        if !own.is_root() && own != user.uid {
            return Err(told(format!("only root and {} can act on its files", cluster.system_user)));
        }
        Ok(Self { target: target.name.clone(), cluster, user })
    }

    pub(super) fn data(&self) -> &Path {
        &self.cluster.data_directory
    }

    pub(super) fn config_file(&self) -> Option<&Path> {
        self.cluster.config_file.as_deref()
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.cluster.patience_s.into())
    }

    /// A directory beside the data, of that action alone: `DATA.WORD-ID`.
    pub(super) fn beside(&self, word: &str, run: &Run) -> PathBuf {
        let mut path = self.data().as_os_str().to_owned();
        path.push(format!(".{word}-{}", run.id));
        path.into()
    }

    /// One of the server's programs, as its user.
    pub(super) fn program(
        &self,
        run: &Run,
        name: &str,
        args: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
    ) -> Command {
        let path = self.cluster.bin_directory.join(name);
        let mut words: Vec<std::ffi::OsString> = Vec::new();
        if nix::unistd::geteuid() != self.user.uid {
            words.push(format!("--reuid={}", self.user.uid).into());
            words.push(format!("--regid={}", self.user.gid).into());
            words.extend(["--init-groups".into(), "--".into(), path.clone().into()]);
        }
        let program = if words.is_empty() { path } else { "setpriv".into() };
        words.extend(args.into_iter().map(Into::into));
        let home = self.user.dir.to_string_lossy().into_owned();
        let application = application(run.id);
        let env = [
            ("LC_ALL", "C"),
            ("HOME", home.as_str()),
            // So that its sessions count as those of this action.
            ("PGAPPNAME", application.as_str()),
            ("PGCONNECT_TIMEOUT", "10"),
        ];
        command(program, words, &env, Path::new("/"))
    }

    /// Whether there is a server on the data directory, up or not yet or no more.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    pub(super) async fn is_running(&self, run: &Run) -> Result<bool, Failure> {
        let what = format!("cannot look whether {} runs", self.target);
        let status = ["status".as_ref(), "-D".as_ref(), self.data().as_os_str()];
        let mut pg_ctl = self.program(run, "pg_ctl", status);
        pg_ctl.stdout(std::process::Stdio::null());
        let ended = child::run(&what, &mut pg_ctl).await?;
        match ended.code {
            Some(0) => Ok(true),
            // No server, or no data directory (pg_ctl(1)).
            Some(3 | 4) => Ok(false),
            _ => Err(Failure::permanent("program", format!("{what}: {}", ended.told()))),
        }
    }

    /// The server is down afterwards. What is being started is waited for by who stops it.
    ///
    /// # Errors
    ///
    /// It is still there; transient.
    pub(super) async fn stop(&self, run: &Run) -> Result<(), Failure> {
        // Also one that seems to be down: it may be about to be started by an earlier attempt.
        let ended = self.manage("stop", &self.cluster.stop).await?;
        let is_down = run.wait_for(self.patience(), async || {
            let is_running = self.is_running(run).await?;
            Ok((!is_running).then_some(()))
        });
        match is_down.await? {
            Some(()) => Ok(()),
            None => Err(Failure::transient(
                "not_stopped",
                format!("cannot stop {}: it still runs ({})", self.target, ended.told()),
            )),
        }
    }

    /// Has it started; not that it takes anybody yet.
    ///
    /// # Errors
    ///
    /// The program that starts it fails, and it does not run.
    pub(super) async fn start(&self, run: &Run) -> Result<(), Failure> {
        let ended = self.manage("start", &self.cluster.start).await?;
        if ended.is_success() || self.is_running(run).await? {
            return Ok(());
        }
        Err(Failure::transient("not_started", format!("cannot start {}: {}", self.target, ended.told())))
    }

    async fn manage(&self, what: &str, argv: &[String]) -> Result<Ended, Failure> {
        let what = format!("cannot {what} {}", self.target);
        let Some((program, words)) = argv.split_first() else {
            return Err(Failure::permanent("target", format!("{what}: there is no program for it")));
        };
        let mut manager = command(program, words, &[], Path::new("/"));
        let ended = tokio::time::timeout(self.patience(), child::run(&what, &mut manager)).await;
        ended.unwrap_or_else(|_| {
            Err(Failure::transient("too_slow", format!("{what}: {program} takes longer than patience_s")))
        })
    }

    /// What its control file says; nothing if there are no data.
    ///
    /// # Errors
    ///
    /// There are data without a control file that can be read.
    pub(super) async fn control(&self, run: &Run) -> Result<Option<Control>, Failure> {
        let what = format!("cannot read the control file of {}", self.target);
        let is_there = |path: &Path| {
            path.try_exists().map_err(|error| Failure::permanent("disk", format!("{what}: {error}")))
        };
        if !is_there(&self.data().join("global"))? && !is_there(&self.data().join("PG_VERSION"))? {
            return Ok(None);
        }
        let words = ["-D".as_ref(), self.data().as_os_str()];
        let mut program = self.program(run, "pg_controldata", words);
        program.stdout(std::process::Stdio::piped());
        let ended = child::run(&what, &mut program).await?;
        if !ended.is_success() {
            return Err(Failure::permanent("damaged", format!("{what}: {}", ended.told())));
        }
        let control = Control::read(&ended.output);
        control.map(Some).map_err(|problem| Failure::permanent("damaged", format!("{what}: {problem}")))
    }

    /// Whether it can only come up as a replica.
    pub(super) fn is_standby(&self) -> bool {
        self.data().join(STANDBY).exists()
    }

    /// It can only come up as a replica from now on.
    ///
    /// # Durability
    ///
    /// It is on disk.
    pub(super) fn make_standby(&self) -> Result<(), Failure> {
        self.mark_standby(self.data()).map_err(|error| {
            Failure::transient("disk", format!("cannot make {STANDBY} of {}: {error}", self.target))
        })
    }

    /// As [`Self::make_standby`], in another directory.
    pub(super) fn mark_standby(&self, data: &Path) -> io::Result<()> {
        self.write(&data.join(STANDBY), b"")?;
        File::open(data)?.sync_all()
    }

    /// Writes a file of the server's, whole or not at all.
    pub(super) fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut part = path.as_os_str().to_owned();
        part.push(".actiond");
        let part = PathBuf::from(part);
        let mode = fs::metadata(path).map_or(0o600, |of| of.permissions().mode() & 0o777);
        fs::write(&part, content)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(mode))?;
        self.own(&part)?;
        File::open(&part)?.sync_all()?;
        fs::rename(&part, path)
    }

    /// Makes it the server's.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw()))
    }
}

/// What went wrong with a file or directory.
pub(super) fn disk(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::transient("disk", format!("{what} {}: {error}", path.display()))
}

/// Has the names in the directory of `path` on disk.
pub(super) fn sync_beside(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
