//! A service as other families restart it: `deploy`, whose instances are services.

use super::restart::restarted;
use super::session::Session;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;

/// A service that a target allows, and that is there.
pub(in super::super) struct Service(Session);

impl Service {
    /// # Errors
    ///
    /// Transient, if systemd cannot be asked. The service is not allowed (any more), or not there.
    pub(in super::super) async fn open(target: &Target, unit: &str) -> Result<Self, Failure> {
        Ok(Self(Session::open_of(target, unit).await?.0))
    }

    /// Its invocation ID, another one after each start; once systemd has nothing to do for it.
    pub(in super::super) async fn invocation_id(&self) -> Result<String, Failure> {
        Ok(self.0.idle().await?.invocation_id)
    }

    /// Restarts it, or starts it; returns when systemd says that it is up. That it failed before, and how often it was
    /// started of late, is forgotten then.
    pub(in super::super) async fn restart(&self, run: &Run) -> Result<(), Failure> {
        let has_failed = self.0.look().await?.active == "failed";
        restarted(run, &self.0, has_failed).await.map(drop)
    }
}
