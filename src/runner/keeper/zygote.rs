//! The process from which keepers are forked.
//!
//! To execute this binary takes the kernel and the loader about a millisecond, longer than most programs need to start;
//! to fork a small process that has done so takes a tenth of that. So the daemon starts one process, with the first
//! program, and sends it a stream for each keeper: the keeper is a fork that leads a session of its own and gets its order
//! over that stream. Nothing of one order is ever in the memory of another keeper.
//!
//! It ends with the daemon: at the end of file of its socket. Its keepers go on.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::unistd::{ForkResult, fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::SIGCHLD;
use signal_hook::low_level::{pipe, unregister};

use super::words::{Cannot, line};
use crate::runner::spawn;

/// Serves the daemon at the other end of standard input until it is gone.
pub(super) fn serve() -> ExitCode {
    // Every keeper needs to know it, and none can have others.
    spawn::inherited();
    match serve_streams() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(&format!("cannot serve: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve_streams() -> io::Result<()> {
    let (ended, tell_ended) = UnixStream::pair()?;
    ended.set_nonblocking(true)?;
    let told = pipe::register(SIGCHLD, tell_ended)?;
    let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let daemon = io::stdin();
    loop {
        let mut sources = [PollFd::new(&daemon, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        match poll(&mut sources, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [is_asked, has_ended] = sources.map(|source| !source.revents().is_empty());
        if has_ended {
            reap(&ended);
        }
        if !is_asked {
            continue;
        }
        let Some(stream) = receive(daemon.as_fd())? else { return Ok(()) };
        #[expect(
            unsafe_code,
            reason = "fork(2) is only unsafe in a process with several threads: this one has one"
        )]
        let forked = unsafe { fork() };
        match forked {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                unregister(told);
                // What the daemon sends from now on is not for a keeper.
                let left = rustix::stdio::dup2_stdin(&nothing);
                drop((nothing, ended));
                left?;
                // The zygote leads its session, its fork leads none: this cannot fail.
                rustix::process::setsid()?;
                super::keep(stream.into());
                // Not through the zygote's own way out: it ends with its keeper.
                return Ok(());
            }
            Err(errno) => {
                let cannot = Cannot { cannot: "cannot fork a keeper".to_owned(), errno: Some(errno as i32) };
                let _ = rustix::io::write(&stream, &line(&cannot));
            }
        }
    }
}

/// The next stream; none at the end of file.
fn receive(daemon: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    loop {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            match recvmsg(daemon, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
        if received.bytes == 0 {
            return Ok(None);
        }
        let stream = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut streams) => streams.next(),
            _ => None,
        });
        // A message without one is no order.
        if stream.is_some() {
            return Ok(stream);
        }
    }
}

/// Reads how keepers ended, so that their pids are free.
fn reap(ended: &UnixStream) {
    let mut bytes = [0; 64];
    while rustix::io::read(ended, &mut bytes).is_ok_and(|length| length == bytes.len()) {}
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_)) | Err(Errno::INTR)) {}
}
