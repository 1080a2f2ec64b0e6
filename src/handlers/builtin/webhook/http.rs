//! One request to the endpoint, over a connection of its own, and what came of it.
//!
//! What matters is whether a request may have been carried out: one that was never sent may be sent again, whoever the
//! endpoint is. No redirect is followed, and no proxy is used.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, HeaderMap, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use url::{Host, Position, Url};

use super::endpoint::Endpoint;
use super::tls;

/// Longest wait for a connection, over all addresses.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// Or why it is not there as a whole.
    pub(super) body: Result<Bytes, String>,
}

/// Why nothing came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The endpoint has not got the request, and never will.
    NotSent(String),
    /// It may have got it.
    Lost(String),
    /// It is where nothing may be sent to.
    Forbidden(String),
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Sends a request to `url`, which is of the endpoint's origin. Host and path are set here.
pub(super) async fn ask(
    endpoint: &Endpoint,
    url: &Url,
    mut request: Request<Full<Bytes>>,
) -> Result<Answer, Unanswered> {
    let connecting = tokio::time::timeout(CONNECT_PATIENCE, connect(endpoint));
    let mut sender = connecting.await.unwrap_or_else(|_| {
        Err(Unanswered::NotSent(format!("no connection within {} s", CONNECT_PATIENCE.as_secs())))
    })?;
    address(&mut request, url).map_err(Unanswered::NotSent)?;
    let patience = endpoint.answer_timeout;
    let silent = format!("no answer within {}", humantime::format_duration(patience));
    let answered = tokio::time::timeout(patience, sender.try_send_request(request)).await;
    let response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(mut failed)) => {
            let is_unsent = failed.take_message().is_some();
            let why = failed.error().to_string();
            return Err(if is_unsent { Unanswered::NotSent(why) } else { Unanswered::Lost(why) });
        }
        Err(_) => return Err(Unanswered::Lost(silent)),
    };
    Ok(read(response, patience).await)
}

/// Says in the request where it goes.
fn address(request: &mut Request<Full<Bytes>>, url: &Url) -> Result<(), String> {
    let host = &url[Position::BeforeHost..Position::AfterPort];
    *request.uri_mut() = url[Position::BeforePath..Position::AfterQuery]
        .parse()
        .map_err(|error| format!("the URL cannot be asked for: {error}"))?;
    let value = |text: &str| text.parse().map_err(|_| format!("{text:?} is no value of a header"));
    let headers = request.headers_mut();
    headers.insert(HOST, value(host)?);
    headers.insert(USER_AGENT, value(concat!("actiond/", env!("CARGO_PKG_VERSION")))?);
    headers.insert(CONNECTION, value("close")?);
    Ok(())
}

async fn connect(endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, Unanswered> {
    let not_sent = |error: io::Error| Unanswered::NotSent(error.to_string());
    let stream: Box<dyn Duplex> = if let Some(socket) = &endpoint.socket {
        Box::new(UnixStream::connect(socket).await.map_err(not_sent)?)
    } else if endpoint.url.scheme() == "https" {
        let host = endpoint.url.host_str().unwrap_or_default();
        let secured = tls::over(dial(endpoint).await?, host, endpoint.ca_file.as_deref()).await;
        Box::new(secured.map_err(Unanswered::NotSent)?)
    } else {
        Box::new(dial(endpoint).await?)
    };
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| Unanswered::NotSent(error.to_string()))?;
    // Ends with the sender.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Connects to the first of the host's addresses that takes it. They are looked at here and nowhere else, so what is
/// connected to is what was judged.
async fn dial(endpoint: &Endpoint) -> Result<TcpStream, Unanswered> {
    let not_sent = |error: io::Error| Unanswered::NotSent(error.to_string());
    let port = endpoint.url.port_or_known_default().unwrap_or(0);
    let found: Vec<SocketAddr> = match endpoint.url.host() {
        Some(Host::Domain(name)) => lookup_host((name, port)).await.map_err(not_sent)?.collect(),
        Some(Host::Ipv4(address)) => vec![(address, port).into()],
        Some(Host::Ipv6(address)) => vec![(address, port).into()],
        None => Vec::new(),
    };
    let mut last = None;
    for address in found.iter().filter(|address| endpoint.addresses.has(address.ip())) {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Some(Unanswered::NotSent(format!("{address}: {error}"))),
        }
    }
    Err(last.unwrap_or_else(|| match found.first() {
        Some(address) => Unanswered::Forbidden(format!("{} is an address that is not allowed", address.ip())),
        None => Unanswered::NotSent("its name has no address".to_owned()),
    }))
}

async fn read(response: Response<hyper::body::Incoming>, patience: Duration) -> Answer {
    let (head, body) = response.into_parts();
    let read = tokio::time::timeout(patience, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
    let body = match read {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(format!("it is longer than {ANSWER_BYTES_MAX} bytes"))
        }
        Ok(Err(error)) => Err(format!("it broke off: {error}")),
        Err(_) => Err(format!("it did not end within {}", humantime::format_duration(patience))),
    };
    let location =
        head.headers.get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Answer {
        status: head.status.as_u16(),
        location,
        retry_after: retry_after(&head.headers, SystemTime::now()),
        body,
    }
}

/// `Retry-After` in either of its forms (RFC 9110, 10.2.3): a number of seconds, or a time.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // A time that is over already means now.
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_or_a_time() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:30 GMT").unwrap();
        let after = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        for (text, expected) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(7)),
            ("Sun Nov  6 08:49:37 1994", Some(7)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(after(text), expected, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn request_says_where_it_goes_as_the_url_does() {
        let mut request = Request::new(Full::default());
        let url = Url::parse("http://[::1]:81/a%20b?c=d").unwrap();
        address(&mut request, &url).unwrap();
        assert_eq!(request.uri(), "/a%20b?c=d");
        assert_eq!(request.headers()[HOST], "[::1]:81");
        address(&mut request, &Url::parse("http://example.com").unwrap()).unwrap();
        assert_eq!(
            (request.uri().to_string().as_str(), &request.headers()[HOST]),
            ("/", &"example.com".parse().unwrap())
        );
    }
}
