//! Turns the bytes of one submission into an `engine::Submission`, or says exactly what is wrong with them.
//!
//! One pass over the text, no intermediate tree. Every refusal names the field: unknown, missing, given twice, of
//! the wrong type, or out of its bounds. The order of checks is: UTF-8, JSON, fields, bounds.
//!
//! Called by `submit` for one object and by `stream` for each line.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;

use super::problem::{Problem, Word};
use super::{Settings, depth, digest, time, wire};
use crate::action::{ActionId, Actor, JsonText, OnConflict, RetryPolicy, Timestamp};
use crate::engine::Submission;

const NAME_BYTES_MAX: usize = 256;
const ACTION_BYTES_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 255;
const QUEUE_BYTES_MAX: usize = 64;
const PRIORITY_MAX: u8 = 9;
const ATTEMPTS_MAX: u32 = 100;
/// Longest timeout and longest backoff.
const DURATION_MS_MAX: u64 = 30 * 86_400_000;

macro_rules! fields {
    ($($name:ident: $type:ty,)*) => {
        /// The fields as they stand in the text, not yet checked.
        #[derive(Default)]
        struct Fields<'a> { $($name: Option<$type>,)* }

        const NAMES: &[&str] = &[$(stringify!($name),)*];

        /// Reads the object's fields; `now` always names the one being read.
        fn read_fields<'a, A: MapAccess<'a>>(map: &mut A, place: &Place) -> Result<Fields<'a>, A::Error> {
            let mut fields = Fields::default();
            while let Some(Name(name)) = map.next_key()? {
                match &*name {
                    $(stringify!($name) => {
                        place.now.set(stringify!($name));
                        if fields.$name.is_some() {
                            place.refuse(Problem::field(stringify!($name), "is given twice"));
                            return Err(A::Error::custom("given twice"));
                        }
                        fields.$name = map.next_value::<Option<$type>>()?;
                        place.now.set("");
                    })*
                    _ => {
                        place.refuse(Problem::new(
                            Word::UnknownField,
                            format!("{:?}; known are: {}", shortened(&name), NAMES.join(", ")),
                        ));
                        return Err(A::Error::custom("unknown field"));
                    }
                }
            }
            Ok(fields)
        }
    };
}

fields! {
    user: String,
    resource_type: String,
    action: String,
    resource_id: u64,
    started_via: String,
    metadata: &'a RawValue,
    queue: String,
    priority: u8,
    run_at: String,
    deadline: String,
    timeout: String,
    on_conflict: String,
    idempotency_key: String,
    retry: wire::Retry,
}

/// A key of the object, with its escapes resolved.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

/// Where in the object the reader is, for the sentence that says what is wrong.
#[derive(Default)]
struct Place {
    now: Cell<&'static str>,
    refused: RefCell<Option<Problem>>,
}

impl Place {
    fn refuse(&self, problem: Problem) {
        *self.refused.borrow_mut() = Some(problem);
    }
}

struct Reader<'p>(&'p Place);

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        read_fields(&mut map, self.0)
    }
}

/// What the caller may know of the limits.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub metadata_bytes_max: usize,
    pub metadata_depth_max: usize,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        let Settings { metadata_bytes_max, metadata_depth_max, .. } = settings;
        Self { metadata_bytes_max: *metadata_bytes_max, metadata_depth_max: *metadata_depth_max }
    }
}

/// The submission in `bytes`, as sent by `actor`.
pub(super) fn submission(bytes: &[u8], actor: Actor, limits: Limits) -> Result<Submission, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Problem::new(Word::NotUtf8, format!("the bytes from offset {} on are not UTF-8", error.valid_up_to()))
    })?;
    check(read(text)?, actor, limits)
}

fn read(text: &str) -> Result<Fields<'_>, Problem> {
    let place = Place::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(Reader(&place)).and_then(|fields| json.end().map(|()| fields));
    read.map_err(|error| {
        if let Some(problem) = place.refused.take() {
            return problem;
        }
        // A value that is JSON but cannot be held (wrong type, 1e400, half a surrogate pair) is told with its
        // field; the rest is no JSON at all, or no object.
        match place.now.get() {
            name if !name.is_empty() && (error.is_data() || is_json(text)) => {
                Problem::field(name, plain(&error))
            }
            _ => not_json(text, &error),
        }
    })
}

/// Whether the text is one JSON value by its grammar; does not recurse.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn not_json(text: &str, error: &serde_json::Error) -> Problem {
    if error.is_data() && is_json(text) {
        return Problem::new(Word::NotJson, format!("one object is expected: {}", plain(error)));
    }
    Problem::new(Word::NotJson, error.to_string())
}

/// The reader's sentence without its position, which only confuses when a field is named.
fn plain(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let end = said.rfind(" at line ").unwrap_or(said.len());
    shortened(said.get(..end).unwrap_or(&said)).to_owned()
}

/// The beginning of foreign text, for a message.
pub(super) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(200);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn check(fields: Fields<'_>, actor: Actor, limits: Limits) -> Result<Submission, Problem> {
    let Fields {
        user,
        resource_type,
        action,
        resource_id,
        started_via,
        metadata,
        queue,
        priority,
        run_at,
        deadline,
        timeout,
        on_conflict,
        idempotency_key,
        retry,
    } = fields;
    let mut submission = Submission {
        actor,
        user: label("user", user)?,
        resource_type: label("resource_type", resource_type)?,
        action: action_name(needed("action", action)?)?,
        resource_id: bounded("resource_id", needed("resource_id", resource_id)?, 0, ActionId::MAX.0)?,
        started_via: label("started_via", started_via)?,
        metadata: metadata_text(metadata, limits)?,
        queue: queue.map(queue_name).transpose()?,
        priority: priority.map(|priority| bounded("priority", priority, 0, PRIORITY_MAX)).transpose()?,
        run_at: instant("run_at", run_at.as_deref())?,
        deadline: instant("deadline", deadline.as_deref())?,
        timeout_ms: timeout.as_deref().map(|text| duration("timeout", text)).transpose()?,
        on_conflict: on_conflict.as_deref().map_or(Ok(OnConflict::default()), conflict_choice)?,
        idempotency_key: idempotency_key.map(key).transpose()?,
        retry: retry.as_ref().map(retry_policy).transpose()?,
        digest: [0; 16],
    };
    if submission.idempotency_key.is_some() {
        submission.digest = digest::of(&submission);
    }
    Ok(submission)
}

fn needed<T>(name: &str, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::new(Word::MissingField, format!("{name} is missing")))
}

fn bounded<T: PartialOrd + fmt::Display + Copy>(
    name: &str,
    value: T,
    least: T,
    most: T,
) -> Result<T, Problem> {
    if value < least || value > most {
        return Err(Problem::field(name, format_args!("{value} is not between {least} and {most}")));
    }
    Ok(value)
}

fn label(name: &str, value: Option<String>) -> Result<String, Problem> {
    let value = needed(name, value)?;
    bounded(name, value.len(), 1, NAME_BYTES_MAX)
        .map_err(|_| Problem::field(name, format_args!("must be 1 to {NAME_BYTES_MAX} bytes long")))?;
    if value.chars().any(char::is_control) {
        return Err(Problem::field(name, "has a control character in it"));
    }
    Ok(value)
}

fn action_name(value: String) -> Result<String, Problem> {
    let mut bytes = value.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let goes_on = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if begins && goes_on && value.len() <= ACTION_BYTES_MAX {
        return Ok(value);
    }
    Err(Problem::field("action", "must match ^[a-z][a-z0-9_]{0,63}$"))
}

fn queue_name(value: String) -> Result<String, Problem> {
    let fits = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if fits && (1..=QUEUE_BYTES_MAX).contains(&value.len()) {
        return Ok(value);
    }
    Err(Problem::field("queue", "must be 1 to 64 letters, digits, `_`, `-` or `.`"))
}

fn key(value: String) -> Result<String, Problem> {
    if (1..=KEY_BYTES_MAX).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(value);
    }
    Err(Problem::field("idempotency_key", "must be 1 to 255 visible ASCII characters"))
}

/// Measured without its white space; the depth is looked at first and bounds the work.
fn metadata_text(sent: Option<&RawValue>, limits: Limits) -> Result<JsonText, Problem> {
    let Some(sent) = sent else { return Ok(JsonText::empty()) };
    let text = depth::compact(sent.get(), limits.metadata_depth_max).map_err(|fault| match fault {
        depth::Fault::NotAnObject => Problem::field("metadata", "must be an object"),
        depth::Fault::TooDeep => Problem::new(
            Word::MetadataTooDeep,
            format!("metadata may have {} levels", limits.metadata_depth_max),
        ),
        depth::Fault::Content(said) => Problem::field("metadata", said),
    })?;
    if text.len() > limits.metadata_bytes_max {
        let (bytes, most) = (text.len(), limits.metadata_bytes_max);
        let detail = format!("metadata has {bytes} bytes; at most {most} are taken");
        return Err(Problem::new(Word::MetadataTooLarge, detail));
    }
    Ok(JsonText::from_checked(text))
}

fn instant(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    text.map(|text| time::parse(text).map_err(|said| Problem::field(name, said))).transpose()
}

fn duration(name: &str, text: &str) -> Result<u64, Problem> {
    let ms = time::parse_duration_ms(text).map_err(|said| Problem::field(name, said))?;
    bounded(name, ms, 1, DURATION_MS_MAX).map_err(|_| Problem::field(name, "must lie between 1ms and 30days"))
}

fn conflict_choice(word: &str) -> Result<OnConflict, Problem> {
    OnConflict::from_word(word).ok_or_else(|| {
        let known = OnConflict::ALL.map(OnConflict::as_str).join(", ");
        Problem::field("on_conflict", format_args!("must be one of {known}"))
    })
}

/// What the request leaves open comes from the default policy, not from the action's own.
fn retry_policy(sent: &wire::Retry) -> Result<RetryPolicy, Problem> {
    let wire::Retry { attempts, backoff, backoff_max } = sent;
    let default = RetryPolicy::default();
    let attempts = bounded("retry.attempts", *attempts, 1, ATTEMPTS_MAX)?;
    let backoff_ms =
        backoff.as_deref().map_or(Ok(default.backoff_ms), |text| duration("retry.backoff", text))?;
    let backoff_max_ms = match backoff_max.as_deref() {
        None => default.backoff_max_ms.max(backoff_ms),
        Some(text) => duration("retry.backoff_max", text)?,
    };
    if backoff_max_ms < backoff_ms {
        return Err(Problem::field("retry.backoff_max", "must not be below retry.backoff"));
    }
    Ok(RetryPolicy { attempts, backoff_ms, backoff_max_ms })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
