//! NDJSON as fast as a daemon takes it: one thread writes and reads all streams without ever blocking on one.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::http::Lines;
use super::payload::{self, Payload};
use super::process::{Spent, Watch};
use super::servers::Server;
use super::servers::actiond::Actiond;

/// Lines written as one chunk.
const TOGETHER: u64 = 112;

struct Stream {
    socket: UnixStream,
    payload: Payload,
    /// What is being written, and how far.
    block: Vec<u8>,
    written: usize,
    left: u64,
    lines: Lines,
    kept: Vec<u8>,
    outstanding: u64,
    wants_out: bool,
}

/// Sends `count` lines over `streams` and awaits all answers; `is_random` fills each with other bytes. The resources
/// are numbered from `first`.
pub fn fill(daemon: &Actiond, streams: u64, first: u64, count: u64, is_random: bool) -> Spent {
    let watch = Watch::begin(daemon.pid());
    let each = count.div_ceil(streams);
    let shares = (0..streams).map(|at| each.min(count - (at * each).min(count)));
    run(daemon, shares.collect(), first, is_random, Duration::MAX, Duration::MAX);
    watch.end()
}

/// Lines answered within `time` after `warm`, over `streams`.
pub fn timed(daemon: &Actiond, streams: u64, warm: Duration, time: Duration) -> (u64, Spent) {
    let shares = (0..streams).map(|_| u64::MAX / 2).collect();
    run(daemon, shares, 0, false, warm, time).expect("the time was reached")
}

fn run(
    daemon: &Actiond,
    shares: Vec<u64>,
    mut number: u64,
    is_random: bool,
    warm: Duration,
    time: Duration,
) -> Option<(u64, Spent)> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let mut streams: Vec<Stream> =
        shares.into_iter().map(|share| Stream::open(daemon, share, is_random)).collect();
    for (at, stream) in (0..).zip(&streams) {
        let flags = EventFlags::IN | EventFlags::OUT;
        epoll::add(&epoll, &stream.socket, EventData::new_u64(at), flags).unwrap();
    }
    let begin = Instant::now();
    let (from, end) = (begin.checked_add(warm), begin.checked_add(warm.saturating_add(time)));
    let (mut watch, mut told, mut count) = (None, None, 0);
    let mut buffer = vec![0; 262_144];
    let mut events = Vec::with_capacity(streams.len());
    while streams.iter().any(|stream| stream.left > 0 || stream.outstanding > 0) {
        events.clear();
        let timeout = Timespec { tv_sec: 60, tv_nsec: 0 };
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
        assert!(!events.is_empty(), "the daemon did not answer within a minute");
        let now = Instant::now();
        if watch.is_none() && told.is_none() && from.is_some_and(|from| now >= from) {
            watch = Some(Watch::begin(daemon.pid()));
        }
        if end.is_some_and(|end| now >= end)
            && let Some(watch) = watch.take()
        {
            told = Some((count, watch.end()));
            for stream in &mut streams {
                stream.left = 0;
            }
        }
        for event in &events {
            let at = usize::try_from(event.data.u64()).unwrap();
            let stream = &mut streams[at];
            let flags = event.flags;
            if flags.contains(EventFlags::IN) {
                let lines = stream.take(&mut buffer);
                if watch.is_some() {
                    count += lines;
                }
            }
            if flags.contains(EventFlags::OUT) {
                stream.send(&mut number);
            }
            let wants_out = stream.left > 0 || stream.written < stream.block.len();
            if stream.wants_out != wants_out {
                stream.wants_out = wants_out;
                let flags = if wants_out { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
                epoll::modify(&epoll, &stream.socket, EventData::new_u64(at as u64), flags).unwrap();
            }
        }
    }
    told
}

impl Stream {
    fn open(daemon: &Actiond, share: u64, is_random: bool) -> Self {
        let socket = daemon.open_stream();
        socket.set_nonblocking(true).unwrap();
        let payload = if is_random { Payload::random() } else { Payload::plain() };
        Self {
            socket,
            payload,
            block: Vec::new(),
            written: 0,
            left: share,
            lines: Lines::default(),
            kept: Vec::new(),
            outstanding: 0,
            wants_out: true,
        }
    }

    /// Writes until the socket takes no more.
    fn send(&mut self, number: &mut u64) {
        loop {
            if self.written == self.block.len() {
                self.block.clear();
                self.written = 0;
                let count = self.left.min(TOGETHER);
                if count == 0 {
                    return;
                }
                write!(self.block, "{:x}\r\n", usize::try_from(count).unwrap() * (payload::BYTES + 1))
                    .unwrap();
                for _ in 0..count {
                    self.block.extend_from_slice(self.payload.next(*number));
                    self.block.push(b'\n');
                    *number += 1;
                }
                self.block.extend_from_slice(b"\r\n");
                self.left -= count;
                self.outstanding += count;
            }
            match self.socket.write(&self.block[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("cannot write to a stream: {error}"),
            }
        }
    }

    /// Reads once; the number of answers.
    fn take(&mut self, buffer: &mut [u8]) -> u64 {
        let length = match self.socket.read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
            Err(error) => panic!("cannot read a stream: {error}"),
        };
        assert!(length > 0, "the daemon closed a stream that awaits {} answers", self.outstanding);
        let lines = if self.kept.is_empty() {
            let (used, lines) = self.lines.take(&buffer[..length]);
            self.kept.extend_from_slice(&buffer[used..length]);
            lines
        } else {
            self.kept.extend_from_slice(&buffer[..length]);
            let (used, lines) = self.lines.take(&self.kept);
            self.kept.drain(..used);
            lines
        };
        self.outstanding -= lines;
        lines
    }
}
