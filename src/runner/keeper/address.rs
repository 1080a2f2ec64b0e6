//! The address of a keeper's socket, however long its path is.
//!
//! An address holds 107 bytes (unix(7)); a longer path is reached through a descriptor of its directory.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const PATH_BYTES_MAX: usize = 107;

/// An address that holds as long as this does.
pub(crate) struct Address {
    pub(crate) address: SocketAddrUnix,
    _dir: Option<OwnedFd>,
}

impl Address {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self { address: SocketAddrUnix::new(path)?, _dir: None });
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
        Ok(Self { address: SocketAddrUnix::new(short)?, _dir: Some(dir) })
    }

    /// Connects to whoever listens there. It waits as long as others wait to be taken, but no longer than this, and so does
    /// each write later.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the time is over.
    pub(crate) fn connect_within(&self, patience: Duration) -> io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Bounds connect(2) as well (socket(7)).
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
        rustix::net::connect(&socket, &self.address)?;
        Ok(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn long_path_is_reached_as_a_short_one_is() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for path in [home.path().join("s"), deep.join("s")] {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
            let socket = socket.unwrap();
            rustix::net::bind(&socket, &Address::of(&path).unwrap().address).unwrap();
            rustix::net::listen(&socket, 1).unwrap();
            assert!(path.exists());
            let mut client = Address::of(&path).unwrap().connect_within(Duration::from_secs(5)).unwrap();
            let (mut server, _) = std::os::unix::net::UnixListener::from(socket).accept().unwrap();
            client.write_all(b"a").unwrap();
            server.read_exact(&mut [0]).unwrap();
        }
    }
}
