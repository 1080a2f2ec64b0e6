//! The endpoint of a `[[handler]]` with `use = "webhook"`: where it is, and what it is told to prove who is speaking.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::addresses::Addresses;
use super::message::Key;
use super::{ENGINE, Failure};
use crate::handlers::builtin::run::Run;
use crate::handlers::builtin::secret_file;
use crate::handlers::targets::read_settings;

/// What the Standard Webhooks specification recommends at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// The keys as they stand in the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Where actions are sent to, http or https.
    url: String,
    /// A Unix socket on which the server of `url` listens; else its host and port are connected to.
    socket: Option<PathBuf>,
    /// What messages are signed with: `file:/PATH` or `credential:NAME`, with `whsec_...` in it. None: they are not signed.
    secret: Option<String>,
    /// The secret that was valid before: for as long as the endpoint may not know the new one, both sign.
    old_secret: Option<String>,
    /// What the header `Authorization` says: `file:/PATH` or `credential:NAME`.
    authorization: Option<String>,
    /// The endpoint does once what has the same `webhook-id`, however often it gets it.
    #[serde(default)]
    idempotent: bool,
    /// Longest wait for an answer.
    answer_timeout: Option<String>,
    /// Only addresses of these nets are connected to; none: all but link-local ones and those of metadata services.
    addresses: Option<Vec<String>>,
    /// Certificates of whom to believe, in PEM, instead of the system's.
    ca_file: Option<PathBuf>,
}

/// The endpoint, with its settings checked.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) socket: Option<PathBuf>,
    pub(super) is_idempotent: bool,
    pub(super) answer_timeout: Duration,
    pub(super) addresses: Addresses,
    pub(super) ca_file: Option<PathBuf>,
    /// The one that is valid now is the first.
    secrets: Vec<Reference>,
    authorization: Option<Reference>,
}

/// Where a secret stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reference {
    /// A systemd credential of the daemon, by its name.
    Credential(String),
    File(PathBuf),
}

/// What is needed to speak to the endpoint, read for one attempt.
pub(super) struct Secrets {
    pub(super) keys: Vec<Key>,
    pub(super) authorization: Option<HeaderValue>,
}

impl Endpoint {
    /// # Errors
    ///
    /// What is wrong, with the key.
    pub(super) fn read(settings: &Map<String, Value>) -> Result<Self, String> {
        let Settings {
            url,
            socket,
            secret,
            old_secret,
            authorization,
            idempotent,
            answer_timeout,
            addresses,
            ca_file,
        } = read_settings(settings)?;
        let url = judged_url(&url)?;
        let is_absolute = |key: &str, path: Option<PathBuf>| match path {
            Some(path) if !path.is_absolute() => Err(format!("{key} must be an absolute path")),
            path => Ok(path),
        };
        let socket = is_absolute("socket", socket)?;
        let ca_file = is_absolute("ca_file", ca_file)?;
        if url.scheme() != "https" && ca_file.is_some() {
            return Err("ca_file is for https".to_owned());
        }
        if socket.is_some() && (url.scheme() != "http" || addresses.is_some()) {
            return Err("socket goes with a url of http, and without addresses".to_owned());
        }
        if old_secret.is_some() && secret.is_none() {
            return Err("old_secret needs secret".to_owned());
        }
        let secrets = [("secret", secret), ("old_secret", old_secret)];
        let secrets = secrets.into_iter().filter_map(|(key, text)| Some(Reference::read(key, &text?)));
        Ok(Self {
            url,
            socket,
            is_idempotent: idempotent,
            answer_timeout: answer_timeout.map_or(Ok(ANSWER_TIMEOUT), |text| patience(&text))?,
            addresses: addresses
                .map_or(Ok(Addresses::Usual), |list| Addresses::only(&list))
                .map_err(|problem| format!("addresses: {problem}"))?,
            ca_file,
            secrets: secrets.collect::<Result<_, _>>()?,
            authorization: authorization.map(|text| Reference::read("authorization", &text)).transpose()?,
        })
    }

    /// That of this attempt.
    ///
    /// # Errors
    ///
    /// What is wrong with it, which was told when the configuration was read.
    pub(super) fn of(run: &Run) -> Result<Self, Failure> {
        let settings = run.targets.by_name(ENGINE).map(|target| target.settings.clone()).unwrap_or_default();
        Self::read(&settings).map_err(|problem| Failure::permanent("configuration", problem))
    }

    pub(super) fn is_signed(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Its secrets, which nothing that is written of the action holds from now on.
    ///
    /// # Errors
    ///
    /// One cannot be read, is none, or others than its reader could read it.
    pub(super) fn secrets(&self, run: &Run) -> Result<Secrets, Failure> {
        let read = |reference: &Reference| -> Result<String, Failure> {
            let text = reference.read_for(run).map_err(|error| reference.failure(&error.to_string()))?;
            run.redact(&text)?;
            Ok(text)
        };
        let key = |reference: &Reference| Key::read(&read(reference)?).map_err(|why| reference.failure(&why));
        let value = |reference: &Reference| {
            let text = read(reference)?;
            // Alone too, without the word before it.
            if let Some((_, word)) = text.rsplit_once(' ') {
                run.redact(word)?;
            }
            let mut value =
                HeaderValue::from_str(&text).map_err(|_| reference.failure("it is no value of a header"))?;
            value.set_sensitive(true);
            Ok(value)
        };
        Ok(Secrets {
            keys: self.secrets.iter().map(key).collect::<Result<_, _>>()?,
            authorization: self.authorization.as_ref().map(value).transpose()?,
        })
    }

    /// For people: without what the query may hold.
    pub(super) fn told(&self, url: &Url) -> String {
        let mut shown = url.clone();
        shown.set_query(None);
        match &self.socket {
            Some(socket) => format!("{shown} on {}", socket.display()),
            None => shown.to_string(),
        }
    }
}

fn judged_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("url: {text:?} is none: {error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!(
            "url: {text:?} is of neither http nor https; for a Unix socket there is the key socket"
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "url: a name and a password do not belong into it; next: use the key authorization".to_owned()
        );
    }
    if url.fragment().is_some() {
        return Err("url: a fragment is never sent".to_owned());
    }
    Ok(url)
}

fn patience(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(patience) if !patience.is_zero() && patience <= ANSWER_TIMEOUT_MAX => Ok(patience),
        _ => Err(format!("answer_timeout: {text:?} is no duration of at most 1h, such as \"30s\"")),
    }
}

impl Reference {
    fn read(key: &str, text: &str) -> Result<Self, String> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if let Some(name) = text.strip_prefix("credential:")
            && !name.is_empty()
            && name.chars().all(is_plain)
            && !name.starts_with('.')
        {
            return Ok(Self::Credential(name.to_owned()));
        }
        match text.strip_prefix("file:").map(Path::new) {
            Some(path) if path.is_absolute() && path.file_name().is_some() => Ok(Self::File(path.to_owned())),
            // What stands there may be the secret itself.
            _ => Err(format!(
                "{key} must be file:/PATH or credential:NAME; the secret itself does not stand here"
            )),
        }
    }

    fn read_for(&self, run: &Run) -> std::io::Result<String> {
        let none = || std::io::Error::other("the daemon was started without credentials");
        match self {
            Self::Credential(name) => {
                let dir = run.credentials_dir.as_deref().ok_or_else(none)?;
                secret_file::read(dir, Path::new(name), false)
            }
            Self::File(path) => {
                let dir = path.parent().unwrap_or(Path::new("/"));
                secret_file::read(dir, Path::new(path.file_name().unwrap_or_default()), true)
            }
        }
    }

    fn failure(&self, why: &str) -> Failure {
        let told = match self {
            Self::Credential(name) => format!("the credential {name}"),
            Self::File(path) => path.display().to_string(),
        };
        Failure::permanent("secret", format!("cannot use {told}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(settings: Value) -> Result<Endpoint, String> {
        let Value::Object(settings) = settings else { panic!("no object") };
        Endpoint::read(&settings)
    }

    #[test]
    fn endpoint_is_what_its_keys_say() {
        let endpoint = read(json!({
            "url": "https://hooks.example.com/actions?to=a",
            "secret": "file:/etc/actiond/hook",
            "old_secret": "credential:hook.old",
            "authorization": "file:/etc/actiond/token",
            "idempotent": true,
            "answer_timeout": "5s",
            "addresses": ["10.0.0.0/8"],
            "ca_file": "/etc/ca.pem"
        }))
        .unwrap();
        assert!(endpoint.is_idempotent && endpoint.is_signed());
        assert_eq!(endpoint.answer_timeout, Duration::from_secs(5));
        assert_eq!(endpoint.told(&endpoint.url), "https://hooks.example.com/actions");
        let endpoint = read(json!({ "url": "http://app/actions", "socket": "/run/app.sock" })).unwrap();
        assert!(!endpoint.is_idempotent && !endpoint.is_signed());
        assert_eq!(endpoint.told(&endpoint.url), "http://app/actions on /run/app.sock");
    }

    #[test]
    fn what_is_wrong_with_an_endpoint_names_its_key() {
        let with = |key: &str, value: Value| {
            let mut settings = json!({ "url": "http://a/" });
            settings[key] = value;
            read(settings).unwrap_err()
        };
        for url in ["ftp://a/", "unix:/run/a.sock", "/a", "", "http://", "http://me:pw@a/", "http://a/#b"] {
            assert!(with("url", json!(url)).starts_with("url"), "{url}");
        }
        for key in ["secret", "authorization"] {
            for bad in ["whsec_AAAA", "file:a", "file:/", "credential:", "credential:../a", "credential:a/b"]
            {
                let told = with(key, json!(bad));
                assert!(told.starts_with(key) && !told.contains("AAAA"), "{told}");
            }
        }
        for (key, value) in [
            ("socket", json!("app.sock")),
            ("ca_file", json!("/ca.pem")),
            ("old_secret", json!("file:/a")),
            ("answer_timeout", json!("0s")),
            ("answer_timeout", json!("2h")),
            ("addresses", json!(["all"])),
            ("idempotent", json!("yes")),
            ("urll", json!("")),
        ] {
            assert!(with(key, value).contains(key), "{key}");
        }
        assert!(read(json!({})).unwrap_err().contains("url"));
        assert!(read(json!({ "url": "https://a/", "socket": "/a" })).unwrap_err().contains("socket"));
    }
}
