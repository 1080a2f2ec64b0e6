//! `promote_slave_db` on MariaDB.
//!
//! | step | does | after an interruption |
//! | --- | --- | --- |
//! | `fence` | the old primary becomes read only | once more |
//! | `catch_up` | waits until the replica lacks nothing of it | once more |
//! | `promote` | fence and lag are looked at again; STOP SLAVE, RESET SLAVE ALL, read_only = 0 | a server that follows nobody and takes writes is promoted; else once more |
//!
//! While it follows it takes no writes, and it takes them last: no crash leaves a server that does both. A primary that was
//! restarted meanwhile is fenced again. Whoever has READ_ONLY ADMIN writes to a fenced one nevertheless; what he has written
//! by the last look is waited for, too.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Ends;
use super::super::promote::{Fence, Params, Promoted};
use super::Server;
use super::catch_up::{Caught, catch_up};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};

const FENCE: &str = "fence";
const CATCH_UP: &str = "catch_up";
const PROMOTE: &str = "promote";

/// What was there before; none: it did not answer.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    read_only: Option<bool>,
}

/// What the replica did before.
#[derive(Debug, Serialize, Deserialize)]
struct Replicated {
    follows: bool,
}

pub(in super::super) fn check(params: &Params, ends: &Ends<'_>) -> Result<(), String> {
    if params.fence != Fence::None || !params.allow_data_loss {
        ends.primary()?;
    }
    Ok(())
}

pub(in super::super) async fn plan(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
) -> Result<Vec<Value>, Failure> {
    let replica = Server::open(run, ends.replica).await?;
    if is_primary(&replica).await? {
        return Ok(Vec::new());
    }
    let mut plan = Vec::new();
    if params.fence != Fence::None {
        let primary = ends.primary.map(|primary| primary.name.as_str());
        plan.push(json!({ "step": FENCE, "target": primary, "statement": "SET GLOBAL read_only = 1" }));
    }
    plan.push(json!({ "step": CATCH_UP, "target": replica.name(), "position": replica.applied().await? }));
    plan.push(json!({
        "step": PROMOTE,
        "target": replica.name(),
        "statement": "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0",
    }));
    Ok(plan)
}

pub(in super::super) async fn execute(params: &Params, run: &Run, ends: &Ends<'_>) -> Result<Done, Failure> {
    let replica = Server::open(run, ends.replica).await?;
    let old_primary = ends.primary.map(|primary| primary.name.clone());
    let mut promoted =
        Promoted { new_primary: replica.name().to_owned(), old_primary, ..Promoted::default() };
    let is_first = ![FENCE, CATCH_UP, PROMOTE].iter().any(|step| run.is_begun(step));
    if is_first && is_primary(&replica).await? {
        promoted.gtid_position = Some(replica.applied().await?);
        return Ok(Done::new(format!("{} is a primary already", replica.name()), false, &promoted));
    }
    if params.fence != Fence::None {
        let intent = async || {
            let primary = fenced_end(params, run, ends).await?;
            let read_only = match &primary {
                Some(primary) => {
                    same(primary, &replica).await?;
                    Some(primary.is_read_only().await?)
                }
                None => None,
            };
            Ok(Before { read_only })
        };
        let act = async |_: &Before| Ok(fence(params, run, ends).await?.is_some());
        promoted.fenced = run.step(FENCE, intent, act, async |_: &Before| Ok(Found::NotDone)).await?;
    }
    run.progress(30, "waiting for the replica to catch up");
    let caught: Caught = run
        .repeatable(CATCH_UP, async || {
            let primary = reachable(params, run, ends).await?;
            start(&replica).await?;
            catch_up(params, run, primary.as_ref(), &replica).await
        })
        .await?;
    promoted.lag_bytes_at_promotion = caught.lag_bytes;
    let intent = async || Ok(Replicated { follows: replica.follows().await?.is_some() });
    let act = async |_: &Replicated| promote(params, run, ends, &replica).await;
    let found = async |_: &Replicated| {
        if !is_writable_alone(&replica).await? {
            return Ok(Found::NotDone);
        }
        // The file, too.
        replica.set_read_only(false).await?;
        Ok(Found::Done(replica.applied().await?))
    };
    promoted.gtid_position = Some(run.step(PROMOTE, intent, act, found).await?);
    if let Some(primary) = ends.primary.filter(|_| params.fence != Fence::None) {
        if promoted.fenced {
            if primary.settings::<super::Mariadb>().is_ok_and(|settings| settings.read_only_file.is_none()) {
                run.warn(format!(
                    "{} takes writes again after a restart, unless its configuration has read_only: its target has no read_only_file",
                    primary.name
                ));
            }
        } else {
            run.warn(format!("{} could not be fenced: see that nobody writes to it", primary.name));
        }
    }
    replica.warn_of_restart(run);
    warn_of_events(run, &replica).await?;
    Ok(Done::new(format!("promoted {}", replica.name()), true, &promoted))
}

/// A promotion cannot be taken back; replication that was only stopped goes on again.
pub(in super::super) async fn undo(_params: &Params, run: &Run, ends: &Ends<'_>) -> Result<(), Failure> {
    let fenced = match (run.trace::<Before, bool>(FENCE)?.map(|fence| fence.result), ends.primary) {
        (Some(Some(fenced)), _) => fenced,
        // Interrupted: it says so itself, if it answers.
        (Some(None), Some(primary)) => match Server::open(run, primary).await {
            Ok(primary) => primary.is_read_only().await?,
            Err(_) => true,
        },
        _ => false,
    };
    if let Some(primary) = ends.primary.filter(|_| fenced) {
        run.warn(format!(
            "{} is fenced and stays so; SET GLOBAL read_only = 0 lets it be written to again",
            primary.name
        ));
    }
    if !run.is_begun(PROMOTE) {
        return Ok(());
    }
    let replica = Server::open(run, ends.replica).await?;
    if replica.follows().await?.is_some() {
        return run.repeatable("undo.promote", async || start(&replica).await).await;
    }
    let told = if is_writable_alone(&replica).await? {
        "is a primary already, which cannot be taken back"
    } else {
        "follows nobody any more and is read only: promote it again, or resync it"
    };
    run.warn(format!("{} {told}", replica.name()));
    Ok(())
}

/// Whether there is nothing to do.
///
/// # Errors
///
/// It is neither a primary nor a replica.
async fn is_primary(replica: &Server<'_>) -> Result<bool, Failure> {
    if replica.follows().await?.is_some() {
        return Ok(false);
    }
    if replica.is_read_only().await? {
        let told = format!("{} follows nobody, and is read only: it is no replica", replica.name());
        return Err(Failure::permanent("not_replica", told));
    }
    Ok(true)
}

async fn is_writable_alone(replica: &Server<'_>) -> Result<bool, Failure> {
    Ok(replica.follows().await?.is_none() && !replica.is_read_only().await?)
}

/// The primary that the replica's target names has to be the one that it follows: else the wrong one would be fenced.
async fn same(primary: &Server<'_>, replica: &Server<'_>) -> Result<(), Failure> {
    let what = format!("cannot look who {} is", primary.name());
    let id: Option<(u64,)> = primary.session.first(&what, "SELECT @@GLOBAL.server_id", ()).await?;
    let followed = replica.follows().await?.and_then(|follows| follows.number("Master_Server_Id"));
    match (id, followed) {
        // It has not connected yet.
        (_, None | Some(0)) => Ok(()),
        (Some((id,)), Some(followed)) if id == followed => Ok(()),
        _ => {
            let told = format!("{} does not follow {}, but another server", replica.name(), primary.name());
            Err(Failure::permanent("wrong_primary", told))
        }
    }
}

/// The end that is to be fenced; none, if it does not answer and that may be.
async fn fenced_end<'a>(params: &Params, run: &Run, ends: &Ends<'a>) -> Result<Option<Server<'a>>, Failure> {
    let primary = ends.primary().map_err(|why| Failure::permanent("target", why))?;
    match Server::open(run, primary).await {
        Ok(primary) => Ok(Some(primary)),
        Err(why) if params.fence == Fence::BestEffort => {
            run.log(&format!("{} cannot be fenced: {}", primary.name, why.message()));
            Ok(None)
        }
        Err(why) => {
            let told = format!("{} cannot be fenced: {}", primary.name, why.message());
            Err(Failure::transient("not_fenced", told))
        }
    }
}

/// Makes the old primary read only.
async fn fence<'a>(params: &Params, run: &Run, ends: &Ends<'a>) -> Result<Option<Server<'a>>, Failure> {
    let Some(primary) = fenced_end(params, run, ends).await? else { return Ok(None) };
    match primary.set_read_only(true).await {
        Ok(()) => Ok(Some(primary)),
        Err(why) if params.fence == Fence::BestEffort => {
            run.log(&format!("{} cannot be fenced: {}", primary.name(), why.message()));
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

/// The primary as it is to be when its position is looked at: fenced, if asked. None, if it does not answer.
async fn reachable<'a>(params: &Params, run: &Run, ends: &Ends<'a>) -> Result<Option<Server<'a>>, Failure> {
    match (params.fence, ends.primary) {
        (Fence::None, None) => Ok(None),
        (Fence::None, Some(primary)) => Ok(Server::open(run, primary).await.ok()),
        _ => fence(params, run, ends).await,
    }
}

/// Has a replica that was stopped go on.
async fn start(replica: &Server<'_>) -> Result<(), Failure> {
    match replica.follows().await? {
        Some(follows) if !follows.wants_io() || !follows.has_sql() => {
            replica.execute("start the replication of", "START SLAVE").await
        }
        _ => Ok(()),
    }
}

async fn promote(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
    replica: &Server<'_>,
) -> Result<String, Failure> {
    // Without one it was stopped by an earlier attempt, after it had caught up.
    if replica.follows().await?.is_some() {
        let primary = reachable(params, run, ends).await?;
        start(replica).await?;
        catch_up(params, run, primary.as_ref(), replica).await?;
        replica.execute("stop the replication of", "STOP SLAVE").await?;
        replica.execute("end the replication of", "RESET SLAVE ALL").await?;
    }
    replica.set_read_only(false).await?;
    replica.applied().await
}

/// Events that a replica got from its primary do not run there, and nothing turns them on.
async fn warn_of_events(run: &Run, replica: &Server<'_>) -> Result<(), Failure> {
    const EVENTS: &str = "SELECT COUNT(*) FROM information_schema.events WHERE status = 'SLAVESIDE_DISABLED'";
    let events: Option<(i64,)> = replica.session.first("cannot look for events", EVENTS, ()).await?;
    if let Some((count @ 1..,)) = events {
        run.warn(format!(
            "{count} events of {} are off, as on a replica: ALTER EVENT ... ENABLE turns one on",
            replica.name()
        ));
    }
    Ok(())
}
