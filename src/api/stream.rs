//! A submission of many: NDJSON in, an answer line for each line out, in order, as each becomes durable.
//!
//! The answer is a stream that the connection pulls. Each pull reads what the client has sent, parses it, hands it
//! to the engine in batches and waits for the oldest batch's answers. A client that does not read its answers
//! is thereby no longer read from: at most [`BATCHES_MAX`] batches are in memory, a few MiB however short its lines.
//!
//! # Guarantees
//!
//! - Lines reach the engine in their order, and answers leave in that order.
//! - A bad line gets its problem and stops nothing. A line cut off by the end of the connection is not submitted.
//! - Blank lines are counted but neither submitted nor answered.
//! - When input ends early (a pause that is too long, or the daemon stops), the last line says so.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::unfold;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::convert::{self, Show};
use super::parse::{self, Limits};
use super::problem::{Problem, Word};
use super::reply::{self, Reply};
use super::routes::Call;
use super::server::is_true;
use super::submit;
use crate::action::Actor;
use crate::engine::{Accepted, Engine, Submission, SubmitError};

/// Batches that the engine may have at once.
const BATCHES_MAX: usize = 4;
/// With this many under way, further lines are gathered into one larger batch.
const BATCHES_EAGER: usize = 2;
const BATCH_BYTES_MAX: usize = 256 * 1_024;
/// What a line costs beside its own bytes, roughly: it becomes a submission, then an action and its answer.
const LINE_COST: usize = 1_024;

type Answers = Vec<Result<Accepted, SubmitError>>;
/// The lines of a batch, and what the engine says of those that it got.
type UnderWay = VecDeque<(Vec<(u64, Option<Problem>)>, Waiting)>;
type Waiting = Pin<Box<dyn Future<Output = Answers> + Send>>;

/// Lines that go to the engine together.
#[derive(Default)]
struct Batch {
    /// Each line's number, and its problem if it was refused here.
    lines: Vec<(u64, Option<Problem>)>,
    submissions: Vec<Submission>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
    }

    fn push(&mut self, line: u64, problem: Option<Problem>) {
        self.bytes += LINE_COST;
        self.lines.push((line, problem));
    }
}

/// Both directions of one stream.
struct Exchange {
    engine: Engine,
    actor: Actor,
    limits: Limits,
    line_bytes_max: usize,
    pause: Duration,
    body: Incoming,
    /// What was read and not yet cut into lines; its first `scanned` bytes have no line end.
    input: BytesMut,
    scanned: usize,
    /// The rest of a line that was too long is dropped.
    skipping: bool,
    ended: bool,
    /// Why the input ended early, until it is told.
    cut_short: Option<Problem>,
    line: u64,
    gathering: Batch,
    under_way: UnderWay,
    draining: watch::Receiver<bool>,
}

/// Begins to answer at once; the lines follow as they come.
pub(super) fn lines(call: &Call<'_>, actor: Actor, body: Incoming) -> Reply {
    let engine = call.api.engine.clone();
    let exchange = Exchange {
        draining: engine.draining(),
        engine,
        actor,
        limits: Limits::from(&*call.settings),
        line_bytes_max: call.settings.body_bytes_max,
        pause: call.pause(),
        body,
        input: BytesMut::new(),
        scanned: 0,
        skipping: false,
        ended: false,
        cut_short: None,
        line: 0,
        gathering: Batch::default(),
        under_way: VecDeque::new(),
    };
    let answers = unfold(exchange, |mut exchange| async move {
        let chunk = exchange.next_answers().await?;
        Some((chunk, exchange))
    });
    reply::stream(reply::NDJSON, answers)
}

impl Exchange {
    /// The answers of the oldest batch; none when all input is answered.
    async fn next_answers(&mut self) -> Option<Bytes> {
        loop {
            self.cut();
            while self.hand_over() {
                self.cut();
            }
            let may_read = !self.ended && !self.gathering.is_full();
            tokio::select! {
                answers = oldest(&mut self.under_way), if !self.under_way.is_empty() => {
                    let (lines, _) = self.under_way.pop_front()?;
                    return Some(written(lines, answers));
                }
                piece = reply::next_piece(&mut self.body, self.pause), if may_read => match piece {
                    Ok(Some(piece)) => self.input.extend_from_slice(&piece),
                    Ok(None) => self.end(None),
                    // The client is gone or silent: half a line is no line.
                    Err(problem) => self.end(Some(problem)),
                },
                () = is_true(&mut self.draining), if may_read => {
                    self.end(Some(Problem::new(Word::Draining, "the daemon is stopping; the rest was not read")));
                }
                else => return None,
            }
        }
    }

    /// No more input; `problem` says why if it ended early. Whole lines that are there are still taken.
    fn end(&mut self, problem: Option<Problem>) {
        self.ended = true;
        self.cut_short = problem;
    }

    /// What follows the last line end: a last line, unless the input was cut short in it.
    fn take_rest(&mut self) {
        let rest = self.input.split().freeze();
        self.scanned = 0;
        if let Some(problem) = self.cut_short.take() {
            self.line += 1;
            self.gathering.push(self.line, Some(problem));
        } else if !std::mem::take(&mut self.skipping) && !rest.is_empty() {
            self.take_line(&rest);
        }
    }

    /// Cuts lines off the input until it has no whole one or the batch is full.
    fn cut(&mut self) {
        while !self.gathering.is_full() {
            let unseen = self.input.get(self.scanned..).unwrap_or_default();
            let Some(found) = unseen.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.input.len();
                if self.ended {
                    self.take_rest();
                } else {
                    self.drop_if_too_long();
                }
                return;
            };
            let line = self.input.split_to(self.scanned + found).freeze();
            self.input.advance(1);
            self.scanned = 0;
            if !std::mem::take(&mut self.skipping) {
                self.take_line(&line);
            }
        }
    }

    /// A line that is too long already is refused now, and the rest of it not kept.
    fn drop_if_too_long(&mut self) {
        if self.input.len() <= self.line_bytes_max && !self.skipping {
            return;
        }
        if !self.skipping {
            self.refuse_long_line();
            self.skipping = true;
        }
        self.input.clear();
        self.scanned = 0;
    }

    fn refuse_long_line(&mut self) {
        self.line += 1;
        let most = self.line_bytes_max;
        let problem = Problem::new(Word::BodyTooLarge, format!("a line may have at most {most} bytes"));
        self.gathering.push(self.line, Some(problem));
    }

    fn take_line(&mut self, line: &[u8]) {
        if line.len() > self.line_bytes_max {
            self.refuse_long_line();
            return;
        }
        self.line += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        self.gathering.bytes += line.len();
        match parse::submission(line, self.actor, self.limits) {
            Ok(submission) => {
                self.gathering.submissions.push(submission);
                self.gathering.push(self.line, None);
            }
            Err(problem) => self.gathering.push(self.line, Some(problem)),
        }
    }

    /// Sends what is gathered to the engine, if it has room; says whether it did.
    fn hand_over(&mut self) -> bool {
        if self.gathering.lines.is_empty() {
            return false;
        }
        let room = if self.gathering.is_full() || self.ended { BATCHES_MAX } else { BATCHES_EAGER };
        if self.under_way.len() >= room {
            return false;
        }
        let Batch { lines, submissions, bytes: _ } = std::mem::take(&mut self.gathering);
        let engine = self.engine.clone();
        let mut waiting: Waiting = if submissions.is_empty() {
            Box::pin(std::future::ready(Answers::new()))
        } else {
            Box::pin(async move { engine.submit(submissions).await })
        };
        // The first poll sends the batch, so that batches reach the engine in their order. An answer that comes
        // at once is kept for its turn.
        if let Some(answers) = futures_util::FutureExt::now_or_never(&mut waiting) {
            waiting = Box::pin(std::future::ready(answers));
        }
        self.under_way.push_back((lines, waiting));
        true
    }
}

async fn oldest(under_way: &mut UnderWay) -> Answers {
    match under_way.front_mut() {
        Some((_, waiting)) => waiting.await,
        None => Answers::new(),
    }
}

/// The answer lines of one batch.
fn written(lines: Vec<(u64, Option<Problem>)>, answers: Answers) -> Bytes {
    let mut out = Vec::with_capacity(lines.len() * 1_024);
    let mut answers = answers.into_iter();
    for (line, refused) in lines {
        let answer = match refused {
            Some(problem) => Err(problem),
            None => match answers.next() {
                Some(answer) => answer.map_err(Problem::from),
                None => Err(SubmitError::Store.into()),
            },
        };
        write_line(&mut out, line, &answer);
    }
    out.into()
}

fn write_line(out: &mut Vec<u8>, line: u64, answer: &Result<Accepted, Problem>) {
    out.extend_from_slice(b"{\"line\":");
    convert::number(out, line);
    out.extend_from_slice(b",\"status\":");
    match answer {
        Ok(accepted) => {
            let (status, action) = submit::outcome(accepted);
            convert::number(out, u64::from(status.as_u16()));
            out.extend_from_slice(b",\"action\":");
            convert::write_action(out, action, Show::All);
        }
        Err(problem) => {
            convert::number(out, u64::from(problem.word.status()));
            out.extend_from_slice(b",\"problem\":");
            // Writing into memory does not fail.
            let _ = serde_json::to_writer(&mut *out, &problem.to_wire());
        }
    }
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::wire::LineAnswer;

    #[test]
    fn answers_stand_in_the_order_of_their_lines() {
        let action = Arc::new(convert::tests::example());
        let refused = Problem::new(Word::NotJson, "what\never");
        let lines = vec![(1, None), (2, Some(refused)), (4, None), (5, None)];
        let answers = vec![
            Ok(Accepted::New(Arc::clone(&action))),
            Ok(Accepted::Repeated(action)),
            Err(SubmitError::Busy),
        ];
        let out = written(lines, answers);
        let read: Vec<LineAnswer> = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let told: Vec<_> =
            read.iter().map(|answer| (answer.line, answer.status, answer.action.is_some())).collect();
        assert_eq!(told, [(1, 202, true), (2, 400, false), (4, 200, true), (5, 503, false)]);
    }
}
