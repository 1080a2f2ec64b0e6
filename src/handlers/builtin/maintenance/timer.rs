//! `until`: the end of a maintenance is an action of its own, so that it comes whatever happens to the daemon or the host.
//!
//! It is submitted to the daemon's own socket, with a key that is the same in each attempt, and turns the maintenance off
//! only if that is still the one it was made for.

use std::path::PathBuf;

use serde_json::json;

use super::super::Failure;
use super::super::run::Run;
use super::MaintenanceMode;
use crate::action::Timestamp;
use crate::client::{Client, ClientError};
use crate::handlers::builtin::kind::Kind as _;

/// Submits it; its id.
pub(super) async fn submit(run: &Run, target: &str, set_by: u64, until: Timestamp) -> Result<u64, Failure> {
    let at = chrono::DateTime::from_timestamp_millis(until.0)
        .ok_or_else(|| Failure::permanent("metadata", "until is too far away"))?;
    let action = json!({
        "user": "actiond",
        "resource_type": run.resource_type,
        "resource_id": run.resource_id,
        "action": MaintenanceMode::ACTION,
        "started_via": "actiond",
        "metadata": { "value": 0, "target": target, "set_by": set_by },
        "run_at": at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "idempotency_key": format!("maintenance_mode:{target}:{set_by}:{}:off", until.0),
    });
    let submitted = client()?.submit_json(action.to_string().into()).await;
    submitted
        .map(|submitted| submitted.action.id)
        .map_err(|error| failure("cannot submit the action that turns it off", &error))
}

/// Cancels it. If it is not known whether it was submitted, it is now: the key gives the same one.
pub(super) async fn cancel(run: &Run, target: &str, set_by: u64, until: Timestamp) -> Result<(), Failure> {
    let id = submit(run, target, set_by, until).await?;
    let client = client()?;
    let what = format!("cannot cancel action {id}, which was to turn it off");
    let action = client.action(id).await.map_err(|error| failure(&what, &error))?;
    if action.finished_at.is_some() {
        return Ok(());
    }
    client.command(id, "cancel", &json!({})).await.map(drop).map_err(|error| failure(&what, &error))
}

fn client() -> Result<Client, Failure> {
    let socket = std::env::var_os("ACTIOND_SOCKET")
        .ok_or_else(|| Failure::permanent("internal", "ACTIOND_SOCKET is not set"))?;
    Ok(Client::new(PathBuf::from(socket)))
}

fn failure(what: &str, error: &ClientError) -> Failure {
    let told = format!("{what}: {error}");
    if error.is_transient() { Failure::transient("daemon", told) } else { Failure::permanent("daemon", told) }
}
