//! Keepers in transient units of systemd: `actiond-<id>.<attempt>.service`, seen by `systemctl` and `journalctl`.
//!
//! A unit is systemd's own, so nothing that happens to the daemon's service touches it. When its keeper is killed, systemd
//! ends what is left of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::{Backend, BoxFuture, Launch};
use crate::runner::units::{UnitPlan, Units};

/// The units of this service's programs.
pub struct Services {
    units: Units,
    /// This very binary, as systemd finds it.
    binary: PathBuf,
    /// What a keeper has to write.
    write_paths: Vec<PathBuf>,
}

impl Services {
    /// If this process is the main process of a systemd service. The runtime it is called in has to outlive all use.
    ///
    /// # Errors
    ///
    /// It is in a service, but systemd cannot be asked.
    pub async fn of_this_service(write_paths: Vec<PathBuf>) -> io::Result<Option<Self>> {
        let Some(units) = Units::of_this_service().await? else { return Ok(None) };
        Ok(Some(Self { units, binary: std::env::current_exe()?, write_paths }))
    }

    async fn start(&self, launch: Launch<'_>, stream: OwnedFd) -> io::Result<()> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let plan = UnitPlan {
            name: unit(launch.name),
            description: launch.description.to_owned(),
            argv: vec![self.binary.to_string_lossy().into_owned(), "keeper".to_owned()],
            env: Vec::new(),
            settings: launch.unit.clone(),
            user: (!uid.is_root()).then(|| (uid.as_raw(), gid.as_raw())),
            switches_user: launch.switches_user,
            write_paths: self.write_paths.clone(),
            runtime_max: Some(launch.runtime_max),
        };
        let started = self.units.start(&plan, stream).await.map(drop);
        if let Err(error) = &started
            && !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::PermissionDenied)
        {
            // It may be there, or come yet: its keeper would wait at a gate that nobody opens.
            self.units.end(&plan.name).await?;
        }
        started
    }
}

impl Backend for Services {
    fn launch<'a>(&'a self, launch: Launch<'a>, stream: OwnedFd) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.start(launch, stream))
    }

    fn end<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.units.end(&unit(name)).await.map(drop) })
    }
}

/// The unit of a keeper.
fn unit(name: &str) -> String {
    format!("actiond-{name}.service")
}
