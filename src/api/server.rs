//! The two doors: accepts connections, knows who is behind each, bounds them, and ends them.
//!
//! Limits: connections per door (the one too many gets a 503 problem and is closed), time for a request's head
//! (which is also how long a connection may idle between requests), time without progress in writing.
//!
//! # The stop
//!
//! No connection is accepted any more: where systemd has the listening socket too, who connects waits in its backlog for the
//! next daemon. Whoever was accepted may have a request on its way, and closing before it is read would answer it with
//! a reset; so each connection has [`LINGER`] for a last request, whose answer says that the connection ends. What is
//! being answered then has [`GRACE`].
//!
//! Started by the daemon, one task for each door.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::problem::{Problem, Word};
use super::routes::{self, Context, Door};
use super::stopping::Stopping;
use super::{Api, direct, metrics};
use crate::action::Actor;

/// How long after the stop a request may come in on a connection that was there before.
pub const LINGER: Duration = Duration::from_millis(500);
/// How long an answer may go on after that.
const GRACE: Duration = Duration::from_secs(5);
/// Wait after a failed accept: usually all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are being told of the limit; beyond it they are just closed.
const REFUSALS_MAX: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Largest head of a request, and read buffer of a connection.
const BUFFER_BYTES: usize = 128 * 1_024;

/// Serves the Unix socket: reads and writes. Ends, with its connections, when `stop` becomes true.
pub async fn serve_socket(listener: UnixListener, api: Arc<Api>, stop: watch::Receiver<bool>) {
    serve(listener, api, stop).await;
}

/// Serves the status endpoint over TCP: reads only. Ends, with its connections, when `stop` becomes true.
pub async fn serve_status(listener: TcpListener, api: Arc<Api>, stop: watch::Receiver<bool>) {
    serve(listener, api, stop).await;
}

/// Where connections come from.
trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, with who is behind it.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Door)>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Door)> {
        let (stream, _) = self.accept().await?;
        let peer = stream.peer_cred()?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        Ok((stream, Door::Socket(Actor { uid: peer.uid(), gid: peer.gid(), pid })))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Door)> {
        let (stream, _) = self.accept().await?;
        // Only a matter of speed.
        let _ = stream.set_nodelay(true);
        Ok((stream, Door::Status))
    }
}

async fn serve<L: Listener>(listener: L, api: Arc<Api>, mut stop: watch::Receiver<bool>) {
    let tasks = TaskTracker::new();
    let open = Arc::new(AtomicUsize::new(0));
    let refusals = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = tokio::select! {
            biased;
            // A sender that is gone means stop as well.
            () = is_true(&mut stop) => break,
            accepted = listener.next() => accepted,
        };
        let (stream, door) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let most = api.settings.borrow().connections_max;
        if let Some(place) = Place::take(&open, most, Some(door.name())) {
            let context = Arc::new(Context::new(&api, door));
            let stop = stop.clone();
            tasks.spawn(async move {
                connection(stream, context, stop).await;
                drop(place);
            });
        } else if let Some(place) = Place::take(&refusals, REFUSALS_MAX, None) {
            tasks.spawn(async move {
                let _ = timeout(REFUSAL_TIME, refuse(stream, most)).await;
                drop(place);
            });
        }
    }
    // Who connects from now on is refused at once, unless the socket is systemd's.
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Returns when the flag is true, or nobody is left who could set it.
pub(super) async fn is_true(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}

/// One of a bounded number of places; given back when dropped.
struct Place {
    taken: Arc<AtomicUsize>,
    gauge: Option<&'static str>,
}

impl Place {
    fn take(taken: &Arc<AtomicUsize>, most: usize, gauge: Option<&'static str>) -> Option<Self> {
        // Only the accept loop takes places, so between the look and the addition the number can only fall.
        if taken.load(Ordering::Relaxed) >= most {
            return None;
        }
        taken.fetch_add(1, Ordering::Relaxed);
        if let Some(door) = gauge {
            metrics::connection_opened(door);
        }
        Some(Self { taken: Arc::clone(taken), gauge })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        if let Some(door) = self.gauge {
            metrics::connection_closed(door);
        }
    }
}

async fn connection<S>(stream: S, context: Arc<Context>, stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (header_timeout, write_timeout) = {
        let settings = context.api.settings.borrow();
        (Duration::from_millis(settings.header_timeout_ms), Duration::from_millis(settings.write_timeout_ms))
    };
    let mut stream = Watched { stream, patience: write_timeout, stalled: None, unread: BytesMut::new() };
    let mut stop = Stopping::new(stop);
    let mut stop = poll_fn(|cx| stop.poll(cx));
    if let Door::Socket(actor) = context.door {
        let left = {
            let closing = AtomicBool::new(false);
            let mut direct = pin!(direct::serve(&mut stream, &context, actor, &closing));
            tokio::select! {
                biased;
                left = &mut direct => left,
                () = &mut stop => {
                    context.leave();
                    if let Ok(left) = timeout(LINGER, &mut direct).await {
                        left
                    } else {
                        closing.store(true, Ordering::Relaxed);
                        timeout(GRACE, direct).await.unwrap_or(None)
                    }
                }
            }
        };
        let Some(unread) = left else { return };
        stream.unread = unread;
    }
    let service = service_fn(|request| {
        let context = Arc::clone(&context);
        async move { Ok::<_, Infallible>(routes::answer(&context, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop => {
            context.leave();
            if let Ok(ended) = timeout(LINGER, &mut served).await {
                ended
            } else {
                served.as_mut().graceful_shutdown();
                timeout(GRACE, served).await.unwrap_or(Ok(()))
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
}

/// Tells the client why, then takes what it still sends: closing with unread bytes could destroy the answer.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, most: usize) -> io::Result<()> {
    let problem = Problem::new(Word::TooManyConnections, format!("{most} connections are open already"));
    let body = serde_json::to_string(&problem.to_wire()).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    let mut dropped = [0; 4_096];
    while stream.read(&mut dropped).await? > 0 {}
    Ok(())
}

/// A stream that fails when its peer has taken nothing for too long.
struct Watched<S> {
    stream: S,
    /// What was read already, to be read again.
    unread: BytesMut,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    fn watch<T>(&mut self, cx: &mut TaskContext<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(count));
            if self.unread.is_empty() {
                self.unread = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.watch(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The daemon spawns both doors: this fails to compile if it could not.
    #[expect(dead_code, reason = "compiling it is the test")]
    fn doors_can_be_spawned(
        socket: UnixListener,
        status: TcpListener,
        api: Arc<Api>,
        stop: watch::Receiver<bool>,
    ) {
        fn spawnable<T: Send + 'static>(_: T) {}
        spawnable(serve_socket(socket, Arc::clone(&api), stop.clone()));
        spawnable(serve_status(status, api, stop));
    }

    #[test]
    fn place_is_given_back_when_its_connection_ends() {
        let taken = Arc::new(AtomicUsize::new(0));
        let first = Place::take(&taken, 1, None);
        assert!(first.is_some());
        assert!(Place::take(&taken, 1, None).is_none());
        drop(first);
        assert!(Place::take(&taken, 1, None).is_some());
    }

    #[tokio::test]
    async fn connection_too_many_is_told_why() {
        let (ours, mut theirs) = tokio::io::duplex(4_096);
        let refusing = tokio::spawn(refuse(ours, 7));
        theirs.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut told = String::new();
        theirs.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        assert!(told.contains("urn:actiond:problem:too-many-connections"), "{told}");
        drop(theirs);
        refusing.await.unwrap().unwrap();
    }
}
