//! `webhook`: sends the action to a configured endpoint, which carries it out; for actions of whatever type.
//!
//! ```text
//!  send ── POST ──▶ 2xx: done         202 with Location ──▶ poll ── GET ... ──▶ done
//! ```
//!
//! | answer | to `send` | to `poll` |
//! | --- | --- | --- |
//! | 2xx | done; 202 with `Location`: polled | done; 202: not yet |
//! | 408, 425, 429, 5xx, no connection | another try, not before `Retry-After` | asked again |
//! | 404, 410 | failed | held: the endpoint does not know it any more |
//! | other 4xx | failed | failed |
//! | 3xx | failed: it is not followed | held |
//! | none to what was sent | another try with the same id, if the endpoint is idempotent; else held | asked again |
//!
//! Its messages are those of the Standard Webhooks specification (`message`); where they may be sent to is for `endpoint`
//! and `addresses` to say. What an endpoint has done is not taken back: it is not told of a cancel.

mod addresses;
mod answer;
mod endpoint;
mod http;
mod message;
mod tls;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use url::Url;

use self::answer::{Answered, Verdict};
use self::endpoint::{Endpoint, Secrets};
use self::http::{Answer, Unanswered};
use super::Failure;
use super::kind::{Around, Done, Kind, Page};
use super::run::{Found, Run};
use crate::clock;
use crate::handlers::targets::Targets;

/// The name of the handler, and of the only target of its actions.
const ENGINE: &str = "webhook";
const SEND: &str = "send";
const POLL: &str = "poll";

/// Between two questions whether it is done: the first pause, and the longest unless the endpoint says otherwise.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Longest pause that an endpoint can ask for.
const PAUSE_ASKED_MAX: Duration = Duration::from_secs(300);
/// How long an endpoint may give no answer of use while it is polled; in the last try it may for longer.
const POLL_PATIENCE: Duration = Duration::from_secs(10);
const POLL_PATIENCE_LAST: Duration = Duration::from_secs(300);

pub(super) struct Webhook;

/// Whatever the endpoint understands; all of it is passed on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Params(#[expect(dead_code, reason = "it is passed on as it came")] Map<String, Value>);

/// The intent of `send`.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    id: String,
    /// It may have been sent, and its answer is not known.
    is_open: bool,
}

/// The targets of a handler with these keys: its endpoint alone.
///
/// # Errors
///
/// What is wrong with them.
pub(super) fn targets(endpoint: &toml::Table) -> Result<Targets, String> {
    let Ok(Value::Object(settings)) = serde_json::to_value(endpoint) else {
        return Err("its keys cannot be read".to_owned());
    };
    Endpoint::read(&settings)?;
    Ok(Targets::of_one(ENGINE, ENGINE, settings))
}

impl Kind for Webhook {
    const ACTION: &'static str = ENGINE;
    const PAGE: Page = Page {
        does: "Sends the action to a configured endpoint, which carries it out: a POST with the headers webhook-id, \
               webhook-timestamp, webhook-signature (Standard Webhooks 1.0.0) and idempotency-key. An answer of 202 with \
               Location is polled there until it is done.",
        engines: &[],
        result: &[
            ("*", "what the endpoint answers, if that is a JSON object"),
            ("answer", "what it answers, if that is something else"),
            ("http_status", "the status of its answer"),
            ("webhook_id", "the id of the message"),
        ],
        recovery: "A message whose answer is not known is sent again with the same id and the same body if the handler says \
                   idempotent = true; else the action is held. Polling goes on where it was.",
        undo: "Nothing: the endpoint is not told of a cancel or a timeout, and may go on.",
        rights: "To connect to the endpoint, and to read the files of its secrets, which nobody else may.",
    };
    type Params = Params;
    /// An endpoint may have a word `target` of its own.
    const COMMON_KEYS: &'static [&'static str] = &["timeout_s", "dry_run"];

    fn check(_: &Params, _: &Around<'_>) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    async fn plan(_: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let endpoint = Endpoint::of(run)?;
        endpoint.secrets(run)?;
        Ok(vec![json!({
            "step": SEND,
            "method": "POST",
            "to": endpoint.told(&endpoint.url),
            "is_signed": endpoint.is_signed(),
            "is_idempotent": endpoint.is_idempotent,
            "bytes": message::body(&run.input)?.len(),
        })])
    }

    async fn execute(_: &Params, run: &Run) -> Result<Done, Failure> {
        let endpoint = Endpoint::of(run)?;
        let courier =
            Courier { run, secrets: endpoint.secrets(run)?, body: message::body(&run.input)?, endpoint };
        let answered = courier.send().await?;
        let answered = match answered.location.clone() {
            Some(location) => courier.poll(&answered, &location).await?,
            None => answered,
        };
        let told = format!("{} answered {}", courier.endpoint.told(&courier.endpoint.url), answered.status);
        Ok(answered.done(run, told))
    }

    async fn undo(_: &Params, run: &Run) -> Result<(), Failure> {
        let Some(sent) = run.trace::<Message, Answered>(SEND)? else { return Ok(()) };
        match sent.result {
            Some(answered) if answered.location.is_some() => {
                run.warn("the endpoint has accepted it, and may go on with it");
            }
            Some(_) => run.warn("the endpoint has carried it out"),
            None if sent.intent.is_open => {
                run.warn("it was sent, and whether the endpoint carries it out is not known");
            }
            None => {}
        }
        Ok(())
    }
}

/// What is needed to speak to the endpoint in this attempt.
struct Courier<'a> {
    run: &'a Run,
    endpoint: Endpoint,
    secrets: Secrets,
    body: Vec<u8>,
}

impl Courier<'_> {
    async fn send(&self) -> Result<Answered, Failure> {
        let is_first = Cell::new(false);
        // What does not fit among what is remembered is not lost unless this attempt is interrupted.
        let whole = RefCell::new(None);
        let intent = async || {
            is_first.set(true);
            Ok(Message { id: message::made_up(self.run)?, is_open: true })
        };
        let act = async |message: &Message| {
            let answered = self.deliver(message, is_first.get()).await?;
            let kept = answered.as_kept(self.run);
            *whole.borrow_mut() = Some(answered);
            Ok(kept)
        };
        let found = async |message: &Message| {
            Ok(if !message.is_open || self.endpoint.is_idempotent {
                Found::NotDone
            } else {
                Found::Unknown(format!(
                    "{} was sent to {}, which is not said to be idempotent, and its answer is not known",
                    message.id,
                    self.endpoint.told(&self.endpoint.url)
                ))
            })
        };
        let kept = self.run.step(SEND, intent, act, found).await?;
        Ok(whole.take().unwrap_or(kept))
    }

    /// Sends the message once.
    async fn deliver(&self, message: &Message, is_first: bool) -> Result<Answered, Failure> {
        let run = self.run;
        // One that was sent in an earlier try, and may be carried out yet.
        let has_another = message.is_open && !is_first;
        let note = |is_open: bool| run.revise(SEND, &Message { id: message.id.clone(), is_open });
        if !message.is_open {
            note(true)?;
        }
        let known = || if has_another { Ok(()) } else { note(false) };
        let url = &self.endpoint.url;
        let told = self.endpoint.told(url);
        match self.ask(Method::POST, url, &message.id, &self.body).await {
            Ok(answer) => match answer.verdict() {
                Verdict::Done => Answered::of(&answer, &message.id, url),
                verdict => {
                    known()?;
                    Err(answer.failure(verdict, &told))
                }
            },
            Err(Unanswered::NotSent(why)) => {
                known()?;
                Err(Failure::transient("unreachable", format!("cannot reach {told}: {why}")))
            }
            Err(Unanswered::Forbidden(why)) => {
                Err(Failure::permanent("address", format!("nothing is sent to {told}: {why}")))
            }
            Err(Unanswered::Lost(why)) => {
                let why =
                    format!("{told} has not answered, and whether it carries it out is not known: {why}");
                if self.endpoint.is_idempotent {
                    return Err(Failure::transient("no_answer", why));
                }
                Err(Failure::unknown("no_answer", why))
            }
        }
    }

    /// Asks at `location` until it is done.
    async fn poll(&self, accepted: &Answered, location: &str) -> Result<Answered, Failure> {
        let url = Url::parse(location).map_err(|error| {
            Failure::unknown("location", format!("{location:?} cannot be polled: {error}"))
        })?;
        let whole = RefCell::new(None);
        let act = async || {
            let answered = self.await_done(&url, accepted).await?;
            let kept = answered.as_kept(self.run);
            *whole.borrow_mut() = Some(answered);
            Ok(kept)
        };
        let kept = self.run.repeatable(POLL, act).await?;
        Ok(whole.take().unwrap_or(kept))
    }

    async fn await_done(&self, url: &Url, accepted: &Answered) -> Result<Answered, Failure> {
        let told = self.endpoint.told(url);
        let bounded = |asked: Duration| asked.clamp(PAUSE_FIRST, PAUSE_ASKED_MAX);
        let (mut pause, mut longer) = (accepted.retry_after().map_or(PAUSE_FIRST, bounded), PAUSE_FIRST);
        let mut failing_since = None;
        loop {
            tokio::time::sleep(pause).await;
            let asked = self.ask(Method::GET, url, &accepted.webhook_id, b"").await;
            longer = (longer * 2).min(PAUSE_MAX);
            pause = asked.as_ref().ok().and_then(|answer| answer.retry_after).map_or(longer, bounded);
            let failure = match asked {
                Ok(answer) if answer.status == 202 => {
                    failing_since = None;
                    continue;
                }
                Ok(answer) => match answer.verdict() {
                    Verdict::Done => return Answered::of(&answer, &accepted.webhook_id, url),
                    Verdict::Later => answer.failure(Verdict::Later, &told),
                    verdict if answer.tells_end() => return Err(answer.failure(verdict, &told)),
                    verdict => {
                        let failure = answer.failure(verdict, &told);
                        let why =
                            format!("what was accepted cannot be followed any more: {}", failure.message());
                        return Err(Failure::unknown(failure.code(), why));
                    }
                },
                Err(Unanswered::Forbidden(why)) => {
                    return Err(Failure::unknown("address", format!("nothing is sent to {told}: {why}")));
                }
                Err(Unanswered::NotSent(why) | Unanswered::Lost(why)) => {
                    Failure::transient("unreachable", format!("cannot ask {told} whether it is done: {why}"))
                }
            };
            self.run.log(failure.message());
            let since = *failing_since.get_or_insert_with(Instant::now);
            let patience = if self.run.is_retried { POLL_PATIENCE } else { POLL_PATIENCE_LAST };
            if since.elapsed() < patience {
                continue;
            }
            if self.run.is_retried || self.endpoint.is_idempotent {
                return Err(failure);
            }
            return Err(Failure::unknown(
                failure.code(),
                format!("it was accepted, but {}", failure.message()),
            ));
        }
    }

    /// One request, signed and with what the endpoint wants to know of who is asking.
    async fn ask(&self, method: Method, url: &Url, id: &str, body: &[u8]) -> Result<Answer, Unanswered> {
        let timestamp = clock::now().0 / 1_000;
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
        let mut header = |name: &'static str, value: &str| {
            // Ids, numbers and base64 are such values.
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().insert(HeaderName::from_static(name), value);
            }
        };
        header("webhook-id", id);
        header("webhook-timestamp", &timestamp.to_string());
        if let Some(signature) = message::signature(&self.secrets.keys, id, timestamp, body) {
            header("webhook-signature", &signature);
        }
        header("actiond-attempt", &self.run.attempt.to_string());
        if method == Method::POST {
            header("idempotency-key", id);
            header(CONTENT_TYPE.as_str(), "application/json");
        }
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.secrets.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        *request.method_mut() = method.clone();
        let asked = http::ask(&self.endpoint, url, request).await;
        let told = self.endpoint.told(url);
        match &asked {
            Ok(answer) => self.run.log(&format!("{method} {told}: {}", answer.status)),
            Err(Unanswered::NotSent(why) | Unanswered::Lost(why) | Unanswered::Forbidden(why)) => {
                self.run.log(&format!("{method} {told}: {why}"));
            }
        }
        asked
    }
}
