//! `service_pause` and `service_resume`: all containers of a service, each of which takes back the other.
//!
//! A paused process keeps its memory and its connections and gets no processor (cgroup freezer). That is the engine's
//! to remember, and it does not outlive a restart of the engine or of the host.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::engine::{Engine, State};
use super::{all, check_service};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::{Found, Run};

/// How long a request may still be on its way to the engine after its client is gone.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

pub(in super::super) struct ServicePause;
pub(in super::super) struct ServiceResume;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Params {
    /// Name of the service (`com.docker.compose.service`).
    service_name: String,
    /// Compose project; needed where several have such a service.
    project: Option<String>,
}

/// A container of the service as it was.
#[derive(Clone, Serialize, Deserialize)]
struct Member {
    id: String,
    name: String,
    state: State,
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Pause,
    Resume,
}

impl Way {
    /// Its step.
    const fn step(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
        }
    }

    /// The state that it changes, and the one that it makes of it.
    const fn states(self) -> (State, State) {
        match self {
            Self::Pause => (State::Running, State::Paused),
            Self::Resume => (State::Paused, State::Running),
        }
    }

    const fn back(self) -> Self {
        match self {
            Self::Pause => Self::Resume,
            Self::Resume => Self::Pause,
        }
    }

    /// The containers of the service, of which some at least can be paused.
    async fn members(self, params: &Params, engine: &Engine) -> Result<Vec<Member>, Failure> {
        let seen = engine.service(&params.service_name, params.project.as_deref()).await?;
        if seen.iter().all(|seen| seen.state == State::Stopped) {
            let told = format!("no container of the service {} runs", params.service_name);
            return Err(Failure::permanent("not_running", told));
        }
        Ok(seen.into_iter().map(|seen| Member { id: seen.id, name: seen.name, state: seen.state }).collect())
    }

    /// The members that it changes.
    fn changes(self, members: &[Member]) -> impl Iterator<Item = &Member> {
        members.iter().filter(move |member| member.state == self.states().0)
    }

    /// Does it to a container, unless it is done or the container does not run any more.
    async fn one(self, engine: &Engine, member: &Member) -> Result<(), Failure> {
        let (id, name) = (member.id.as_str(), member.name.as_str());
        let (from, to) = self.states();
        match engine.look(id).await?.state {
            state if state == from && self == Self::Pause => engine.pause(id, name).await,
            state if state == from => engine.unpause(id, name).await,
            state if state == to => Ok(()),
            _ => Err(Failure::permanent("stopped", format!("the container {name} does not run any more"))),
        }
    }

    async fn plan(self, params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let engine = Engine::open(run).await?;
        let members = self.members(params, &engine).await?;
        let names: Vec<&str> = self.changes(&members).map(|member| member.name.as_str()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![json!({ "step": self.step(), "target": engine.name, "containers": names })])
    }

    async fn execute(self, params: &Params, run: &Run) -> Result<Done, Failure> {
        let engine = Engine::open(run).await?;
        let before = async || self.members(params, &engine).await;
        let act = async |before: &Vec<Member>| {
            all(self.changes(before).map(|member| self.one(&engine, member))).await?;
            Ok(before.clone())
        };
        let found = async |before: &Vec<Member>| {
            let now = all(self.changes(before).map(|member| engine.look(&member.id))).await?;
            let is_done = now.iter().all(|now| now.state == self.states().1);
            Ok(if is_done { Found::Done(before.clone()) } else { Found::NotDone })
        };
        let before = run.step(self.step(), before, act, found).await?;
        let seen = all(before.iter().map(|member| engine.look(&member.id))).await?;
        let containers: Vec<Value> = seen
            .iter()
            .zip(&before)
            .map(|(now, was)| json!({ "id": now.id, "name": now.name, "state": now.state, "was": was.state }))
            .collect();
        let skipped: Vec<&str> = before
            .iter()
            .filter(|member| member.state == State::Stopped)
            .map(|member| member.name.as_str())
            .collect();
        if !skipped.is_empty() {
            run.warn(format!("stopped and left so: {}", skipped.join(", ")));
        }
        let changed = self.changes(&before).count();
        let (service, done) = (&params.service_name, self.done());
        let message = if changed == 0 {
            format!("the service {service} on {} has nothing to be {done}", engine.name)
        } else {
            format!("{done} {changed} containers of the service {service} on {}", engine.name)
        };
        let mut result = json!({ "containers": containers, "matched": before.len(), "skipped": skipped });
        if let (Self::Pause, Value::Object(result)) = (self, &mut result) {
            result.insert("durable".to_owned(), false.into());
        }
        Ok(Done::new(message, changed > 0, &result))
    }

    async fn undo(self, run: &Run) -> Result<(), Failure> {
        let Some(trace) = run.trace::<Vec<Member>, Vec<Member>>(self.step())? else { return Ok(()) };
        let engine = Engine::open(run).await?;
        if trace.result.is_none() {
            tokio::time::sleep(ON_ITS_WAY).await;
        }
        let undone = self.changes(&trace.intent).map(|member| self.back().one(&engine, member));
        for failure in futures_util::future::join_all(undone).await.into_iter().filter_map(Result::err) {
            if !matches!(failure.code(), "stopped" | "not_found") {
                return Err(failure);
            }
            // What has ended or is gone has nothing to be taken back.
            run.warn(failure.message());
        }
        Ok(())
    }
}

const RECOVERY: &str =
    "Goes on: which containers it is for is durable before the first, and each tells its state.";
const RESULT: &[(&str, &str)] = &[
    ("containers", "those of the service: id, name, state, and was, its state before"),
    ("matched", "how many containers the service has"),
    ("skipped", "names of those that are stopped and are left so"),
];
const RIGHTS: &str = "Access to the engine's socket, which is as good as root with Docker; a proxy before it has to let through \
                      GET /version, /containers/json and /containers/*/json, and POST /containers/*/(pause|unpause).";

impl Kind for ServicePause {
    const ACTION: &'static str = "service_pause";
    const PAGE: Page = Page {
        does: "Pauses the containers of a Compose service that run: they keep their memory and get no processor.",
        engines: super::ENGINES,
        result: &[
            ("containers", "those of the service: id, name, state, and was, its state before"),
            ("matched", "how many containers the service has"),
            ("skipped", "names of those that are stopped and are left so"),
            ("durable", "false: a restart of the engine or the host ends the pause"),
        ],
        recovery: RECOVERY,
        undo: "Resumes the containers that it paused.",
        rights: RIGHTS,
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        check_service(&params.service_name, params.project.as_deref(), around)
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        Way::Pause.plan(params, run).await
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        Way::Pause.execute(params, run).await
    }

    async fn undo(_params: &Params, run: &Run) -> Result<(), Failure> {
        Way::Pause.undo(run).await
    }
}

impl Kind for ServiceResume {
    const ACTION: &'static str = "service_resume";
    const PAGE: Page = Page {
        does: "Lets the paused containers of a Compose service go on.",
        engines: super::ENGINES,
        result: RESULT,
        recovery: RECOVERY,
        undo: "Pauses the containers that it resumed.",
        rights: RIGHTS,
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        check_service(&params.service_name, params.project.as_deref(), around)
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        Way::Resume.plan(params, run).await
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        Way::Resume.execute(params, run).await
    }

    async fn undo(_params: &Params, run: &Run) -> Result<(), Failure> {
        Way::Resume.undo(run).await
    }
}
