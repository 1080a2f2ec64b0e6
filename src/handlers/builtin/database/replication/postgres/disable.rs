//! `disable_replication_slave_db` on PostgreSQL.
//!
//! ```text
//!  detach   the replica: primary_conninfo = '', its receiver is gone
//!  slot     the primary: the replica's slot is removed (mode detach)
//!  pause    the replica: it applies nothing (mode pause, alone)
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::super::conninfo::{Conninfo, has_password};
use super::super::super::postgres::{Session, literal};
use super::super::Ends;
use super::super::disable::{Disabled, Mode, Params, Previous};
use super::{Slot, planned, settings};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};

const DETACH: &str = "detach";
const SLOT: &str = "slot";
const PAUSE: &str = "pause";
/// Longest wait for the replica to do what it was told.
const REPLICA_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for it to follow again.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(15);

/// A replica as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Follower {
    conninfo: String,
    /// `ALTER SYSTEM` has set it.
    is_altered: bool,
    slot: String,
    lsn: Option<String>,
    /// Something comes in.
    receives: bool,
    pause: String,
}

impl Follower {
    async fn look(session: &Session) -> Result<Self, Failure> {
        const ROLE: &str = "select pg_is_in_recovery()";
        const LOOK: &str = "select current_setting('primary_conninfo'), current_setting('primary_slot_name'),
            coalesce((select sourcefile like '%postgresql.auto.conf' from pg_settings
                where name = 'primary_conninfo'), false),
            coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text,
            exists (select from pg_stat_wal_receiver), pg_get_wal_replay_pause_state()";
        let what = "cannot look at what it follows";
        let none = || Failure::transient("unavailable", what);
        let is_replica: bool = session.row(what, ROLE, &[]).await?.ok_or_else(none)?.get(0);
        if !is_replica {
            return Err(Failure::permanent("not_replica", "it is a primary, which follows nobody"));
        }
        let row = session.row(what, LOOK, &[]).await?.ok_or_else(none)?;
        Ok(Self {
            conninfo: row.get(0),
            slot: row.get(1),
            is_altered: row.get(2),
            lsn: row.get(3),
            receives: row.get(4),
            pause: row.get(5),
        })
    }

    fn is_detached(&self) -> bool {
        self.conninfo.is_empty() && !self.receives
    }

    /// As far as it is no secret.
    fn previous(&self) -> Previous {
        let conninfo = Conninfo::read(&self.conninfo).unwrap_or_default();
        let word = |keyword: &str| conninfo.value(keyword).map(str::to_owned);
        Previous {
            source_host: word("host").or_else(|| word("hostaddr")),
            port: word("port").and_then(|port| port.parse().ok()),
            user: word("user"),
            slot: Some(self.slot.clone()).filter(|slot| !slot.is_empty()),
            lsn: self.lsn.clone(),
            gtid: None,
        }
    }
}

pub(in super::super) fn check(params: &Params, ends: &Ends<'_>) -> Result<(), String> {
    if params.drop_slot == Some(true) {
        if params.mode != Mode::Detach {
            return Err("drop_slot goes with mode detach alone".to_owned());
        }
        ends.primary().map_err(|problem| format!("drop_slot: {problem}"))?;
    }
    Ok(())
}

/// The slot that is to go, and a session with the primary that has it.
async fn slot_of(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
    follower: &Follower,
) -> Result<Option<(String, Session)>, Failure> {
    if params.mode != Mode::Detach || params.drop_slot == Some(false) {
        return Ok(None);
    }
    let name = Some(follower.slot.clone()).filter(|slot| !slot.is_empty());
    let Some(name) = name.or(settings(ends.replica)?.slot) else { return Ok(None) };
    let Some(primary) = ends.primary else {
        run.warn(format!("no target is its primary: if that has the slot {name}, it keeps its log for ever"));
        return Ok(None);
    };
    let session = Session::open(run, primary, None).await.map_err(|failure| {
        failure.with("hint", "drop_slot = false leaves the slot on the primary, which keeps its log for it")
    })?;
    Ok(Some((name, session)))
}

pub(in super::super) async fn plan(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
) -> Result<Vec<Value>, Failure> {
    let replica = Session::open(run, ends.replica, None).await?;
    let follower = Follower::look(&replica).await?;
    let mut plan = Vec::new();
    if params.mode == Mode::Pause {
        if follower.pause == "not paused" {
            plan.push(planned(PAUSE, json!({ "target": ends.replica.name })));
        }
        return Ok(plan);
    }
    if !follower.is_detached() {
        plan.push(planned(DETACH, json!({ "target": ends.replica.name, "previous": follower.previous() })));
    }
    if let Some((name, primary)) = slot_of(params, run, ends, &follower).await?
        && Slot::look(&primary, &name).await?.is_some()
    {
        plan.push(planned(SLOT, json!({ "target": ends.primary.map(|target| &target.name), "slot": name })));
    }
    Ok(plan)
}

pub(in super::super) async fn execute(params: &Params, run: &Run, ends: &Ends<'_>) -> Result<Done, Failure> {
    let replica = Session::open(run, ends.replica, None).await?;
    let name = ends.replica.name.as_str();
    let before = Follower::look(&replica).await?;
    if params.mode == Mode::Pause {
        return pause(run, &replica, name, &before).await;
    }
    // Before anything is done: what keeps the slot from its end keeps the replica as it is.
    let slot = slot_of(params, run, ends, &before).await?;
    let mut previous = before.previous();
    let mut changed = false;
    if run.is_begun(DETACH) || !before.is_detached() {
        detach(run, &replica).await?;
        if let Some(trace) = run.trace::<Follower, ()>(DETACH)? {
            previous = trace.intent.previous();
        }
        changed = true;
    }
    let mut slot_dropped = false;
    if let Some((slot, primary)) = &slot
        && (run.is_begun(SLOT) || Slot::look(primary, slot).await?.is_some())
    {
        let act = async |slot: &String| Slot::remove(run, primary, slot).await;
        let found = async |slot: &String| {
            primary.alone(run).await?;
            Ok(if Slot::look(primary, slot).await?.is_none() { Found::Done(()) } else { Found::NotDone })
        };
        run.step(SLOT, async || Ok(slot.clone()), act, found).await?;
        (slot_dropped, changed) = (true, true);
    }
    let message = if changed {
        format!("{name} does not follow its primary any more")
    } else {
        format!("{name} follows nobody already")
    };
    let disabled = Disabled { mode: params.mode, previous, slot_dropped, read_only: true };
    Ok(Done::new(message, changed, &disabled))
}

async fn detach(run: &Run, replica: &Session) -> Result<(), Failure> {
    let intent = async || {
        let follower = Follower::look(replica).await?;
        if has_password(&follower.conninfo) {
            let told = "its primary_conninfo has a password, which would be kept with the action";
            return Err(Failure::permanent("has_password", told)
                .with("hint", "let it have the password from a passfile (PostgreSQL 15, 34.16)"));
        }
        Ok(follower)
    };
    let act = async |_: &Follower| {
        set(replica, "ALTER SYSTEM SET primary_conninfo = ''").await?;
        let is_gone = run.wait_for(REPLICA_PATIENCE, async || {
            Ok(Follower::look(replica).await?.is_detached().then_some(()))
        });
        let told = || Failure::transient("too_slow", "it still follows its primary");
        is_gone.await?.ok_or_else(told)
    };
    let found = async |_: &Follower| {
        replica.alone(run).await?;
        Ok(if Follower::look(replica).await?.is_detached() { Found::Done(()) } else { Found::NotDone })
    };
    run.step(DETACH, intent, act, found).await
}

async fn set(replica: &Session, statement: &str) -> Result<(), Failure> {
    let what = "cannot change what it follows";
    replica.execute(what, statement).await?;
    replica.execute(what, "SELECT pg_reload_conf()").await
}

async fn pause(run: &Run, replica: &Session, name: &str, before: &Follower) -> Result<Done, Failure> {
    let state = async || Ok::<_, Failure>(Follower::look(replica).await?.pause);
    let changed = run.is_begun(PAUSE) || before.pause == "not paused";
    if changed {
        let act = async |(): &()| {
            replica.execute("cannot pause it", "SELECT pg_wal_replay_pause()").await?;
            let is_paused = run
                .wait_for(REPLICA_PATIENCE, async || Ok((state().await? == "paused").then_some(())))
                .await?;
            is_paused.ok_or_else(|| Failure::transient("too_slow", "it still applies what it gets"))
        };
        let found = async |(): &()| {
            replica.alone(run).await?;
            Ok(if state().await? == "paused" { Found::Done(()) } else { Found::NotDone })
        };
        run.step(PAUSE, async || Ok(()), act, found).await?;
        run.warn(format!("{name} applies again what it gets when it is restarted"));
    }
    let message =
        if changed { format!("{name} applies nothing more") } else { format!("{name} is paused already") };
    let disabled =
        Disabled { mode: Mode::Pause, previous: before.previous(), slot_dropped: false, read_only: true };
    Ok(Done::new(message, changed, &disabled))
}

pub(in super::super) async fn undo(_: &Params, run: &Run, ends: &Ends<'_>) -> Result<(), Failure> {
    if run.is_begun(PAUSE) {
        let replica = Session::open(run, ends.replica, None).await?;
        replica.alone(run).await?;
        let go_on = async || replica.execute("cannot have it go on", "SELECT pg_wal_replay_resume()").await;
        run.repeatable("undo.pause", go_on).await?;
    }
    if let Some(slot) = run.trace::<String, ()>(SLOT)? {
        let primary = ends.primary().map_err(|problem| Failure::permanent("target", problem))?;
        let primary = Session::open(run, primary, None).await?;
        primary.alone(run).await?;
        run.repeatable("undo.slot", async || Slot::make(&primary, &slot.intent).await).await?;
    }
    if let Some(before) = run.trace::<Follower, ()>(DETACH)? {
        let replica = Session::open(run, ends.replica, None).await?;
        replica.alone(run).await?;
        let statement = if before.intent.is_altered {
            format!("ALTER SYSTEM SET primary_conninfo = {}", literal(&before.intent.conninfo))
        } else {
            "ALTER SYSTEM RESET primary_conninfo".to_owned()
        };
        run.repeatable("undo.detach", async || set(&replica, &statement).await).await?;
        let follows = run
            .wait_for(FOLLOW_PATIENCE, async || Ok(Follower::look(&replica).await?.receives.then_some(())));
        if before.intent.receives && follows.await?.is_none() {
            run.warn(format!("{} is told to follow again, and does not yet", ends.replica.name));
        }
    }
    Ok(())
}
