//! The daemon's end of a keeper: starts it, lets its program go, hears the news, finds it again after a restart.
//!
//! ```text
//!  start ─▶ Gated ── go ─▶ Kept ── next ─▶ News, ..., News::Over ─▶ ended
//!                  adopt ─▶ Kept
//! ```
//!
//! To drop any of these leaves a keeper that got its go alone, with its program; one at its gate ends. Used by
//! `handlers::exec`; needs a tokio runtime.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::backend::{Backend, Launch};
use super::keeper::address::Address;
use super::keeper::place::{AttemptPlace, Ended, EndedLine};
use super::keeper::statements::{Statement, StatementReader};
use super::keeper::words::{AtGate, Cannot, HEARD, LOGGED, Order, STATED, StopWhy, Word, line};
use super::proc::{self, Process};
use super::tree::{Search, describe};
use crate::action::{ActionId, Program};
use crate::crash_point::crash_point;

/// Longest answer of a keeper at its gate.
const ANSWER_BYTES_MAX: u64 = 4_096;

/// Longest wait for a keeper that lets nobody in, such as a stopped one. Holds up others: so it is short.
const CONNECT_PATIENCE: Duration = Duration::from_millis(50);

/// A mark that no process carries.
const NOBODYS: &str = "-";

/// Longer than any program runs.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// News taken at once.
const NEWS_BYTES: usize = 4_096;
/// Far fewer than a socket holds.
const MANY_NEWS: usize = 64;

/// Between two looks at a keeper that cannot be reached.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Beyond the grace, until a keeper that was told to end its attempt has heard that. One that has not cannot act, such as
/// one in a frozen cgroup, and then it is all ended from here.
const HEARS_WITHIN: Duration = Duration::from_millis(500);
/// Beyond the grace, until one that has heard it is done: longer than it tries.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Between SIGTERM and SIGKILL for what a killed keeper left.
const LEFT_PATIENCE: Duration = Duration::from_secs(1);

/// A keeper that waits at its gate.
pub(crate) struct Gated {
    stream: UnixStream,
    /// To be made durable before the go.
    pub(crate) keeper: Program,
    place: AttemptPlace,
}

/// A keeper that got its go, or what it left.
pub(crate) struct Kept {
    presence: Presence,
    keeper: Option<Program>,
    statements: StatementReader,
    has_unread: bool,
    /// The beginning of a line about the end.
    line: Vec<u8>,
    /// Told to stop, perhaps over a stream on which nobody listened.
    is_stopping: bool,
    place: AttemptPlace,
    patience: Option<Patience>,
}

/// With a keeper that was told to end its attempt.
#[derive(Clone, Copy)]
struct Patience {
    hears_until: Option<Instant>,
    ends_until: Instant,
}

/// How the daemon knows of a keeper.
enum Presence {
    Stream(UnixStream),
    /// It cannot be reached, such as when its socket is gone with all of /run: it is looked at now and then, and told
    /// to stop by a signal.
    Process(Program, AsyncFd<OwnedFd>),
    Ended,
}

/// What a keeper tells.
pub(crate) enum News {
    Stated(Vec<Statement>),
    /// The log has grown.
    Logged,
    /// The attempt has ended, and its keeper waits for that to be recorded: [`Kept::recorder`].
    Ended(Box<Ended>),
    /// The keeper has ended.
    Over,
}

/// Starts a keeper. It has started nothing when this returns, and never will unless it is told to go.
///
/// # Errors
///
/// There is no keeper; or its program could not even be tried, in words. Of the kind `ConnectionReset` if the keeper, or
/// what it was to be forked from, was killed: another one may do better.
pub(crate) async fn start(
    backend: &dyn Backend,
    launch: Launch<'_>,
    order: &Order,
    input: &[u8],
) -> io::Result<Gated> {
    let (own, its) = StdUnixStream::pair()?;
    own.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(own)?;
    backend.launch(launch, its.into()).await?;
    crash_point("program_ordered");
    let mut text = line(order);
    text.extend_from_slice(input);
    let answer = async {
        stream.write_all(&text).await?;
        let mut answer = String::new();
        // Nothing follows the answer before the go.
        BufReader::new((&mut stream).take(ANSWER_BYTES_MAX)).read_line(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let is_gone = |error: &dyn std::fmt::Display| {
        let told = format!("its keeper was killed before it reached its gate: {error}");
        io::Error::new(io::ErrorKind::ConnectionReset, told)
    };
    let answer = answer.await.map_err(|error| is_gone(&error))?;
    let Ok(at_gate) = serde_json::from_str::<AtGate>(&answer) else {
        return Err(match serde_json::from_str::<Cannot>(&answer) {
            Ok(Cannot { errno: Some(errno), cannot }) => {
                let error = io::Error::from_raw_os_error(errno);
                if proc::is_shortage(&error) { error } else { io::Error::other(cannot) }
            }
            Ok(Cannot { cannot, .. }) => io::Error::other(cannot),
            Err(_) => is_gone(&"it said nothing"),
        });
    };
    Ok(Gated { stream, keeper: at_gate.program(), place: AttemptPlace::at(order.place.clone()) })
}

impl Gated {
    /// Lets the program start.
    pub(crate) async fn go(self) -> Kept {
        // An error means that the keeper is gone, as its end tells too.
        let Self { mut stream, keeper, place } = self;
        let _ = stream.write_all(&line(&Word::Go)).await;
        let statements = StatementReader::new(&place.statements());
        Kept {
            presence: Presence::Stream(stream),
            keeper: Some(keeper),
            statements,
            has_unread: false,
            line: Vec::new(),
            is_stopping: false,
            place,
            patience: None,
        }
    }
}

impl Kept {
    /// Takes up an attempt whose keeper listens at that socket, or has ended.
    pub(crate) async fn adopt(place: AttemptPlace, socket: &Path, keeper: Option<Program>) -> Self {
        let connected = async {
            let stream = Address::of(socket)?.connect_within(CONNECT_PATIENCE)?;
            stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(stream)?;
            stream.write_all(&line(&Word::Follow)).await?;
            Ok::<_, io::Error>(stream)
        };
        // An outcome is the last that a keeper writes. Whoever has its pid by then, after a reboot for one, is a stranger.
        let has_ended = matches!(place.ended(), Ok(Some(_)));
        let presence = match connected.await {
            _ if has_ended => Presence::Ended,
            Ok(stream) => Presence::Stream(stream),
            Err(_) => Presence::without_stream(keeper),
        };
        let statements = StatementReader::new(&place.statements());
        Self {
            presence,
            keeper,
            statements,
            has_unread: true,
            line: Vec::new(),
            is_stopping: false,
            place,
            patience: None,
        }
    }

    /// The next piece of news. Can be dropped and called again. After [`News::Over`] there is none.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            if std::mem::take(&mut self.has_unread) {
                match self.statements.read() {
                    Ok(stated) if stated.is_empty() => {}
                    Ok(stated) => return News::Stated(last_of_each(stated)),
                    Err(error) => tracing::warn!(%error, "cannot read what a program stated"),
                }
            }
            let patience = self.patience.map(|patience| patience.hears_until.unwrap_or(patience.ends_until));
            match &mut self.presence {
                Presence::Ended => return News::Over,
                _ if patience.is_some_and(|until| until <= Instant::now()) => {
                    self.end_hung().await;
                    (self.presence, self.has_unread) = (Presence::Ended, true);
                }
                Presence::Process(_, handle) => {
                    let look = tokio::time::timeout(LOOK_EVERY, handle.readable()).await;
                    self.has_unread = true;
                    if look.is_ok() {
                        self.presence = Presence::Ended;
                    }
                    return News::Logged;
                }
                Presence::Stream(stream) => {
                    let mut news = [0; NEWS_BYTES];
                    let until = patience.unwrap_or_else(|| Instant::now() + FOREVER);
                    let Ok(read) = timeout_at(until, stream.read(&mut news)).await else { continue };
                    let length = read.unwrap_or(0);
                    let news = news.get(..length).unwrap_or_default();
                    if length == 0 {
                        self.has_unread = true;
                        // A keeper that only let go of this stream still has its program.
                        self.presence = match self.place.ended() {
                            Ok(Some(_)) => Presence::Ended,
                            _ => Presence::without_stream(self.keeper),
                        };
                        if self.is_stopping
                            && let Presence::Process(keeper, _) = &self.presence
                        {
                            let _ = proc::signal(*keeper, Signal::TERM);
                        }
                        continue;
                    }
                    // Once a line has begun, there is nothing else.
                    let begin = if self.line.is_empty() { memchr::memchr(b'{', news) } else { Some(0) };
                    let (news, line) = news.split_at(begin.unwrap_or(news.len()));
                    self.line.extend_from_slice(line);
                    // So many may have left no room for a further one: see the keeper's `Peers::tell`.
                    let is_full = news.len() >= MANY_NEWS;
                    self.has_unread = is_full || news.contains(&STATED);
                    if let Some(patience) =
                        self.patience.as_mut().filter(|_| is_full || news.contains(&HEARD))
                    {
                        patience.hears_until = None;
                    }
                    if line.last() == Some(&b'\n')
                        && let Ok(EndedLine { ended }) = serde_json::from_slice(&self.line)
                    {
                        return News::Ended(Box::new(ended));
                    }
                    if news.contains(&LOGGED) {
                        return News::Logged;
                    }
                }
            }
        }
    }

    /// Tells the keeper to end all of its attempt.
    pub(crate) async fn stop(&mut self, why: StopWhy, grace: Duration) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.is_stopping = true;
        let kill_at = Instant::now() + grace;
        let hears_until = matches!(self.presence, Presence::Stream(_)).then_some(kill_at + HEARS_WITHIN);
        self.patience = Some(Patience { hears_until, ends_until: kill_at + ENDS_WITHIN });
        if let Some(keeper) = self.keeper {
            // A stopped one would hear nothing.
            let _ = proc::signal(keeper, Signal::CONT);
        }
        match &mut self.presence {
            Presence::Stream(stream) => drop(stream.write_all(&line(&Word::Stop { grace_ms, why })).await),
            // With the grace of its order.
            Presence::Process(keeper, _) => drop(proc::signal(*keeper, Signal::TERM)),
            Presence::Ended => {}
        }
    }

    /// Kills all that is below a keeper that does not do it, and then the keeper: as long as that is there, nothing gets away
    /// from below it. What is left is found as what a killed keeper left.
    async fn end_hung(&self) {
        let Some(keeper) = self.keeper else { return };
        tracing::warn!(
            pid = keeper.pid,
            "a keeper does not end its attempt; it is ended with all that is below it"
        );
        let search = Search {
            mark: NOBODYS.to_owned(),
            known: Vec::new(),
            below: Some((ActionId(0), keeper.pid)),
            spared: HashSet::new(),
            since_ticks: keeper.start_ticks,
        };
        let ended = tokio::task::spawn_blocking(move || {
            if let Err(error) = search.end(Duration::ZERO, None) {
                tracing::warn!(pid = keeper.pid, %error, "cannot look for what is below a keeper");
            }
            let known = vec![(ActionId(0), keeper)];
            Search { known, below: None, ..search }.end(Duration::ZERO, None)
        });
        // What could not be ended is told by whoever looks next.
        let _ = ended.await;
    }

    /// What the program stated that was not read yet.
    pub(crate) fn last_statements(&mut self) -> Vec<Statement> {
        last_of_each(self.statements.read().unwrap_or_default())
    }

    /// Does what is left to do once what became of the attempt is durable: the keeper may go, and its files too. Until
    /// then they are there for the next start. Does not block.
    pub(crate) fn recorder(self) -> impl FnOnce() + Send + use<> {
        let Self { presence, place, .. } = self;
        let runtime = tokio::runtime::Handle::current();
        move || {
            let told = match presence {
                Presence::Stream(stream) => {
                    let word = line(&Word::Recorded);
                    stream.try_write(&word).is_ok_and(|length| length == word.len())
                }
                Presence::Process(..) | Presence::Ended => false,
            };
            if !told {
                runtime.spawn_blocking(move || {
                    if let Err(error) = place.remove() {
                        let path = place.prefix().display();
                        tracing::warn!(%path, %error, "cannot remove the files of an attempt");
                    }
                });
            }
        }
    }

    /// How the attempt ended, once the keeper has; none if it was killed itself.
    pub(crate) fn ended(&self) -> io::Result<Option<Ended>> {
        self.place.ended()
    }

    /// Ends what a killed keeper left; gives what cannot be ended, in words.
    pub(crate) async fn end_left(
        &self,
        backend: &dyn Backend,
        name: &str,
        id: ActionId,
        mark: &str,
        keeper: Option<Program>,
    ) -> io::Result<Option<String>> {
        backend.end(name).await?;
        let known = [keeper, self.place.program()?].into_iter().flatten();
        end_known(mark.to_owned(), known.map(|program| (id, program)).collect()).await
    }
}

/// Ends all that runs at those places beside an attempt whose own program is over, and makes sure that nothing begins there
/// any more; gives what cannot be ended, in words.
pub(crate) async fn end_beside(
    backend: &dyn Backend,
    places: &[AttemptPlace],
    id: ActionId,
    mark: String,
) -> io::Result<Option<String>> {
    let mut known = Vec::new();
    for place in places {
        if !place.bury()? {
            known.extend(place.program()?.map(|program| (id, program)));
        }
        if let Some(name) = place.name() {
            backend.end(name).await?;
        }
    }
    end_known(mark, known).await
}

async fn end_known(mark: String, known: Vec<(ActionId, Program)>) -> io::Result<Option<String>> {
    let search = Search { mark, known, below: None, spared: HashSet::new(), since_ticks: 0 };
    let survivors = tokio::task::spawn_blocking(move || search.end(LEFT_PATIENCE, None))
        .await
        .map_err(io::Error::other)??;
    let survivors: Vec<Process> = survivors.into_iter().map(|(_, process)| process).collect();
    Ok((!survivors.is_empty()).then(|| describe(&survivors)))
}

impl Presence {
    fn without_stream(keeper: Option<Program>) -> Self {
        match keeper.map(|keeper| (keeper, proc::watch(keeper))) {
            Some((keeper, Ok(Some(handle)))) => Self::Process(keeper, handle),
            _ => Self::Ended,
        }
    }
}

/// A statement takes the place of the one of its kind before: so a program that states faster than that can be recorded
/// is not recorded behind its time.
fn last_of_each(statements: Vec<Statement>) -> Vec<Statement> {
    let mut kinds = HashSet::new();
    let mut last: Vec<Statement> = statements.into_iter().rev().collect();
    last.retain(|statement| kinds.insert(std::mem::discriminant(statement)));
    last.reverse();
    last
}

/// The path at which an attempt's keeper listens.
pub(crate) fn socket(keepers_dir: &Path, name: &str) -> PathBuf {
    keepers_dir.join(name)
}
