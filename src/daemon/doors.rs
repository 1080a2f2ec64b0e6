//! The two doors: the Unix socket and the status endpoint's TCP port, passed by systemd or bound here.
//!
//! What systemd passes comes first (`sd_listen_fds(3)`): it is open already, and stays so when this daemon is gone. Where the
//! configuration says otherwise the log says so.
//!
//! # Guarantees
//!
//! - The socket never has a wider mode than configured, not for an instant.
//! - A file in its place is removed only if it is a socket at which nobody answers.
//!
//! Called once at a start, on the daemon's main thread, while the store is locked.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::fs::{Gid, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::config::{Config, Socket};

/// Agents that may wait for `accept`; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    #[error("cannot {what} {}", path.display())]
    Socket { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is there and is not a socket; next: remove it, or set [socket] path", .0.display())]
    NotASocket(PathBuf),
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    #[error("there is no group {0:?} in /etc/group; next: create it, or name its number in [socket] group")]
    NoSuchGroup(String),
    #[error("cannot listen on {address}; next: stop what has the port, or change [status] listen")]
    Port { address: String, source: io::Error },
    #[error("socket number {0} passed by the service manager is neither a Unix nor a TCP stream socket")]
    Passed(usize),
}

/// The doors, listening and non-blocking.
pub(super) struct Doors {
    pub socket: UnixListener,
    pub status: Option<TcpListener>,
    /// The socket's file if it was made here, to be removed at the end.
    pub made: Option<PathBuf>,
}

/// Takes what was passed and binds the rest.
pub(super) fn open(config: &Config, passed: ListenFd) -> Result<Doors, DoorError> {
    let (mut socket, mut status) = sort(passed)?;
    for (key, passed, configured) in strangers(config, socket.as_ref(), status.as_ref()) {
        tracing::warn!(
            key,
            passed,
            configured,
            "systemd passes another address than the configuration has; make actiond.socket and the key the same"
        );
    }
    let mut made = None;
    if socket.is_none() {
        socket = Some(bind_socket(&config.socket)?);
        made = Some(config.socket.path.clone());
    }
    let address = &config.status.listen;
    if status.is_none() && !address.is_empty() {
        let listener = TcpListener::bind(address);
        status = Some(listener.map_err(|source| DoorError::Port { address: address.clone(), source })?);
    }
    let failed = |source| DoorError::Socket { what: "use", path: config.socket.path.clone(), source };
    let socket = socket.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    socket.set_nonblocking(true).map_err(failed)?;
    if let Some(status) = &status {
        status.set_nonblocking(true).map_err(failed)?;
    }
    Ok(Doors { socket, status, made })
}

/// The first Unix and the first TCP listener among the passed ones.
fn sort(mut passed: ListenFd) -> Result<(Option<UnixListener>, Option<TcpListener>), DoorError> {
    let (mut socket, mut status) = (None, None);
    for index in 0..passed.len() {
        if let Ok(Some(listener)) = passed.take_unix_listener(index) {
            socket.get_or_insert(listener);
        } else if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
            status.get_or_insert(listener);
        } else {
            return Err(DoorError::Passed(index));
        }
    }
    Ok((socket, status))
}

/// The passed listeners whose address is not the configured one: key, passed and configured address.
fn strangers(
    config: &Config,
    socket: Option<&UnixListener>,
    status: Option<&TcpListener>,
) -> Vec<(&'static str, String, String)> {
    let mut strangers = Vec::new();
    let path = socket.and_then(|socket| socket.local_addr().ok()?.as_pathname().map(Path::to_owned));
    if let Some(path) = path.filter(|path| *path != config.socket.path) {
        let configured = config.socket.path.display().to_string();
        strangers.push(("[socket] path", path.display().to_string(), configured));
    }
    if let Some(address) = status.and_then(|status| status.local_addr().ok())
        && !names(&config.status.listen, address)
    {
        strangers.push(("[status] listen", address.to_string(), config.status.listen.clone()));
    }
    strangers
}

/// Whether the configured address leads to this one. Empty, which switches the endpoint off, leads nowhere.
fn names(configured: &str, address: SocketAddr) -> bool {
    configured.to_socket_addrs().is_ok_and(|mut all| all.any(|one| one == address))
}

fn bind_socket(settings: &Socket) -> Result<UnixListener, DoorError> {
    let path = &settings.path;
    let failed = |what| move |source: io::Error| DoorError::Socket { what, path: path.clone(), source };
    let group = group(&settings.group)?;
    if let Some(dir) = path.parent() {
        // The system's directory has to let agents through to the socket; a user's own need not.
        let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
        let dir_made = fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
        dir_made.map_err(failed("create the directory of"))?;
    }
    remove_stale(path)?;
    // The file gets the mode of the socket itself, less the umask (unix(7)); so it is never wider than this,
    // and no umask has to be changed under threads that create files of their own.
    let listen = || -> rustix::io::Result<rustix::fd::OwnedFd> {
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o600 & settings.mode))?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path.as_path())?)?;
        Ok(fd)
    };
    let fd = listen().map_err(|error| failed("bind")(error.into()))?;
    if group.is_some() {
        rustix::fs::chown(path, None, group).map_err(|error| failed("give the group to")(error.into()))?;
    }
    let mode = fs::Permissions::from_mode(settings.mode);
    fs::set_permissions(path, mode).map_err(failed("set the mode of"))?;
    // Only now can anyone connect.
    rustix::net::listen(&fd, BACKLOG).map_err(|error| failed("listen on")(error.into()))?;
    Ok(UnixListener::from(fd))
}

/// Removes the socket of a daemon that is gone.
fn remove_stale(path: &Path) -> Result<(), DoorError> {
    let failed = |what| move |source| DoorError::Socket { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(DoorError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(DoorError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale"))
        }
        Err(error) => Err(failed("connect to")(error)),
    }
}

/// The gid of a group given by name or number; none if empty.
fn group(name: &str) -> Result<Option<Gid>, DoorError> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = name.parse() {
        return Ok(Some(Gid::from_raw(number)));
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.map(|number| Some(Gid::from_raw(number))).ok_or_else(|| DoorError::NoSuchGroup(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(path: PathBuf) -> Socket {
        Socket { path, mode: 0o660, group: String::new() }
    }

    #[test]
    fn stale_socket_is_replaced_and_has_the_configured_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/s");
        fs::create_dir(dir.path().join("deep")).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let listener = bind_socket(&settings(path.clone())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        drop(listener);
    }

    #[test]
    fn socket_of_a_living_daemon_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _first = bind_socket(&settings(path.clone())).unwrap();
        assert!(matches!(bind_socket(&settings(path.clone())), Err(DoorError::InUse(_))));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind_socket(&settings(path.clone())), Err(DoorError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn taken_port_is_told_by_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config { socket: settings(dir.path().join("s")), ..Config::default() };
        config.status.listen = taken.local_addr().unwrap().to_string();
        let error = open(&config, ListenFd::empty()).map(|_| ()).expect_err("the port is taken");
        assert!(error.to_string().contains(&config.status.listen), "{error}");
    }

    #[test]
    fn passed_listener_that_the_configuration_does_not_have_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixListener::bind(dir.path().join("s")).unwrap();
        let status = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config { socket: settings(dir.path().join("s")), ..Config::default() };
        config.status.listen = status.local_addr().unwrap().to_string();
        assert_eq!(strangers(&config, Some(&socket), Some(&status)), []);
        assert_eq!(strangers(&config, None, None), []);
        config.socket.path = dir.path().join("other");
        config.status.listen = String::new();
        let keys: Vec<_> =
            strangers(&config, Some(&socket), Some(&status)).into_iter().map(|(key, ..)| key).collect();
        assert_eq!(keys, ["[socket] path", "[status] listen"]);
    }

    #[test]
    fn group_is_found_by_name_or_number() {
        assert_eq!(group("").unwrap(), None);
        assert_eq!(group("4711").unwrap(), Some(Gid::from_raw(4711)));
        assert_eq!(group("root").unwrap(), Some(Gid::from_raw(0)));
        assert!(matches!(group("no such group"), Err(DoorError::NoSuchGroup(_))));
    }
}
