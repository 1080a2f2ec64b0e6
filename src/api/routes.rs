//! One table of everything the API answers to, and the gate that each request passes.
//!
//! The table says method, path and who may come: the OpenAPI document and the tests are made from the same rows. The
//! gate refuses, in this order: what the TCP door does not take (writes, foreign hosts, web pages), paths and
//! methods that are not in the table, and bodies where none belongs.
//!
//! Called by `server` for each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, HOST, HeaderMap, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Version};

use super::convert::Show;
use super::problem::{Problem, Word};
use super::query::{self, Query};
use super::reply::{self, Reply};
use super::{Api, Settings, actions, commands, events, log, metrics, openapi, page, status, submit};
use crate::action::{ActionId, Actor};

/// Where a connection came in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Door {
    /// The Unix socket, with who the kernel says is at the other end.
    Socket(Actor),
    /// The status endpoint over TCP.
    Status,
}

impl Door {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Socket(_) => "socket",
            Self::Status => "status",
        }
    }
}

/// What all requests of a connection share.
pub(super) struct Context {
    pub api: Arc<Api>,
    pub door: Door,
    leaving: AtomicBool,
}

impl Context {
    pub(super) fn new(api: &Arc<Api>, door: Door) -> Self {
        Self { api: Arc::clone(api), door, leaving: AtomicBool::new(false) }
    }

    /// The daemon stops: the next answer is the connection's last, and says so.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }
}

/// One request, as its page sees it.
pub(super) struct Call<'a> {
    pub api: &'a Arc<Api>,
    pub settings: Arc<Settings>,
    pub show: Show,
    /// What stood in the path's `{}`.
    pub param: &'a str,
    pub headers: &'a HeaderMap,
}

impl Call<'_> {
    /// Longest pause in a body.
    pub(super) fn pause(&self) -> Duration {
        self.settings.pause()
    }

    /// The action that the path names.
    pub(super) fn id(&self) -> Result<ActionId, Problem> {
        let digits = self.param.bytes().all(|byte| byte.is_ascii_digit());
        let id = self.param.parse::<ActionId>().ok().filter(|id| digits && *id <= ActionId::MAX);
        id.ok_or_else(|| Problem::new(Word::NoSuchAction, "an id is a whole number"))
    }

    pub(super) fn no_such_action(&self) -> Problem {
        Problem::new(Word::NoSuchAction, format!("there is no action {}", self.param))
    }
}

/// What is behind a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Livez,
    Readyz,
    Metrics,
    Page,
    Submit,
    List,
    Show,
    Log,
    ActionEvents,
    AllEvents,
    Explain,
    Command(&'static str),
    Queues,
    PauseQueue(bool),
    Status,
    Types,
    OpenApi,
}

pub(super) struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub target: Target,
    pub summary: &'static str,
}

const fn route(method: &'static str, path: &'static str, target: Target, summary: &'static str) -> Route {
    Route { method, path, target, summary }
}

/// Every POST is for the Unix socket only; every GET is for both doors and takes HEAD too.
pub(super) const ROUTES: &[Route] = &[
    route("POST", "/v1/actions", Target::Submit, "Submit one action (JSON) or many (NDJSON)"),
    route("GET", "/v1/actions", Target::List, "List actions, newest first"),
    route("GET", "/v1/actions/{id}", Target::Show, "Show an action; with wait, once it is final or held"),
    route("GET", "/v1/actions/{id}/log", Target::Log, "The log of an attempt"),
    route("GET", "/v1/actions/{id}/events", Target::ActionEvents, "Follow the changes of an action"),
    route("GET", "/v1/actions/{id}/explain", Target::Explain, "Say why an action waits"),
    route("POST", "/v1/actions/{id}:cancel", Target::Command("cancel"), "Cancel an action"),
    route("POST", "/v1/actions/{id}:retry", Target::Command("retry"), "Submit a final action again"),
    route("POST", "/v1/actions/{id}:hold", Target::Command("hold"), "Hold an action for a person"),
    route("POST", "/v1/actions/{id}:resume", Target::Command("resume"), "Let a held action go on"),
    route("POST", "/v1/actions/{id}:resolve", Target::Command("resolve"), "Settle a held action by hand"),
    route("POST", "/v1/actions/{id}:unlock", Target::Command("unlock"), "Free the locks of a held action"),
    route("GET", "/v1/events", Target::AllEvents, "Follow the changes of all actions"),
    route("GET", "/v1/queues", Target::Queues, "List the queues"),
    route("POST", "/v1/queues/{name}:pause", Target::PauseQueue(true), "Pause a queue"),
    route("POST", "/v1/queues/{name}:resume", Target::PauseQueue(false), "Let a paused queue go on"),
    route("GET", "/v1/status", Target::Status, "What the daemon says of itself"),
    route("GET", "/v1/types", Target::Types, "The action types of the catalogue"),
    route("GET", "/v1/openapi.json", Target::OpenApi, "This document"),
    route("GET", "/livez", Target::Livez, "Whether the process serves"),
    route("GET", "/readyz", Target::Readyz, "Whether the daemon takes and runs actions"),
    route("GET", "/metrics", Target::Metrics, "Counts for Prometheus (OpenMetrics text)"),
    route("GET", "/", Target::Page, "The status page for people"),
];

/// The row of a submission.
pub(super) const SUBMIT_ROW: usize = 0;

/// What a path's pattern leaves for its `{}`; none if it does not match.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some("");
    };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    let param = path.strip_prefix(before)?.strip_suffix(after)?;
    (!param.is_empty() && !param.contains(['/', ':'])).then_some(param)
}

/// Answers one request; never fails, because every failure is an answer.
pub(super) async fn answer(context: &Context, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let (row, answered) = dispatch(context, &head, body).await;
    let mut reply = answered.unwrap_or_else(|(problem, allow)| reply::refusal(&problem, allow.as_deref()));
    if matches!(context.door, Door::Status) {
        reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        reply.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if context.is_leaving() {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    metrics::answered(row, reply.status().as_u16());
    reply
}

type Refused = (Problem, Option<String>);

async fn dispatch(
    context: &Context,
    head: &hyper::http::request::Parts,
    body: Incoming,
) -> (Option<usize>, Result<Reply, Refused>) {
    let settings = Arc::clone(&context.api.settings.borrow());
    let actor = match context.door {
        Door::Socket(actor) => Some(actor),
        Door::Status => match gate(head, &settings) {
            Ok(()) => None,
            Err(refused) => return (None, Err(refused)),
        },
    };
    let Some(path) = query::unescaped(head.uri.path(), false) else {
        return (None, Err((Problem::no_such_page(), None)));
    };
    let (row, target, param) = match find(&head.method, &path) {
        Ok(found) => found,
        Err(refused) => return (None, Err(refused)),
    };
    let outline = actor.is_none() && !settings.details;
    let show = if outline { Show::Outline } else { Show::All };
    let call = Call { api: &context.api, settings, show, param, headers: &head.headers };
    let answered = run(&call, target, actor, head.uri.query(), body).await;
    (Some(row), answered.map_err(|problem| (problem, None)))
}

/// What may come in over TCP at all.
fn gate(head: &hyper::http::request::Parts, settings: &Settings) -> Result<(), Refused> {
    if head.method != Method::GET && head.method != Method::HEAD {
        let detail = format!("{} is not taken here", super::parse::shortened(head.method.as_str()));
        return Err((Problem::new(Word::ReadOnly, detail), Some("GET, HEAD".to_owned())));
    }
    if head.headers.contains_key(ORIGIN) {
        return Err((Problem::new(Word::CrossOrigin, "the request has an Origin header"), None));
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        // A browser always sends it; HTTP/1.0 clients need not.
        (None, _) if head.version <= Version::HTTP_10 => None,
        (Some(host), None) => Some(host.to_str().unwrap_or_default()),
        _ => Some(""),
    };
    for host in [host, head.uri.authority().map(hyper::http::uri::Authority::as_str)].into_iter().flatten() {
        if !is_own_host(host, &settings.hosts) {
            let detail = format!("{:?}; see status.hosts", super::parse::shortened(host));
            return Err((Problem::new(Word::WrongHost, detail), None));
        }
    }
    Ok(())
}

/// Whether a Host header, with or without a port, is a name under which the endpoint may be addressed.
fn is_own_host(host: &str, configured: &[String]) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, "0"),
    };
    let known = ["localhost", "127.0.0.1", "[::1]"].into_iter().chain(configured.iter().map(String::as_str));
    port.parse::<u16>().is_ok() && known.into_iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn find<'a>(method: &Method, path: &'a str) -> Result<(usize, Target, &'a str), Refused> {
    let asked = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let mut allow = Vec::new();
    for (row, route) in ROUTES.iter().enumerate() {
        let Some(param) = matched(route.path, path) else { continue };
        if route.method == asked {
            return Ok((row, route.target, param));
        }
        allow.push(if route.method == "GET" { "GET, HEAD" } else { route.method });
    }
    if allow.is_empty() {
        return Err((Problem::no_such_page(), None));
    }
    let allow = allow.join(", ");
    Err((Problem::new(Word::MethodNotAllowed, format!("this path takes {allow}")), Some(allow)))
}

async fn run(
    call: &Call<'_>,
    target: Target,
    actor: Option<Actor>,
    query: Option<&str>,
    body: Incoming,
) -> Result<Reply, Problem> {
    let query = Query::parse(query)?;
    let writes = matches!(target, Target::Submit | Target::Command(_) | Target::PauseQueue(_));
    if writes {
        query.finish()?;
        let Some(actor) = actor else {
            return Err(Problem::new(Word::ReadOnly, "writes are taken over the Unix socket"));
        };
        return match target {
            Target::Command(verb) => commands::command(call, actor, verb, body).await,
            Target::PauseQueue(paused) => commands::pause_queue(call, actor, paused, body).await,
            _ => submit::actions(call, actor, body).await,
        };
    }
    if !body.is_end_stream() {
        return Err(Problem::new(Word::BadRequest, "a GET has no body"));
    }
    match target {
        Target::List => actions::list(call, query).await,
        Target::Show => actions::show(call, query).await,
        Target::Explain => actions::explain(call, query).await,
        Target::Log => log::log(call, query).await,
        Target::ActionEvents => events::of_action(call, query).await,
        Target::AllEvents => events::of_all(call, query),
        _ => {
            query.finish()?;
            plain(call, target).await
        }
    }
}

/// The pages without parameters.
async fn plain(call: &Call<'_>, target: Target) -> Result<Reply, Problem> {
    match target {
        Target::Livez => Ok(reply::full(hyper::StatusCode::OK, reply::TEXT, "ok\n")),
        Target::Readyz => status::readyz(call),
        Target::Metrics => metrics::page(call),
        Target::Page => page::page(call).await,
        Target::Queues => status::queues(call),
        Target::Status => status::status(call),
        Target::Types => status::types(),
        Target::OpenApi => openapi::page(),
        _ => Err(Problem::no_such_page()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, path: &str) -> Result<(Target, String), Word> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        find(&method, path)
            .map(|(_, target, param)| (target, param.to_owned()))
            .map_err(|(problem, _)| problem.word)
    }

    #[test]
    fn submissions_are_counted_in_their_row() {
        assert_eq!(ROUTES[SUBMIT_ROW].target, Target::Submit);
    }

    #[test]
    fn each_path_leads_to_its_page() {
        assert_eq!(target("GET", "/v1/actions/7"), Ok((Target::Show, "7".into())));
        assert_eq!(target("HEAD", "/"), Ok((Target::Page, String::new())));
        assert_eq!(target("POST", "/v1/actions/7:cancel"), Ok((Target::Command("cancel"), "7".into())));
        assert_eq!(target("GET", "/v1/actions/7/log"), Ok((Target::Log, "7".into())));
        assert_eq!(target("POST", "/v1/queues/a-b:resume"), Ok((Target::PauseQueue(false), "a-b".into())));
        for path in
            ["", "/v1", "/v1/", "/v1/actions/", "/v1/actions//log", "/v1/../etc", "/..", "/v1/actions/7:burn"]
        {
            assert_eq!(target("GET", path), Err(Word::NoSuchPage), "{path}");
        }
        assert_eq!(target("DELETE", "/v1/actions/7"), Err(Word::MethodNotAllowed));
        let (_, allow) = find(&Method::PUT, "/v1/actions").err().unwrap();
        assert_eq!(allow.as_deref(), Some("POST, GET, HEAD"));
    }

    #[test]
    fn only_own_hosts_may_be_named() {
        let configured = ["status.example".to_owned()];
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:7466", "[::1]", "[::1]:7466", "status.example"] {
            assert!(is_own_host(host, &configured), "{host}");
        }
        for host in
            ["", ":80", "evil.example", "localhost.evil.example", "localhost:x", "127.0.0.1:7466:1", "::1"]
        {
            assert!(!is_own_host(host, &configured), "{host}");
        }
    }
}
