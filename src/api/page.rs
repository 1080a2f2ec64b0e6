//! The status page for people at `/`: what needs somebody, what runs, what waits and why, what failed last, how the
//! store is. One self-contained HTML document without scripts, that reloads itself.
//!
//! What is shown of an action is what its door may see: with `Show::Outline` states, ids, times and what was
//! asked of which resource; with `Show::All` messages and reasons too. Nobody's name and no metadata on any door.
//!
//! # Guarantees
//!
//! - The work for one page is bounded: actions looked at, rows, and the time that reasons may take. An engine
//!   that hangs costs the page its reasons and nothing else.

mod html;

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};

use self::html::View;
use super::actions::blocking;
use super::problem::Problem;
use super::reply::{self, Reply};
use super::routes::Call;
use crate::action::{Action, State};
use crate::engine::{Cause, Engine, EngineStatus};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
/// Rows of each table.
const ROWS_MAX: usize = 15;
/// Actions looked at for one page, newest first.
const LOOKED_AT_MAX: usize = 5_000;
/// How long the engine may take to say why the shown actions wait.
const REASONS_LIMIT: Duration = Duration::from_millis(500);

/// The newest actions of each kind, newest first.
#[derive(Default)]
struct Found {
    held: Vec<Action>,
    running: Vec<Action>,
    waiting: Vec<Action>,
    failed: Vec<Action>,
    finished: Vec<Action>,
    /// Older actions were not looked at.
    cut: bool,
}

impl Found {
    fn take(&mut self, action: Action) {
        let rows = match action.status.state {
            State::Held => &mut self.held,
            State::Running | State::Cancelling | State::Rebooting => &mut self.running,
            State::Scheduled | State::Queued | State::RetryWait => &mut self.waiting,
            State::Failed | State::TimedOut | State::Expired => &mut self.failed,
            State::Succeeded | State::Cancelled | State::Superseded => &mut self.finished,
        };
        if rows.len() < ROWS_MAX {
            rows.push(action);
        }
    }

    /// No older action could still be shown: of each kind there are as many as there are rows, or as exist.
    fn is_full(&self, engine: &EngineStatus) -> bool {
        let have = |rows: &[Action], of: u64| rows.len() >= ROWS_MAX || rows.len() as u64 >= of;
        have(&self.held, html::held(engine))
            && have(&self.running, html::running(engine))
            && have(&self.waiting, html::waiting(engine))
            // Those of earlier starts are not counted anywhere.
            && have(&self.failed, u64::MAX)
            && have(&self.finished, u64::MAX)
    }
}

pub(super) async fn page(call: &Call<'_>) -> Result<Reply, Problem> {
    let engine = call.api.engine.clone();
    let status = engine.status();
    let found = blocking({
        let (engine, status) = (engine.clone(), status.clone());
        move || {
            let (mut found, mut looked_at) = (Found::default(), 0);
            let read = engine.scan_back(None, &mut |action| {
                looked_at += 1;
                found.take(action);
                found.cut = looked_at == LOOKED_AT_MAX;
                !found.cut && !found.is_full(&status)
            });
            // The rest of the page is worth showing also while the table is rebuilt.
            Ok(read.map(|()| found).map_err(|error| Problem::from(error).detail))
        }
    })
    .await?;
    let reasons = match &found {
        Ok(found) => reasons(&engine, &found.waiting).await,
        Err(_) => Vec::new(),
    };
    let view = View {
        engine: &status,
        store: &engine.store_health(),
        found: found.as_ref(),
        reasons: &reasons,
        show: call.show,
        now: (call.api.clock)(),
    };
    let mut reply = reply::full(StatusCode::OK, HTML, view.html());
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    Ok(reply)
}

/// Why each of `waiting` waits, in their order; fewer if the engine takes too long.
async fn reasons(engine: &Engine, waiting: &[Action]) -> Vec<Vec<Cause>> {
    let mut reasons = Vec::with_capacity(waiting.len());
    let asked = async {
        for action in waiting {
            // One that is gone by now has no reason to wait.
            let explained = engine.explain(action.id).await;
            reasons.push(explained.map(|explained| explained.causes).unwrap_or_default());
        }
    };
    // What was answered in time is shown.
    let _ = tokio::time::timeout(REASONS_LIMIT, asked).await;
    reasons
}
