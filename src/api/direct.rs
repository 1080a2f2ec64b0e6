//! The short way through the Unix socket, for what it is mostly used for: submissions.
//!
//! Every connection begins here. A submission whose head has nothing unusual in it (see `head`) is read and answered
//! without hyper, whose generality costs more than the submission itself. The first request that is anything else is
//! left to hyper, untouched and with all that was read of it, and so is the connection from then on.
//!
//! # Guarantees
//!
//! - The limits, times and answers are those of the long way: the same code decides and says them.
//! - What is kept in memory for a connection is bounded: an object's longest length, or what [`Exchange`] keeps.
//! - After the stop, one more request is taken, and its answer says that the connection ends.
//!
//! Called by `server` for each connection to the socket.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, ready};

use bytes::{Buf as _, BytesMut};
use hyper::StatusCode;
use hyper::header::CONNECTION;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::chunks::{Read, Reader};
use super::convert::{self, Show};
use super::head::{self, Framing, Head};
use super::parse::{self, Limits};
use super::patience::Patience;
use super::problem::Problem;
use super::reply::{self, Body, PAUSES_MAX};
use super::routes::{Context, SUBMIT_ROW};
use super::stream::{Exchange, broken_off};
use super::{Settings, chunks, metrics, spare, submit, time};
use crate::action::Actor;
use crate::engine::Accepted;

/// Room for a read at first, and what it may grow to on a connection that fills it.
const ROOM_BYTES: usize = 4 * 1_024;
const ROOM_BYTES_MAX: usize = 128 * 1_024;

/// What a stream's answer begins with, up to the date.
const LINES_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\ndate: ";

/// The header of a connection's last answer.
const CLOSE: &[u8] = b"\r\nconnection: close";

/// Serves submissions until another request comes: then what was read and not answered, for hyper. None if the
/// connection is over. Once it is `closing`, no further request is waited for.
pub(super) async fn serve<S>(
    stream: &mut S,
    context: &Context,
    actor: Actor,
    closing: &AtomicBool,
) -> Option<BytesMut>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let settings = Arc::clone(&context.api.settings.borrow());
    let patience = Patience::new(settings.pause());
    let input = Input { stream, buffer: BytesMut::new(), room: ROOM_BYTES };
    let mut direct = Direct { input, out: Vec::new(), patience, context, actor, closing };
    // A connection that fails is over like one that was closed.
    let left = direct.requests().await.unwrap_or(Left::Nothing);
    match left {
        Left::Nothing => None,
        Left::ForHyper => Some(direct.input.buffer),
    }
}

/// What becomes of the connection.
enum Left {
    Nothing,
    ForHyper,
}

/// One connection, on the short way.
struct Direct<'a, S> {
    input: Input<'a, S>,
    out: Vec<u8>,
    patience: Patience,
    context: &'a Context,
    actor: Actor,
    closing: &'a AtomicBool,
}

/// The connection, with what was read from it and is not used up.
struct Input<'a, S> {
    stream: &'a mut S,
    buffer: BytesMut,
    room: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Input<'_, S> {
    /// Reads what there is; false at the end.
    fn poll_more(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<bool>> {
        spare::borrow(&mut self.buffer);
        self.buffer.reserve(self.room);
        let room = self.buffer.capacity() - self.buffer.len();
        let Poll::Ready(count) = pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)? else {
            spare::give_back(&mut self.buffer);
            return Poll::Pending;
        };
        if count >= room {
            self.room = (2 * self.room).min(ROOM_BYTES_MAX);
        }
        Poll::Ready(Ok(count > 0))
    }

    /// A request is taken out: keeps no more memory than what follows it needs.
    fn rest(&mut self) {
        spare::give_back(&mut self.buffer);
        if self.buffer.capacity() > spare::BYTES_MAX {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Direct<'_, S> {
    async fn requests(&mut self) -> io::Result<Left> {
        loop {
            let settings = Arc::clone(&self.context.api.settings.borrow());
            let goes_on = match self.next_head(&settings).await? {
                Head::Object { head_bytes, length } => {
                    self.input.buffer.advance(head_bytes);
                    self.object(&settings, length).await?
                }
                Head::Lines { head_bytes, framing } => {
                    self.input.buffer.advance(head_bytes);
                    self.lines(&settings, framing).await?
                }
                Head::Other => return Ok(Left::ForHyper),
                Head::Partial => false,
            };
            if !goes_on {
                return Ok(Left::Nothing);
            }
            if self.input.buffer.is_empty() {
                self.input.room = ROOM_BYTES;
            }
        }
    }

    /// The next head; a partial one if the connection ended, was silent for too long, or is closing.
    async fn next_head(&mut self, settings: &Settings) -> io::Result<Head> {
        self.patience.renew();
        poll_fn(|cx| {
            loop {
                let head = head::look(&self.input.buffer, settings.body_bytes_max);
                if head != Head::Partial || self.closing.load(Ordering::Relaxed) {
                    return Poll::Ready(Ok(head));
                }
                match self.input.poll_more(cx)? {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(Ok(Head::Partial)),
                    Poll::Pending => {
                        ready!(self.patience.poll_over(cx));
                        return Poll::Ready(Ok(Head::Partial));
                    }
                }
            }
        })
        .await
    }

    /// Answers one object. False: the connection is over.
    async fn object(&mut self, settings: &Settings, length: usize) -> io::Result<bool> {
        let submission = match self.whole(length).await? {
            Ok(()) => {
                let bytes = self.input.buffer.get(..length).unwrap_or_default();
                parse::submission(bytes, self.actor, Limits::from(settings))
            }
            Err(problem) => Err(problem),
        };
        self.input.buffer.advance(length.min(self.input.buffer.len()));
        self.input.rest();
        let answered = match submission {
            Ok(submission) => submit::answered(&self.context.api, submission).await,
            Err(problem) => Err(problem),
        };
        spare::borrow_out(&mut self.out);
        let goes_on = match &answered {
            Ok(accepted) => self.write_accepted(accepted),
            Err(problem) => self.write_refusal(problem),
        };
        self.input.stream.write_all(&self.out).await?;
        self.out.clear();
        spare::give_back_out(&mut self.out);
        Ok(goes_on)
    }

    /// Waits until so many bytes of a body are there.
    async fn whole(&mut self, length: usize) -> io::Result<Result<(), Problem>> {
        if self.input.buffer.len() >= length {
            return Ok(Ok(()));
        }
        let since = Instant::now();
        self.patience.renew();
        poll_fn(|cx| {
            while self.input.buffer.len() < length {
                let limit = self.patience.limit();
                match self.input.poll_more(cx)? {
                    Poll::Ready(true) if since.elapsed() > limit * PAUSES_MAX => {
                        return Poll::Ready(Ok(Err(reply::paused(limit * PAUSES_MAX))));
                    }
                    Poll::Ready(true) => self.patience.renew(),
                    Poll::Ready(false) => {
                        return Poll::Ready(Ok(Err(broken_off(&"the connection ended"))));
                    }
                    Poll::Pending => {
                        ready!(self.patience.poll_over(cx));
                        return Poll::Ready(Ok(Err(reply::paused(limit))));
                    }
                }
            }
            Poll::Ready(Ok(Ok(())))
        })
        .await
    }

    /// The answer of the long way, written at once: to make a [`reply::Reply`] first costs more than the rest of it.
    /// True: the connection goes on.
    fn write_accepted(&mut self, accepted: &Accepted) -> bool {
        let leaving = self.context.is_leaving();
        let (status, action) = submit::outcome(accepted);
        self.write_status(status);
        self.out.extend_from_slice(b"\r\ncontent-type: application/json\r\nlocation: ");
        submit::write_location(&mut self.out, action);
        if leaving {
            self.out.extend_from_slice(CLOSE);
        }
        let mut body = Vec::new();
        spare::borrow_out(&mut body);
        convert::write_action(&mut body, action, Show::All);
        self.write_body(&body);
        body.clear();
        spare::give_back_out(&mut body);
        !leaving
    }

    fn write_refusal(&mut self, problem: &Problem) -> bool {
        let reply = reply::refusal(problem, None);
        let says_close = reply.headers().contains_key(CONNECTION);
        let leaving = self.context.is_leaving();
        self.write_status(reply.status());
        for (name, value) in reply.headers() {
            self.out.extend_from_slice(b"\r\n");
            self.out.extend_from_slice(name.as_str().as_bytes());
            self.out.extend_from_slice(b": ");
            self.out.extend_from_slice(value.as_bytes());
        }
        if leaving && !says_close {
            self.out.extend_from_slice(CLOSE);
        }
        // A refusal is whole.
        self.write_body(if let Body::Full(bytes) = reply.body() { bytes } else { b"" });
        !says_close && !leaving
    }

    fn write_status(&mut self, status: StatusCode) {
        metrics::answered(Some(SUBMIT_ROW), status.as_u16());
        let out = &mut self.out;
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    }

    /// The last headers, and what follows them.
    fn write_body(&mut self, body: &[u8]) {
        let out = &mut self.out;
        out.extend_from_slice(b"\r\ncontent-length: ");
        convert::number(out, body.len() as u64);
        out.extend_from_slice(b"\r\ndate: ");
        time::write_http(out, (self.context.api.clock)());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(body);
    }

    /// Answers a stream of lines. False: the connection is over.
    async fn lines(&mut self, settings: &Settings, framing: Framing) -> io::Result<bool> {
        metrics::answered(Some(SUBMIT_ROW), 200);
        let mut body = match framing {
            Framing::Length(length) => Reader::of_length(length),
            Framing::Chunked => Reader::chunked(),
        };
        let mut exchange = Exchange::new(&self.context.api, settings, self.actor);
        spare::borrow_out(&mut self.out);
        let leaving = self.context.is_leaving();
        self.out.extend_from_slice(LINES_HEAD);
        time::write_http(&mut self.out, (self.context.api.clock)());
        if leaving {
            self.out.extend_from_slice(CLOSE);
        }
        self.out.extend_from_slice(b"\r\n\r\n");
        let mut sent = 0;
        let Self { input, out, .. } = self;
        poll_fn(|cx| {
            loop {
                // Nothing more is read or answered before this is taken.
                while let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
                    match ready!(Pin::new(&mut *input.stream).poll_write(cx, rest))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        count => sent += count,
                    }
                }
                out.clear();
                sent = 0;
                spare::borrow_out(out);
                let mut read =
                    |cx: &mut TaskContext<'_>, lines: &mut BytesMut| poll_body(cx, input, &mut body, lines);
                let mut answered = Poll::Pending;
                chunks::write(out, |out| answered = exchange.poll_answers(cx, &mut read, out));
                match answered {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(io::Result::Ok(())),
                    Poll::Pending => {
                        spare::give_back_out(out);
                        return Poll::Pending;
                    }
                }
            }
        })
        .await?;
        chunks::write_end(out);
        self.input.stream.write_all(&self.out).await?;
        self.out.clear();
        spare::give_back_out(&mut self.out);
        Ok(body.is_done() && !leaving)
    }
}

/// Appends what there is of a body; false at its end.
fn poll_body<S: AsyncRead + AsyncWrite + Unpin>(
    cx: &mut TaskContext<'_>,
    input: &mut Input<'_, S>,
    body: &mut Reader,
    lines: &mut BytesMut,
) -> Poll<Result<bool, Problem>> {
    loop {
        match body.read(&mut input.buffer, lines) {
            Ok(Read::Some) => return Poll::Ready(Ok(true)),
            Ok(Read::End) => return Poll::Ready(Ok(false)),
            Ok(Read::Nothing) => {}
            Err(what) => return Poll::Ready(Err(broken_off(&what))),
        }
        match ready!(input.poll_more(cx)) {
            Ok(true) => {}
            Ok(false) => return Poll::Ready(Err(broken_off(&"the connection ended"))),
            Err(error) => return Poll::Ready(Err(broken_off(&error))),
        }
    }
}
