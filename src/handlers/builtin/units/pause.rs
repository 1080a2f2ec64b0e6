//! `process_pause` and `process_resume`: the processes of a service stand still where they are, and go on.
//!
//! By the freezer of its cgroup (cgroup v2), through systemd. A pause does not outlive a restart of the service, nor a boot.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::session::{Session, State};
use super::{ENGINE, check};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::{Found, Run};

pub(in super::super) struct ProcessPause;
pub(in super::super) struct ProcessResume;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct PauseParams {
    /// Name of the service, as "web.service".
    process_name: String,
    /// Pause also a service with a watchdog, which systemd before 258 kills for its silence while it is paused.
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ResumeParams {
    /// Name of the service, as "web.service".
    process_name: String,
}

/// What was there before.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    is_paused: bool,
    invocation_id: String,
}

const RESULT: &[(&str, &str)] = &[
    ("unit", "the service"),
    ("active_state", "systemd's state of it"),
    ("sub_state", "the same, finer"),
    ("main_pid", "its main process"),
    ("n_restarts", "how often systemd has restarted it by itself"),
    ("freezer_state", "frozen if it is paused, else running"),
    ("changed", "false if it was so already"),
];
const RECOVERY: &str = "Goes on: the kernel says whether the processes stand still.";
const RIGHTS: &str = "polkit: org.freedesktop.systemd1.manage-units for the unit with the verbs freeze and thaw (systemd 252: \
                      stop and start); and a policy of the bus that lets FreezeUnit and ThawUnit through.";

impl Kind for ProcessPause {
    const ACTION: &'static str = "process_pause";
    const PAGE: Page = Page {
        does: "Stops all processes of a service where they are, without ending them.",
        engines: &[ENGINE],
        result: RESULT,
        recovery: RECOVERY,
        undo: "Lets them go on, if this action paused them.",
        rights: RIGHTS,
    };
    type Params = PauseParams;

    fn check(params: &PauseParams, around: &Around<'_>) -> Result<Vec<String>, String> {
        check(around, "process_name", &params.process_name)
    }

    async fn plan(params: &PauseParams, run: &Run) -> Result<Vec<Value>, Failure> {
        let (session, state) = Session::open(run, &params.process_name).await?;
        can_be_paused(&session, &state, params.force).await?;
        Ok(plan(&session, &state, true))
    }

    async fn execute(params: &PauseParams, run: &Run) -> Result<Done, Failure> {
        let (session, _) = Session::open(run, &params.process_name).await?;
        turn(run, &session, true, params.force).await
    }

    async fn undo(params: &PauseParams, run: &Run) -> Result<(), Failure> {
        turn_back(run, &params.process_name, true).await
    }
}

impl Kind for ProcessResume {
    const ACTION: &'static str = "process_resume";
    const PAGE: Page = Page {
        does: "Lets the processes of a paused service go on.",
        engines: &[ENGINE],
        result: RESULT,
        recovery: RECOVERY,
        undo: "Pauses them again, if this action let them go on.",
        rights: RIGHTS,
    };
    type Params = ResumeParams;

    fn check(params: &ResumeParams, around: &Around<'_>) -> Result<Vec<String>, String> {
        check(around, "process_name", &params.process_name)
    }

    async fn plan(params: &ResumeParams, run: &Run) -> Result<Vec<Value>, Failure> {
        let (session, state) = Session::open(run, &params.process_name).await?;
        is_there(&session, &state)?;
        Ok(plan(&session, &state, false))
    }

    async fn execute(params: &ResumeParams, run: &Run) -> Result<Done, Failure> {
        let (session, _) = Session::open(run, &params.process_name).await?;
        turn(run, &session, false, false).await
    }

    async fn undo(params: &ResumeParams, run: &Run) -> Result<(), Failure> {
        turn_back(run, &params.process_name, false).await
    }
}

const fn step_of(to_paused: bool) -> &'static str {
    if to_paused { "pause" } else { "resume" }
}

/// Whether it is already as it is to be. One that only systemd takes for paused is not resumed: that is to be put right.
fn is_so(state: &State, to_paused: bool) -> bool {
    if to_paused { state.is_paused() } else { !state.needs_thaw() }
}

fn plan(session: &Session, state: &State, to_paused: bool) -> Vec<Value> {
    if is_so(state, to_paused) {
        return Vec::new();
    }
    vec![json!({ "step": step_of(to_paused), "target": session.target, "unit": session.unit })]
}

fn is_there(session: &Session, state: &State) -> Result<(), Failure> {
    if state.is_active() {
        return Ok(());
    }
    let told = format!("{} does not run ({})", session.unit, state.active);
    Err(state.explain(Failure::permanent("not_running", told)))
}

async fn can_be_paused(session: &Session, state: &State, force: bool) -> Result<(), Failure> {
    is_there(session, state)?;
    if !state.can_freeze {
        let told = format!("{} cannot be paused: there is no freezer for it (cgroup v2)", session.unit);
        return Err(Failure::permanent("no_freezer", told));
    }
    if !force && session.is_killed_when_paused(state).await? {
        let told = format!(
            "{} has a watchdog, and this version of systemd would kill it while it is paused",
            session.unit
        );
        return Err(Failure::permanent("watchdog", told).with("hint", "force pauses it all the same"));
    }
    Ok(())
}

async fn turn(run: &Run, session: &Session, to_paused: bool, force: bool) -> Result<Done, Failure> {
    let unit = session.unit.as_str();
    let before = async || {
        let state = session.idle().await?;
        if to_paused {
            can_be_paused(session, &state, force).await?;
        } else {
            is_there(session, &state)?;
        }
        let is_paused = is_so(&state, to_paused) == to_paused;
        Ok(Before { is_paused, invocation_id: state.invocation_id })
    };
    let act = async |before: &Before| {
        let state = session.look().await?;
        if is_so(&state, to_paused) {
            return Ok(before.is_paused != to_paused);
        }
        session.pause(run, to_paused).await?;
        Ok(true)
    };
    let found = async |before: &Before| {
        let state = session.idle().await?;
        Ok(if is_so(&state, to_paused) { Found::Done(before.is_paused != to_paused) } else { Found::NotDone })
    };
    let changed = run.step(step_of(to_paused), before, act, found).await?;
    let state = session.look().await?;
    let message = match (to_paused, changed) {
        (true, true) => format!("paused {unit}"),
        (true, false) => format!("{unit} was paused already"),
        (false, true) => format!("resumed {unit}"),
        (false, false) => format!("{unit} was not paused"),
    };
    Ok(Done::new(message, changed, &state.to_json(unit)))
}

/// As it was before: paused or not, if it is still the same invocation.
async fn turn_back(run: &Run, unit: &str, from_paused: bool) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Before, bool>(step_of(from_paused))? else { return Ok(()) };
    if trace.intent.is_paused == from_paused {
        return Ok(());
    }
    let (session, _) = Session::open(run, unit).await?;
    let state = session.idle().await?;
    let is_another = state.invocation_id != trace.intent.invocation_id;
    if is_another || !state.is_active() || is_so(&state, !from_paused) {
        return Ok(());
    }
    let step = format!("undo.{}", step_of(from_paused));
    run.repeatable(&step, async || session.pause(run, !from_paused).await.map(drop)).await
}
