//! Who talks with the keeper: the daemon, over the stream it started the keeper with or over the socket, and the program.
//!
//! The socket may be open to everybody: what somebody may say depends on who he is, as the kernel knows him
//! (`SO_PEERCRED`, unix(7)). Nothing here blocks, and all of it is bounded.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::address::Address;
use super::place::{Ended, EndedLine, with_end};
use super::words::{Answer, WORD_BYTES_MAX, Word, line};
use crate::crash_point::crash_point;
use crate::runner::proc::is_shortage;

/// Connections of the program at once, and as many of others. A program asks and waits for its answer; the daemon has
/// one, and the program cannot keep it out.
const PEERS_MAX: usize = 64;
/// How long the daemon may take to record how the attempt ended.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// Taken of a connection at once: at first, and of a word that is longer than that.
const READ_BYTES_FIRST: usize = 8 << 10;
const READ_BYTES: usize = 64 << 10;
/// Of those, words that are answered before others get their turn: a word may take a sync of the disk.
const WORDS_MAX: usize = 4;
const BACKLOG: i32 = 64;
/// Taken of those who knock at once.
const ACCEPTED_MAX: usize = BACKLOG as usize;
/// Before others are looked after, while there are no descriptors for those who knock.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(5);

/// The keeper's socket and all who are connected.
pub(super) struct Peers {
    listener: UnixListener,
    path: PathBuf,
    all: Vec<Peer>,
}

/// What somebody may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    /// Follow and stop.
    pub(super) is_daemon: bool,
    /// Everything else.
    pub(super) is_program: bool,
}

struct Peer {
    stream: UnixStream,
    rights: Rights,
    text: Vec<u8>,
    /// Answers that it has not taken yet: a value is longer than what a socket holds.
    unsent: Vec<u8>,
    follows: bool,
    /// The stream that the keeper was started with.
    is_first: bool,
}

/// Those of a stranger, and of who is gone.
const NONE: Rights = Rights { is_daemon: false, is_program: false };

/// What came from one peer.
pub(super) struct Heard {
    /// Each with whether it is understood.
    pub(super) words: Vec<Result<Word, String>>,
    pub(super) rights: Rights,
    /// The daemon that started the keeper is gone.
    pub(super) has_lost_daemon: bool,
}

impl Peers {
    /// Listens, and follows nobody yet but the daemon that started the keeper. `early` came from it before this.
    pub(super) fn listen(path: &Path, mode: Mode) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode of the socket itself, less the umask (unix(7)).
        rustix::fs::fchmod(&socket, mode)?;
        let umask = rustix::process::umask(Mode::empty());
        let bound = bind(&socket, path);
        rustix::process::umask(umask);
        bound.map_err(|error| {
            if is_shortage(&error) {
                return error;
            }
            io::Error::new(error.kind(), format!("its keeper cannot listen at {}: {error}", path.display()))
        })?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { listener: socket.into(), path: path.to_owned(), all: Vec::new() })
    }

    /// Takes the daemon's own stream among them.
    pub(super) fn follow(&mut self, daemon: UnixStream, early: Vec<u8>) -> io::Result<()> {
        daemon.set_nonblocking(true)?;
        let rights = Rights { is_daemon: true, is_program: false };
        self.all.push(Peer {
            stream: daemon,
            rights,
            text: early,
            unsent: Vec::new(),
            follows: true,
            is_first: true,
        });
        Ok(())
    }

    /// To be waited for: the listener, then each peer in its order.
    pub(super) fn sources(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let listener = (self.listener.as_fd(), PollFlags::IN);
        // Who does not take its answers is not heard either: so they cannot pile up.
        let wants = |peer: &Peer| if peer.unsent.is_empty() { PollFlags::IN } else { PollFlags::OUT };
        std::iter::once(listener).chain(self.all.iter().map(move |peer| (peer.stream.as_fd(), wants(peer))))
    }

    /// Takes those who knock. `is_program` says whether a pid belongs to the program.
    pub(super) fn accept(&mut self, is_program: impl Fn(u32) -> bool) {
        for _ in 0..ACCEPTED_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if is_shortage(&error) && error.kind() != io::ErrorKind::WouldBlock {
                        // They go on knocking: without a pause this would be all that the keeper does.
                        std::thread::sleep(SHORTAGE_PAUSE);
                    }
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let Ok(who) = socket_peercred(&stream) else { continue };
            let own = rustix::process::geteuid();
            let pid = u32::try_from(who.pid.as_raw_nonzero().get()).unwrap_or(0);
            let rights =
                Rights { is_daemon: who.uid == own || who.uid.is_root(), is_program: is_program(pid) };
            let alike = self.all.iter().filter(|peer| peer.rights.is_program == rights.is_program).count();
            if rights == NONE || alike >= PEERS_MAX {
                let answer = if rights == NONE { Answer::NotAllowed } else { Answer::Busy };
                // What does not fit into the empty socket is no answer of these.
                let _ = rustix::net::send(&stream, &line(&answer), SendFlags::NOSIGNAL);
                continue;
            }
            let (text, unsent) = (Vec::new(), Vec::new());
            self.all.push(Peer { stream, rights, text, unsent, follows: false, is_first: false });
        }
    }

    /// Whether a peer has said more than it was asked for, and takes its answers: it need not be waited for.
    pub(super) fn has_word(&self, index: usize) -> bool {
        self.all.get(index).is_some_and(|peer| peer.unsent.is_empty() && peer.has_word())
    }

    /// Whether any has.
    pub(super) fn have_words(&self) -> bool {
        (0..self.all.len()).any(|index| self.has_word(index))
    }

    /// What a peer said; it is let go if it has ended or misbehaved, which [`Self::sweep`] completes.
    pub(super) fn hear(&mut self, index: usize) -> Option<Heard> {
        let peer = self.all.get_mut(index)?;
        if !peer.unsent.is_empty() {
            peer.send();
            return None;
        }
        let has_ended = !peer.has_word() && peer.read();
        let (mut words, mut taken) = (Vec::new(), 0);
        for at in memchr::memchr_iter(b'\n', &peer.text).take(WORDS_MAX) {
            let text = peer.text.get(taken..at).unwrap_or_default();
            words.push(serde_json::from_slice(text).map_err(|error| format!("not understood: {error}")));
            taken = at + 1;
        }
        peer.text.drain(..taken);
        let is_lost = has_ended || peer.text.len() > WORD_BYTES_MAX;
        let heard = Heard { words, rights: peer.rights, has_lost_daemon: is_lost && peer.is_first };
        if is_lost {
            peer.close();
        }
        Some(heard)
    }

    /// Answers a peer, or begins to.
    pub(super) fn answer(&mut self, index: usize, answer: &Answer) {
        if let Some(peer) = self.all.get_mut(index) {
            peer.unsent.extend(line(answer));
            peer.send();
        }
    }

    /// This peer gets the news from now on.
    pub(super) fn set_follower(&mut self, index: usize) {
        if let Some(peer) = self.all.get_mut(index) {
            peer.follows = true;
        }
    }

    /// Tells a piece of news. Whoever has not taken the last ones looks at everything once he does.
    pub(super) fn tell(&mut self, news: u8) {
        for peer in self.all.iter_mut().filter(|peer| peer.follows) {
            match rustix::net::send(&peer.stream, &[news], SendFlags::NOSIGNAL) {
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => peer.close(),
            }
        }
    }

    /// Tells the daemon how the attempt ended; true once it says that this is durable. False if there is no daemon, or
    /// it does not say so for a while.
    pub(super) fn hand_over(&mut self, ended: &Ended) -> bool {
        let until = Instant::now() + HAND_OVER_MAX;
        let text = line(&EndedLine { ended: ended.clone() });
        for peer in self.all.iter_mut().filter(|peer| peer.follows) {
            let told = peer.stream.set_nonblocking(false).is_ok()
                && peer.stream.set_write_timeout(Some(HAND_OVER_MAX)).is_ok()
                && peer.stream.write_all(&text).is_ok()
                && peer.stream.set_nonblocking(true).is_ok();
            if !told {
                peer.close();
            }
        }
        crash_point("keeper_told_end");
        loop {
            self.all.retain(|peer| peer.follows);
            let left = until.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { return false };
            if self.all.is_empty() || Instant::now() >= until {
                return false;
            }
            let mut sources: Vec<PollFd<'_>> =
                self.all.iter().map(|peer| PollFd::new(&peer.stream, PollFlags::IN)).collect();
            let _ = poll(&mut sources, Some(&left));
            for index in 0..self.all.len() {
                let words = self.hear(index).map(|heard| heard.words).unwrap_or_default();
                if words.iter().any(|word| matches!(word, Ok(Word::Recorded))) {
                    return true;
                }
            }
        }
    }

    /// Forgets those who are gone. Their numbers change with this.
    pub(super) fn sweep(&mut self) {
        self.all.retain(|peer| !peer.is_closed());
    }
}

/// Gives the socket its name, in place of one that an earlier keeper of the attempt left.
fn bind(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    let bind = || Ok::<_, io::Error>(rustix::net::bind(socket, &Address::of(path)?.address)?);
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Somebody has removed the directory, which the daemon makes at its start only.
            let dir = path.parent().unwrap_or(Path::new("/"));
            let _ = std::fs::DirBuilder::new().mode(0o711).create(dir);
        }
        bound => return bound,
    }
    bind()
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(with_end(&self.path, ".report"));
    }
}

impl Peer {
    fn has_word(&self) -> bool {
        memchr::memchr(b'\n', &self.text).is_some()
    }

    /// Takes some of what is there; true if nothing more will come.
    fn read(&mut self) -> bool {
        let room = if self.text.is_empty() { READ_BYTES_FIRST } else { READ_BYTES };
        let mut bytes = Vec::with_capacity(room);
        match rustix::io::read(&self.stream, spare_capacity(&mut bytes)) {
            Ok(1..) => self.text.append(&mut bytes),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
        false
    }

    /// Sends what it takes now. One that has gone is let go.
    fn send(&mut self) {
        match rustix::net::send(&self.stream, &self.unsent, SendFlags::NOSIGNAL) {
            Ok(sent) => drop(self.unsent.drain(..sent.min(self.unsent.len()))),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.close(),
        }
    }

    /// Gone: neither heard nor told any more. That it was the first is still to be heard at its end.
    fn close(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.follows = false;
        self.rights = NONE;
    }

    fn is_closed(&self) -> bool {
        !self.follows && self.rights == NONE
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn flood_of_words_is_taken_in_small_parts() {
        let home = tempfile::tempdir().unwrap();
        let mut peers = Peers::listen(&home.path().join("s"), Mode::RUSR | Mode::WUSR).unwrap();
        let (mut own, its) = UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        assert!(!peers.have_words());
        let early = b"{\"word\":\"stop\",\"grace_ms\":1,\"why\":\"cancel\"}\n{\"word\":\"fol".to_vec();
        peers.follow(its, early).unwrap();
        assert!(peers.have_words(), "although nothing more may ever come");
        let heard = peers.hear(0).unwrap();
        assert!(matches!(heard.words.as_slice(), [Ok(Word::Stop { .. })]), "what came early is heard");
        own.write_all(b"low\"}\n").unwrap();
        assert!(matches!(peers.hear(0).unwrap().words.as_slice(), [Ok(Word::Follow)]));
        let mut sent = 0;
        while let Ok(length) = own.write(&[b'\n'; 4_096]) {
            sent += length;
        }
        assert!(sent > READ_BYTES);
        let mut taken = 0;
        while taken < sent {
            let count = peers.hear(0).unwrap().words.len();
            assert!((1..=WORDS_MAX).contains(&count), "{count}");
            taken += count;
            assert!(peers.has_word(0) || taken % READ_BYTES_FIRST == 0 || taken == sent);
        }
        assert!(!peers.have_words());
    }

    #[test]
    fn daemon_is_missed_although_it_was_let_go_before_its_end_was_heard() {
        let home = tempfile::tempdir().unwrap();
        let mut peers = Peers::listen(&home.path().join("s"), Mode::RUSR | Mode::WUSR).unwrap();
        let (own, its) = UnixStream::pair().unwrap();
        peers.follow(its, Vec::new()).unwrap();
        drop(own);
        peers.tell(b'l');
        assert!(peers.hear(0).unwrap().has_lost_daemon);
        peers.sweep();
        assert!(peers.hear(0).is_none());
    }
}
