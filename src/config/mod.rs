//! CONTRACT SKELETON: the configuration file: every key, its default, its bounds.
use std::path::{Path, PathBuf};

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub socket_path: PathBuf,
}

/// All problems of a configuration file, one sentence each, with key and line where there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// The file's configuration; or, without a file, the embedded default in the system's places for root
    /// and in the XDG state and runtime directories for anyone else.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with all problems.
    pub fn load(_file: Option<&Path>) -> Result<Self, ConfigError> {
        todo!()
    }

    /// The effective configuration as TOML, for `check-config`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        todo!()
    }

    /// Where a client looks for the socket if neither `--socket` nor `ACTIOND_SOCKET` says: the system's
    /// socket if it exists, else the user's own.
    #[must_use]
    pub fn default_socket() -> PathBuf {
        todo!()
    }
}
