//! `[targets.NAME]` with `engine = "app"`: an application that is deployed from a git repository.
//!
//! ```text
//!  DIR/repo.git            what was fetched, unless `cache` is elsewhere
//!  DIR/releases/HASH       one directory for each commit, whole or not there
//!  DIR/releases/*.part     what is being unpacked
//!  DIR/shared/...          what all releases share
//!  DIR/current             a symbolic link to releases/HASH
//!  DIR/deployed.json       the current release, and who runs it and was healthy
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::health::Url;

/// The application.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct App {
    /// The repository: a path, or a URL of https or ssh.
    pub(super) repository: String,
    /// Its directory; absolute.
    pub(super) dir: PathBuf,
    /// Where what was fetched is kept: a bare repository of its own, which may be deleted at any time. Else `repo.git` in `dir`.
    pub(super) cache: Option<PathBuf>,
    /// Paths that all releases share, relative to a release; they lie in `shared`.
    #[serde(default)]
    pub(super) shared: Vec<String>,
    /// Releases that stay. 2 to 50.
    #[serde(default = "keep")]
    pub(super) keep: u32,
    /// What runs of it on this host, in the order in which it is restarted.
    #[serde(default)]
    pub(super) instances: Vec<Instance>,
    /// The target of engine "systemd" whose services instances are (`unit`); needed where there are several.
    pub(super) systemd: Option<String>,
    /// A program to be run in the new release before it becomes the current one. Again after an interruption.
    #[serde(default)]
    pub(super) before: Vec<String>,
    /// A program to be run in the new release when all instances are healthy. Again after an interruption.
    #[serde(default)]
    pub(super) after: Vec<String>,
    /// Longest time until an instance is healthy after its restart, in seconds.
    #[serde(default = "health_timeout_s")]
    pub(super) health_timeout_s: u32,
    /// How often in a row an instance has to be found healthy. 1 or more.
    #[serde(default = "healthy_after")]
    pub(super) healthy_after: u32,
}

/// One instance. It has either `restart` or `unit`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Instance {
    pub(super) name: String,
    /// The word by which metadata means it and others (`services`); else its name.
    pub(super) service: Option<String>,
    /// A program that restarts it. Again after an interruption.
    #[serde(default)]
    pub(super) restart: Vec<String>,
    /// The service of systemd that it is.
    pub(super) unit: Option<String>,
    /// A program that exits 0 if it is healthy; none, and no `health_url`: it is believed to be.
    #[serde(default)]
    pub(super) health: Vec<String>,
    /// Where it says over HTTP whether it is healthy.
    pub(super) health_url: Option<Url>,
    /// What it answers there if it is healthy; else 200 to 299.
    #[serde(default)]
    pub(super) health_status: Vec<u16>,
}

fn keep() -> u32 {
    5
}

fn health_timeout_s() -> u32 {
    60
}

fn healthy_after() -> u32 {
    2
}

impl App {
    /// Judges what the types do not say.
    ///
    /// # Errors
    ///
    /// What is wrong, with the key.
    pub(in super::super) fn check(&self) -> Result<(), String> {
        if !self.dir.is_absolute() {
            return Err("dir must be an absolute path".to_owned());
        }
        if self.cache.as_ref().is_some_and(|cache| !cache.is_absolute() || cache.file_name().is_none()) {
            return Err("cache must be an absolute path".to_owned());
        }
        if self.repository.is_empty() || self.repository.starts_with('-') {
            return Err("repository must be a path or a URL".to_owned());
        }
        let has_password = self.repository.split_once("://").is_some_and(|(_, rest)| {
            rest.split('/')
                .next()
                .and_then(|host| host.split_once('@'))
                .is_some_and(|(user, _)| user.contains(':'))
        });
        if has_password {
            return Err("repository has a password, which messages would tell: use a key of ssh".to_owned());
        }
        if !(2..=50).contains(&self.keep) {
            return Err("keep must be 2 to 50".to_owned());
        }
        let is_inner = |path: &String| {
            let mut parts = Path::new(path).components();
            !path.is_empty() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        if let Some(path) = self.shared.iter().find(|path| !is_inner(path)) {
            return Err(format!("shared: {path:?} is no path within a release"));
        }
        let programs = self.instances.iter().flat_map(|instance| [&instance.restart, &instance.health]);
        for argv in programs.chain([&self.before, &self.after]).filter(|argv| !argv.is_empty()) {
            if !argv.first().is_some_and(|path| path.starts_with('/')) {
                return Err(format!("{argv:?} must begin with the absolute path of a program"));
            }
        }
        if self.healthy_after == 0 {
            return Err("healthy_after must be 1 or more".to_owned());
        }
        let mut names = BTreeSet::new();
        for instance in &self.instances {
            instance.check().map_err(|problem| format!("instances: {} {problem}", instance.name))?;
            if !names.insert(&instance.name) {
                return Err(format!("instances: two have the name {}", instance.name));
            }
        }
        Ok(())
    }

    /// The names of these instances.
    pub(super) fn names<'a>(instances: &[&'a Instance]) -> Vec<&'a str> {
        instances.iter().map(|instance| instance.name.as_str()).collect()
    }

    pub(super) fn repo(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| self.dir.join("repo.git"))
    }

    pub(super) fn releases(&self) -> PathBuf {
        self.dir.join("releases")
    }

    pub(super) fn release(&self, hash: &str) -> PathBuf {
        self.releases().join(hash)
    }

    pub(super) fn current(&self) -> PathBuf {
        self.dir.join("current")
    }
}

impl Instance {
    fn check(&self) -> Result<(), String> {
        if self.restart.is_empty() == self.unit.is_none() {
            return Err("needs either restart or unit".to_owned());
        }
        if !self.health.is_empty() && self.health_url.is_some() {
            return Err("has both health and health_url".to_owned());
        }
        if !self.health_status.is_empty() && self.health_url.is_none() {
            return Err("has health_status without health_url".to_owned());
        }
        if let Some(status) = self.health_status.iter().find(|status| !(100..600).contains(*status)) {
            return Err(format!("health_status {status} is none"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problem(key: &str, value: Value) -> String {
        let mut app = json!({
            "repository": "/srv/shop.git",
            "dir": "/srv/shop",
            "instances": [
                { "name": "web", "unit": "web.service", "health_url": "http://127.0.0.1:80/", "health_status": [204] },
                { "name": "mailer", "restart": ["/bin/mailer"], "health": ["/bin/is-up"] },
            ],
        });
        assert_eq!(serde_json::from_value::<App>(app.clone()).unwrap().check(), Ok(()));
        if let Some(key) = key.strip_prefix("web.") {
            app["instances"][0][key] = value;
        } else {
            app[key] = value;
        }
        match serde_json::from_value::<App>(app) {
            Ok(app) => app.check().unwrap_err(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (key, value, told) in [
            ("dir", json!("srv/shop"), "dir must be an absolute"),
            ("cache", json!("shop.git"), "cache must be"),
            ("repository", json!("--upload-pack=x"), "repository must be"),
            ("repository", json!("https://me:word@example.com/x"), "has a password"),
            ("keep", json!(1), "keep must be"),
            ("healthy_after", json!(0), "healthy_after must be"),
            ("shared", json!(["../log"]), "no path within"),
            ("before", json!(["migrate"]), "absolute path of a program"),
            ("no_such_key", json!(1), "no_such_key"),
            ("web.name", json!("mailer"), "two have the name mailer"),
            ("web.unit", json!(null), "web needs either"),
            ("web.restart", json!(["/bin/restart"]), "web needs either"),
            ("web.health", json!(["/bin/is-up"]), "both health and health_url"),
            ("web.health_url", json!(null), "health_status without"),
            ("web.health_url", json!("https://example.com/"), "health_url"),
            ("web.health_status", json!([999]), "999 is none"),
        ] {
            let problem = problem(key, value.clone());
            assert!(problem.contains(told), "{key} = {value}: {problem}");
        }
    }
}
