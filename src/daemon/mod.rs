//! CONTRACT SKELETON: puts the parts together and runs them until a signal says stop.
pub mod clock;
pub mod service;

use crate::config::Config;

/// Runs the daemon until it is told to stop. Returns the exit code (sysexits(3)): 0, 64, 65, 69, 74, 78.
#[must_use]
pub fn run(_config: Config, _config_file: Option<std::path::PathBuf>) -> u8 {
    todo!()
}
