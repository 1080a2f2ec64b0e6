//! `serve` and `check-config`: the two verbs that read the configuration instead of asking the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::exit::Exit;
use super::output::{Failure, Out, escape};
use crate::config::{Config, ConfigError};

/// Runs the daemon in this process until it is told to stop.
pub fn serve(out: Out, file: Option<PathBuf>) -> ExitCode {
    match Config::load(file.as_deref(), crate::daemon::handler_problems) {
        Ok(config) => ExitCode::from(crate::daemon::run(config, file)),
        Err(error) => refuse(out, &error).into(),
    }
}

/// Prints the effective configuration, or all its problems.
pub fn check(out: Out, file: Option<&Path>) -> Exit {
    let config = match Config::load(file, crate::daemon::handler_problems) {
        Ok(config) => config,
        Err(error) => return refuse(out, &error),
    };
    let toml = config.to_toml();
    let printed = if out.json {
        match toml::from_str::<toml::Value>(&toml) {
            Ok(value) => out.json(&value),
            Err(error) => Err(Failure::new(Exit::Failed, format!("cannot read it back: {error}"))),
        }
    } else {
        out.text(toml.trim_end())
    };
    match printed {
        Ok(()) => Exit::Done,
        Err(failure) => {
            out.fail(&failure);
            failure.exit
        }
    }
}

fn refuse(out: Out, error: &ConfigError) -> Exit {
    let ConfigError(problems) = error;
    for problem in problems {
        out.say(format!("actiond: configuration: {}", escape(problem)));
    }
    Exit::Config
}
