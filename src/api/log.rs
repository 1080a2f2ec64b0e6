//! `GET /v1/actions/{id}/log`: what an attempt wrote, as NDJSON lines or as plain text.
//!
//! With `follow=true` the answer goes on until the action is final, through further attempts as they come.
//! Lines are read in pieces of bounded size, and only as fast as the client takes them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use hyper::header::ACCEPT;
use serde::Deserialize;
use tokio::sync::watch;

use super::Api;
use super::actions::{self, blocking};
use super::convert::Show;
use super::problem::{Problem, Word};
use super::query::Query;
use super::reply::{self, Reply};
use super::routes::Call;
use super::server::is_true;
use crate::action::ActionId;
use crate::runner::logs::LogReader;

const PIECE_BYTES: usize = 64 * 1_024;
/// How often a followed log is looked at for more.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The part of a stored line that plain text shows.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    line: std::borrow::Cow<'a, str>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own: two are asked for, two follow")]
struct Reading {
    api: Arc<Api>,
    id: ActionId,
    attempt: u32,
    reader: Option<LogReader>,
    plain: bool,
    follow: bool,
    /// Only the attempt that was asked for.
    one_attempt: bool,
    /// The action was final at the last look: what is read after that is all there is.
    last_look: bool,
    draining: watch::Receiver<bool>,
}

/// What one look at the disk gave.
struct Looked {
    reader: Option<LogReader>,
    lines: Vec<String>,
    is_final: bool,
    later: Option<u32>,
}

pub(super) async fn log(call: &Call<'_>, mut query: Query<'_>) -> Result<Reply, Problem> {
    let id = call.id()?;
    let attempt = query.take_as("attempt", "a number", |text| text.parse::<u32>().ok())?;
    let follow = query
        .take_as("follow", "true or false", |text| match text {
            "true" | "" => Some(true),
            "false" => Some(false),
            _ => None,
        })?
        .unwrap_or(false);
    query.finish()?;
    if call.show == Show::Outline {
        return Err(Problem::new(Word::NotAllowed, "logs are shown here only with status.details = true"));
    }
    let action = actions::read(call, id).await?;
    let logs = call.api.logs.clone();
    let known = blocking(move || Ok(logs.attempts(id))).await?;
    let newest = known.into_iter().max().unwrap_or(action.status.attempt);
    let plain = call
        .headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.trim_start().starts_with("text/plain"));
    let state = Reading {
        api: Arc::clone(call.api),
        id,
        attempt: attempt.unwrap_or(newest),
        reader: None,
        plain,
        follow,
        one_attempt: attempt.is_some(),
        last_look: !follow,
        draining: call.api.engine.draining(),
    };
    let kind = if plain { reply::TEXT } else { reply::NDJSON };
    let pieces = unfold(state, |mut state| async move {
        let piece = state.next_piece().await?;
        Some((piece, state))
    });
    Ok(reply::stream(kind, pieces))
}

impl Reading {
    async fn next_piece(&mut self) -> Option<Bytes> {
        loop {
            let looked = self.look().await.ok()?;
            self.reader = looked.reader;
            if !looked.lines.is_empty() {
                return Some(self.written(&looked.lines));
            }
            if let Some(later) = looked.later.filter(|_| self.follow && !self.one_attempt) {
                self.attempt = later;
                self.reader = None;
                continue;
            }
            if self.last_look {
                return None;
            }
            if looked.is_final || (self.one_attempt && looked.later.is_some()) {
                // Lines may have come between the reading and this look.
                self.last_look = true;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = is_true(&mut self.draining) => return None,
            }
        }
    }

    /// Reads what is there now, and whether more can come.
    async fn look(&mut self) -> Result<Looked, Problem> {
        let api = Arc::clone(&self.api);
        let (id, attempt, opened, follow) = (self.id, self.attempt, self.reader.take(), self.follow);
        blocking(move || {
            let unreadable = |error: std::io::Error| {
                tracing::warn!(
                    action_id = id.0,
                    error = &error as &dyn std::error::Error,
                    "cannot read a log"
                );
                Problem::new(Word::Internal, "the log cannot be read")
            };
            let mut reader = match opened {
                Some(reader) => Some(reader),
                None => api.logs.open(id, attempt).map_err(unreadable)?,
            };
            let lines = match &mut reader {
                Some(reader) => reader.next_lines(PIECE_BYTES).map_err(unreadable)?,
                None => Vec::new(),
            };
            let mut looked = Looked { reader, lines, is_final: true, later: None };
            if follow && looked.lines.is_empty() {
                let action = api.engine.read(id)?;
                looked.is_final = action.is_none_or(|action| action.status.state.is_final());
                looked.later = api.logs.attempts(id).into_iter().filter(|other| *other > attempt).min();
            }
            Ok(looked)
        })
        .await
    }

    fn written(&self, lines: &[String]) -> Bytes {
        let mut out = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            match serde_json::from_str::<Line<'_>>(line) {
                Ok(Line { line }) if self.plain => out.push_str(&line),
                _ => out.push_str(line),
            }
            out.push('\n');
        }
        out.into()
    }
}
