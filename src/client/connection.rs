//! One HTTP/1.1 connection over the Unix socket, kept between calls and opened again when it is gone.
//!
//! A stream (log, events, NDJSON) takes a connection for itself; calls made meanwhile open another. The
//! kept one is put back only after its answer was read to the end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::stream::Lines;
use super::{ANSWER_LIMIT, ClientError};
use crate::api::wire;

/// Longest answer that is read whole.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Chunks of a streamed request on their way; more make the sender wait.
const CHUNKS_AHEAD: usize = 16;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Sender = SendRequest<Body>;

/// Talks to one daemon. Cheap to make: the connection is opened by the first call.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    kept: Mutex<Option<Sender>>,
}

/// The open end of a streamed request. Dropping it ends the request.
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<Bytes>);

/// The other end of a [`BodySender`].
#[derive(Debug)]
pub struct BodySource(mpsc::Receiver<Bytes>);

/// The two ends of a streamed request. The sender is to be fed beside the call that takes the source.
#[must_use]
pub fn body() -> (BodySender, BodySource) {
    let (chunks, waiting) = mpsc::channel(CHUNKS_AHEAD);
    (BodySender(chunks), BodySource(waiting))
}

impl BodySender {
    /// Sends a chunk; waits while the daemon is slow to take it. False if the connection is gone: the
    /// answers say why.
    pub async fn send(&self, chunk: Bytes) -> bool {
        self.0.send(chunk).await.is_ok()
    }
}

impl Client {
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, kept: Mutex::new(None) }
    }

    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) async fn get(&self, path: &str, limit: Duration) -> Result<Bytes, ClientError> {
        let (response, sender) = self.send(request(Method::GET, path, None, empty())?, limit).await?;
        Ok(self.whole(response, sender, limit).await?.1)
    }

    pub(super) async fn post(
        &self,
        path: &str,
        json: Bytes,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let body = Full::new(json).map_err(|never| match never {}).boxed_unsync();
        let request = request(Method::POST, path, Some("application/json"), body)?;
        let (response, sender) = self.send(request, limit).await?;
        self.whole(response, sender, limit).await
    }

    pub(super) async fn get_stream(&self, path: &str) -> Result<Lines, ClientError> {
        let request = request(Method::GET, path, None, empty())?;
        let (response, sender) = self.send(request, ANSWER_LIMIT).await?;
        self.lines(response, sender).await
    }

    pub(super) async fn post_stream(
        &self,
        path: &str,
        content_type: &str,
        source: BodySource,
    ) -> Result<Lines, ClientError> {
        let frames = futures_util::stream::unfold(source.0, |mut waiting| async {
            let chunk = waiting.recv().await?;
            Some((Ok(Frame::data(chunk)), waiting))
        });
        let body = StreamBody::new(frames).boxed_unsync();
        let request = request(Method::POST, path, Some(content_type), body)?;
        let (response, sender) = self.send(request, ANSWER_LIMIT).await?;
        self.lines(response, sender).await
    }

    /// Sends over the kept connection, or over a new one.
    async fn send(
        &self,
        first: Request<Body>,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Sender), ClientError> {
        let mut outgoing = first;
        let repeatable = (outgoing.method() == Method::GET).then(|| outgoing.uri().to_string());
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            match self.within(limit, sender.try_send_request(outgoing)).await? {
                Ok(response) => return Ok((response, sender)),
                Err(mut refused) => {
                    outgoing = match (refused.take_message(), &repeatable) {
                        (Some(unsent), _) => unsent,
                        (None, Some(path)) => request(Method::GET, path, None, empty())?,
                        (None, None) => return Err(self.broken(refused.error())),
                    };
                }
            }
        }
        let mut sender = self.open().await?;
        match self.within(limit, sender.send_request(outgoing)).await? {
            Ok(response) => Ok((response, sender)),
            Err(error) => Err(self.broken(&error)),
        }
    }

    async fn open(&self) -> Result<Sender, ClientError> {
        let connecting = UnixStream::connect(&self.socket);
        let stream = self
            .within(ANSWER_LIMIT, connecting)
            .await?
            .map_err(|error| ClientError::unreachable(&self.socket, &error))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Ends by itself when the sender is dropped; its errors reach the caller through the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// The answer's body, read to its end; a problem document becomes an error.
    async fn whole(
        &self,
        response: Response<Incoming>,
        sender: Sender,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let body = self
            .within(limit, Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect())
            .await?
            .map_err(|error| self.gone(&format!("the answer broke off: {error}")))?
            .to_bytes();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        if status.is_success() { Ok((status, body)) } else { Err(problem(status, &body)) }
    }

    async fn lines(&self, response: Response<Incoming>, sender: Sender) -> Result<Lines, ClientError> {
        if response.status().is_success() {
            return Ok(Lines::new(response.into_body(), sender, self.socket.clone()));
        }
        let refused = self.whole(response, sender, ANSWER_LIMIT).await;
        Err(refused.err().unwrap_or_else(|| ClientError::Protocol("a refusal without a cause".into())))
    }

    async fn within<T>(&self, limit: Duration, call: impl Future<Output = T>) -> Result<T, ClientError> {
        tokio::time::timeout(limit, call).await.map_err(|_| ClientError::Unreachable {
            socket: self.socket.clone(),
            cause: format!("no answer within {}", humantime::format_duration(limit)),
            kind: io::ErrorKind::TimedOut,
        })
    }

    fn broken(&self, error: &hyper::Error) -> ClientError {
        self.gone(&format!(
            "the connection broke off ({error}); whether the request was carried out is unknown"
        ))
    }

    fn gone(&self, cause: &str) -> ClientError {
        ClientError::Unreachable {
            socket: self.socket.clone(),
            cause: cause.into(),
            kind: io::ErrorKind::ConnectionReset,
        }
    }
}

fn request(
    method: Method,
    path: &str,
    content_type: Option<&str>,
    body: Body,
) -> Result<Request<Body>, ClientError> {
    let mut builder = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(content_type) = content_type {
        builder = builder.header("content-type", content_type);
    }
    builder
        .body(body)
        .map_err(|error| ClientError::Protocol(format!("cannot make a request for {path}: {error}")))
}

fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed_unsync()
}

/// What a refusal says: its problem document, or else its first words.
fn problem(status: StatusCode, body: &[u8]) -> ClientError {
    if let Ok(problem) = serde_json::from_slice::<wire::Problem>(body) {
        return ClientError::Problem(Box::new(problem));
    }
    let words: String = String::from_utf8_lossy(body).chars().take(200).collect();
    ClientError::Protocol(format!("{status} without a problem document: {words}"))
}
