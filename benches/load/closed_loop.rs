//! One request outstanding on each of many kept-open connections, driven by one thread over epoll(7).
//!
//! Two system calls a request and a share of one `epoll_wait`: the generator must not be what is measured. What is said on
//! a connection is a [`Talk`]; the same loop drives actiond and each peer, submitters as well as workers.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::process::{Spent, Watch};

/// A worker that found nothing asks again after this.
const REST: Duration = Duration::from_millis(5);

/// One side of a conversation: a request, perhaps further ones that follow from its answer, and the end.
pub trait Talk {
    /// Writes the request that begins a round.
    fn ask(&mut self, number: u64, out: &mut Vec<u8>);

    /// Looks at all that has come and was not yet used. Panics at an answer that is not a success.
    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Heard;
}

/// What was heard, with the number of bytes that are used up.
pub enum Heard {
    /// More must come first.
    Partly(usize),
    /// An answer is whole and the next request of the same round is written.
    Next(usize),
    /// The round is over.
    Whole(usize),
    /// The round is over and led to nothing: no work was there.
    Nothing(usize),
}

/// A connection and what is said on it.
pub struct Link {
    stream: UnixStream,
    talk: Box<dyn Talk + Send>,
    heard: Vec<u8>,
    asked: Instant,
}

/// How long it goes on.
pub struct Plan<'a> {
    /// Answers within this time are not counted ...
    pub warm: Duration,
    /// ... and those within the time after it are. Then what is outstanding is awaited.
    pub time: Duration,
    /// No more submissions than this.
    pub count_max: u64,
    /// No submission beyond this number: raised from outside while it runs.
    pub gate: Option<&'a AtomicU64>,
    /// The server whose CPU is watched.
    pub pid: u32,
}

/// What came of it.
pub struct Told {
    /// Answers in the counted time, and how long each was waited for, in nanoseconds.
    pub count: u64,
    pub waits: Histogram<u64>,
    pub spent: Spent,
    /// Rounds of submitters in all.
    pub submitted: u64,
    /// Open still: of a process for each connection the time is known only while it lives.
    pub links: Vec<Link>,
}

impl Link {
    pub fn new(stream: UnixStream, talk: Box<dyn Talk + Send>) -> Self {
        Self { stream, talk, heard: Vec::new(), asked: Instant::now() }
    }

    fn ask(&mut self, number: u64, out: &mut Vec<u8>) {
        out.clear();
        self.talk.ask(number, out);
        self.asked = Instant::now();
        self.stream.write_all(out).unwrap();
    }

    /// Reads once. The common case, one answer in one piece, is heard where it was read to.
    fn hear(&mut self, piece: &mut [u8], out: &mut Vec<u8>) -> Heard {
        let length = self.stream.read(piece).unwrap();
        assert!(length > 0, "the server closed a connection");
        let fresh = &piece[..length];
        out.clear();
        let heard = if self.heard.is_empty() {
            let (used, heard) = hear_all(self.talk.as_mut(), fresh, out);
            self.heard.extend_from_slice(&fresh[used..]);
            heard
        } else {
            self.heard.extend_from_slice(fresh);
            let (used, heard) = hear_all(self.talk.as_mut(), &self.heard, out);
            self.heard.drain(..used);
            heard
        };
        if matches!(heard, Heard::Next(_)) {
            self.stream.write_all(out).unwrap();
        }
        heard
    }

    /// One whole round, alone; when the further request in it was sent, and when it was over.
    pub fn round(&mut self, number: u64) -> (Instant, Instant) {
        let (mut out, mut piece) = (Vec::new(), vec![0; 65_536]);
        self.ask(number, &mut out);
        let mut next = Instant::now();
        loop {
            match self.hear(&mut piece, &mut out) {
                Heard::Partly(_) => {}
                Heard::Next(_) => next = Instant::now(),
                Heard::Whole(_) | Heard::Nothing(_) => return (next, Instant::now()),
            }
        }
    }
}

/// Several answers may be there at once. Also says how much of it all is used up.
fn hear_all(talk: &mut dyn Talk, bytes: &[u8], out: &mut Vec<u8>) -> (usize, Heard) {
    let mut used = 0;
    loop {
        let heard = talk.hear(&bytes[used..], out);
        used += heard.used();
        if heard.used() == 0 || used == bytes.len() || !matches!(heard, Heard::Partly(_)) {
            return (used, heard);
        }
    }
}

impl Heard {
    fn used(&self) -> usize {
        let (Self::Partly(used) | Self::Next(used) | Self::Whole(used) | Self::Nothing(used)) = self;
        *used
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).unwrap()
}

/// Submitters submit until the time or the number is reached. With workers it ends when these have finished all that was
/// submitted, else with the last answer.
pub fn run(submitters: Vec<Link>, workers: Vec<Link>, plan: &Plan<'_>) -> Told {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let count_submitters = submitters.len();
    let mut links = submitters;
    links.extend(workers);
    for (at, link) in (0..).zip(&links) {
        epoll::add(&epoll, &link.stream, EventData::new_u64(at), EventFlags::IN).unwrap();
    }
    let has_workers = links.len() > count_submitters;
    let (mut out, mut piece) = (Vec::with_capacity(4_096), vec![0; 65_536]);
    let begin = Instant::now();
    let (from, end) = (begin + plan.warm, begin + plan.warm + plan.time);
    let (mut watch, mut spent) = (None, None);
    let (mut count, mut waits) = (0, histogram());
    let (mut asked, mut submitted, mut finished) = (0, 0, 0);
    let mut open = count_submitters;
    // Those that wait for the gate, and those that rest.
    let mut parked: VecDeque<usize> = VecDeque::new();
    let mut resting: VecDeque<(Instant, usize)> = VecDeque::new();
    for link in &mut links[count_submitters..] {
        link.ask(0, &mut out);
    }
    parked.extend(0..count_submitters);
    let mut events = Vec::with_capacity(links.len());
    loop {
        let now = Instant::now();
        if watch.is_none() && now >= from {
            watch = Some(Watch::begin(plan.pid));
        }
        if spent.is_none() && now >= end {
            spent = watch.take().map(Watch::end);
        }
        let may_go = now < end && asked < plan.count_max;
        if may_go {
            let gate = plan.gate.map_or(u64::MAX, |gate| gate.load(Ordering::Relaxed)).min(plan.count_max);
            while asked < gate
                && let Some(at) = parked.pop_front()
            {
                links[at].ask(asked, &mut out);
                asked += 1;
            }
        } else {
            open -= parked.len();
            parked.clear();
        }
        if open == 0 && (!has_workers || finished >= submitted) {
            break;
        }
        while resting.front().is_some_and(|(until, _)| *until <= now) {
            let (_, at) = resting.pop_front().unwrap();
            links[at].ask(0, &mut out);
        }
        events.clear();
        let is_pause = !parked.is_empty() || !resting.is_empty();
        let pause = if is_pause { Duration::from_millis(1) } else { Duration::from_secs(60) };
        let timeout = Timespec::try_from(pause).unwrap();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
        assert!(is_pause || !events.is_empty(), "a server did not answer within a minute");
        for event in &events {
            let at = usize::try_from(event.data.u64()).unwrap();
            let link = &mut links[at];
            let heard = link.hear(&mut piece, &mut out);
            match heard {
                Heard::Partly(_) | Heard::Next(_) => {}
                Heard::Whole(_) if at < count_submitters => {
                    let now = Instant::now();
                    submitted += 1;
                    if now >= from && now < end {
                        count += 1;
                        let wait = now.duration_since(link.asked).as_nanos();
                        waits.saturating_record(u64::try_from(wait).unwrap());
                    }
                    parked.push_back(at);
                }
                Heard::Whole(_) => {
                    finished += 1;
                    link.ask(0, &mut out);
                }
                Heard::Nothing(_) => resting.push_back((Instant::now() + REST, at)),
            }
        }
    }
    let spent = spent.or_else(|| watch.map(Watch::end)).unwrap_or_else(|| Watch::begin(plan.pid).end());
    Told { count, waits, spent, submitted, links }
}
