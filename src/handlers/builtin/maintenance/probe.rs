//! What nginx answers, over a Unix socket or a loopback address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, RETRY_AFTER};
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::page::MARK;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where nginx is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub(super) enum Door {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl TryFrom<String> for Door {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:/") {
            return Ok(Self::Unix(PathBuf::from(format!("/{path}"))));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Tcp(address)),
            _ => Err(format!("check: {text:?} is neither unix:/PATH nor a loopback address with a port")),
        }
    }
}

impl From<Door> for String {
    fn from(door: Door) -> Self {
        match door {
            Door::Unix(path) => format!("unix:{}", path.display()),
            Door::Tcp(address) => address.to_string(),
        }
    }
}

impl Door {
    /// The address that nginx sees it come from, if it has one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(address) => Some(address.ip()),
        }
    }
}

/// What of an answer matters here.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) has_retry_after: bool,
    /// The link that nginx has read, if it is one that was made here.
    pub(super) mark: Option<String>,
}

/// Asks once, over a connection of its own: an old worker of nginx takes no new one.
pub(super) async fn ask(door: &Door, host: &str, path: &str) -> io::Result<Answer> {
    let asked = async {
        match door {
            Door::Unix(socket) => over(UnixStream::connect(socket).await?, host, path).await,
            Door::Tcp(address) => over(TcpStream::connect(address).await?, host, path).await,
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> io::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the sender.
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(path)
        .header(HOST, host)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let mark = answer.headers().get(MARK).and_then(|mark| mark.to_str().ok()).map(str::to_owned);
    Ok(Answer {
        status: answer.status().as_u16(),
        has_retry_after: answer.headers().contains_key(RETRY_AFTER),
        mark,
    })
}
