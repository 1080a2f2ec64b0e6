//! Commands: what a caller may have done to an action or a queue that exists.
//!
//! Each answers with what is durable now. The body is optional, except for `resolve`, which needs `success`.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::LOCATION;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::convert::{self, Show};
use super::parse::shortened;
use super::problem::{Problem, Word};
use super::reply::{self, Reply};
use super::routes::Call;
use super::{status, submit};
use crate::action::Actor;
use crate::engine::Command;

const TEXT_BYTES_MAX: usize = 1_024;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    success: bool,
    #[serde(default)]
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// `POST /v1/actions/{id}:VERB`.
pub(super) async fn command(
    call: &Call<'_>,
    actor: Actor,
    verb: &str,
    body: Incoming,
) -> Result<Reply, Problem> {
    let id = call.id()?;
    let body = reply::collect(body, call.settings.body_bytes_max, call.pause()).await?;
    let command = match verb {
        "cancel" => Command::Cancel { reason: said("reason", read::<Reason>(&body)?.reason)? },
        "hold" => Command::Hold { reason: said("reason", read::<Reason>(&body)?.reason)? },
        "resolve" => {
            let Resolve { success, message } = parse(&body)?;
            Command::Resolve { success, message: said("message", message)? }
        }
        "retry" | "resume" | "unlock" => {
            read::<Nothing>(&body)?;
            match verb {
                "retry" => Command::Retry,
                "resume" => Command::Resume,
                _ => Command::Unlock,
            }
        }
        _ => return Err(Problem::no_such_page()),
    };
    let is_new = matches!(command, Command::Retry);
    let action = call.api.engine.command(actor, id, command).await?;
    let mut out = Vec::new();
    convert::write_action(&mut out, &action, Show::All);
    let status = if is_new { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut reply = reply::full(status, reply::JSON, out);
    if is_new {
        reply.headers_mut().insert(LOCATION, submit::location(&action));
    }
    Ok(reply)
}

/// `POST /v1/queues/{name}:pause` and `:resume`.
pub(super) async fn pause_queue(
    call: &Call<'_>,
    actor: Actor,
    paused: bool,
    body: Incoming,
) -> Result<Reply, Problem> {
    read::<Nothing>(&reply::collect(body, call.settings.body_bytes_max, call.pause()).await?)?;
    let queue = call.api.engine.pause_queue(actor, call.param.to_owned(), paused).await?;
    reply::json(StatusCode::OK, &status::queue(queue))
}

/// An optional body: nothing sent is the default.
fn read<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Problem> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let word = if error.is_data() && body.starts_with(b"{") { Word::InvalidField } else { Word::NotJson };
        Problem::new(word, shortened(&error.to_string()))
    })
}

/// Text for people: bounded, and without anything that could play with a terminal.
fn said(name: &str, text: String) -> Result<String, Problem> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Problem::field(name, format_args!("must have at most {TEXT_BYTES_MAX} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::field(name, "has a control character in it"));
    }
    Ok(text)
}
