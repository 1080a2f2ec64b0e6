//! Whether an instance is healthy: a program says so, or what it answers over HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::app::{App, Instance};
use super::instances::{Live, program};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::door::Door;

const EVERY: Duration = Duration::from_millis(500);

/// `http://127.0.0.1:8080/health` or, as nginx has it, `http://unix:/run/web.sock:/health`. Only on this host: what runs
/// elsewhere says nothing of an instance here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Url {
    text: String,
    door: Door,
    host: String,
    path: String,
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!("health_url {text:?} is neither http://LOOPBACK:PORT/PATH nor http://unix:/SOCKET:/PATH")
        };
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (door, host, path) = if let Some(unix) = rest.strip_prefix("unix:") {
            let (socket, path) = unix.split_once(":/").unwrap_or((unix, ""));
            if !socket.starts_with('/') {
                return Err(wrong());
            }
            (Door::Unix(PathBuf::from(socket)), "localhost", path)
        } else {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            (Door::Tcp(loopback(host).ok_or_else(wrong)?), host, path)
        };
        let path = format!("/{path}");
        path.parse::<PathAndQuery>().map_err(|_| wrong())?;
        Ok(Self { door, host: host.to_owned(), path, text })
    }
}

impl From<Url> for String {
    fn from(url: Url) -> Self {
        url.text
    }
}

fn loopback(host: &str) -> Option<SocketAddr> {
    let address = match host.strip_prefix("localhost") {
        Some("") => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 80),
        Some(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.strip_prefix(':')?.parse().ok()?),
        None => host
            .parse()
            .or_else(|_| host.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 80)))
            .ok()?,
    };
    address.ip().is_loopback().then_some(address)
}

/// Returns once an instance was found healthy as often in a row as it has to be, at once if nothing says how it is.
///
/// # Errors
///
/// `unhealthy`, if that takes longer than it may.
pub(super) async fn wait(app: &App, instance: &Instance, live: &Live<'_>) -> Result<(), Failure> {
    if instance.health.is_empty() && instance.health_url.is_none() {
        return Ok(());
    }
    let name = instance.name.as_str();
    let limit = Duration::from_secs(app.health_timeout_s.into());
    let since = Instant::now();
    let mut healthy = 0;
    loop {
        let found = match timeout(limit, look(instance, live)).await {
            Ok(found) => found?,
            Err(_) => Err("it does not answer".to_owned()),
        };
        let why = match found {
            Ok(()) => {
                healthy += 1;
                None
            }
            Err(why) => {
                healthy = 0;
                Some(why)
            }
        };
        if healthy >= app.healthy_after {
            return Ok(());
        }
        if since.elapsed() >= limit {
            let why = why.unwrap_or_else(|| "not often enough in a row".to_owned());
            let told = format!("{name} is not healthy after {} s: {why}", limit.as_secs());
            return Err(Failure::permanent("unhealthy", told).with("instance", name));
        }
        sleep(EVERY.min(limit / 10)).await;
    }
}

/// Asks once; why it is not healthy, if it is not.
async fn look(instance: &Instance, live: &Live<'_>) -> Result<Result<(), String>, Failure> {
    if let Some(url) = &instance.health_url {
        let answer = match url.door.ask(&url.host, &url.path).await {
            Ok(answer) => answer.status,
            Err(error) => return Ok(Err(format!("{}: {error}", url.text))),
        };
        let is_expected = if instance.health_status.is_empty() {
            answer.is_success()
        } else {
            instance.health_status.contains(&answer.as_u16())
        };
        let told = || format!("{} answers {}", url.text, answer.as_u16());
        return Ok(if is_expected { Ok(()) } else { Err(told()) });
    }
    let ended = program("health", &instance.health, live, &instance.name).await?;
    Ok(if ended.is_success() { Ok(()) } else { Err(ended.told()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_asked_for_on_this_host_only() {
        let unix = |path: &str| Door::Unix(PathBuf::from(path));
        let tcp = |address: &str| Door::Tcp(address.parse().unwrap());
        for (text, door, host, path) in [
            ("http://127.0.0.1:8080/health", tcp("127.0.0.1:8080"), "127.0.0.1:8080", "/health"),
            ("http://localhost:81", tcp("127.0.0.1:81"), "localhost:81", "/"),
            ("http://localhost/a?b", tcp("127.0.0.1:80"), "localhost", "/a?b"),
            ("http://[::1]:8080/", tcp("[::1]:8080"), "[::1]:8080", "/"),
            ("http://[::1]/x/y", tcp("[::1]:80"), "[::1]", "/x/y"),
            ("http://unix:/run/web.sock:/health", unix("/run/web.sock"), "localhost", "/health"),
            ("http://unix:/run/web.sock", unix("/run/web.sock"), "localhost", "/"),
        ] {
            let url = Url::try_from(text.to_owned()).unwrap();
            assert_eq!((&url.door, url.host.as_str(), url.path.as_str()), (&door, host, path), "{text}");
            assert_eq!(String::from(url), text);
        }
        for bad in [
            "",
            "127.0.0.1:80",
            "https://127.0.0.1/",
            "http://192.0.2.1/",
            "http://example.com/",
            "http://localhost.example.com/",
            "http://127.0.0.1:99999/",
            "http://unix:run/web.sock:/",
            "http://127.0.0.1/a b",
            "http://user@127.0.0.1/",
        ] {
            assert!(Url::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
