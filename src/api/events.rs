//! Follows durable changes as server-sent events (WHATWG HTML, section 9.2).
//!
//! `event: change` carries `{"id", "state", "version"}`. A follower that is too slow loses the oldest changes and
//! gets `event: lagged` with how many; that of one action then gets the action's present state, so it never
//! misses the end. Streams end with the daemon; that of one action ends after its final state.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::actions::blocking;
use super::problem::Problem;
use super::query::Query;
use super::reply::{self, Reply};
use super::routes::Call;
use super::server::is_true;
use super::{Api, actions};
use crate::action::ActionId;
use crate::engine::Change;

/// A comment goes out after this long without a change, so that a dead peer is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Changes written as one piece, if they are there already.
const TOGETHER_MAX: usize = 256;

struct Follow {
    api: Arc<Api>,
    changes: broadcast::Receiver<Change>,
    draining: watch::Receiver<bool>,
    /// One action, with the version shown last.
    only: Option<(ActionId, u64)>,
    out: Vec<u8>,
    ended: bool,
}

/// `GET /v1/events`.
pub(super) fn of_all(call: &Call<'_>, query: Query<'_>) -> Result<Reply, Problem> {
    query.finish()?;
    Ok(stream(Follow::new(call, None, call.api.engine.changes())))
}

/// `GET /v1/actions/{id}/events`: begins with the state as it is.
pub(super) async fn of_action(call: &Call<'_>, query: Query<'_>) -> Result<Reply, Problem> {
    let id = call.id()?;
    query.finish()?;
    // Followed first, then read: a change in between is shown twice rather than never.
    let changes = call.api.engine.changes();
    let action = actions::read(call, id).await?;
    let mut follow = Follow::new(call, Some((id, 0)), changes);
    follow.take(&Change { id, state: action.status.state, version: action.status.version });
    Ok(stream(follow))
}

fn stream(follow: Follow) -> Reply {
    let pieces = unfold(follow, |mut follow| async move {
        let piece = follow.next_piece().await?;
        Some((piece, follow))
    });
    reply::stream(reply::EVENTS, pieces)
}

impl Follow {
    fn new(call: &Call<'_>, only: Option<(ActionId, u64)>, changes: broadcast::Receiver<Change>) -> Self {
        let draining = call.api.engine.draining();
        // Something is sent at once, so that the client knows that it is being told.
        let out = b": following\n\n".to_vec();
        Self { api: Arc::clone(call.api), changes, draining, only, out, ended: false }
    }

    async fn next_piece(&mut self) -> Option<Bytes> {
        while self.out.is_empty() && !self.ended {
            tokio::select! {
                change = self.changes.recv() => self.received(change).await,
                () = tokio::time::sleep(KEEP_ALIVE) => self.out.extend_from_slice(b": still here\n\n"),
                () = is_true(&mut self.draining) => self.ended = true,
            }
        }
        (!self.out.is_empty()).then(|| std::mem::take(&mut self.out).into())
    }

    async fn received(&mut self, first: Result<Change, RecvError>) {
        match first {
            Ok(change) => self.take(&change),
            Err(RecvError::Lagged(missed)) => self.lagged(missed).await,
            Err(RecvError::Closed) => self.ended = true,
        }
        for _ in 1..TOGETHER_MAX {
            // A lag is told again by the next receive.
            let Ok(change) = self.changes.try_recv() else { break };
            self.take(&change);
        }
    }

    fn take(&mut self, change: &Change) {
        let Change { id, state, version } = change;
        if self.ended {
            return;
        }
        if let Some((only, shown)) = &mut self.only {
            if only != id || version <= shown {
                return;
            }
            *shown = *version;
            self.ended = state.is_final();
        }
        let event =
            format!("event: change\ndata: {{\"id\":{id},\"state\":\"{state}\",\"version\":{version}}}\n\n");
        self.out.extend_from_slice(event.as_bytes());
    }

    async fn lagged(&mut self, missed: u64) {
        let event = format!("event: lagged\ndata: {{\"missed\":{missed}}}\n\n");
        self.out.extend_from_slice(event.as_bytes());
        let Some((id, _)) = self.only else { return };
        let engine = self.api.engine.clone();
        match blocking(move || engine.read(id).map_err(Problem::from)).await {
            Ok(Some(action)) => {
                let version = action.status.version;
                self.take(&Change { id, state: action.status.state, version });
            }
            // Deleted, or not to be read: there is nothing more to tell.
            Ok(None) | Err(_) => self.ended = true,
        }
    }
}
