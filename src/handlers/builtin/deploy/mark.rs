//! `DIR/deployed.json`: what is known to be deployed. That a release is the current one says nothing of its instances.
//!
//! Written when all that was asked for is healthy, removed before `current` is switched to anything. So a deploy that never
//! came to its end leaves none, whatever it left else.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::app::App;
use super::disk;
use crate::handlers::builtin::Failure;

/// The current release, and the instances that run it and were healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) hash: String,
    pub(super) instances: Vec<String>,
}

impl Mark {
    fn path(app: &App) -> PathBuf {
        app.dir.join("deployed.json")
    }

    /// None also if it cannot be read: then nothing is known.
    pub(super) fn read(app: &App) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(app)).ok()?).ok()
    }

    /// It is on disk when this returns.
    pub(super) fn write(&self, app: &App) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let aside = app.dir.join(".deployed.json");
            let mut file = File::create(&aside)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&aside, Self::path(app))?;
            File::open(&app.dir)?.sync_all()
        };
        write().map_err(|error| disk("cannot write down what is deployed", &error))
    }

    /// It is gone, also after a loss of power, when this returns.
    pub(super) fn remove(app: &App) -> Result<(), Failure> {
        let remove = || match fs::remove_file(Self::path(app)) {
            Ok(()) => File::open(&app.dir)?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        remove().map_err(|error| disk("cannot remove what was deployed", &error))
    }

    /// Whether all of these run that release.
    pub(super) fn covers(&self, hash: &str, instances: &[&str]) -> bool {
        self.hash == hash && instances.iter().all(|name| self.instances.iter().any(|it| it == name))
    }
}
