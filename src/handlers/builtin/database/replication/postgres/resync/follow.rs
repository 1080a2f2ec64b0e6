//! Whether a server follows the source, as both of them see it.

use std::time::Duration;

use super::super::super::super::postgres::Session;
use super::super::{Role, lsn};
use super::{Resync, Started};
use crate::handlers::builtin::Failure;

/// Whether it gets everything from the source already, by what is configured.
pub(super) async fn follows(resync: &Resync<'_>, source: &Session) -> Result<bool, Failure> {
    const RECEIVER: &str = "select status = 'streaming' and received_tli = $1
        and coalesce(sender_host = $2::text, true) and coalesce(sender_port::text = $3::text, true)
        from pg_stat_wal_receiver";
    let role = Role::of(source).await?;
    let replica = match Session::open(resync.run, resync.ends.replica, None).await {
        Ok(replica) => replica,
        Err(failure) if is_down(&failure) => return Ok(false),
        Err(failure) => return Err(failure),
    };
    let own = Role::of(&replica).await?;
    if !own.is_replica || own.is_paused || own.system != role.system {
        return Ok(false);
    }
    let timeline = i32::try_from(role.timeline).unwrap_or_default();
    let (host, port) = (resync.conninfo.value("host"), resync.conninfo.value("port"));
    let row = replica.row("cannot look at what it gets", RECEIVER, &[&timeline, &host, &port]).await?;
    Ok(row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true)))
}

fn is_down(failure: &Failure) -> bool {
    ["unreachable", "unavailable"].contains(&failure.code())
}

/// How many bytes it lacks of what the source has now; none, if it does not follow under its own name.
pub(super) async fn lag(resync: &Resync<'_>, source: &Session) -> Result<Option<u64>, Failure> {
    const SENDER: &str = "select replay_lsn::text from pg_stat_replication
        where application_name = $1 and state = 'streaming' and replay_lsn is not null limit 1";
    let what = "cannot look at the replicas of the source";
    let Some(row) = source.row(what, SENDER, &[&resync.name()]).await? else { return Ok(None) };
    let now = Role::of(source).await?.lsn;
    Ok(Some(lsn(row.get(0))?.lag_to(now)))
}

/// Waits until it follows and has all that the source had when the wait began.
///
/// # Errors
///
/// The source is gone; not that the replica does not come up.
pub(super) async fn wait(resync: &Resync<'_>, source: &Session) -> Result<Started, Failure> {
    const SENDER: &str = "select replay_lsn >= $2::text::pg_lsn from pg_stat_replication
        where application_name = $1 and state = 'streaming' order by replay_lsn desc nulls last limit 1";
    let from = Role::of(source).await?;
    let mut why = String::new();
    let follows = resync
        .run
        .wait_for(resync.server.patience().max(Duration::from_secs(10)), async || {
            let what = "cannot look at the replicas of the source";
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
                [&resync.name(), &from.lsn.to_string()];
            let sender = source.row(what, SENDER, &parameters).await?;
            let has_all = sender.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true));
            let seen = match Session::open(resync.run, resync.ends.replica, None).await {
                Ok(replica) => Role::of(&replica).await,
                Err(failure) => Err(failure),
            };
            match seen {
                Ok(role) if !role.is_replica => {
                    let told = format!("{} came up as a primary", resync.name());
                    Err(Failure::unknown("not_replica", told))
                }
                Ok(role) if has_all && role.system == from.system => Ok(Some(())),
                Ok(_) => {
                    why = format!("{} is up, and gets nothing from the source", resync.name());
                    Ok(None)
                }
                Err(failure) => {
                    failure.message().clone_into(&mut why);
                    Ok(None)
                }
            }
        })
        .await?;
    match follows {
        Some(()) => Ok(Started::Follows { lag: lag(resync, source).await?.unwrap_or_default() }),
        None => Ok(Started::DoesNot { why }),
    }
}
