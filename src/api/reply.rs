//! Answers and request bodies: the one body type of the service, the ways to fill it, and the bounded way to read
//! what a client sends.
//!
//! Guarantees: a body is read up to its limit and no further into memory; a client that pauses longer than allowed
//! is told so (408); a stream is pulled by the connection, so a client that does not read stops its source.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::problem::{Problem, Word};

/// How much of a body that is too large is read and dropped, so that its sender can read the refusal.
const DROPPED_BYTES_MAX: usize = 64 << 20;
/// A whole object has this many pauses' time to arrive.
pub(super) const PAUSES_MAX: u32 = 6;

pub(super) type Reply = Response<Body>;

/// What a response carries.
pub(super) enum Body {
    Full(Bytes),
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
pub(super) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

pub(super) fn full(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::Full(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

/// A value of the wire types.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Reply, Problem> {
    let body = serde_json::to_vec(value)
        .map_err(|error| Problem::new(Word::Internal, format!("cannot write the answer: {error}")))?;
    Ok(full(status, JSON, body))
}

pub(super) fn stream(kind: HeaderValue, stream: impl Stream<Item = Bytes> + Send + 'static) -> Reply {
    let mut reply = Response::new(Body::Stream(Box::pin(stream)));
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

/// A refusal, with the headers that go with it. `allow` is for those about the method.
pub(super) fn refusal(problem: &Problem, allow: Option<&str>) -> Reply {
    let status = StatusCode::from_u16(problem.word.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = full(status, PROBLEM, serde_json::to_vec(&problem.to_wire()).unwrap_or_default());
    let headers = reply.headers_mut();
    if let Some(seconds) = problem.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(allow).ok()) {
        headers.insert(ALLOW, allow);
    }
    if matches!(problem.word, Word::RequestTimeout | Word::BadRequest | Word::BodyTooLarge) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// The whole body, if it has at most `bytes_max` bytes and arrives without longer pauses than `pause`.
pub(super) async fn collect(mut body: Incoming, bytes_max: usize, pause: Duration) -> Result<Bytes, Problem> {
    let reading = async {
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(too_large(&mut body, bytes_max).await);
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = next_piece(&mut body, pause).await? {
            if whole.len() + piece.len() > bytes_max {
                return Err(too_large(&mut body, bytes_max).await);
            }
            if whole.is_empty() && body.is_end_stream() {
                return Ok(piece);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    };
    tokio::time::timeout(pause * PAUSES_MAX, reading)
        .await
        .unwrap_or_else(|_| Err(paused(pause * PAUSES_MAX)))
}

/// The next piece of a body; none at its end.
pub(super) async fn next_piece(body: &mut Incoming, pause: Duration) -> Result<Option<Bytes>, Problem> {
    loop {
        match tokio::time::timeout(pause, body.frame()).await {
            Err(_) => return Err(paused(pause)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                return Err(Problem::new(Word::BadRequest, format!("the body broke off: {error}")));
            }
            // What is not data is trailers, which mean nothing here.
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

pub(super) fn paused(limit: Duration) -> Problem {
    Problem::new(Word::RequestTimeout, format!("the body did not arrive within {} ms", limit.as_millis()))
}

async fn too_large(body: &mut Incoming, bytes_max: usize) -> Problem {
    let dropping = async {
        let mut dropped = 0;
        while dropped < DROPPED_BYTES_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            dropped += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whether all of it was dropped or not, the refusal is the same.
    let _ = tokio::time::timeout(Duration::from_secs(5), dropping).await;
    Problem::new(Word::BodyTooLarge, format!("at most {bytes_max} bytes are taken"))
}

/// What the request says its body is, in lower case, for case means nothing in it (RFC 9110, section 8.3.1); empty
/// if it says nothing.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    without_parameters(value).to_ascii_lowercase()
}

/// The media type itself.
pub(super) fn without_parameters(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_is_read_in_any_case_and_without_its_parameters() {
        for (header, kind) in [
            ("Application/X-NDJSON; charset=utf-8", "application/x-ndjson"),
            (" application/json ", "application/json"),
            (";", ""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(header));
            assert_eq!(media_type(&headers), kind);
        }
        assert_eq!(media_type(&HeaderMap::new()), "");
    }
}
