//! What nginx answers.

use std::io;

use hyper::header::RETRY_AFTER;

use super::page::MARK;
use crate::handlers::builtin::door::Door;

/// What of an answer matters here.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) has_retry_after: bool,
    /// The link that nginx has read, if it is one that was made here.
    pub(super) mark: Option<String>,
}

pub(super) async fn ask(door: &Door, host: &str, path: &str) -> io::Result<Answer> {
    let answer = door.ask(host, path).await?;
    let mark = answer.headers.get(MARK).and_then(|mark| mark.to_str().ok()).map(str::to_owned);
    Ok(Answer {
        status: answer.status.as_u16(),
        has_retry_after: answer.headers.contains_key(RETRY_AFTER),
        mark,
    })
}
