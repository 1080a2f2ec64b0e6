//! Streaming replication of PostgreSQL (PostgreSQL 15, 27.2).
//!
//! A replica gets the log of its primary and applies it. Who becomes a primary begins a new *timeline*: the log forks, and
//! what the old primary has beyond the fork only it has.

pub(super) mod disable;
pub(super) mod promote;
pub(super) mod resync;

use serde_json::{Map, Value};

use super::super::Postgresql;
use super::super::postgres::Session;
use crate::handlers::builtin::Failure;
use crate::handlers::targets::Target;

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
