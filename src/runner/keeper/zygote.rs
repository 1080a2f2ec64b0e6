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
use std::process::ExitCode;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::words::{Cannot, line};
use crate::runner::spawn;

/// Serves the daemon at the other end of standard input until it is gone.
pub(super) fn serve() -> ExitCode {
    // Every keeper needs to know it, and none can have others.
    spawn::inherited();
    warm_up();
    match serve_streams() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(&format!("cannot serve: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Finds out what every keeper would find out for itself, none of it about its order. To ask the processor what it can do
/// takes a virtual machine longer than it takes to make a file.
fn warm_up() {
    std::hint::black_box(memchr::memchr(b'k', std::hint::black_box(b"actiond")));
    std::hint::black_box(std::hash::RandomState::new());
}

fn serve_streams() -> io::Result<()> {
    #[expect(unsafe_code, reason = "signal(2) is only unsafe with a handler that is not safe: this is none")]
    // Nobody asks how a keeper ended. So the kernel forgets them by itself, and the zygote is not woken for it.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let daemon = io::stdin();
    while let Some(stream) = receive(daemon.as_fd())? {
        #[expect(
            unsafe_code,
            reason = "fork(2) is only unsafe in a process with several threads: this one has one"
        )]
        let forked = unsafe { fork() };
        match forked {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                // What the daemon sends from now on is not for a keeper.
                let left = rustix::stdio::dup2_stdin(&nothing);
                drop(nothing);
                left?;
                // The zygote leads its session, its fork leads none: this cannot fail.
                rustix::process::setsid()?;
                super::keep(stream.into());
                // Not through the zygote's own way out: it ends with its keeper.
                super::end();
            }
            Err(errno) => {
                let cannot = Cannot { cannot: "cannot fork a keeper".to_owned(), errno: Some(errno as i32) };
                let _ = rustix::io::write(&stream, &line(&cannot));
            }
        }
    }
    Ok(())
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
