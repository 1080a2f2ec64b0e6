//! Where the configuration, the store and the socket are when nobody says: the system's places for root,
//! the XDG Base Directory places for anyone else. Pure but for [`Surroundings::here`].

use std::path::{Path, PathBuf};

const SYSTEM_FILE: &str = "/etc/actiond/actiond.toml";
pub(super) const SYSTEM_SOCKET: &str = "/run/actiond/actiond.sock";

/// What of the process's surroundings decides about places.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    pub root: bool,
    pub home: Option<PathBuf>,
    pub config_home: Option<PathBuf>,
    pub state_home: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn here() -> Self {
        // The specification says that a relative path in these variables is to be ignored.
        let place = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            root: rustix::process::geteuid().is_root(),
            home: place("HOME"),
            config_home: place("XDG_CONFIG_HOME"),
            state_home: place("XDG_STATE_HOME"),
            runtime_dir: place("XDG_RUNTIME_DIR"),
        }
    }

    fn home(&self) -> &Path {
        self.home.as_deref().unwrap_or(Path::new("/"))
    }

    /// The file that is read if none is named and it exists.
    pub(super) fn config_file(&self) -> PathBuf {
        if self.root {
            return PathBuf::from(SYSTEM_FILE);
        }
        let base = self.config_home.clone().unwrap_or_else(|| self.home().join(".config"));
        base.join("actiond/actiond.toml")
    }

    /// The store of an ordinary user.
    pub(super) fn store_dir(&self) -> PathBuf {
        let base = self.state_home.clone().unwrap_or_else(|| self.home().join(".local/state"));
        base.join("actiond")
    }

    /// The socket of this user.
    pub(super) fn socket(&self) -> PathBuf {
        if self.root {
            return PathBuf::from(SYSTEM_SOCKET);
        }
        self.runtime_dir.clone().unwrap_or_else(|| self.store_dir()).join("actiond.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_without_runtime_directory_has_its_socket_in_the_state_directory() {
        let user = Surroundings { home: Some("/home/u".into()), ..Surroundings::default() };
        assert_eq!(user.store_dir(), Path::new("/home/u/.local/state/actiond"));
        assert_eq!(user.socket(), Path::new("/home/u/.local/state/actiond/actiond.sock"));
        assert_eq!(user.config_file(), Path::new("/home/u/.config/actiond/actiond.toml"));
    }

    #[test]
    fn root_uses_the_systems_places_whatever_xdg_says() {
        let root = Surroundings { root: true, runtime_dir: Some("/run/user/0".into()), ..Default::default() };
        assert_eq!(root.socket(), Path::new(SYSTEM_SOCKET));
        assert_eq!(root.config_file(), Path::new(SYSTEM_FILE));
    }
}
