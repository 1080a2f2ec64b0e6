//! Sends many submissions as one NDJSON stream through a daemon that is killed again and again.
//!
//! Lines without an answer are sent again, each with its idempotency key, until every line has one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::process::Signal;
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
pub struct Run {
    /// The id that each line was acknowledged with.
    pub ids: Vec<u64>,
    /// Every action at the end, oldest first.
    pub all: Vec<Value>,
    pub kills: Kills,
}

/// What the kills hit. One that found nothing to disturb shows nothing.
#[derive(Debug, Default)]
pub struct Kills {
    pub all: usize,
    /// Lines that were sent had no answer yet.
    pub while_acknowledging: usize,
    /// At least one attempt was cut off, by the count of the daemon that came after.
    pub of_running: usize,
    /// Neither, but accepted actions were unfinished.
    pub of_waiting: usize,
    pub of_nothing: usize,
    /// Attempts cut off, over all kills.
    pub attempts: u64,
}

impl Kills {
    pub fn hits(&self) -> usize {
        self.all - self.of_nothing
    }
}

/// Sends all lines (each with an idempotency key) and lets them run to their end, with `kills` times `kill -9` at
/// random moments: half of them while lines are acknowledged, half while what is left runs.
///
/// Fails if an action that was seen final is ever seen otherwise; looks after every `look`th kill.
pub fn run_with_kills(home: &Home, lines: &[String], kills: usize, look: usize, seed: u64) -> Run {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ids: Vec<Option<u64>> = vec![None; lines.len()];
    let mut finals = BTreeMap::new();
    let mut daemon = Daemon::start(home);
    let mut hits = Kills::default();
    let early = lines.len() * 3 / 4;
    for kills_left in (1..=kills / 2).rev() {
        // All that is left of this part is sent; killed at a random answer of this kill's share.
        let open = ids[..early].iter().filter(|id| id.is_none()).count();
        if open == 0 {
            break;
        }
        let share = (open / kills_left).clamp(1, 50);
        let is_cut = send(&daemon, &lines[..early], &mut ids[..early], Some(random.usize(1..=share))) > 0;
        daemon = kill(daemon, is_cut, 0, look, &mut hits, &mut finals);
    }
    // The rest waits until all of it is acknowledged, so that there is enough to kill.
    daemon.pause_queue("default", true);
    while ids.contains(&None) {
        send(&daemon, lines, &mut ids, None);
    }
    // What is left is shared out over the kills that are left, so that none comes too late.
    let mut left = daemon.unfinished();
    daemon.pause_queue("default", false);
    for kills_left in (1..=kills - hits.all).rev() {
        let share = left / kills_left as u64;
        let below = left.saturating_sub(random.u64(0..=share)).max(1);
        until("the work to go on", || {
            left = daemon.unfinished();
            (left <= below).then_some(())
        });
        daemon = kill(daemon, false, left, look, &mut hits, &mut finals);
    }
    let ids: Vec<u64> = ids.into_iter().map(|id| id.expect("every line is acknowledged")).collect();
    daemon.finished(*ids.last().expect("an id"));
    until("the end of all", || (daemon.unfinished() == 0).then_some(()));
    let all = note_finals(&daemon, &mut finals);
    println!("{} lines, {hits:?}", lines.len());
    Run { ids, all, kills: hits }
}

fn kill<'a>(
    daemon: Daemon<'a>,
    is_cut: bool,
    unfinished: u64,
    look: usize,
    hits: &mut Kills,
    finals: &mut BTreeMap<u64, Value>,
) -> Daemon<'a> {
    let daemon = daemon.crash();
    let interrupted = daemon.get("/v1/status")["recovered"].as_u64().expect("a count");
    hits.all += 1;
    hits.attempts += interrupted;
    if is_cut {
        hits.while_acknowledging += 1;
    }
    if interrupted > 0 {
        hits.of_running += 1;
    } else if !is_cut && unfinished > 0 {
        hits.of_waiting += 1;
    } else if !is_cut {
        hits.of_nothing += 1;
    }
    if hits.all.is_multiple_of(look) {
        note_finals(&daemon, finals);
    }
    daemon
}

/// Sends the lines that have no answer yet; `kill -9` in the middle of the stream, at the answer of
/// that number. Answers that were already on their way then count. How many lines have none.
fn send(daemon: &Daemon<'_>, lines: &[String], ids: &mut [Option<u64>], kill_at: Option<usize>) -> usize {
    let open: Vec<usize> = (0..lines.len()).filter(|at| ids[*at].is_none()).collect();
    let texts: Vec<String> = open.iter().map(|at| lines[*at].clone()).collect();
    let mut answers = 0;
    stream(daemon.home, &texts, |answer| {
        let line = usize::try_from(answer["line"].as_u64().expect("a line number")).expect("small");
        assert!(matches!(answer["status"].as_u64(), Some(200 | 202)), "line {line} refused: {answer}");
        ids[open[line - 1]] = answer["action"]["id"].as_u64();
        answers += 1;
        if Some(answers) == kill_at {
            daemon.signal(Signal::KILL);
        }
        true
    });
    open.len() - answers
}

fn note_finals(daemon: &Daemon<'_>, finals: &mut BTreeMap<u64, Value>) -> Vec<Value> {
    let all = daemon.all_actions();
    for action in all.iter().filter(|action| is_final(action)) {
        let id = action["id"].as_u64().expect("an id");
        if let Some(before) = finals.get(&id) {
            assert_eq!(before, action, "a final action changed");
        } else {
            finals.insert(id, action.clone());
        }
    }
    all
}
