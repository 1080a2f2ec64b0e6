//! HTTP questions to what runs on this host, over a Unix socket or a loopback address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where is asked.
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
            _ => Err(format!("{text:?} is neither unix:/PATH nor a loopback address with a port")),
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
    /// The address that a server sees it come from, if it has one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(address) => Some(address.ip()),
        }
    }

    /// Asks once, over a connection of its own: what ends takes no new one.
    pub(super) async fn ask(&self, host: &str, path: &str) -> io::Result<Answer> {
        let asked = async {
            match self {
                Self::Unix(socket) => over(UnixStream::connect(socket).await?, host, path).await,
                Self::Tcp(address) => over(TcpStream::connect(address).await?, host, path).await,
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
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
    let (head, _) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    Ok(Answer { status: head.status, headers: head.headers })
}
