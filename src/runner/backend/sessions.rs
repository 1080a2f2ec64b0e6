//! Keepers as processes in sessions of their own, on any host.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use tokio::sync::Mutex;

use super::{Backend, BoxFuture, Launch};
use crate::runner::spawn::{self, Child, Order};

/// Keepers as processes in sessions of their own, forked from one zygote, which is started with the first of them.
///
/// They live as long as their host, or the cgroup they are in: where a service manager ends that with the daemon, it
/// has to be told not to.
pub struct Sessions {
    /// This very binary.
    binary: PathBuf,
    zygote: Mutex<Option<Zygote>>,
}

struct Zygote {
    socket: OwnedFd,
    /// Killed when this is dropped; its keepers are not.
    _process: Child,
}

impl Sessions {
    #[must_use]
    pub fn new(binary: PathBuf) -> Self {
        Self { binary, zygote: Mutex::new(None) }
    }

    async fn start_zygote(&self) -> io::Result<Zygote> {
        use std::os::unix::ffi::OsStrExt as _;
        let program = std::ffi::CString::new(self.binary.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let argv = [c"actiond", c"keeper", c"zygote"].map(ToOwned::to_owned).to_vec();
        // One message a keeper, whole or not at all.
        let (socket, its_socket) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let nothing = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
        let complaints = io::stderr().as_fd().try_clone_to_owned()?;
        let descriptors = vec![its_socket, nothing.into(), complaints];
        let order = Order { program, argv, env: crate::crash_point::environment(), cwd: None, descriptors };
        let process = spawn::on_thread(move |thread| thread.spawn(&order)).await?;
        Ok(Zygote { socket, _process: process })
    }
}

impl Backend for Sessions {
    fn launch<'a>(&'a self, _launch: Launch<'a>, stream: OwnedFd) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let mut zygote = self.zygote.lock().await;
            for is_new in [zygote.is_none(), true] {
                if zygote.is_none() {
                    *zygote = Some(self.start_zygote().await?);
                }
                let Some(running) = &*zygote else { continue };
                match send(&running.socket, &stream) {
                    // It was killed: another one takes its place, once.
                    Err(error) if !is_new && error.kind() == io::ErrorKind::BrokenPipe => *zygote = None,
                    sent => return sent,
                }
            }
            Err(io::Error::other("the keepers' zygote ends as soon as it is started"))
        })
    }

    /// Nothing but the processes themselves.
    fn end<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// Hands a stream over.
fn send(socket: &OwnedFd, stream: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let streams = [stream.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&streams));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(socket, &[IoSlice::new(b"k")], &mut control, flags) {
        Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::NOTCONN) => {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        sent => Ok(sent.map(drop)?),
    }
}
