//! What an answer of the endpoint means, and what of it is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::Url;

use super::Failure;
use super::http::Answer;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::Run;

/// Of a text that is no JSON, and of an answer that refuses.
const EXCERPT_BYTES: usize = 1_024;
/// Of a message that is an answer's.
const MESSAGE_LETTERS: usize = 300;
/// Room for what else is in a result or among what is remembered.
const ROOM_BYTES: usize = 4_096;

/// What follows from a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    Redirected,
    Refused,
    /// The cause may pass.
    Later,
}

/// An answer of success, as it is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) webhook_id: String,
    pub(super) status: u16,
    /// Where to ask whether it is done: a whole URL of the endpoint's origin.
    pub(super) location: Option<String>,
    retry_after_s: Option<u64>,
    answer: Option<Value>,
    /// Why the answer is not there.
    missing: Option<String>,
}

impl Answer {
    pub(super) fn verdict(&self) -> Verdict {
        match self.status {
            200..=299 => Verdict::Done,
            300..=399 => Verdict::Redirected,
            408 | 425 | 429 | 500..=599 => Verdict::Later,
            _ => Verdict::Refused,
        }
    }

    /// Whether a refusal to say that something is done says that it has failed: who does not know it, or points elsewhere,
    /// says nothing of it.
    pub(super) fn tells_end(&self) -> bool {
        self.verdict() == Verdict::Refused && ![404, 410].contains(&self.status)
    }

    /// What an answer that is no success means. `told` is who answered.
    pub(super) fn failure(&self, verdict: Verdict, told: &str) -> Failure {
        let reason = self.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
        let said = format!("{told} answered {}{reason}", self.status);
        let failure = match verdict {
            Verdict::Later => {
                let failure = Failure::transient("unavailable", said);
                self.retry_after.map_or(failure.clone(), |wait| failure.after(wait))
            }
            Verdict::Redirected => {
                let to = self.location.as_deref().unwrap_or("nowhere");
                Failure::permanent(
                    "redirected",
                    format!("{said}: it points to {to:?}, and that is not followed"),
                )
            }
            Verdict::Refused | Verdict::Done => Failure::permanent("refused", said),
        };
        let failure = failure.with("http_status", self.status);
        match &self.body {
            Ok(body) if !body.is_empty() => failure.with("answer", excerpt(body)),
            _ => failure,
        }
    }

    /// What it says of why, in a line.
    fn reason(&self) -> Option<String> {
        let body = self.body.as_ref().ok()?;
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let said = match &json {
            // Problem details (RFC 9457), and what others have in their place.
            Some(Value::Object(of)) => ["detail", "message", "error", "title"]
                .iter()
                .find_map(|key| of.get(*key).and_then(Value::as_str).map(str::to_owned)),
            _ => Some(excerpt(body)),
        };
        let line = said?.lines().find(|line| !line.trim().is_empty())?.trim().to_owned();
        let is_page = line.starts_with('<');
        let shown: String =
            line.chars().filter(|letter| !letter.is_control()).take(MESSAGE_LETTERS).collect();
        (!is_page).then_some(shown)
    }
}

impl Answered {
    /// An answer of success to a message that was sent to `url`.
    ///
    /// # Errors
    ///
    /// It is to be polled elsewhere than at the endpoint.
    pub(super) fn of(answer: &Answer, webhook_id: &str, url: &Url) -> Result<Self, Failure> {
        let location = answer.location.as_deref().filter(|_| answer.status == 202);
        let location = location.map(|location| place(url, location)).transpose()?;
        let (body, missing) = match &answer.body {
            _ if location.is_some() => (None, None),
            Ok(body) if body.is_empty() => (None, None),
            Ok(body) => {
                let text = || Value::String(excerpt(body));
                (Some(serde_json::from_slice(body).unwrap_or_else(|_| text())), None)
            }
            Err(why) => (None, Some(why.clone())),
        };
        Ok(Self {
            webhook_id: webhook_id.to_owned(),
            status: answer.status,
            location,
            retry_after_s: answer.retry_after.map(|wait| wait.as_secs()),
            answer: body,
            missing,
        })
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after_s.map(Duration::from_secs)
    }

    /// It, or it without its answer if that does not fit among what is remembered of steps: there it is text within text.
    pub(super) fn as_kept(&self, run: &Run) -> Self {
        let Some(answer) = &self.answer else { return self.clone() };
        let bytes = Value::String(answer.to_string()).to_string().len();
        if bytes + ROOM_BYTES <= run.result_bytes_max {
            return self.clone();
        }
        let missing = Some("it was too large to be kept when the action was interrupted".to_owned());
        Self { answer: None, missing, ..self.clone() }
    }

    /// The end of the action. `told` is what to say of it if the answer has no message.
    pub(super) fn done(self, run: &Run, told: String) -> Done {
        let bytes = self.answer.as_ref().map_or(0, |answer| answer.to_string().len());
        let limit = run.result_bytes_max.saturating_sub(ROOM_BYTES);
        let missing = if bytes > limit {
            Some(format!("its {bytes} bytes are more than limits.result_bytes_max leaves room for, {limit}"))
        } else {
            self.missing
        };
        let answer = self.answer.filter(|_| bytes <= limit);
        if let Some(why) = missing {
            run.warn(format!("the answer is left out: {why}"));
        }
        let mut result = match answer {
            Some(Value::Object(answer)) => answer,
            Some(answer) => Map::from_iter([("answer".to_owned(), answer)]),
            None => Map::new(),
        };
        let message = result.get("message").and_then(Value::as_str).map(str::to_owned);
        let changed = result.get("changed").and_then(Value::as_bool).unwrap_or(true);
        result.insert("http_status".to_owned(), json!(self.status));
        result.insert("webhook_id".to_owned(), self.webhook_id.into());
        Done {
            message: message.filter(|message| !message.trim().is_empty()).unwrap_or(told),
            changed,
            result,
        }
    }
}

/// Where to ask, as a whole URL.
fn place(url: &Url, location: &str) -> Result<String, Failure> {
    let refused = |why: &str| {
        Failure::unknown("location", format!("it was accepted, but is to be polled at {location:?}: {why}"))
    };
    let mut place = url.join(location).map_err(|error| refused(&error.to_string()))?;
    if place.origin() != url.origin() || !place.username().is_empty() || place.password().is_some() {
        return Err(refused("that is elsewhere"));
    }
    place.set_fragment(None);
    Ok(place.into())
}

/// The beginning of a text.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..EXCERPT_BYTES).unwrap_or(body)).into_owned();
    if body.len() > EXCERPT_BYTES { text + "..." } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, location: Option<&str>, body: &str) -> Answer {
        Answer {
            status,
            location: location.map(str::to_owned),
            retry_after: None,
            body: Ok(body.to_owned().into()),
        }
    }

    #[test]
    fn place_to_ask_at_is_of_the_same_origin() {
        let url = Url::parse("https://a.example/hooks/deploy?x=1").unwrap();
        for (location, expected) in [
            ("/jobs/1", "https://a.example/jobs/1"),
            ("jobs/1?y=2#z", "https://a.example/hooks/jobs/1?y=2"),
            ("https://a.example:443/jobs/1", "https://a.example/jobs/1"),
        ] {
            assert_eq!(place(&url, location).unwrap(), expected, "{location}");
        }
        for bad in [
            "http://a.example/jobs/1",
            "https://a.example:444/",
            "//b.example/jobs/1",
            "https://me@a.example/",
            "x:y",
        ] {
            assert_eq!(place(&url, bad).unwrap_err().code(), "location", "{bad}");
        }
    }

    #[test]
    fn reason_is_what_the_answer_says_and_no_page() {
        let reason = |body: &str| answer(400, None, body).reason();
        assert_eq!(reason(r#"{"title":"Bad","detail":"no such\nref"}"#).as_deref(), Some("no such"));
        assert_eq!(reason(r#"{"error":"busy"}"#).as_deref(), Some("busy"));
        assert_eq!(reason("\n  nothing\u{1b}[31m here\n").as_deref(), Some("nothing[31m here"));
        assert_eq!(reason("<!doctype html><p>x"), None);
        assert_eq!(reason(""), None);
        assert_eq!(reason(r#"{"code":3}"#), None);
    }

    #[test]
    fn status_says_what_follows() {
        let verdict = |status| answer(status, None, "").verdict();
        for (of, statuses) in [
            (Verdict::Done, &[200, 201, 202, 204][..]),
            (Verdict::Redirected, &[301, 302, 303, 304, 307, 308]),
            (Verdict::Later, &[408, 425, 429, 500, 502, 503, 504]),
            (Verdict::Refused, &[400, 401, 403, 404, 409, 410, 422, 418]),
        ] {
            for status in statuses {
                assert_eq!(verdict(*status), of, "{status}");
            }
        }
        assert!(answer(422, None, "").tells_end());
        assert!(![303, 404, 410].iter().any(|status| answer(*status, None, "").tells_end()));
    }
}
