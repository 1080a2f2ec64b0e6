//! What the daemon says of itself: `/readyz`, `/v1/status`, `/v1/queues`, `/v1/types`.
//!
//! Nothing here waits for the engine or the disk: health is answered also while a sync hangs.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::Serialize;

use super::problem::Problem;
use super::reply::{self, Reply};
use super::routes::Call;
use super::wire;
use crate::action::{ACTION_TYPES, ActionType, State};
use crate::engine::{EngineStatus, QueueStatus};
use crate::store::Health;

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the wire's")]
struct Ready {
    ready: bool,
    draining: bool,
    /// The store is being rebuilt: everything works except reading old finished actions.
    degraded: bool,
    incarnation: u64,
    /// Interrupted attempts that this start found and decided about.
    recovered: u64,
    store: wire::StoreStatus,
}

#[derive(Serialize)]
struct Type {
    name: &'static str,
    operation: &'static str,
    exclusive: bool,
    recovery: &'static str,
}

pub(super) fn readyz(call: &Call<'_>) -> Result<Reply, Problem> {
    let engine = call.api.engine.status();
    let store = store(call.api.engine.store_health());
    // Before its first turn the engine has no incarnation to show.
    let ready = !engine.draining && engine.incarnation > 0;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let value = Ready {
        ready,
        draining: engine.draining,
        degraded: store.rebuilding.is_some(),
        incarnation: engine.incarnation,
        recovered: engine.recovered,
        store,
    };
    reply::json(status, &value)
}

pub(super) fn status(call: &Call<'_>) -> Result<Reply, Problem> {
    let engine = call.api.engine.status();
    let states = states(&engine).map(|(state, count)| (state.as_str().to_owned(), count)).collect();
    let EngineStatus { incarnation, draining, reboot_due, by_state: _, accepted, recovered, queues } = engine;
    let value = wire::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation,
        draining,
        reboot_due,
        status_address: call.api.status_address.borrow().clone(),
        accepted,
        recovered,
        states,
        queues: queues.into_iter().map(queue).collect(),
        store: store(call.api.engine.store_health()),
    };
    reply::json(StatusCode::OK, &value)
}

pub(super) fn queues(call: &Call<'_>) -> Result<Reply, Problem> {
    let queues: Vec<wire::Queue> = call.api.engine.status().queues.into_iter().map(queue).collect();
    reply::json(StatusCode::OK, &BTreeMap::from([("queues", queues)]))
}

pub(super) fn types() -> Result<Reply, Problem> {
    let types = ACTION_TYPES.map(|ActionType { name, operation, exclusive, recovery }| Type {
        name,
        operation,
        exclusive,
        recovery: recovery.as_str(),
    });
    reply::json(StatusCode::OK, &BTreeMap::from([("types", types)]))
}

/// Each state with its count.
pub(super) fn states(engine: &EngineStatus) -> impl Iterator<Item = (State, u64)> + '_ {
    State::ALL.into_iter().map(|state| (state, engine.by_state.get(state as usize).copied().unwrap_or(0)))
}

pub(super) fn queue(queue: QueueStatus) -> wire::Queue {
    let QueueStatus { name, concurrency, paused, waiting, running, length_max } = queue;
    wire::Queue { name, concurrency, paused, waiting, running, length_max }
}

fn store(health: Health) -> wire::StoreStatus {
    let Health {
        rebuilding,
        rebuilds,
        last_rebuild_reason,
        live_actions,
        journal_groups,
        journal_bytes,
        checkpoints,
        snapshots,
        memory_bytes,
        disk_free_bytes,
    } = health;
    wire::StoreStatus {
        rebuilding,
        rebuilds,
        last_rebuild_reason,
        live_actions,
        journal_groups,
        journal_bytes,
        checkpoints,
        snapshots,
        memory_bytes,
        disk_free_bytes,
    }
}
