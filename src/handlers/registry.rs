//! CONTRACT SKELETON: which handler carries out which action, from the configuration's `[[handler]]` tables.
use std::path::PathBuf;
use std::sync::Arc;

use super::Handler;
use crate::action::{Recovery, RetryPolicy};

/// One `[[handler]]` table: what is common to all handlers, and the rest as it stands.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// An action type, or `*` for any that has no line of its own.
    pub action: String,
    /// Only for this resource type, if given.
    pub resource_type: Option<String>,
    /// `exec`, `noop` or a built-in.
    pub handler: String,
    pub queue: String,
    /// The catalogue's default if none.
    pub recovery: Option<Recovery>,
    pub timeout_ms: u64,
    pub retry: RetryPolicy,
    pub exclusive: Option<bool>,
    /// Every other key of the table: the handler's own settings.
    pub own: toml::Table,
}

/// What handlers need of the daemon's surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Directory in which each attempt of a program gets one of its own; created on demand, mode 0700.
    pub attempts_dir: PathBuf,
    /// The program that holds a program at its gate: this very binary (`/proc/self/exe` resolved).
    pub keeper: PathBuf,
    /// How long a program has between SIGTERM and SIGKILL.
    pub kill_grace_ms: u64,
}

/// A handler with what holds for the actions it carries out.
pub struct Route {
    pub handler: Arc<dyn Handler>,
    pub queue: String,
    pub recovery: Recovery,
    pub timeout_ms: u64,
    pub retry: RetryPolicy,
    pub exclusive: bool,
}

/// All routes. (action, resource_type) beats (action), which beats `*`.
pub struct Registry {}

impl Registry {
    /// Builds every handler; all problems are reported, not the first.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each naming the `[[handler]]` table (by action) and the key.
    pub fn build(_routes: &[RouteSettings], _around: &Surroundings) -> Result<Self, Vec<String>> {
        todo!()
    }

    pub fn find(&self, _action: &str, _resource_type: &str) -> Option<&Route> {
        todo!()
    }
}
