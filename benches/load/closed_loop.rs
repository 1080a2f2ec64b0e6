//! One submission outstanding on each of many kept-open connections, driven by one thread over epoll(7).
//!
//! Two system calls a submission and a share of one `epoll_wait`: the generator must not be what is measured. What
//! is said over a connection is a [`Speech`], so that each way of submitting, and each peer, is asked by the same loop.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// How one submission is asked for and answered.
pub trait Speech {
    /// What opens a connection.
    fn opening(&self) -> &'static str {
        ""
    }
    /// Appends the submission of that number.
    fn ask(&self, out: &mut Vec<u8>, number: u64);
    /// Whether the answer is whole, and accepts.
    fn is_whole(&self, answer: &[u8]) -> bool;
}

/// One HTTP request each.
pub struct Http;

impl Speech for Http {
    fn ask(&self, out: &mut Vec<u8>, number: u64) {
        let body = super::daemon::spec(number);
        let head =
            "POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ";
        write!(out, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
    }

    fn is_whole(&self, answer: &[u8]) -> bool {
        let Some(head) = find(answer, b"\r\n\r\n") else { return false };
        let text = String::from_utf8_lossy(answer.get(..head).unwrap());
        assert!(text.starts_with("HTTP/1.1 202"), "{}", String::from_utf8_lossy(answer));
        let length = text.split_once("content-length: ").expect("an answer with its length").1;
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        answer.len() >= head + 4 + length
    }
}

/// A line of a stream that stays open.
pub struct Line;

impl Speech for Line {
    fn opening(&self) -> &'static str {
        super::stream::HEAD
    }

    fn ask(&self, out: &mut Vec<u8>, number: u64) {
        let line = super::daemon::spec(number);
        write!(out, "{:x}\r\n{line}\n\r\n", line.len() + 1).unwrap();
    }

    fn is_whole(&self, answer: &[u8]) -> bool {
        if !answer.ends_with(b"}\n\r\n") {
            return false;
        }
        let begin = answer.get(..400.min(answer.len())).unwrap();
        assert!(find(begin, b"\"status\":202").is_some(), "{}", String::from_utf8_lossy(answer));
        true
    }
}

pub fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

struct Client {
    stream: UnixStream,
    answer: Vec<u8>,
    asked: Instant,
}

/// Runs for `time` and returns the number of answers and how long each was waited for, in microseconds.
pub fn run(socket: &Path, speech: &dyn Speech, connections: usize, time: Duration) -> (u64, Vec<u32>) {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let (mut number, mut text) = (0, Vec::new());
    let mut clients: Vec<Client> = (0..connections)
        .map(|_| Client {
            stream: UnixStream::connect(socket).unwrap(),
            answer: Vec::new(),
            asked: Instant::now(),
        })
        .collect();
    for (at, client) in (0..).zip(&mut clients) {
        epoll::add(&epoll, &client.stream, EventData::new_u64(at), EventFlags::IN).unwrap();
        client.stream.write_all(speech.opening().as_bytes()).unwrap();
        client.ask(speech, &mut number, &mut text);
    }
    let end = Instant::now() + time;
    let mut waits = Vec::new();
    let mut open = connections;
    let mut events = Vec::with_capacity(connections);
    let mut piece = vec![0; 65_536];
    while open > 0 {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in &events {
            let at = usize::try_from(event.data.u64()).unwrap();
            let client = clients.get_mut(at).unwrap();
            if client.take_answer(speech, &mut piece) {
                let now = Instant::now();
                waits.push(u32::try_from((now - client.asked).as_micros()).unwrap_or(u32::MAX));
                if now < end {
                    client.ask(speech, &mut number, &mut text);
                } else {
                    open -= 1;
                }
            }
        }
    }
    (waits.len() as u64, waits)
}

impl Client {
    fn ask(&mut self, speech: &dyn Speech, number: &mut u64, text: &mut Vec<u8>) {
        *number += 1;
        text.clear();
        speech.ask(text, *number);
        self.asked = Instant::now();
        self.stream.write_all(text).unwrap();
    }

    /// Whether the answer is whole; reads once.
    fn take_answer(&mut self, speech: &dyn Speech, piece: &mut [u8]) -> bool {
        let length = self.stream.read(piece).unwrap();
        assert!(length > 0, "a connection was closed");
        self.answer.extend_from_slice(piece.get(..length).unwrap());
        let is_whole = speech.is_whole(&self.answer);
        if is_whole {
            self.answer.clear();
        }
        is_whole
    }
}
