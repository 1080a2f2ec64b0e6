//! Where keepers live: how one is started, and how what a killed one left is ended.
//!
//! | backend | where | used |
//! | --- | --- | --- |
//! | [`Services`] | transient units of systemd, each with a cgroup of its own | where the daemon is a systemd service |
//! | [`Sessions`] | processes in sessions of their own, forked from a zygote | everywhere else |
//!
//! A keeper does the same in both: it alone starts, watches and ends its program. Called by `kept` and at the daemon's
//! start.

mod services;
mod sessions;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;

pub use self::services::Services;
pub use self::sessions::Sessions;
use super::units::UnitSettings;

/// A future that can be kept behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A keeper to be started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// `<id>.<attempt>`, with a suffix for a probe: names the keeper on this host.
    pub name: &'a str,
    /// What it is for, for people.
    pub description: &'a str,
    /// What a unit of systemd for it gets beside the usual.
    pub unit: &'a UnitSettings,
    /// Its program runs as another user than the daemon.
    pub switches_user: bool,
    /// The longest that it can take, for who ends it should everybody else fail to.
    pub runtime_max: Duration,
}

/// Where keepers live.
pub trait Backend: Send + Sync {
    /// Starts a keeper with this stream as its standard input. An error says that there is none.
    fn launch<'a>(&'a self, launch: Launch<'a>, stream: OwnedFd) -> BoxFuture<'a, io::Result<()>>;

    /// Ends what the backend itself knows of an attempt whose keeper is gone. What only carries its mark is looked
    /// for after this.
    fn end<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>>;
}
