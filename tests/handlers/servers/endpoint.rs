//! A service that carries out what it gets by webhooks, and looks closely at what it gets.
//!
//! What it answers is for the metadata of an action to say: `answers` has a word for each time that a message comes, and
//! `polls` one for each question whether it is done; the last of them stands for all further ones. What it has done
//! it remembers over its crashes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::output;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Http,
    Https,
    Unix,
}

pub struct Endpoint {
    dir: TempDir,
    door: Door,
    world: Arc<World>,
    /// 0 until it has one.
    port: AtomicU16,
    server: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// What outlives its crashes.
pub struct World {
    keys: Vec<Vec<u8>>,
    authorization: &'static str,
    host: Mutex<String>,
    /// Does once what has the same id.
    is_idempotent: bool,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    /// By the case that an action's metadata names.
    pub cases: BTreeMap<u64, Case>,
    /// Requests that are none as they should be.
    pub wrong: Vec<String>,
}

/// What came of one action.
#[derive(Default)]
pub struct Case {
    pub posts: Vec<(SystemTime, String, Bytes)>,
    pub polls: Vec<SystemTime>,
    pub effects: u32,
    metadata: Value,
}

/// What is sent back.
enum Reply {
    Answer(Response<Body>),
    /// The connection is closed without an answer.
    None,
}

impl Endpoint {
    pub fn start(door: Door, is_idempotent: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-endpoint.").tempdir().expect("a directory");
        let keys: Vec<Vec<u8>> = vec![(1..=32).collect(), (33..=56).collect()];
        for (name, key) in ["secret", "secret.old"].iter().zip(&keys) {
            secret_file(&dir.path().join(name), &format!("whsec_{}\n", BASE64_STANDARD.encode(key)));
        }
        let authorization = "Bearer canary-webhook-token";
        secret_file(&dir.path().join("authorization"), &format!("{authorization}\n"));
        if door == Door::Https {
            certificates(dir.path());
        }
        let world =
            World { keys, authorization, host: Mutex::default(), is_idempotent, state: Mutex::default() };
        let endpoint =
            Self { dir, door, world: Arc::new(world), port: AtomicU16::new(0), server: Mutex::new(None) };
        endpoint.bring_up();
        endpoint
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn url(&self) -> String {
        let port = self.port.load(Ordering::SeqCst);
        match self.door {
            Door::Http => format!("http://127.0.0.1:{port}/hooks/actiond?of=test"),
            Door::Https => format!("https://localhost:{port}/hooks/actiond?of=test"),
            Door::Unix => "http://app/hooks/actiond?of=test".to_owned(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.world.state.lock().expect("the state")
    }

    /// As a crash: whatever is connected is cut off.
    pub fn take_down(&self) {
        if let Some((stop, server)) = self.server.lock().expect("the server").take() {
            drop(stop);
            server.join().expect("the server's thread");
        }
        let _ = std::fs::remove_file(self.path("socket"));
    }

    pub fn bring_up(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (stop, stopped) = oneshot::channel();
        let listener = runtime.block_on(self.listen());
        let world = Arc::clone(&self.world);
        let serve = move || {
            runtime.block_on(async {
                tokio::select! { () = serve(listener, world) => {}, _ = stopped => {} }
            });
        };
        let server = std::thread::spawn(serve);
        *self.server.lock().expect("the server") = Some((stop, server));
    }

    async fn listen(&self) -> Listener {
        if self.door == Door::Unix {
            "app".clone_into(&mut self.world.host.lock().expect("a name"));
            return Listener::Unix(UnixListener::bind(self.path("socket")).expect("a socket"));
        }
        let port = self.port.load(Ordering::SeqCst);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        self.port.store(port, Ordering::SeqCst);
        let host = if self.door == Door::Https { "localhost" } else { "127.0.0.1" };
        *self.world.host.lock().expect("a name") = format!("{host}:{port}");
        if self.door == Door::Http {
            return Listener::Tcp(listener);
        }
        let chain = vec![CertificateDer::from_pem_file(self.path("cert.pem")).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(self.path("key.pem")).expect("a key");
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .expect("a configuration");
        Listener::Tls(listener, TlsAcceptor::from(Arc::new(config)))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// A file that only its owner can read.
pub fn secret_file(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("a secret");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// An authority, and what it says of localhost.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost\n").expect("a file");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let openssl = |words: &[&str]| output(Command::new("openssl").args(words).current_dir(dir));
    let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test", "-keyout", "ca-key.pem", "-out", "ca.pem"];
    openssl(&[&ca[..], &key].concat());
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem"];
    openssl(&[&request[..], &key].concat());
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca-key.pem",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "cert.pem",
    ]);
}

enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
    Unix(UnixListener),
}

async fn serve(listener: Listener, world: Arc<World>) {
    loop {
        match &listener {
            Listener::Tcp(listener) => connection(listener.accept().await.expect("a client").0, &world),
            Listener::Unix(listener) => connection(listener.accept().await.expect("a client").0, &world),
            Listener::Tls(listener, acceptor) => {
                let (stream, _) = listener.accept().await.expect("a client");
                let (acceptor, world) = (acceptor.clone(), Arc::clone(&world));
                tokio::spawn(async move {
                    // Who does not believe it is gone.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        connection(stream, &world);
                    }
                });
            }
        }
    }
}

fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, world: &Arc<World>) {
    let world = Arc::clone(world);
    let service = service_fn(move |request: Request<Incoming>| {
        let world = Arc::clone(&world);
        async move {
            match world.answer(request).await {
                Reply::Answer(answer) => Ok(answer),
                Reply::None => Err(std::io::Error::other("as asked for")),
            }
        }
    });
    tokio::spawn(async move {
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
}

impl World {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return Reply::None;
        };
        let header = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let id = header("webhook-id");
        if let Err(why) = self.judge(&header, &id, &body) {
            let mut state = self.state.lock().expect("the state");
            state.wrong.push(format!("{} {}: {why}", head.method, head.uri));
        }
        let path = head.uri.path().to_owned();
        let (word, case) = match (&head.method, path.strip_prefix("/jobs/")) {
            (&Method::POST, None) if head.uri == "/hooks/actiond?of=test" => self.posted(&header, &id, &body),
            (&Method::GET, Some(case)) if body.is_empty() => self.polled(case.parse().expect("a case")),
            _ => {
                let mut state = self.state.lock().expect("the state");
                state.wrong.push(format!("{} {} is asked for", head.method, head.uri));
                ("404".to_owned(), 0)
            }
        };
        if word == "hang" {
            std::future::pending::<Infallible>().await;
        }
        if word == "drop" || word == "lose" {
            return Reply::None;
        }
        Reply::Answer(reply(&word, case))
    }

    /// What is wrong with a request, whatever it is for.
    fn judge(&self, header: &impl Fn(&str) -> String, id: &str, body: &[u8]) -> Result<(), String> {
        let shape = id.strip_prefix("act_").and_then(|rest| rest.split_once('_'));
        let is_id = shape.is_some_and(|(number, random)| number.parse::<u64>().is_ok() && random.len() == 16);
        if !is_id {
            return Err(format!("webhook-id is {id:?}"));
        }
        let timestamp = header("webhook-timestamp");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
        if timestamp.parse::<u64>().ok().is_none_or(|then| then.abs_diff(now) > 60) {
            return Err(format!("webhook-timestamp is {timestamp:?}"));
        }
        let mut signatures = Vec::new();
        for key in &self.keys {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            signatures.push(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())));
        }
        let host = self.host.lock().expect("a name").clone();
        for (name, expected) in [
            ("webhook-signature", signatures.join(" ").as_str()),
            (AUTHORIZATION.as_str(), self.authorization),
            (HOST.as_str(), &host),
        ] {
            if header(name) != expected {
                return Err(format!("{name} is {:?} and not {expected:?}", header(name)));
            }
        }
        if header("user-agent").starts_with("actiond/") { Ok(()) } else { Err("no user-agent".to_owned()) }
    }

    fn posted(&self, header: &impl Fn(&str) -> String, id: &str, body: &Bytes) -> (String, u64) {
        let mut state = self.state.lock().expect("the state");
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        let data = &message["data"];
        let metadata = data["metadata"].clone();
        let number = metadata["case"].as_u64().unwrap_or(0);
        let mut wrong = Vec::new();
        let is_right = message["type"] == format!("action.{}", data["action"].as_str().unwrap_or_default())
            && message["timestamp"] == data["started_at"]
            && data["resource_type"] == "Stack"
            && data["user"] == "john@example.com";
        if !is_right {
            wrong.push(format!("the message is {message}"));
        }
        if header("idempotency-key") != id || header(CONTENT_TYPE.as_str()) != "application/json" {
            wrong.push("idempotency-key or content-type".to_owned());
        }
        let case = state.cases.entry(number).or_default();
        if case.posts.iter().any(|(_, other, sent)| other == id && sent != body) {
            wrong.push(format!("{id} is sent with another body"));
        }
        let attempt: usize = header("actiond-attempt").parse().unwrap_or(0);
        if attempt <= case.posts.iter().filter(|(_, other, _)| other == id).count() {
            wrong.push(format!("actiond-attempt is {attempt}"));
        }
        let known = case.posts.iter().filter(|(_, other, _)| other == id).count();
        let word = nth(&metadata["answers"], known, "ok");
        let has_effect = ["ok", "drop", "202", "202 elsewhere", "text", "large", "huge", "cut", "same"]
            .contains(&word.as_str());
        let is_done = case.posts.iter().any(|(_, other, _)| other == id) && case.effects > 0;
        if has_effect && !(self.is_idempotent && is_done) {
            case.effects += 1;
        }
        case.posts.push((SystemTime::now(), id.to_owned(), body.clone()));
        case.metadata = metadata;
        state.wrong.extend(wrong);
        (word, number)
    }

    fn polled(&self, number: u64) -> (String, u64) {
        let mut state = self.state.lock().expect("the state");
        let case = state.cases.entry(number).or_default();
        let polls = if case.metadata["polls"].is_null() {
            json!(["202", "ok"])
        } else {
            case.metadata["polls"].clone()
        };
        let word = nth(&polls, case.polls.len(), "ok");
        case.polls.push(SystemTime::now());
        (word, number)
    }
}

fn nth(words: &Value, at: usize, or: &str) -> String {
    let words = words.as_array().cloned().unwrap_or_default();
    let word = words.get(at).or(words.last()).and_then(Value::as_str);
    word.unwrap_or(or).to_owned()
}

/// `STATUS`, or with what is to be waited: `429 1`; `503 at 2` says it as a time.
fn reply(word: &str, case: u64) -> Response<Body> {
    let full = |bytes: Vec<u8>| Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
    let json = |value: Value| full(value.to_string().into_bytes());
    let mut answer = Response::builder();
    let (status, wait) = word.split_once(' ').unwrap_or((word, ""));
    if let Some(seconds) = wait.strip_prefix("at ") {
        let then = SystemTime::now() + Duration::from_secs(seconds.parse().expect("seconds"));
        answer = answer.header(RETRY_AFTER, httpdate::fmt_http_date(then));
    } else if wait.parse::<u64>().is_ok() {
        answer = answer.header(RETRY_AFTER, wait);
    }
    let (status, body) = match status {
        "ok" => (200, json(json!({ "sent": case, "message": "invoice sent" }))),
        "same" => (200, json(json!({ "changed": false, "steps": "theirs" }))),
        "text" => (201, full(b"well done".to_vec())),
        "large" => (200, json(json!({ "large": "x".repeat(100 << 10) }))),
        "huge" => (200, json(json!({ "huge": "x".repeat(3 << 19) }))),
        "cut" => {
            // Not before its beginning is out.
            let frames = futures_util::stream::unfold(false, |is_begun| async move {
                if !is_begun {
                    return Some((Ok(Frame::data(Bytes::from_static(b"{\"a\":"))), true));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                Some((Err(std::io::Error::other("as asked for")), true))
            });
            (200, StreamBody::new(frames).boxed_unsync())
        }
        "202" => {
            let elsewhere = wait == "elsewhere";
            let place =
                if elsewhere { "http://127.0.0.2/jobs/1".to_owned() } else { format!("/jobs/{case}") };
            answer = answer.header(LOCATION, place);
            (202, json(json!({ "state": "accepted" })))
        }
        other => {
            let status: u16 = other.parse().expect("a status");
            if (300..400).contains(&status) {
                answer = answer.header(LOCATION, "/elsewhere");
            }
            (status, json(json!({ "detail": format!("this is {status}") })))
        }
    };
    answer.status(status).body(body).expect("an answer")
}
