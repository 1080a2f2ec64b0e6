//! The demo's directory: configuration, handler programs, a git repository made on the spot, the ledger.
//!
//! Everything that the demo writes is in it, so that removing it removes all.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::exit::Exit;
use crate::cli::output::Failure;

/// Assets of the big release. With the seconds below: long enough to be killed in the middle.
const ASSETS: usize = 30;
const ASSET_SECONDS: &str = "0.2";
/// `sun_path` of unix(7) holds 108 bytes with its final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const LIB: &str = include_str!("scripts/lib.sh");
/// (action, program, its text, further keys of its handler)
const PROGRAMS: [(&str, &str, &str, &str); 4] = [
    ("deploy", "deploy", include_str!("scripts/deploy.sh"), ""),
    ("service_restart", "restart", include_str!("scripts/restart.sh"), ""),
    ("database_create", "database", include_str!("scripts/fail.sh"), ""),
    (
        "clear_caches",
        "caches",
        include_str!("scripts/flaky.sh"),
        "retry = { attempts = 4, backoff = \"1s\", backoff_max = \"2s\" }\n",
    ),
];

/// A directory that is ready for a daemon.
#[derive(Debug)]
pub struct Place {
    pub dir: PathBuf,
    /// Hash of the commit that `main` names.
    pub main: String,
    /// Hash of the commit that the tag `v1.0` names.
    pub v1: String,
}

impl Place {
    /// Makes the directory and all that is in it. What exists already is not touched.
    pub fn make(dir: Option<PathBuf>) -> Result<Self, Failure> {
        let dir = dir.unwrap_or_else(|| {
            let name = format!("actiond-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
            std::env::temp_dir().join(name)
        });
        let dir = std::path::absolute(dir).map_err(|error| at("the directory", &error))?;
        if dir.join("actiond.sock").as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let text = format!("{}: too long for a Unix socket in it; give a shorter --dir", dir.display());
            return Err(Failure::new(Exit::Usage, text));
        }
        make_dir(&dir)?;
        let mut place = Self { dir, main: String::new(), v1: String::new() };
        for name in ["bin", "services", "stacks"] {
            make_dir(&place.dir.join(name))?;
        }
        place.write("ledger", "")?;
        place.programs()?;
        place.write("actiond.toml", &place.config()?)?;
        place.repository()?;
        Ok(place)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("actiond.sock")
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.join("actiond.toml")
    }

    pub fn log_file(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// A file of the demo as text; empty if it is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// Where the deployed stack's `current` points.
    pub fn current(&self, stack: u64) -> String {
        let link = self.dir.join(format!("stacks/{stack}/current"));
        fs::read_link(link).map(|to| to.display().to_string()).unwrap_or_default()
    }

    /// The file's last lines, for a report of what went wrong.
    pub fn log_tail(&self) -> String {
        let log = self.read("daemon.log");
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }

    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)
    }

    fn path_text(&self) -> Result<&str, Failure> {
        let text = self.dir.to_str();
        text.ok_or_else(|| Failure::new(Exit::Usage, "the directory's name is not UTF-8: give another --dir"))
    }

    fn config(&self) -> Result<String, Failure> {
        let dir = self.path_text()?;
        let quoted = |name: &str| toml::Value::String(format!("{dir}/{name}")).to_string();
        let mut config = format!(
            "# Made by `actiond demo`.\n[store]\ndir = {}\n\n[socket]\npath = {}\n\n[status]\nlisten = \
             \"127.0.0.1:0\"\n\n[[queue]]\nname = \"default\"\nconcurrency = 8\n",
            quoted("store"),
            quoted("actiond.sock"),
        );
        for (action, program, _, more) in PROGRAMS {
            let file = quoted(&format!("bin/{program}"));
            config.extend([format!(
                "\n[[handler]]\naction = \"{action}\"\nuse = \"exec\"\nprogram = [\"/bin/sh\", {file}]\n\
                 recovery = \"rerun\"\ntimeout = \"1m\"\n{more}",
            )]);
        }
        config
            .push_str("\n[[handler]]\naction = \"maintenance_mode\"\nuse = \"noop\"\nrecovery = \"rerun\"\n");
        Ok(config)
    }

    fn programs(&self) -> Result<(), Failure> {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
        let head = format!(
            "PATH={}\nDEMO={}\nASSET_SECONDS={ASSET_SECONDS}\nexport PATH DEMO ASSET_SECONDS\n",
            shell_word(&path),
            shell_word(self.path_text()?),
        );
        for (_, program, text, _) in PROGRAMS {
            let name = format!("bin/{program}");
            self.write(&name, &format!("#!/bin/sh\n{head}\n{LIB}\n{text}"))?;
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(self.dir.join(&name), mode).map_err(|error| at(&name, &error))?;
        }
        Ok(())
    }

    /// Two commits: `v1.0` with two assets, `main` with [`ASSETS`].
    fn repository(&mut self) -> Result<(), Failure> {
        self.git(&["init", "--quiet", "."])?;
        self.git(&["symbolic-ref", "HEAD", "refs/heads/main"])?;
        make_dir(&self.dir.join("origin/assets"))?;
        for (last, message) in [(2, "First release"), (ASSETS, "Second release")] {
            self.write("origin/VERSION", &format!("{message}\n"))?;
            for asset in 1..=last {
                let text = format!("{asset:04}\n").repeat(200);
                self.write(&format!("origin/assets/{asset:02}.css"), &text)?;
            }
            self.git(&["add", "."])?;
            self.git(&["commit", "--quiet", "--message", message])?;
            if last == 2 {
                self.git(&["tag", "v1.0"])?;
            }
        }
        self.v1 = self.git(&["rev-parse", "v1.0^{commit}"])?;
        self.main = self.git(&["rev-parse", "main^{commit}"])?;
        Ok(())
    }

    fn git(&self, args: &[&str]) -> Result<String, Failure> {
        let origin = self.dir.join("origin");
        fs::create_dir_all(&origin).map_err(|error| at("origin", &error))?;
        let done = Command::new("git")
            .args(["-c", "user.name=demo", "-c", "user.email=demo@example.com"])
            .args(["-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"])
            .args(args)
            .current_dir(&origin)
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .output();
        match done {
            Ok(done) if done.status.success() => Ok(String::from_utf8_lossy(&done.stdout).trim().into()),
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stderr);
                Err(Failure::new(Exit::Failed, format!("git {}: {}", args.join(" "), said.trim())))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
                Exit::Failed,
                "the demo deploys from a git repository, and git is not installed: apt-get install git",
            )),
            Err(error) => Err(at("git", &error)),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.dir.join(name);
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|error| at(name, &error))
    }
}

/// A fresh directory for this user alone; an empty one will do.
fn make_dir(path: &Path) -> Result<(), Failure> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            if empty {
                return Ok(());
            }
            let text = format!("{} is there already and not empty: give another --dir", path.display());
            Err(Failure::new(Exit::Usage, text))
        }
        made => made.map_err(|error| at(&path.display().to_string(), &error)),
    }
}

fn at(what: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot prepare the demo: {what}: {error}"))
}

/// The text as one word of sh(1).
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_configuration_programs_and_two_commits() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::make(Some(parent.path().join("it's here"))).unwrap();
        let config: toml::Table = toml::from_str(&place.read("actiond.toml")).unwrap();
        assert_eq!(config["handler"].as_array().unwrap().len(), PROGRAMS.len() + 1);
        assert_eq!(config["socket"]["path"].as_str(), place.socket().to_str());
        assert!(place.main.len() == 40 && place.v1.len() == 40 && place.main != place.v1);
        for (_, program, ..) in PROGRAMS {
            let checked =
                Command::new("sh").arg("-n").arg(place.dir.join("bin").join(program)).status().unwrap();
            assert!(checked.success(), "{program}");
        }
        assert_eq!(Place::make(Some(place.dir.clone())).unwrap_err().exit, Exit::Usage);
        place.remove().unwrap();
        assert!(!place.dir.exists());
    }
}
