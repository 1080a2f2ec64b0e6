//! The configuration: one file, every key documented in `config/actiond.toml`, which is built in.
//!
//! # Guarantees
//!
//! - A file is taken whole or not at all, and all of its problems are reported, each with its line.
//! - Unknown keys are problems; a value out of bounds is told its bounds.
//! - [`Config::to_toml`] reads back as an equal configuration.
//!
//! Knows nothing of single handlers: their own keys are carried as they stand ([`Handler::own`]) and judged
//! by the registry. Loaded by `cli`, reloaded by `daemon`.

mod check;
mod places;
mod print;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::places::Surroundings;
use self::schema::Section;
pub use self::schema::{
    Access, Handler, Limits, Line, Log, Queue, Reboot, Retention, Shutdown, Socket, Status, Store,
};

/// The shipped file: the reference of all keys, and the configuration of a daemon that has no file.
const SHIPPED: &str = include_str!("../../config/actiond.toml");

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub store: Store,
    pub retention: Retention,
    pub socket: Socket,
    pub status: Status,
    pub limits: Limits,
    pub access: Access,
    pub log: Log,
    pub shutdown: Shutdown,
    pub reboot: Reboot,
    /// At least one; names are unique.
    pub queues: Vec<Queue>,
    pub handlers: Vec<Handler>,
    /// The `[targets.NAME]` tables as they stand: only handlers can judge them.
    pub targets: BTreeMap<String, toml::Table>,
    /// The file that a load reads, or would read if it existed; empty if this was not loaded.
    pub file: PathBuf,
}

impl Default for Config {
    /// What the shipped file says.
    fn default() -> Self {
        Self {
            store: Store::default(),
            retention: Retention::default(),
            socket: Socket::default(),
            status: Status::default(),
            limits: Limits::default(),
            access: Access::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
            reboot: Reboot::default(),
            queues: vec![Queue { name: "default".to_owned(), ..Queue::default() }],
            handlers: vec![Handler {
                action: "noop".to_owned(),
                handler: "noop".to_owned(),
                ..Handler::default()
            }],
            targets: BTreeMap::new(),
            file: PathBuf::new(),
        }
    }
}

/// All problems of a configuration file, one sentence each, with key and line where there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// The file's configuration; or, without a file, that of the usual file if it exists; or else the
    /// embedded default in the system's places for root and in the XDG state and runtime directories for
    /// anyone else.
    ///
    /// `judge` says what is wrong with what this module knows nothing of: the handlers' own keys.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with all problems.
    pub fn load(file: Option<&Path>, judge: impl Fn(&Self) -> Vec<String>) -> Result<Self, ConfigError> {
        let here = Surroundings::here();
        let usual = here.config_file();
        let file = match file {
            Some(file) => Some(file),
            // Not `exists`: a file that is there but cannot be looked at must not be passed over.
            None if usual.symlink_metadata().is_ok_and(|found| !found.is_dir()) => Some(usual.as_path()),
            None => None,
        };
        let Some(file) = file else {
            return Self::embedded(&here).map(|config| Self { file: usual, ..config });
        };
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError(vec![format!("cannot read {}: {error}", file.display())]))?;
        let mut problems = Vec::new();
        let config = Self { file: file.to_owned(), ..read::read(&text, &mut problems) };
        check::check(&config, &mut problems);
        problems.extend(judge(&config));
        if problems.is_empty() {
            return Ok(config);
        }
        // In the order in which they are mended; what has no line concerns several keys and comes last.
        problems.sort_by_key(|what| {
            let number = what.strip_prefix("line ").and_then(|rest| rest.split_once(':'));
            number.and_then(|(number, _)| number.parse().ok()).unwrap_or(usize::MAX)
        });
        Err(ConfigError(problems.into_iter().map(|what| format!("{}: {what}", file.display())).collect()))
    }

    /// The configuration in `text`, checked.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with all problems.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let config = read::read(text, &mut problems);
        check::check(&config, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    fn embedded(here: &Surroundings) -> Result<Self, ConfigError> {
        let mut config = Self::parse(SHIPPED)?;
        if !here.root {
            config.store.dir = here.store_dir();
            config.socket.path = here.socket();
            let mut problems = Vec::new();
            check::check(&config, &mut problems);
            if !problems.is_empty() {
                return Err(ConfigError(problems));
            }
        }
        Ok(config)
    }

    /// The effective configuration as TOML, for `check-config`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        print::print(self)
    }

    /// Where a client looks for the socket if neither `--socket` nor `ACTIOND_SOCKET` says: the system's
    /// socket if it exists, else the user's own.
    #[must_use]
    pub fn default_socket() -> PathBuf {
        let system = PathBuf::from(places::SYSTEM_SOCKET);
        if system.exists() { system } else { Surroundings::here().socket() }
    }

    /// Every fixed section with its name, in the order of the file.
    fn sections(&mut self) -> [(&'static str, &mut dyn Section); 9] {
        [
            ("store", &mut self.store),
            ("retention", &mut self.retention),
            ("socket", &mut self.socket),
            ("status", &mut self.status),
            ("limits", &mut self.limits),
            ("access", &mut self.access),
            ("log", &mut self.log),
            ("shutdown", &mut self.shutdown),
            ("reboot", &mut self.reboot),
        ]
    }
}
