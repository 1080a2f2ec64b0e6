//! One attempt from the start of its program to its outcome, in one thread that waits for whatever happens next.
//!
//! ```text
//!  Running ──(the program has ended, and left nothing)──────────────────────────▶ over
//!     └─(it left something, or is told to stop)─▶ Ending: SIGTERM ─ grace ─▶ SIGKILL ─▶ nothing is alive ─▶ over
//!                                                                            └─ 5 s ─▶ over, with what is alive
//! ```
//!
//! Meanwhile its output is copied on, so that a program that is being ended is never blocked by a full pipe. The program
//! is not reaped before the end: its pid, which is also the number of its session, cannot come to mean another.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use super::ending::{Ending, Stand};
use super::leaf::Leaf;
use super::memory::Memory;
use super::pages::Pages;
use super::peers::Peers;
use super::pipes::Output;
use super::place::{AttemptPlace, Ended, Owned};
use super::start::{Fault, Started, start};
use super::statements::Statements;
use super::words::{Answer, HEARD, LOGGED, Order, STATED, StopWhy, VERSION, Word};
use crate::action::{ActionId, Program};
use crate::crash_point::crash_point;
use crate::runner::logs::{LogWriter, Logs, Stream};
use crate::runner::orphans;
use crate::runner::output::Lines;
use crate::runner::proc::Process;
use crate::runner::report::{self, parse};
use crate::runner::spawn::Child;
use crate::runner::tree::{Search, describe};

/// Who follows the log is told no more often.
const LOG_NEWS_EVERY: Duration = Duration::from_millis(50);
/// Taken of the reports at once.
const READ_BYTES: usize = 8 << 10;
/// Reads of the reports of an ended program: see `pipes`.
const REST_READS_MAX: u32 = 256;
/// Before another wait, if the kernel could not wait.
const WAIT_PAUSE: Duration = Duration::from_millis(10);
/// A program's parents that are looked through for the keeper.
const DEPTH_MAX: usize = 256;

/// Everything that can be made before the gate opens.
pub(super) struct Prepared {
    order: Order,
    input: Vec<u8>,
    place: AttemptPlace,
    peers: Peers,
    signals: Signals,
}

/// What the kernel tells the keeper: SIGCHLD, and SIGTERM.
struct Signals {
    told: SignalFd,
}

/// The keeper at its work.
pub(super) struct Life {
    order: Order,
    place: AttemptPlace,
    log: LogWriter,
    peers: Peers,
    signals: Signals,
    child: Child,
    leaf: Option<Leaf>,
    program: Program,
    /// What the program has not taken of its input yet.
    feed: Option<(OwnedFd, Vec<u8>)>,
    outputs: [Output; 2],
    reports: File,
    report_lines: Lines,
    memory: Memory,
    ending: Option<Ending>,
    stopped: Option<StopWhy>,
    /// Followers have not been told yet that the log has grown.
    log_news: bool,
    log_told_at: Option<Instant>,
    pages: Pages,
}

/// How the attempt stands.
enum Now {
    GoesOn,
    /// With what is still alive of it, in words.
    Over(Option<String>),
}

/// What a source of the loop is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Feed,
    Output(usize),
    Reports,
    Listener,
    Peer(usize),
}

impl Signals {
    fn listen() -> io::Result<Self> {
        #[expect(
            unsafe_code,
            reason = "signal(2) is only unsafe with a handler that is not safe: this is none"
        )]
        // Where this is ignored, how the program ended is lost with it; the zygote does so.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
        let all = SigSet::from_iter([Signal::SIGTERM, Signal::SIGCHLD]);
        // The program gets them back: see `spawn`.
        all.thread_block()?;
        Ok(Self { told: SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// What came since the last time; true if the keeper is told to end.
    fn take(&self) -> bool {
        let mut is_told_to_end = false;
        while let Ok(Some(told)) = self.told.read_signal() {
            is_told_to_end |= told.ssi_signo == Signal::SIGTERM as u32;
        }
        is_told_to_end
    }
}

impl Prepared {
    pub(super) fn new(order: Order, input: Vec<u8>, place: AttemptPlace) -> io::Result<Self> {
        // A program of another user has to reach it. What anybody may say depends on who he is.
        let mode = if order.user.is_some() { 0o666 } else { 0o600 };
        let peers = Peers::listen(&order.socket, Mode::from_raw_mode(mode))?;
        make_fifo(&order.fifo())?;
        let signals = Signals::listen()?;
        // From here on every process that loses its parent below this one comes here.
        orphans::are_adopted();
        Ok(Self { order, input, place, peers, signals })
    }

    /// Starts the program and carries its attempt to the end.
    pub(super) fn run(self, mut owned: Owned, daemon: UnixStream, early: Vec<u8>) -> io::Result<()> {
        let Self { order, input, place, mut peers, signals } = self;
        peers.follow(daemon, early)?;
        let Started { child, program, feed, outputs: [out, err], reports, leaf } = match start(&order) {
            Ok(started) => started,
            Err(Fault { told, was_short }) => {
                let ended = Ended { version: VERSION, fault: Some(told), was_short, ..Ended::default() };
                return leave(&mut peers, &place, false, &ended);
            }
        };
        // The program runs: from here on there is no error that its keeper may leave it for. Without this note it is
        // still found by its mark and its parent.
        let _ = owned.note_program(program);
        drop(owned);
        let log = order.log.as_ref().map_or_else(LogWriter::nowhere, |log| {
            Logs::new(log.dir.clone(), log.bytes_max).writer(ActionId(order.id), order.attempt)
        });
        let memory = Memory::new(&order, Statements::at(place.statements()));
        let life = Life {
            log,
            peers,
            signals,
            child,
            leaf,
            program,
            feed: Some((feed, input)),
            outputs: [Output::new(out, Stream::Stdout), Output::new(err, Stream::Stderr)],
            reports,
            report_lines: Lines::new(report::LINE_BYTES_MAX),
            memory,
            ending: None,
            stopped: None,
            log_news: false,
            log_told_at: None,
            pages: Pages::used(),
            order,
            place,
        };
        life.run()
    }
}

impl Life {
    fn run(mut self) -> io::Result<()> {
        // Nearly always all of it, at once.
        self.feed();
        let alive = loop {
            self.wait();
            if let Now::Over(alive) = self.step() {
                break alive;
            }
        };
        self.finish(alive)
    }

    /// Waits until something is to be done, and does what came from outside.
    fn wait(&mut self) {
        let (kinds, ready) = {
            let sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = self.sources().collect();
            let mut polled: Vec<PollFd<'_>> =
                sources.iter().map(|(_, source, flags)| PollFd::from_borrowed_fd(*source, *flags)).collect();
            match poll(&mut polled, self.patience().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // Short of memory: that passes.
                Err(_) => std::thread::sleep(WAIT_PAUSE),
            }
            let ready = polled.iter().zip(&sources).map(|(polled, (kind, ..))| {
                let has_word = matches!(kind, Source::Peer(index) if self.peers.has_word(*index));
                has_word || !polled.revents().is_empty()
            });
            let ready: Vec<bool> = ready.collect();
            (sources.iter().map(|(kind, ..)| *kind).collect::<Vec<_>>(), ready)
        };
        let ready = kinds.into_iter().zip(ready).filter(|(_, is_ready)| *is_ready);
        for (kind, _) in ready.collect::<Vec<_>>() {
            self.pages.are_used();
            match kind {
                Source::Signals => self.see_signals(),
                Source::Feed => self.feed(),
                Source::Output(index) => self.copy(index),
                Source::Reports => {
                    self.listen();
                }
                Source::Peer(index) => self.hear(index),
                Source::Listener => {
                    let (keeper, session) = (std::process::id(), self.program.pid);
                    self.peers.accept(|pid| is_below(pid, keeper, session));
                }
            }
        }
        self.peers.sweep();
    }

    fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let child = (Source::Signals, self.signals.told.as_fd(), PollFlags::IN);
        let reports = (Source::Reports, self.reports.as_fd(), PollFlags::IN);
        let feed = self.feed.as_ref().map(|(feed, _)| (Source::Feed, feed.as_fd(), PollFlags::OUT));
        let outputs = self.outputs.iter().enumerate().filter_map(|(index, output)| {
            Some((Source::Output(index), output.pipe()?.as_fd(), PollFlags::IN))
        });
        let peers = self.peers.sources().enumerate().map(|(index, (peer, flags))| {
            (index.checked_sub(1).map_or(Source::Listener, Source::Peer), peer, flags)
        });
        [child, reports].into_iter().chain(feed).chain(outputs).chain(peers)
    }

    /// How long nothing needs to be done if nothing happens; none is for ever.
    fn patience(&self) -> Option<Timespec> {
        if self.peers.have_words() {
            return Some(Timespec::default());
        }
        let log_due = self.log_told_at.filter(|_| self.log_news).map(|at| at + LOG_NEWS_EVERY);
        let ending = self.ending.as_ref().map(Ending::due);
        let due =
            [log_due, ending, self.memory.statements.due(), self.pages.due()].into_iter().flatten().min()?;
        Timespec::try_from(due.saturating_duration_since(Instant::now())).ok()
    }

    /// Goes on with the attempt.
    fn step(&mut self) -> Now {
        self.pages.step();
        let told = self.memory.statements.catch_up(false).unwrap_or(false);
        if told || std::mem::take(&mut self.memory.has_news) {
            self.peers.tell(STATED);
        }
        if self.log_news && self.log_told_at.is_none_or(|at| at.elapsed() >= LOG_NEWS_EVERY) {
            (self.log_news, self.log_told_at) = (false, Some(Instant::now()));
            self.peers.tell(LOGGED);
        }
        if self.ending.is_none() && self.child.has_ended().unwrap_or(true) {
            match self.left() {
                Ok(None) => return Now::Over(None),
                Ok(Some(left)) => {
                    self.say(&format!("the program has ended; ending what it left: {}", describe(&left)));
                    let grace = Duration::from_millis(self.order.kill_grace_ms);
                    self.ending = Some(Ending::new(grace, self.first(), self.leaf.as_ref()));
                }
                Err(error) => return Now::Over(Some(cannot_look(&error))),
            }
        }
        let (search, group) = (self.search(), self.program.pid);
        let Some(ending) = &mut self.ending else { return Now::GoesOn };
        match ending.step(&search, group, self.leaf.as_ref()) {
            Ok(Stand::GoesOn) => Now::GoesOn,
            Ok(Stand::Over) => Now::Over(None),
            Ok(Stand::GivenUp(alive)) => Now::Over(Some(describe(&alive))),
            Err(error) => Now::Over(Some(cannot_look(&error))),
        }
    }

    /// What the program left alive when it ended, if anything. Not all of what forks and ends without a pause is found.
    fn left(&self) -> io::Result<Option<Vec<Process>>> {
        if orphans::none_but(self.program.pid)? {
            return Ok(None);
        }
        let left: Vec<Process> = self.search().find()?.into_iter().map(|(_, process)| process).collect();
        let is_unsure = left.is_empty() && orphans::are_adopted() && !orphans::none_but(self.program.pid)?;
        Ok((is_unsure || !left.is_empty()).then_some(left))
    }

    fn search(&self) -> Search {
        Search {
            mark: self.order.mark.clone(),
            known: vec![(ActionId(self.order.id), self.program)],
            below: Some((ActionId(self.order.id), std::process::id())),
            spared: HashSet::new(),
            since_ticks: self.program.start_ticks,
        }
    }

    /// Some child has ended, the program or one that came here, and the latter are reaped; or the keeper is to end.
    fn see_signals(&mut self) {
        if self.signals.take() {
            self.stop(StopWhy::Signal, Duration::from_millis(self.order.kill_grace_ms));
        }
        let _ = orphans::none_but(self.program.pid);
        if let Some(ending) = &mut self.ending {
            ending.hurry();
        }
    }

    /// Gives the program more of its input. One that does not take it does no harm.
    fn feed(&mut self) {
        let Some((feed, rest)) = &mut self.feed else { return };
        match rustix::io::write(&*feed, rest) {
            Ok(length) if length < rest.len() => drop(rest.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // All of it, or it has closed its input.
            Ok(_) | Err(_) => self.feed = None,
        }
    }

    fn copy(&mut self, index: usize) {
        if let Some(output) = self.outputs.get_mut(index) {
            self.log_news |= output.copy(&self.log, &self.memory.secrets);
        }
    }

    /// Takes reports; false if there were none.
    fn listen(&mut self) -> bool {
        let mut bytes = Vec::with_capacity(READ_BYTES);
        let Ok(1..) = rustix::io::read(&self.reports, spare_capacity(&mut bytes)) else { return false };
        let mut reports = Vec::new();
        self.report_lines.push(&bytes, |line, left_out| parse(line, left_out, &mut reports));
        for report in reports {
            self.memory.hear(report, &self.log);
        }
        self.log_news = true;
        true
    }

    fn hear(&mut self, index: usize) {
        let Some(heard) = self.peers.hear(index) else { return };
        for word in heard.words {
            let answer = match word {
                Err(why) => Answer::Refused(why),
                Ok(Word::Go | Word::Recorded) => continue,
                Ok(Word::Follow) if heard.rights.is_daemon => {
                    self.peers.set_follower(index);
                    // What came while nobody followed was told to nobody.
                    (self.memory.has_news, self.log_news) = (true, true);
                    continue;
                }
                Ok(Word::Stop { grace_ms, why }) if heard.rights.is_daemon => {
                    self.stop(why, Duration::from_millis(grace_ms));
                    self.peers.tell(HEARD);
                    continue;
                }
                Ok(Word::WhyStopped) if heard.rights.is_program => {
                    Answer::Value(self.stopped.map(|why| why.as_str().to_owned()))
                }
                Ok(word) if heard.rights.is_program => self.memory.take(word),
                Ok(_) => Answer::NotAllowed,
            };
            self.peers.answer(index, &answer);
        }
        if heard.has_lost_daemon && !self.order.outlives_daemon {
            self.stop(StopWhy::Daemon, Duration::from_millis(self.order.kill_grace_ms));
        }
    }

    /// Who is to end before anybody else is asked to.
    fn first(&self) -> Option<Program> {
        self.order.asks_program_only.then_some(self.program)
    }

    /// A second word does not make it longer.
    fn stop(&mut self, why: StopWhy, grace: Duration) {
        if self.stopped.is_none() {
            self.stopped = Some(why);
            self.ending = Some(Ending::new(grace, self.first(), self.leaf.as_ref()));
        }
    }

    fn say(&mut self, text: &str) {
        self.log.line(Stream::Daemon, text.as_bytes());
        self.log_news = true;
    }

    /// Nothing is alive, or nothing can be done about it: reads what is left and writes how it ended.
    fn finish(mut self, alive: Option<String>) -> io::Result<()> {
        for output in &mut self.outputs {
            output.finish(&self.log, &self.memory.secrets);
        }
        for _ in 0..REST_READS_MAX {
            if !self.listen() {
                break;
            }
        }
        let mut reports = Vec::new();
        let lines = std::mem::replace(&mut self.report_lines, Lines::new(0));
        lines.finish(|line, left_out| parse(line, left_out, &mut reports));
        for report in reports {
            self.memory.hear(report, &self.log);
        }
        let _ = self.memory.statements.catch_up(true);
        crash_point("keeper_program_ended");
        let status = self.child.reap().unwrap_or_default();
        let has_succeeded = status.is_some_and(|status| status.success());
        let [out, err] = &self.outputs;
        let ended = Ended {
            version: VERSION,
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            fault: self.memory.skipped().filter(|_| has_succeeded),
            was_short: false,
            message: self.memory.message.take(),
            result: self.memory.result.take(),
            printed: err.quoted().or_else(|| out.quoted()),
            stopped: self.stopped,
            alive,
        };
        leave(&mut self.peers, &self.place, self.memory.statements.has_any(), &ended)
    }
}

/// Tells how it ended. Unless the daemon says that this is durable, it is written down for the next one.
fn leave(peers: &mut Peers, place: &AttemptPlace, has_statements: bool, ended: &Ended) -> io::Result<()> {
    if peers.hand_over(ended) {
        return place.remove_own(has_statements);
    }
    place.end_patiently(ended)
}

/// One that an earlier keeper of the same attempt left is used again: it never got its go.
fn make_fifo(path: &Path) -> io::Result<()> {
    match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Err(Errno::EXIST) => Ok(()),
        made => Ok(made?),
    }
}

fn cannot_look(error: &io::Error) -> String {
    // Who cannot look for processes does not know that they are gone: the resource stays locked.
    format!("cannot look for its processes: {error}")
}

/// Whether a process is of that session, or descends from the keeper.
fn is_below(pid: u32, keeper: u32, session: u32) -> bool {
    let mut pid = pid;
    for _ in 0..DEPTH_MAX {
        match Process::read(pid) {
            Ok(Some(process)) if process.session == session || process.parent == keeper => return true,
            Ok(Some(process)) if process.parent > 1 => pid = process.parent,
            _ => return false,
        }
    }
    false
}
