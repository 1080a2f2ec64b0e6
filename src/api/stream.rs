//! A submission of many: NDJSON in, an answer line for each line out, in order, as each becomes durable.
//!
//! The answer is a stream that the connection pulls. Each pull reads what the client has sent, parses it, hands it
//! to the engine in batches and waits for the oldest batch's answers. A client that does not read its answers
//! is thereby no longer read from: at most [`BATCHES_MAX`] batches are in memory, a few MiB however short its lines.
//!
//! Where the bytes come from and go to is the caller's: `direct`, or hyper by way of [`lines`].
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
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use bytes::{Buf as _, BytesMut};
use hyper::body::{Body as _, Incoming};

use super::convert::{self, Show};
use super::parse::{self, Limits};
use super::patience::Patience;
use super::problem::{Problem, Word};
use super::reply::{self, Reply};
use super::stopping::Stopping;
use super::{Api, Settings, spare, submit};
use crate::action::Actor;
use crate::engine::{Accepted, Submission, SubmitError};

/// Batches that the engine may have at once.
const BATCHES_MAX: usize = 4;
/// With this many under way, further lines are gathered into one larger batch.
const BATCHES_EAGER: usize = 2;
const BATCH_BYTES_MAX: usize = 256 * 1_024;
/// What a line costs beside its own bytes, roughly: it becomes a submission, then an action and its answer.
const LINE_COST: usize = 1_024;

/// A poll ends after lines of that cost: one stream must not hold up every other connection.
const POLL_COST_MAX: usize = BATCH_BYTES_MAX;

type Answers = Vec<Result<Accepted, SubmitError>>;
/// The lines of a batch, and what the engine says of those that it got.
type UnderWay = VecDeque<(Vec<(u64, Option<Problem>)>, Waiting)>;
/// Appends what there is of the input; false at its end.
pub(super) type Read<'a> = dyn FnMut(&mut TaskContext<'_>, &mut BytesMut) -> Poll<Result<bool, Problem>> + 'a;

/// The engine's answers to a batch, to come or there.
enum Waiting {
    Engine(Pin<Box<dyn Future<Output = Answers> + Send>>),
    Over(Answers),
}

impl Waiting {
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Answers> {
        match self {
            Self::Engine(answers) => answers.as_mut().poll(cx),
            Self::Over(answers) => Poll::Ready(std::mem::take(answers)),
        }
    }
}

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
        // Most batches of a slow stream are of one line.
        if self.lines.is_empty() {
            self.lines.reserve_exact(1);
        }
        self.lines.push((line, problem));
    }

    fn submit(&mut self, line: u64, submission: Submission) {
        if self.submissions.is_empty() {
            self.submissions.reserve_exact(1);
        }
        self.submissions.push(submission);
        self.push(line, None);
    }
}

/// One stream, between its input and its answers.
pub(super) struct Exchange {
    api: Arc<Api>,
    actor: Actor,
    limits: Limits,
    line_bytes_max: usize,
    /// With pauses in the input.
    patience: Patience,
    /// The last poll gave answers, and the caller has sent them since.
    is_answering: bool,
    /// What was read and not yet cut into lines; its first `scanned` bytes have no line end.
    input: BytesMut,
    scanned: usize,
    /// The rest of a line that was too long is dropped.
    skipping: bool,
    /// What lines may still cost in this poll.
    share: usize,
    ended: bool,
    /// Why the input ended early, until it is told.
    cut_short: Option<Problem>,
    line: u64,
    gathering: Batch,
    under_way: UnderWay,
    /// Ready when the daemon begins to stop.
    draining: Stopping,
}

/// Begins to answer at once; the lines follow as they come.
pub(super) fn lines(api: &Arc<Api>, settings: &Settings, actor: Actor, mut body: Incoming) -> Reply {
    let mut exchange = Exchange::new(api, settings, actor);
    let mut read = move |cx: &mut TaskContext<'_>, input: &mut BytesMut| loop {
        return Poll::Ready(match ready!(Pin::new(&mut body).poll_frame(cx)) {
            None => Ok(false),
            Some(Err(error)) => Err(broken_off(&error)),
            Some(Ok(frame)) => {
                // What is not data is trailers, which mean nothing here.
                let Ok(piece) = frame.into_data() else { continue };
                input.extend_from_slice(&piece);
                Ok(true)
            }
        });
    };
    let answers = futures_util::stream::poll_fn(move |cx| {
        let mut out = Vec::new();
        let is_more = ready!(exchange.poll_answers(cx, &mut read, &mut out));
        Poll::Ready(is_more.then(|| out.into()))
    });
    reply::stream(reply::NDJSON, answers)
}

/// The client is gone, or does not keep to the protocol.
pub(super) fn broken_off(why: &dyn std::fmt::Display) -> Problem {
    Problem::new(Word::BadRequest, format!("the body broke off: {why}"))
}

impl Exchange {
    pub fn new(api: &Arc<Api>, settings: &Settings, actor: Actor) -> Self {
        Self {
            api: Arc::clone(api),
            actor,
            limits: Limits::from(settings),
            line_bytes_max: settings.body_bytes_max,
            patience: Patience::new(settings.pause()),
            is_answering: false,
            input: BytesMut::new(),
            scanned: 0,
            skipping: false,
            share: POLL_COST_MAX,
            ended: false,
            cut_short: None,
            line: 0,
            gathering: Batch::default(),
            under_way: VecDeque::new(),
            draining: Stopping::new(api.engine.draining()),
        }
    }

    /// Appends the answers of the oldest batch; false when all input is answered.
    pub fn poll_answers(
        &mut self,
        cx: &mut TaskContext<'_>,
        read: &mut Read<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<bool> {
        spare::borrow(&mut self.input);
        let polled = self.poll(cx, read, out);
        spare::give_back(&mut self.input);
        polled
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>, read: &mut Read<'_>, out: &mut Vec<u8>) -> Poll<bool> {
        if std::mem::take(&mut self.is_answering) {
            // What the client was sent meanwhile may have kept it from sending.
            self.patience.renew();
        }
        loop {
            if self.share == 0 {
                self.share = POLL_COST_MAX;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.cut();
            while self.hand_over(cx) {
                self.cut();
            }
            if let Some((_, waiting)) = self.under_way.front_mut()
                && let Poll::Ready(answers) = waiting.poll(cx)
            {
                if let Some((lines, _)) = self.under_way.pop_front() {
                    write_answers(out, lines, answers);
                }
                self.is_answering = true;
                return Poll::Ready(true);
            }
            if self.share == 0 {
                continue;
            }
            if self.ended || self.gathering.is_full() {
                return if self.under_way.is_empty() { Poll::Ready(false) } else { Poll::Pending };
            }
            if self.draining.poll(cx).is_ready() {
                self.end(Some(Problem::new(Word::Draining, "the daemon is stopping; the rest was not read")));
                continue;
            }
            match read(cx, &mut self.input) {
                Poll::Ready(Ok(true)) => self.patience.renew(),
                Poll::Ready(Ok(false)) => self.end(None),
                // The client is gone: half a line is no line.
                Poll::Ready(Err(problem)) => self.end(Some(problem)),
                Poll::Pending => {
                    ready!(self.patience.poll_over(cx));
                    self.end(Some(reply::paused(self.patience.limit())));
                }
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
        let rest = std::mem::take(&mut self.input);
        self.scanned = 0;
        if let Some(problem) = self.cut_short.take() {
            self.line += 1;
            self.gathering.push(self.line, Some(problem));
        } else if !std::mem::take(&mut self.skipping) && !rest.is_empty() {
            self.take_line(&rest);
        }
    }

    /// Cuts lines off the input until it has no whole one, or the batch is full, or the poll's share is used up.
    fn cut(&mut self) {
        let mut input = std::mem::take(&mut self.input);
        while !self.gathering.is_full() && self.share > 0 {
            let unseen = input.get(self.scanned..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'\n', unseen) else {
                self.scanned = input.len();
                self.input = input;
                if self.ended {
                    self.take_rest();
                } else {
                    self.drop_if_too_long();
                }
                return;
            };
            let end = self.scanned + found;
            self.scanned = 0;
            self.share = self.share.saturating_sub(LINE_COST + end);
            if !std::mem::take(&mut self.skipping) {
                self.take_line(input.get(..end).unwrap_or_default());
            }
            input.advance(end + 1);
        }
        self.input = input;
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
            Ok(submission) => self.gathering.submit(self.line, submission),
            Err(problem) => self.gathering.push(self.line, Some(problem)),
        }
    }

    /// Sends what is gathered to the engine, if it has room; says whether it did.
    fn hand_over(&mut self, cx: &mut TaskContext<'_>) -> bool {
        if self.gathering.lines.is_empty() {
            return false;
        }
        let room = if self.gathering.is_full() || self.ended { BATCHES_MAX } else { BATCHES_EAGER };
        if self.under_way.len() >= room {
            return false;
        }
        let Batch { lines, submissions, bytes: _ } = std::mem::take(&mut self.gathering);
        let mut waiting = if submissions.is_empty() {
            Waiting::Over(Answers::new())
        } else {
            let api = Arc::clone(&self.api);
            Waiting::Engine(Box::pin(async move { api.engine.submit(submissions).await }))
        };
        // The first poll sends the batch, so that batches reach the engine in their order. An answer that comes
        // at once is kept for its turn.
        if let Poll::Ready(answers) = waiting.poll(cx) {
            waiting = Waiting::Over(answers);
        }
        self.under_way.push_back((lines, waiting));
        true
    }
}

/// Appends the answer lines of one batch.
fn write_answers(out: &mut Vec<u8>, lines: Vec<(u64, Option<Problem>)>, answers: Answers) {
    out.reserve(lines.len() * 1_024);
    let mut answers = answers.into_iter();
    for (line, refused) in lines {
        let answer = match refused {
            Some(problem) => Err(problem),
            None => match answers.next() {
                Some(answer) => answer.map_err(Problem::from),
                None => Err(SubmitError::Store.into()),
            },
        };
        write_line(out, line, &answer);
    }
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
        let mut out = Vec::new();
        write_answers(&mut out, lines, answers);
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
