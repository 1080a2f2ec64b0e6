//! Sees to it that an old primary cannot be written to any more, also after a restart of it.
//!
//! | how | what | who can undo it |
//! | --- | --- | --- |
//! | stop | it is stopped, and `standby.signal` lets it come up as a replica only | a person, who removes that file; a resync makes a replica of it |
//! | read only | `default_transaction_read_only`; all sessions are ended | a person, and any session that sets it back for itself: no more than a best effort |
//!
//! A server that is stopped in good order has sent all of its log to its replicas, and its control file says where that ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::super::postgres::Session;
use super::super::Ends;
use super::super::promote::Fence;
use super::lsn::Lsn;
use super::server::Server;
use super::{Role, settings};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::{Found, Run};

pub(super) const FENCE: &str = "fence";
/// Longest wait for sessions to come to their end.
const SESSIONS_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    Stop,
    ReadOnly,
}

/// What the fence left.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Fenced {
    pub(super) how: How,
    /// Where the log of the old primary ends; none, if that cannot be known.
    pub(super) end: Option<Lsn>,
}

/// An old primary as it is before.
pub(super) enum Primary {
    Up {
        end: Lsn,
    },
    Down {
        /// Where its log ends, on which timeline, if it was stopped in good order.
        end: Option<(Lsn, u32)>,
    },
    /// It does not answer, and is not on this host.
    Unknown,
}

impl Primary {
    /// Looks at it.
    ///
    /// # Errors
    ///
    /// It is not the primary of `replica`; then it must not be touched.
    pub(super) async fn look(
        run: &Run,
        ends: &Ends<'_>,
        asked: Fence,
        replica: &Role,
    ) -> Result<Self, Failure> {
        let Some(target) = ends.primary else { return Ok(Self::Unknown) };
        let other = |system: &str| {
            let told = format!(
                "the target {} is not the primary of {}: its system identifier is {system}, not {}",
                target.name, ends.replica.name, replica.system
            );
            Failure::permanent("not_its_primary", told)
        };
        match Session::open(run, target, None).await {
            Ok(session) => {
                let role = Role::of(&session).await?;
                if role.system != replica.system {
                    return Err(other(&role.system));
                }
                if role.is_replica && asked == Fence::None {
                    return Ok(Self::Unknown);
                }
                if role.is_replica {
                    let told = format!("the target {} is a replica itself", target.name);
                    return Err(Failure::permanent("not_its_primary", told));
                }
                if role.timeline != replica.timeline {
                    let told = format!(
                        "{} is on timeline {} and {} on {}: it does not follow it",
                        target.name, role.timeline, ends.replica.name, replica.timeline
                    );
                    return Err(Failure::permanent("diverged", told));
                }
                Ok(Self::Up { end: role.lsn })
            }
            Err(failure) if failure.code() == "unreachable" || failure.code() == "unavailable" => {
                if settings(target)?.cluster.is_none() {
                    run.log(failure.message());
                    return Ok(Self::Unknown);
                }
                let server = Server::of(target)?;
                if server.is_running(run).await? {
                    // Coming up, or hanging: where its log ends cannot be known.
                    return Ok(Self::Down { end: None });
                }
                let control = server.control(run).await?;
                if let Some(control) = control.as_ref().filter(|control| control.system != replica.system) {
                    return Err(other(&control.system));
                }
                let end = control.and_then(|control| Some((control.clean_end()?, control.timeline)));
                Ok(Self::Down { end })
            }
            Err(failure) => Err(failure),
        }
    }
}

/// How it can be done; none: it cannot.
pub(super) fn how(ends: &Ends<'_>, asked: Fence, primary: &Primary) -> Result<Option<How>, Failure> {
    let Some(target) = ends.primary.filter(|_| asked != Fence::None) else { return Ok(None) };
    if settings(target)?.cluster.is_some() {
        return Ok(Some(How::Stop));
    }
    if asked == Fence::Require {
        let told = format!("{} cannot be stopped: its target has no cluster", target.name);
        return Err(Failure::permanent("not_fenced", told));
    }
    Ok(matches!(primary, Primary::Up { .. }).then_some(How::ReadOnly))
}

/// It is fenced afterwards. `ready` says right before a primary that works is stopped whether the replica is there to get the
/// end of its log.
pub(super) async fn fence(
    run: &Run,
    ends: &Ends<'_>,
    how: How,
    ready: impl AsyncFn() -> Result<(), Failure>,
) -> Result<Fenced, Failure> {
    let target = ends.primary().map_err(|problem| Failure::permanent("target", problem))?;
    match how {
        How::Stop => {
            let server = Server::of(target)?;
            let act = async |how: &How| {
                if server.is_running(run).await? {
                    ready().await?;
                }
                server.stop(run).await?;
                server.make_standby()?;
                // Whoever started it meanwhile has a primary that does not know of the file.
                if server.is_running(run).await? {
                    let told = format!("{} was started again while it was fenced", target.name);
                    return Err(Failure::transient("not_fenced", told));
                }
                fenced(run, &server, *how).await
            };
            let found = async |how: &How| {
                if !server.is_standby() || server.is_running(run).await? {
                    return Ok(Found::NotDone);
                }
                // Its name may not have been durable yet.
                server.make_standby()?;
                fenced(run, &server, *how).await.map(Found::Done)
            };
            run.step(FENCE, async || Ok(how), act, found).await
        }
        How::ReadOnly => {
            let act = async |how: &How| {
                ready().await?;
                let session = Session::open(run, target, None).await?;
                session.alone(run).await?;
                let end = make_read_only(run, &session, &target.name).await?;
                Ok(Fenced { how: *how, end: Some(end) })
            };
            run.step(FENCE, async || Ok(how), act, async |_: &How| Ok(Found::NotDone)).await
        }
    }
}

async fn fenced(run: &Run, server: &Server, how: How) -> Result<Fenced, Failure> {
    let end = server.control(run).await?.and_then(|control| control.clean_end());
    Ok(Fenced { how, end })
}

async fn make_read_only(run: &Run, session: &Session, name: &str) -> Result<Lsn, Failure> {
    const END: &str = "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid()) ended";
    const OTHERS: &str = "select count(*) from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid() and backend_start < $1::text::timestamptz";
    let what = format!("cannot make {name} read only");
    let none = || Failure::transient("unavailable", what.clone());
    session.execute(&what, "ALTER SYSTEM SET default_transaction_read_only = on").await?;
    session.execute(&what, "SELECT pg_reload_conf()").await?;
    let is_on = async || {
        let row = session.row(&what, "select current_setting('default_transaction_read_only') = 'on'", &[]);
        Ok(row.await?.is_some_and(|row| row.get(0)).then_some(()))
    };
    run.wait_for(SESSIONS_PATIENCE, is_on).await?.ok_or_else(none)?;
    let row = session.row(&what, "select clock_timestamp()::text", &[]).await?.ok_or_else(none)?;
    let now: String = row.get(0);
    session.row(&what, END, &[]).await?;
    let are_gone = async || {
        let row = session.row(&what, OTHERS, &[&now]).await?;
        Ok(row.is_some_and(|row| row.get::<_, i64>(0) == 0).then_some(()))
    };
    let told = || Failure::transient("in_use", format!("{what}: there are still sessions from before"));
    run.wait_for(SESSIONS_PATIENCE, are_gone).await?.ok_or_else(told)?;
    // So that the last thing in its log is a record that a replica applies: after a switch of the file it is not.
    session.execute(&what, "CHECKPOINT").await?;
    Ok(Role::of(session).await?.lsn)
}

/// Looks at the fence again, before what must not be done without it.
///
/// # Errors
///
/// It is not there any more: somebody has taken it away.
pub(super) async fn stands(run: &Run, ends: &Ends<'_>, fenced: Fenced) -> Result<(), Failure> {
    let target = ends.primary().map_err(|problem| Failure::permanent("target", problem))?;
    let stands = match fenced.how {
        How::Stop => Server::of(target)?.is_standby(),
        How::ReadOnly => match Session::open(run, target, None).await {
            Ok(session) => {
                let on = "select current_setting('default_transaction_read_only') = 'on'";
                session.row("cannot look at the fence", on, &[]).await?.is_some_and(|row| row.get(0))
            }
            // The setting outlives a restart.
            Err(_) => true,
        },
    };
    if stands {
        return Ok(());
    }
    let told =
        format!("{} was fenced, and is not any more: two primaries would be the end of it", target.name);
    Err(Failure::permanent("not_fenced", told))
}
