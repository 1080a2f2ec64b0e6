//! `process_restart`, and what `restart` does where it means a service.
//!
//! Whether a restart took place is known from the service's invocation ID, which is another one after each start
//! (systemd.exec(5), `$INVOCATION_ID`).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::session::{Session, State};
use super::{ENGINE, check};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::{Found, Run};

const RESTART: &str = "restart";

/// How often it is looked whether a service stays up.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
const SETTLE_S_MAX: u32 = 3_600;

pub(in super::super) struct ProcessRestart;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ProcessParams {
    /// Name of the service, as "web.service".
    process_name: String,
    /// How long it must stay up after its start, in seconds.
    #[serde(default = "settle_s")]
    #[schemars(range(max = 3_600))]
    settle_s: u32,
    /// Forget before the restart that the service failed, and how often it was started of late: else systemd refuses one
    /// that was started too often.
    #[serde(default)]
    reset_failed: bool,
}

/// Seconds that a service has to stay up.
pub(in super::super) fn settle_s() -> u32 {
    3
}

/// What was there before.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    invocation_id: String,
    /// Paused services come back running.
    is_paused: bool,
}

/// systemd's job, if its end was heard.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Job {
    id: Option<u32>,
    result: Option<String>,
}

pub(in super::super) const RESULT: &[(&str, &str)] = &[
    ("unit", "the service"),
    ("job_id", "number of systemd's job; null if its end was not heard"),
    ("job_result", "how that job ended; null if it was not heard"),
    ("invocation_id_before", "the invocation ID before it; empty if it had not been started"),
    ("invocation_id_after", "the invocation ID after it"),
    ("active_state", "systemd's state of it"),
    ("sub_state", "the same, finer"),
    ("main_pid", "its main process; 0 if it has none"),
    ("n_restarts", "how often systemd has restarted it by itself since"),
    ("freezer_state", "running, or frozen if it is paused"),
];
const RECOVERY: &str = "Goes on. The invocation ID is durable before the restart: if it is another one after an \
                        interruption, the service was restarted; else it is restarted now. A job of systemd that is \
                        under way is waited for.";
const UNDO: &str = "Nothing: what runs is left to run.";
const RIGHTS: &str = "polkit: org.freedesktop.systemd1.manage-units for the unit with the verb restart; with reset_failed \
                      also reset-failed; for a unit that may be paused also thaw (systemd 252: start).";

impl Kind for ProcessRestart {
    const ACTION: &'static str = "process_restart";
    const PAGE: Page = Page {
        does: "Restarts a service of systemd, or starts it if it does not run, and waits until it is up and stays so.",
        engines: &[ENGINE],
        result: RESULT,
        recovery: RECOVERY,
        undo: UNDO,
        rights: RIGHTS,
    };
    type Params = ProcessParams;

    fn check(params: &ProcessParams, around: &Around<'_>) -> Result<Vec<String>, String> {
        check_settle(params.settle_s)?;
        check(around, "process_name", &params.process_name)
    }

    async fn plan(params: &ProcessParams, run: &Run) -> Result<Vec<Value>, Failure> {
        plan(run, &params.process_name).await
    }

    async fn execute(params: &ProcessParams, run: &Run) -> Result<Done, Failure> {
        restart(run, &params.process_name, params.settle_s, params.reset_failed).await
    }
}

/// Judges `settle_s`.
pub(in super::super) fn check_settle(settle_s: u32) -> Result<(), String> {
    if settle_s > SETTLE_S_MAX { Err(format!("settle_s must be at most {SETTLE_S_MAX}")) } else { Ok(()) }
}

/// What a restart would find.
pub(in super::super) async fn plan(run: &Run, unit: &str) -> Result<Vec<Value>, Failure> {
    let (session, state) = Session::open(run, unit).await?;
    Ok(vec![json!({
        "step": RESTART,
        "target": session.target,
        "unit": unit,
        "active_state": state.active,
        "invocation_id": state.invocation_id,
    })])
}

/// Restarts a service, or starts it if it does not run, and waits until it is up and stays so.
pub(in super::super) async fn restart(
    run: &Run,
    unit: &str,
    settle_s: u32,
    reset_failed: bool,
) -> Result<Done, Failure> {
    let (session, _) = Session::open(run, unit).await?;
    let before = async || {
        let state = session.idle().await?;
        Ok(Before { is_paused: state.is_paused(), invocation_id: state.invocation_id })
    };
    let act = async |_: &Before| restarted(run, &session, reset_failed).await;
    let found = async |before: &Before| {
        let state = session.idle().await?;
        // A service that is over at once is forgotten, and its ID with it.
        if state.invocation_id.is_empty() && state.is_up() {
            return Ok(Found::Unknown(format!("systemd remembers no start of {unit}")));
        }
        let is_another = state.invocation_id != before.invocation_id;
        Ok(if is_another { Found::Done(Job::default()) } else { Found::NotDone })
    };
    let job = run.step(RESTART, before, act, found).await?;
    let Some(trace) = run.trace::<Before, Job>(RESTART)? else {
        return Err(Failure::permanent("internal", "the step restart left nothing"));
    };
    let mut state = settled(&session, Duration::from_secs(settle_s.into())).await?;
    // A service that was killed while it was frozen can be frozen to systemd for ever.
    if state.needs_thaw() {
        state = session.pause(run, false).await?;
    }
    if trace.intent.is_paused {
        run.warn(format!("{unit} was paused; it runs now"));
    }
    let mut result = state.to_json(unit);
    result.insert("job_id".to_owned(), job.id.into());
    result.insert("job_result".to_owned(), job.result.into());
    result.insert("invocation_id_before".to_owned(), trace.intent.invocation_id.into());
    result.insert("invocation_id_after".to_owned(), state.invocation_id.into());
    Ok(Done::new(format!("restarted {unit}"), true, &result))
}

/// Has systemd restart it, and waits for the end of the job.
pub(super) async fn restarted(run: &Run, session: &Session, reset_failed: bool) -> Result<Job, Failure> {
    if reset_failed {
        session.reset_failed().await?;
    }
    // What stands still hears no SIGTERM.
    if session.look().await?.needs_thaw() {
        session.pause(run, false).await?;
    }
    let (id, result) = session.restart().await?;
    match result.as_deref() {
        None | Some("done") => Ok(Job { id: Some(id), result }),
        Some(word) => Err(failed(&session.look().await?, &session.unit, word)),
    }
}

/// A job that did not end with `done`: `failed`, `timeout`, `canceled`, `dependency`, ... (org.freedesktop.systemd1(5)).
fn failed(state: &State, unit: &str, word: &str) -> Failure {
    let code = match word {
        _ if state.result == "start-limit-hit" => "start_limit",
        "canceled" => "superseded",
        "timeout" => "start_timeout",
        _ => "start_failed",
    };
    let told =
        format!("systemd could not restart {unit} ({word}, {}): see journalctl -u {unit}", state.result);
    let failure = state.explain(Failure::permanent(code, told)).with("job_result", word);
    if code == "start_limit" {
        return failure.with("hint", "it was started too often of late; reset_failed forgets that");
    }
    failure
}

/// Its state after it has stayed up for so long, in one and the same invocation.
async fn settled(session: &Session, settle: Duration) -> Result<State, Failure> {
    let until = Instant::now() + settle;
    let first = session.look().await?;
    let mut state = session.idle().await?;
    loop {
        if !state.is_up() || state.invocation_id != first.invocation_id {
            let told = format!(
                "{} was started, but did not stay up ({}, {})",
                session.unit, state.active, state.result
            );
            return Err(state.explain(Failure::permanent("unstable", told)));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(state);
        }
        sleep(left.min(SETTLE_PAUSE)).await;
        state = session.look().await?;
    }
}
