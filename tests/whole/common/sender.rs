//! Sends many submissions as one NDJSON stream through a daemon that is killed again and again.
//!
//! Lines without an answer are sent again, each with its idempotency key, until every line has one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use serde_json::Value;

use super::{Daemon, Home, PATIENCE, is_final, until};

/// Splits a byte stream of chunks into the NDJSON lines of an answer.
struct Lines<R> {
    source: R,
    raw: Vec<u8>,
    text: Vec<u8>,
    is_body: bool,
}

impl<R: Read> Lines<R> {
    fn new(source: R) -> Self {
        Self { source, raw: Vec::new(), text: Vec::new(), is_body: false }
    }

    /// The next whole line; none when the stream has ended or broken.
    fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an answer line"));
            }
            if !self.take_chunk() {
                let mut piece = [0; 16_384];
                match self.source.read(&mut piece) {
                    Ok(length) if length > 0 => self.raw.extend(&piece[..length]),
                    _ => return None,
                }
            }
        }
    }

    /// Moves what is whole in `raw` to `text`; false if more has to be read first.
    fn take_chunk(&mut self) -> bool {
        if !self.is_body {
            let Some(end) = find(&self.raw, b"\r\n\r\n") else { return false };
            let head = String::from_utf8_lossy(&self.raw[..end]).into_owned();
            assert!(head.starts_with("HTTP/1.1 200"), "an NDJSON stream is answered with 200: {head}");
            self.raw.drain(..end + 4);
            self.is_body = true;
        }
        let Some(end) = find(&self.raw, b"\r\n") else { return false };
        let size = String::from_utf8_lossy(&self.raw[..end]).into_owned();
        let length = usize::from_str_radix(&size, 16).expect("a chunk size");
        if length == 0 || self.raw.len() < end + 4 + length {
            return false;
        }
        self.text.extend(&self.raw[end + 2..end + 2 + length]);
        self.raw.drain(..end + 4 + length);
        true
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Sends `lines` as one NDJSON stream and gives each answer to `answered`, which may end it by false.
/// Returns when all is answered, or the daemon is gone.
pub fn stream(home: &Home, lines: &[String], mut answered: impl FnMut(Value) -> bool) {
    let Ok(mut writer) = UnixStream::connect(home.socket()) else { return };
    let reader = writer.try_clone().expect("a second handle");
    reader.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut body = String::new();
    for line in lines {
        body.push_str(line);
        body.push('\n');
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            let head = "POST /v1/actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
            let mut all = head.as_bytes().to_vec();
            for piece in body.as_bytes().chunks(8_192) {
                all.extend(format!("{:x}\r\n", piece.len()).bytes());
                all.extend(piece);
                all.extend(b"\r\n");
            }
            all.extend(b"0\r\n\r\n");
            // A daemon that was killed closes the connection: the lines are sent again.
            let _ = writer.write_all(&all);
        });
        let mut answers = Lines::new(reader);
        for _ in lines {
            let Some(answer) = answers.next() else { break };
            if !answered(answer) {
                break;
            }
        }
        let _ = answers.source.shutdown(std::net::Shutdown::Both);
    });
}

/// What became of a run with kills.
pub struct Run<'a> {
    pub daemon: Daemon<'a>,
    /// The id that each line was acknowledged with.
    pub ids: Vec<u64>,
}

/// Sends all lines (each with an idempotency key) and lets them run to their end, with `kills` times `kill -9` at
/// random moments: half of them while lines are acknowledged, half while what is left runs.
///
/// Fails if an action that was seen final is ever seen otherwise.
pub fn run_with_kills<'a>(home: &'a Home, lines: &[String], kills: usize, seed: u64) -> Run<'a> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ids: Vec<Option<u64>> = vec![None; lines.len()];
    let mut finals = BTreeMap::new();
    let mut moments: Vec<usize> = (0..kills / 2).map(|_| random.usize(1..lines.len())).collect();
    moments.sort_unstable();
    moments.push(usize::MAX);
    let mut daemon = Daemon::start(home);
    for moment in moments {
        send_until(&daemon, lines, &mut ids, moment);
        if moment != usize::MAX {
            daemon = daemon.crash();
            note_finals(&daemon, &mut finals);
        }
    }
    for left in (0..kills - kills / 2).rev() {
        let below = lines.len() * left / kills + random.usize(0..=lines.len() / kills);
        until("the work to go on", || (daemon.unfinished() <= below as u64).then_some(()));
        daemon = daemon.crash();
        note_finals(&daemon, &mut finals);
    }
    let ids: Vec<u64> = ids.into_iter().map(|id| id.expect("every line is acknowledged")).collect();
    for id in &ids {
        daemon.finished(*id);
    }
    note_finals(&daemon, &mut finals);
    Run { daemon, ids }
}

/// Sends what has no answer yet, until `moment` lines have one.
fn send_until(daemon: &Daemon<'_>, lines: &[String], ids: &mut [Option<u64>], moment: usize) {
    let open: Vec<usize> = (0..lines.len()).filter(|at| ids[*at].is_none()).collect();
    let mut known = lines.len() - open.len();
    if known >= moment || open.is_empty() {
        return;
    }
    let texts: Vec<String> = open.iter().map(|at| lines[*at].clone()).collect();
    stream(daemon.home, &texts, |answer| {
        let line = usize::try_from(answer["line"].as_u64().expect("a line number")).expect("small");
        assert!(matches!(answer["status"].as_u64(), Some(200 | 202)), "line {line} refused: {answer}");
        ids[open[line - 1]] = answer["action"]["id"].as_u64();
        known += 1;
        known < moment
    });
}

fn note_finals(daemon: &Daemon<'_>, finals: &mut BTreeMap<u64, Value>) {
    for action in daemon.all_actions().into_iter().filter(is_final) {
        let id = action["id"].as_u64().expect("an id");
        if let Some(before) = finals.get(&id) {
            assert_eq!(*before, action, "a final action changed");
        } else {
            finals.insert(id, action);
        }
    }
}
