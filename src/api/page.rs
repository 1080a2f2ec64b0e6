//! The status page for people at `/`: counts, queues and the last actions; one self-contained HTML document
//! without scripts, that reloads itself.
//!
//! Shows no payload and no names given by submitters on any door: states, ids, times, and the configured queues.
//! Everything that is not a number is escaped all the same.

use std::fmt::Write as _;

use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};

use super::actions::blocking;
use super::problem::Problem;
use super::reply::{self, Reply};
use super::routes::Call;
use super::{status, time};
use crate::action::Action;
use crate::engine::EngineStatus;
use crate::store::Health;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
const ACTIONS_SHOWN: usize = 50;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>actiond</title>\
<meta http-equiv=\"refresh\" content=\"5\"><meta name=\"viewport\" content=\"width=device-width\"><style>\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.2rem 1.2rem .2rem 0;\
border-bottom:1px solid #ddd}td.n{text-align:right;font-variant-numeric:tabular-nums}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}}\
</style></head><body>";

pub(super) async fn page(call: &Call<'_>) -> Result<Reply, Problem> {
    let engine = call.api.engine.clone();
    let last = blocking(move || {
        let mut last = Vec::new();
        let read = engine.scan_back(None, &mut |action| {
            last.push(action);
            last.len() < ACTIONS_SHOWN
        });
        // The rest of the page is worth showing also while the table is rebuilt.
        Ok(read.map(|()| last).map_err(|error| Problem::from(error).detail))
    })
    .await?;
    let html = html(&call.api.engine.status(), &call.api.engine.store_health(), last.as_deref());
    let mut reply = reply::full(StatusCode::OK, HTML, html);
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    Ok(reply)
}

fn html(engine: &EngineStatus, store: &Health, last: Result<&[Action], &String>) -> String {
    let mut out = String::from(HEAD);
    let standing = match (engine.draining, &store.rebuilding) {
        (true, _) => "stopping",
        (false, Some(_)) => "working; the table of finished actions is being rebuilt",
        (false, None) => "working",
    };
    // Writing into a string does not fail.
    let _ = write!(
        out,
        "<h1>actiond {}</h1><p>{standing}; start number {}; {} actions accepted since, {} recovered.</p>\
         <h2>Actions</h2><table><tr><th>state<th>count",
        env!("CARGO_PKG_VERSION"),
        engine.incarnation,
        engine.accepted,
        engine.recovered
    );
    for (state, count) in status::states(engine) {
        let _ = write!(out, "<tr><td>{state}<td class=n>{count}");
    }
    out.push_str("</table><h2>Queues</h2><table><tr><th>queue<th>waiting<th>running<th>at once<th>");
    for queue in &engine.queues {
        let _ = write!(
            out,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td>{}",
            escaped(&queue.name),
            queue.waiting,
            queue.running,
            queue.concurrency,
            if queue.paused { "paused" } else { "" }
        );
    }
    out.push_str("</table><h2>Last actions</h2><table><tr><th>id<th>state<th>accepted<th>finished");
    match last {
        Ok(last) => last.iter().for_each(|action| row(&mut out, action)),
        Err(detail) => {
            let _ = write!(out, "<tr><td colspan=4>{}", escaped(detail));
        }
    }
    out.push_str("</table></body></html>\n");
    out
}

fn row(out: &mut String, action: &Action) {
    let finished = action.status.finish.as_ref().map(|finish| time::text(finish.at)).unwrap_or_default();
    let accepted = time::text(action.body.accepted_at);
    let _ = write!(
        out,
        "<tr><td class=n><a href=\"/v1/actions/{0}\">{0}</a><td>{1}<td>{accepted}<td>{finished}",
        action.id, action.status.state
    );
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::tests::example;

    #[test]
    fn page_shows_states_and_times_but_no_payload() {
        let queue = crate::engine::QueueStatus {
            name: "<b>".into(),
            concurrency: 1,
            paused: true,
            waiting: 3,
            running: 0,
            length_max: 9,
        };
        let engine = EngineStatus { queues: vec![queue], ..EngineStatus::default() };
        let html = html(&engine, &Health::default(), Ok(&[example()]));
        for part in ["98765", "succeeded", "2024-01-15T10:45:00Z", "&lt;b&gt;", "paused"] {
            assert!(html.contains(part), "{part} in {html}");
        }
        for hidden in ["john@", "git_ref", "Deployment completed", "<b>", "<script"] {
            assert!(!html.contains(hidden), "{hidden} in {html}");
        }
    }
}
