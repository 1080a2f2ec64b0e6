//! `promote_slave_db` on PostgreSQL.
//!
//! ```text
//!  (looked at)  it is a replica, of that primary, and lacks little
//!  fence        the old primary cannot be written to; where its log ends is known then
//!  (waited)     the replica has applied all of that log
//!  promote      pg_promote, unless the fence has been taken away
//!  checkpoint   its control file has the new timeline, which pg_rewind needs
//! ```
//!
//! `pg_promote` goes on without its client, so nothing is concluded before no session of an earlier attempt is left.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::super::postgres::Session;
use super::super::Ends;
use super::super::promote::{Fence, Params, Promoted};
use super::fence::{self, FENCE, Fenced, How, Primary};
use super::lsn::Lsn;
use super::{Role, planned, settings};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};

const PROMOTE: &str = "promote";
const CHECKPOINT: &str = "checkpoint";
/// What a replica may lack before its primary is fenced: what it lacks more is waited for while the primary still works.
const LAG_BEFORE_FENCE: u64 = 16 << 20;

/// The replica as it is when it is promoted.
#[derive(Debug, Serialize, Deserialize)]
struct Intended {
    timeline: u32,
    /// None: it cannot be known.
    lag: Option<u64>,
}

/// The primary that it is afterwards.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    timeline: u32,
    lsn: Lsn,
}

pub(in super::super) fn check(params: &Params, ends: &Ends<'_>) -> Result<(), String> {
    if params.fence != Fence::Require {
        return Ok(());
    }
    let primary = ends.primary().map_err(|problem| format!("fence: {problem}"))?;
    if settings(primary).is_ok_and(|settings| settings.cluster.is_some()) {
        return Ok(());
    }
    Err(format!(
        "fence: {} cannot be stopped, its target has no cluster; best_effort and none promote without that",
        primary.name
    ))
}

pub(in super::super) async fn plan(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
) -> Result<Vec<Value>, Failure> {
    let replica = Session::open(run, ends.replica, None).await?;
    let role = Role::of(&replica).await?;
    if !role.is_replica {
        return Ok(Vec::new());
    }
    let primary = Primary::look(run, ends, params.fence, &role).await?;
    let lag = lag_to(&role, &primary);
    let mut plan = Vec::new();
    if let Some(how) = fence::how(ends, params.fence, &primary)? {
        plan.push(planned(FENCE, json!({ "target": ends.primary.map(|target| &target.name), "how": how })));
    }
    let facts = json!({ "target": ends.replica.name, "timeline": role.timeline, "lag_bytes": lag });
    plan.push(planned(PROMOTE, facts));
    plan.push(planned(CHECKPOINT, json!({ "target": ends.replica.name })));
    Ok(plan)
}

/// What it lacks of the log of its primary, if that can be known.
fn lag_to(role: &Role, primary: &Primary) -> Option<u64> {
    match primary {
        Primary::Up { end } => Some(role.lsn.lag_to(*end)),
        Primary::Down { end: Some((end, timeline)) } if *timeline == role.timeline => {
            Some(lag_at_end(role.lsn, *end))
        }
        Primary::Down { .. } | Primary::Unknown => None,
    }
}

/// `end` is where the last record begins: whoever has applied that is beyond it.
fn lag_at_end(lsn: Lsn, end: Lsn) -> u64 {
    lsn.lag_to(Lsn(end.0 + 1))
}

pub(in super::super) async fn execute(params: &Params, run: &Run, ends: &Ends<'_>) -> Result<Done, Failure> {
    let replica = Session::open(run, ends.replica, None).await?;
    let fenced = if run.is_begun(PROMOTE) {
        run.trace::<How, Fenced>(FENCE)?.and_then(|trace| trace.result)
    } else {
        let role = Role::of(&replica).await?;
        if !role.is_replica && !run.is_begun(FENCE) {
            let message = format!("{} is a primary already", ends.replica.name);
            return Ok(Done::new(message, false, &result(ends, role.timeline, role.lsn, None, None)));
        }
        fenced(params, run, ends, &replica).await?
    };
    let intent = async || caught_up(params, run, &replica, fenced.as_ref(), ends).await;
    let act = async |_: &Intended| {
        if let Some(fenced) = fenced {
            fence::stands(run, ends, fenced).await?;
        }
        promote(params, run, &replica).await
    };
    let found = async |intended: &Intended| {
        replica.alone(run).await?;
        let role = Role::of(&replica).await?;
        Ok(if !role.is_replica {
            Found::Done(Position { timeline: role.timeline, lsn: promoted_at(&replica).await? })
        } else if role.timeline > intended.timeline {
            let (now, then) = (role.timeline, intended.timeline);
            Found::Unknown(format!("it is a replica, and its timeline is {now}; it was {then} then"))
        } else {
            Found::NotDone
        })
    };
    let position: Position = run.step(PROMOTE, intent, act, found).await?;
    let checkpoint =
        async || replica.execute("cannot make a checkpoint of the new primary", "CHECKPOINT").await;
    run.repeatable(CHECKPOINT, checkpoint).await?;
    let lag = run.trace::<Intended, Position>(PROMOTE)?.and_then(|trace| trace.intent.lag);
    let read_only = "select current_setting('default_transaction_read_only') = 'on'";
    let row = replica.row("cannot look at the new primary", read_only, &[]).await?;
    if row.is_some_and(|row| row.get(0)) {
        run.warn(format!("default_transaction_read_only is on: {} takes no writes yet", ends.replica.name));
    }
    let message = format!("{} is the primary now, on timeline {}", ends.replica.name, position.timeline);
    Ok(Done::new(message, true, &result(ends, position.timeline, position.lsn, lag, fenced)))
}

fn result(ends: &Ends<'_>, timeline: u32, lsn: Lsn, lag: Option<u64>, fenced: Option<Fenced>) -> Promoted {
    Promoted {
        new_primary: ends.replica.name.clone(),
        old_primary: ends.primary.map(|target| target.name.clone()),
        timeline_id: Some(timeline),
        lsn: Some(lsn.to_string()),
        gtid_position: None,
        lag_bytes_at_promotion: lag,
        fenced: fenced.is_some(),
    }
}

/// The old primary is fenced afterwards, as far as that was asked for and is right.
async fn fenced(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
    replica: &Session,
) -> Result<Option<Fenced>, Failure> {
    if let Some(trace) = run.trace::<How, Fenced>(FENCE)? {
        return fence::fence(run, ends, trace.intent, async || ready(params, replica).await).await.map(Some);
    }
    let role = Role::of(replica).await?;
    if role.is_paused {
        let told = format!("{} applies nothing, as it was told", ends.replica.name);
        return Err(Failure::permanent("paused", told).with("hint", "pg_wal_replay_resume() lets it go on"));
    }
    let primary = Primary::look(run, ends, params.fence, &role).await?;
    let how = fence::how(ends, params.fence, &primary)?;
    // What would keep it from being promoted is known before its primary is touched, as far as it can be.
    let max = match (&primary, how) {
        (Primary::Up { .. }, Some(_)) => params.max_lag_bytes.max(LAG_BEFORE_FENCE),
        _ => params.max_lag_bytes,
    };
    if !params.allow_data_loss {
        let lag = async || {
            Ok(lag_to(&Role::of(replica).await?, &Primary::look(run, ends, params.fence, &role).await?))
        };
        await_lag(params, run, max, lag).await?.map_err(|lag| lacks(ends, lag, "lag"))?;
    }
    if let Some(how) = how {
        return fence::fence(run, ends, how, async || ready(params, replica).await).await.map(Some);
    }
    if params.fence != Fence::None {
        run.warn("the old primary could not be fenced");
    }
    Ok(None)
}

/// It is there, and gets the log of its primary to the end.
async fn ready(params: &Params, replica: &Session) -> Result<(), Failure> {
    const STREAMS: &str = "select exists (select from pg_stat_wal_receiver where status = 'streaming')";
    let row = replica.row("cannot look at the replica", STREAMS, &[]).await?;
    if params.allow_data_loss || row.is_some_and(|row| row.get(0)) {
        return Ok(());
    }
    let told = "it gets nothing from its primary now, so that is not stopped";
    Err(Failure::transient("not_streaming", told)
        .with("hint", "allow_data_loss = true promotes it nevertheless"))
}

/// Waits until what it lacks is no more than that: how much it lacks then, or lacks in the end.
async fn await_lag(
    params: &Params,
    run: &Run,
    max: u64,
    lag: impl AsyncFn() -> Result<Option<u64>, Failure>,
) -> Result<Result<u64, Option<u64>>, Failure> {
    let wait = Duration::from_secs(params.wait_s.into());
    let found = run
        .wait_for(wait, async || match lag().await? {
            Some(lag) if lag <= max => Ok(Some(Ok(lag))),
            Some(_) => Ok(None),
            None => Ok(Some(Err(None))),
        })
        .await?;
    match found {
        Some(found) => Ok(found),
        None => Ok(Err(lag().await?)),
    }
}

fn lacks(ends: &Ends<'_>, lag: Option<u64>, code: &str) -> Failure {
    let name = &ends.replica.name;
    let told = match lag {
        Some(lag) => format!("{name} lacks {lag} bytes of the log of its primary"),
        None => format!("what {name} lacks of its primary cannot be known"),
    };
    Failure::permanent(code, told)
        .with("lag_bytes", lag)
        .with("hint", "allow_data_loss = true promotes it nevertheless")
}

/// Nothing is missing, or no more than is allowed. With the fence standing this is for ever so.
async fn caught_up(
    params: &Params,
    run: &Run,
    replica: &Session,
    fenced: Option<&Fenced>,
    ends: &Ends<'_>,
) -> Result<Intended, Failure> {
    let role = Role::of(replica).await?;
    if !role.is_replica {
        let told = format!("{} was promoted by somebody else meanwhile", ends.replica.name);
        return Err(Failure::permanent("conflict", told));
    }
    run.progress(40, "waiting for the replica to catch up");
    let lag = async || {
        let now = Role::of(replica).await?;
        Ok(match fenced {
            Some(Fenced { how: How::Stop, end }) => end.map(|end| lag_at_end(now.lsn, end)),
            Some(Fenced { how: How::ReadOnly, end }) => end.map(|end| now.lsn.lag_to(end)),
            None => lag_to(&now, &Primary::look(run, ends, params.fence, &now).await?),
        })
    };
    let lag = if params.allow_data_loss {
        // As much as it will get; what it then lacks was agreed to.
        match await_lag(params, run, 0, lag).await? {
            Ok(lag) => Some(lag),
            Err(lag) => lag,
        }
    } else {
        // The primary is out of service now: only a person can go on.
        let code = if fenced.is_some() { "manual" } else { "lag" };
        Some(await_lag(params, run, params.max_lag_bytes, lag).await?.map_err(|lag| lacks(ends, lag, code))?)
    };
    Ok(Intended { timeline: role.timeline, lag })
}

async fn promote(params: &Params, run: &Run, replica: &Session) -> Result<Position, Failure> {
    run.progress(60, "promoting the replica");
    let what = "cannot promote it";
    let wait_s = i32::try_from(params.wait_s).unwrap_or(i32::MAX);
    let asked = replica.row(what, "select pg_promote(true, $1)", &[&wait_s]).await;
    let role = Role::of(replica).await?;
    match asked {
        _ if !role.is_replica => Ok(Position { timeline: role.timeline, lsn: promoted_at(replica).await? }),
        Err(failure) => Err(failure),
        Ok(_) => {
            let told = format!("it is no primary after {wait_s} s, and may still become one");
            Err(Failure::unknown("not_promoted", told))
        }
    }
}

/// Up to where it has the log of the old primary.
async fn promoted_at(replica: &Session) -> Result<Lsn, Failure> {
    const AT: &str = "select coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn())::text";
    let what = "cannot look at the new primary";
    let row = replica.row(what, AT, &[]).await?.ok_or_else(|| Failure::transient("unavailable", what))?;
    super::lsn(row.get(0))
}

/// Nothing is taken back: what stays is told.
pub(in super::super) async fn undo(_: &Params, run: &Run, ends: &Ends<'_>) -> Result<(), Failure> {
    let mut is_promoted = false;
    if run.is_begun(PROMOTE) {
        let replica = Session::open(run, ends.replica, None).await?;
        replica.alone(run).await?;
        is_promoted = !Role::of(&replica).await?.is_replica;
    }
    if is_promoted {
        run.warn(format!("{} was promoted, which cannot be taken back", ends.replica.name));
    }
    run.add_result("promoted", is_promoted);
    if let Some(trace) = run.trace::<How, Fenced>(FENCE)? {
        let name = ends.primary.map_or("the old primary", |target| &target.name);
        let how = match trace.intent {
            How::Stop => "without standby.signal in its data directory it starts as a primary again",
            How::ReadOnly => "ALTER SYSTEM RESET default_transaction_read_only lets it take writes again",
        };
        let only = if is_promoted { "" } else { "; no server takes writes now" };
        run.warn(format!("{name} was fenced and stays so{only}: {how}, if that is wanted"));
        run.add_result("fenced", true);
    }
    Ok(())
}
