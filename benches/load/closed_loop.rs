//! One request outstanding on each of many kept-open connections, driven by one thread over epoll(7).
//!
//! Two system calls a request and a share of one `epoll_wait`: the generator must not be what is measured.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

struct Client {
    stream: UnixStream,
    answer: Vec<u8>,
    asked: Instant,
}

/// Runs for `time` and returns the number of answers and how long each was waited for, in microseconds.
pub fn run(socket: &Path, connections: usize, time: Duration) -> (u64, Vec<u32>) {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let mut number = 0;
    let mut clients: Vec<Client> = (0..connections)
        .map(|_| Client {
            stream: UnixStream::connect(socket).unwrap(),
            answer: Vec::new(),
            asked: Instant::now(),
        })
        .collect();
    for (at, client) in (0..).zip(&mut clients) {
        epoll::add(&epoll, &client.stream, EventData::new_u64(at), EventFlags::IN).unwrap();
        client.ask(&mut number);
    }
    let end = Instant::now() + time;
    let mut waits = Vec::new();
    let mut open = connections;
    let mut events = Vec::with_capacity(connections);
    let mut piece = vec![0; 65_536];
    while open > 0 {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        let now = Instant::now();
        for event in &events {
            let at = usize::try_from(event.data.u64()).unwrap();
            let client = clients.get_mut(at).unwrap();
            if client.take_answer(&mut piece) {
                waits.push(u32::try_from(client.asked.elapsed().as_micros()).unwrap_or(u32::MAX));
                if now < end {
                    client.ask(&mut number);
                } else {
                    open -= 1;
                }
            }
        }
    }
    (waits.len() as u64, waits)
}

impl Client {
    fn ask(&mut self, number: &mut u64) {
        *number += 1;
        let body = super::daemon::spec(*number);
        let request = format!(
            "POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.asked = Instant::now();
        self.stream.write_all(request.as_bytes()).unwrap();
    }

    /// Whether the answer is whole; reads once.
    fn take_answer(&mut self, piece: &mut [u8]) -> bool {
        let length = self.stream.read(piece).unwrap();
        assert!(length > 0, "the daemon closed a connection");
        self.answer.extend_from_slice(piece.get(..length).unwrap());
        let Some(head_end) = self.answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            return false;
        };
        let head = String::from_utf8_lossy(self.answer.get(..head_end).unwrap()).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 202"), "{}", String::from_utf8_lossy(&self.answer));
        let body: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|text| text.trim().parse().ok())
            .expect("an answer with its length");
        if self.answer.len() < head_end + 4 + body {
            return false;
        }
        self.answer.clear();
        true
    }
}
