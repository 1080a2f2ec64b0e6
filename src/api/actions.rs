//! Reads of actions: the list, one action (waiting for its end, if asked), and why it waits.
//!
//! Reads may touch the disk, so they run on the runtime's blocking threads. A list looks at a bounded number of
//! actions and gives a bounded number of bytes; `next` lets its reader go on from there.

use std::time::Duration;

use hyper::StatusCode;

use super::convert::{self, Show};
use super::problem::{Problem, Word};
use super::query::Query;
use super::reply::{self, Reply};
use super::routes::Call;
use super::server::is_true;
use super::{time, wire};
use crate::action::{Action, ActionId, State, Timestamp};
use crate::engine::{Cause, Engine, Explanation};

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 1_000;
/// Actions looked at for one page.
const LOOKED_AT_MAX: usize = 200_000;
/// A page ends with the action that reaches this.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Which actions a list shows; what is not given does not filter.
#[derive(Default)]
pub(super) struct Filter {
    states: Option<Vec<State>>,
    queue: Option<String>,
    action: Option<String>,
    resource_type: Option<String>,
    resource_id: Option<u64>,
    user: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    fn take(query: &mut Query<'_>) -> Result<Self, Problem> {
        let states = |text: &str| {
            text.split(',').map(State::from_word).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
        };
        let instant = |text: &str| time::parse(text).ok();
        Ok(Self {
            states: query.take_as("state", "a list of states", states)?,
            queue: query.take("queue").map(Into::into),
            action: query.take("action").map(Into::into),
            resource_type: query.take("resource_type").map(Into::into),
            resource_id: query.take_as("resource_id", "a number", |text| text.parse().ok())?,
            user: query.take("user").map(Into::into),
            since: query.take_as("since", "an RFC 3339 time", instant)?,
            until: query.take_as("until", "an RFC 3339 time", instant)?,
        })
    }

    fn shows(&self, action: &Action) -> bool {
        fn fits<T: PartialEq + ?Sized>(wanted: Option<&T>, is: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == is)
        }
        let body = &action.body;
        self.states.as_ref().is_none_or(|states| states.contains(&action.status.state))
            && fits(self.queue.as_deref(), body.queue.as_str())
            && fits(self.action.as_deref(), body.action.as_str())
            && fits(self.resource_type.as_deref(), body.resource_type.as_str())
            && fits(self.resource_id.as_ref(), &body.resource_id)
            && fits(self.user.as_deref(), body.user.as_str())
            && self.since.is_none_or(|since| body.accepted_at >= since)
            && self.until.is_none_or(|until| body.accepted_at < until)
    }
}

/// `GET /v1/actions`: newest first.
pub(super) async fn list(call: &Call<'_>, mut query: Query<'_>) -> Result<Reply, Problem> {
    let filter = Filter::take(&mut query)?;
    let before = query.take_as("before", "an id", |text| text.parse::<ActionId>().ok())?;
    let limit = query
        .take_as("limit", "a number from 1 to 1000", |text| {
            text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit))
        })?
        .unwrap_or(LIMIT_DEFAULT);
    query.finish()?;
    let (engine, show) = (call.api.engine.clone(), call.show);
    let out = blocking(move || listed(&engine, &filter, before, limit, show)).await?;
    Ok(reply::full(StatusCode::OK, reply::JSON, out))
}

fn listed(
    engine: &Engine,
    filter: &Filter,
    before: Option<ActionId>,
    limit: usize,
    show: Show,
) -> Result<Vec<u8>, Problem> {
    let mut out = b"{\"actions\":[".to_vec();
    let (mut shown, mut looked_at, mut last, mut next) = (0, 0, None, None);
    engine.scan_back(before, &mut |action: Action| {
        if shown == limit || looked_at == LOOKED_AT_MAX || out.len() >= PAGE_BYTES_MAX {
            next = last;
            return false;
        }
        looked_at += 1;
        last = Some(action.id);
        if filter.shows(&action) {
            if shown > 0 {
                out.push(b',');
            }
            shown += 1;
            convert::write_action(&mut out, &action, show);
        }
        true
    })?;
    out.extend_from_slice(b"],\"next\":");
    match next {
        Some(id) => convert::number(&mut out, id.0),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(out)
}

/// `GET /v1/actions/{id}`; with `wait`, when it is final, becomes held, or the wait is over.
pub(super) async fn show(call: &Call<'_>, mut query: Query<'_>) -> Result<Reply, Problem> {
    let id = call.id()?;
    let wait_ms =
        query.take_as("wait", "a duration such as 60s", |text| time::parse_duration_ms(text).ok())?;
    query.finish()?;
    let mut action = read(call, id).await?;
    if let Some(wait_ms) = wait_ms
        && !action.status.state.is_final()
    {
        let wait = Duration::from_millis(wait_ms.min(call.settings.wait_max_ms));
        let mut draining = call.api.engine.draining();
        tokio::select! {
            () = call.api.engine.settled(id, action.status.version) => {}
            () = tokio::time::sleep(wait) => {}
            () = is_true(&mut draining) => {}
        }
        action = read(call, id).await?;
    }
    let mut out = Vec::with_capacity(2_048);
    convert::write_action(&mut out, &action, call.show);
    Ok(reply::full(StatusCode::OK, reply::JSON, out))
}

/// `GET /v1/actions/{id}/explain`. Its sentences may quote people's words, so the outline has only the codes.
pub(super) async fn explain(call: &Call<'_>, query: Query<'_>) -> Result<Reply, Problem> {
    let id = call.id()?;
    query.finish()?;
    let Explanation { state, causes } = call.api.engine.explain(id).await?;
    let causes = causes
        .into_iter()
        .map(|Cause { code, text, behind }| wire::Cause {
            code: code.to_owned(),
            text: if call.show == Show::All { text } else { String::new() },
            behind: behind.map(|id| id.0),
        })
        .collect();
    reply::json(StatusCode::OK, &wire::Explanation { id: id.0, state: state.as_str().to_owned(), causes })
}

/// The action of that id, or that there is none.
pub(super) async fn read(call: &Call<'_>, id: ActionId) -> Result<Action, Problem> {
    let engine = call.api.engine.clone();
    blocking(move || engine.read(id).map_err(Problem::from)).await?.ok_or_else(|| call.no_such_action())
}

/// Runs something that may wait for the disk, away from the connections.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Problem::new(Word::Internal, "the read broke off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(query: &str) -> bool {
        let mut query = Query::parse(Some(query)).ok().unwrap();
        let filter = Filter::take(&mut query).ok().unwrap();
        query.finish().unwrap();
        filter.shows(&convert::tests::example())
    }

    #[test]
    fn filter_shows_what_fits_all_of_it() {
        assert!(shows(""));
        assert!(shows(
            "state=queued,succeeded&queue=default&action=deploy&resource_type=Stack&resource_id=12345"
        ));
        assert!(shows("user=john%40example.com&since=2024-01-15T10:30:00Z&until=2024-01-15T10:30:01Z"));
        for other in
            ["state=queued", "queue=slow", "action=restart", "resource_id=1", "user=j", "resource_type=stack"]
        {
            assert!(!shows(other), "{other}");
        }
        assert!(!shows("until=2024-01-15T10:30:00Z"));
        assert!(!shows("since=2024-01-15T10:30:01Z"));
    }

    #[test]
    fn filter_of_a_wrong_kind_is_refused() {
        for text in ["state=done", "state=", "resource_id=x", "since=yesterday"] {
            let mut query = Query::parse(Some(text)).ok().unwrap();
            let problem = Filter::take(&mut query).err().map(|problem| problem.word);
            assert_eq!(problem, Some(Word::BadQuery), "{text}");
        }
    }
}
