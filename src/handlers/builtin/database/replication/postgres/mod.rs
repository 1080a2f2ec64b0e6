//! Streaming replication of PostgreSQL (PostgreSQL 15, 27.2).
//!
//! A replica gets the log of its primary and applies it. Who becomes a primary begins a new *timeline*: the log forks, and
//! what the old primary has beyond the fork only it has.

mod control;
pub(super) mod disable;
mod fence;
mod lsn;
pub(super) mod promote;
pub(super) mod resync;
mod server;

use serde_json::{Map, Value};

use self::lsn::Lsn;
use super::super::Postgresql;
use super::super::postgres::Session;
use crate::handlers::builtin::Failure;
use crate::handlers::targets::Target;

/// What a server says of its part in replication.
#[derive(Clone, Debug)]
struct Role {
    is_replica: bool,
    /// Equal in all copies of one server.
    system: String,
    /// The newest that it knows of; of a replica, that it has seen.
    timeline: u32,
    /// A replica: up to where it has applied the log. A primary: up to where it has written it.
    lsn: Lsn,
    /// Whether a replica applies nothing because it was told so.
    is_paused: bool,
}

impl Role {
    async fn of(session: &Session) -> Result<Self, Failure> {
        // A control file is written some time after the log, so the log is asked too.
        const ROLE: &str = "select pg_is_in_recovery(),
            (select system_identifier::text from pg_control_system()),
            case when pg_is_in_recovery() then greatest(
                (select timeline_id from pg_control_checkpoint()),
                (select min_recovery_end_timeline from pg_control_recovery()),
                (select received_tli from pg_stat_wal_receiver))
            else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int end,
            case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0')
            else pg_current_wal_flush_lsn() end::text,
            case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() <> 'not paused' else false end";
        let what = "cannot look at its part in replication";
        let row = session.row(what, ROLE, &[]).await?;
        let row = row.ok_or_else(|| Failure::transient("unavailable", what))?;
        Ok(Self {
            is_replica: row.get(0),
            system: row.get(1),
            timeline: u32::try_from(row.get::<_, i32>(2)).unwrap_or_default(),
            lsn: lsn(row.get(3))?,
            is_paused: row.get(4),
        })
    }
}

fn lsn(text: &str) -> Result<Lsn, Failure> {
    text.parse().map_err(|problem: String| Failure::permanent("internal", problem))
}

fn settings(target: &Target) -> Result<Postgresql, Failure> {
    target.settings().map_err(|problem| Failure::permanent("target", problem))
}

/// A slot as the primary has it.
struct Slot {
    is_active: bool,
    /// The primary has removed some of what it was to keep.
    is_lost: bool,
}

impl Slot {
    async fn look(primary: &Session, name: &str) -> Result<Option<Self>, Failure> {
        const LOOK: &str = "select active, wal_status is not distinct from 'lost'
            from pg_replication_slots where slot_name = $1::text and slot_type = 'physical'";
        let row = primary.row(&format!("cannot look at the slot {name}"), LOOK, &[&name]).await?;
        Ok(row.map(|row| Self { is_active: row.get(0), is_lost: row.get(1) }))
    }

    /// It is there afterwards, and keeps the log from now on.
    async fn make(primary: &Session, name: &str) -> Result<(), Failure> {
        const MAKE: &str = "select pg_create_physical_replication_slot($1::text, true)";
        if Self::look(primary, name).await?.is_none() {
            primary.row(&format!("cannot make the slot {name}"), MAKE, &[&name]).await?;
        }
        Ok(())
    }

    /// It is gone afterwards.
    async fn remove(
        run: &crate::handlers::builtin::run::Run,
        primary: &Session,
        name: &str,
    ) -> Result<(), Failure> {
        const DROP: &str = "select pg_drop_replication_slot($1::text)";
        let is_free = run.wait_for(SLOT_PATIENCE, async || {
            Ok(Self::look(primary, name).await?.is_none_or(|slot| !slot.is_active).then_some(()))
        });
        if is_free.await?.is_none() {
            return Err(Failure::transient("in_use", format!("the slot {name} is still in use")));
        }
        if Self::look(primary, name).await?.is_some() {
            primary.row(&format!("cannot remove the slot {name}"), DROP, &[&name]).await?;
        }
        Ok(())
    }
}

/// Longest wait until nobody uses a slot any more.
const SLOT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A step of a plan.
fn planned(step: &str, facts: Value) -> Value {
    let mut plan = Map::from_iter([("step".to_owned(), step.into())]);
    if let Value::Object(facts) = facts {
        plan.extend(facts);
    }
    Value::Object(plan)
}
