//! `resync_slave_db` on PostgreSQL. `D` is the data directory.
//!
//! ```text
//!  slot     the source keeps its log for the replica from here on
//!
//!  rewind: what differs is copied into D                basebackup: everything is copied
//!    stop     the server is down                          copy    D.resync-ID, whole and on disk
//!    rewind   pg_rewind; D/*.conf stay                    stop    the server is down
//!                                                         swap    D ──▶ D.old-ID, D.resync-ID ──▶ D
//!
//!  start    the server is up and is seen to follow
//!  clean    D.old-ID and what else was kept is removed
//! ```
//!
//! `auto` goes on with a new copy if `pg_rewind` fails, is interrupted (D is then no data directory any more) or leaves a
//! server that does not come to follow: with the steps `copy`, `stop.copy`, `swap`, `start.copy`.

mod copy;
mod follow;
mod origin;
mod rewind;
mod undo;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::origin::{Origin, Seen};
use super::super::super::conninfo::Conninfo;
use super::super::super::postgres::{Session, literal};
use super::super::Ends;
use super::super::resync::{Method, Params, Resynced};
use super::server::{Server, disk};
use super::{Role, Slot, planned, settings};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
pub(in super::super) use undo::undo;

const SLOT: &str = "slot";
const STOP: &str = "stop";
const STOP_AGAIN: &str = "stop.copy";
const START: &str = "start";
const START_AGAIN: &str = "start.copy";
const CLEAN: &str = "clean";

/// What all steps need.
struct Resync<'a> {
    run: &'a Run,
    params: &'a Params,
    ends: &'a Ends<'a>,
    server: Server,
    /// How the replica connects.
    conninfo: Conninfo,
    slot: Option<String>,
}

/// What was there of a slot.
#[derive(Debug, Serialize, Deserialize)]
struct SlotBefore {
    name: String,
    existed: bool,
}

/// Whether the server ran.
#[derive(Debug, Serialize, Deserialize)]
struct StopBefore {
    ran: bool,
}

/// What came of the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Started {
    Follows { lag: u64 },
    DoesNot { why: String },
}

pub(in super::super) fn check(params: &Params, ends: &Ends<'_>) -> Result<(), String> {
    if matches!(params.method, Method::Gtid | Method::Seed) {
        return Err("method: gtid and seed are MariaDB's".to_owned());
    }
    if params.method == Method::Rewind && (params.keep_old || params.max_rate_kib.is_some()) {
        return Err("keep_old and max_rate_kib: a rewind replaces nothing and knows no rate".to_owned());
    }
    let primary = ends.primary()?;
    let told = |target: &str, key: &str| format!("the target {target} has no {key}");
    if primary.settings::<super::Postgresql>()?.replication.is_none() {
        return Err(told(&primary.name, "replication, so it cannot be followed"));
    }
    if ends.replica.settings::<super::Postgresql>()?.cluster.is_none() {
        return Err(told(&ends.replica.name, "cluster, so it cannot be stopped"));
    }
    Ok(())
}

impl<'a> Resync<'a> {
    fn new(params: &'a Params, run: &'a Run, ends: &'a Ends<'a>) -> Result<Self, Failure> {
        let problem = |problem: String| Failure::permanent("target", problem);
        let primary = ends.primary().map_err(problem)?;
        let replication = settings(primary)?
            .replication
            .ok_or_else(|| problem(format!("the target {} has no replication", primary.name)))?;
        let conninfo = Conninfo::read(&replication).map_err(problem)?;
        Ok(Self {
            run,
            params,
            ends,
            server: Server::of(ends.replica)?,
            conninfo: conninfo.with("application_name", &ends.replica.name),
            slot: settings(ends.replica)?.slot,
        })
    }

    fn name(&self) -> &str {
        &self.ends.replica.name
    }

    /// A session with the server that is to be followed, which is a primary.
    async fn source(&self) -> Result<Session, Failure> {
        let primary = self.ends.primary().map_err(|problem| Failure::permanent("target", problem))?;
        let session = Session::open(self.run, primary, None).await?;
        if Role::of(&session).await?.is_replica {
            let told = format!("{} is a replica itself", primary.name);
            return Err(Failure::permanent("not_primary", told));
        }
        Ok(session)
    }

    /// The way to do it; none, if it follows already and nothing else was asked for.
    async fn way(&self, source: &Session) -> Result<Option<Method>, Failure> {
        let control = self.server.control(self.run).await?;
        if self.params.method == Method::Auto && follow::follows(self, source).await? {
            return Ok(None);
        }
        let seen = match &control {
            Some(control) => Some(Seen::look(self, control).await?),
            None => None,
        };
        let origin = Origin::ask(self).await?;
        if let (Some(control), Some(seen)) = (&control, &seen)
            && !self.params.confirm_data_loss
            && let Some(why) = seen.own(control, &origin)
        {
            let told = format!("{} may have what {} lacks: {why}", self.name(), self.source_name());
            return Err(
                Failure::permanent("data_loss", told).with("hint", "confirm_data_loss = true gives that up")
            );
        }
        let cannot_rewind = match &control {
            None => Some("it has no data"),
            Some(control) if control.system != origin.system => Some("its data are of another server"),
            Some(control) if !control.can_rewind => Some("it has neither checksums nor wal_log_hints"),
            Some(_) => None,
        };
        match (self.params.method, cannot_rewind) {
            (Method::Rewind, Some(why)) => {
                Err(Failure::permanent("no_rewind", format!("{} cannot be rewound: {why}", self.name())))
            }
            (Method::Basebackup, _) | (_, Some(_)) => {
                copy::possible(self, source).await?;
                Ok(Some(Method::Basebackup))
            }
            _ => Ok(Some(Method::Rewind)),
        }
    }

    fn source_name(&self) -> &str {
        self.ends.primary.map_or("its primary", |target| &target.name)
    }

    /// The lines by which a data directory is that of a replica of the source.
    fn lines(&self) -> String {
        let slot = self.slot.as_deref().unwrap_or_default();
        format!(
            "primary_conninfo = {}\nprimary_slot_name = {}\n",
            literal(&self.conninfo.to_string()),
            literal(slot)
        )
    }

    async fn keep_log(&self, source: &Session) -> Result<(), Failure> {
        let Some(name) = &self.slot else { return Ok(()) };
        let intent = async || {
            let existed = Slot::look(source, name).await?.is_some();
            Ok(SlotBefore { name: name.clone(), existed })
        };
        let act = async |before: &SlotBefore| {
            if Slot::look(source, &before.name).await?.is_some_and(|slot| slot.is_lost) {
                Slot::remove(self.run, source, &before.name).await?;
            }
            Slot::make(source, &before.name).await
        };
        let found = async |before: &SlotBefore| {
            source.alone(self.run).await?;
            let slot = Slot::look(source, &before.name).await?;
            Ok(if slot.is_some_and(|slot| !slot.is_lost) { Found::Done(()) } else { Found::NotDone })
        };
        self.run.step(SLOT, intent, act, found).await
    }

    /// The source is there.
    async fn reach(&self, source: &Session) -> Result<(), Failure> {
        source.row("cannot reach the source", "select 1", &[]).await.map(drop)
    }

    /// The server is down afterwards; until then it may serve.
    async fn stop(&self, step: &str, source: &Session) -> Result<(), Failure> {
        let intent = async || Ok(StopBefore { ran: self.server.is_running(self.run).await? });
        let act = async |_: &StopBefore| {
            // It is not to be down for the sake of a source that is gone.
            self.reach(source).await?;
            self.server.stop(self.run).await
        };
        let found = async |_: &StopBefore| {
            Ok(if self.server.is_running(self.run).await? { Found::NotDone } else { Found::Done(()) })
        };
        self.run.step(step, intent, act, found).await
    }

    /// The server is up, and follows or not.
    async fn start(&self, step: &str, source: &Session) -> Result<Started, Failure> {
        let act = async |(): &()| {
            self.run.progress(80, "starting it; waiting until it follows");
            self.reach(source).await?;
            if let Err(failure) = self.server.start(self.run).await {
                // Without its source it may not even come up, which says nothing of it.
                self.reach(source).await?;
                return Ok(Started::DoesNot { why: failure.message().to_owned() });
            }
            follow::wait(self, source).await
        };
        let found = async |(): &()| {
            source.alone(self.run).await?;
            Ok(Found::NotDone)
        };
        self.run.step(step, async || Ok(()), act, found).await
    }

    /// What is not needed any more is gone afterwards.
    async fn clean(&self) -> Result<(), Failure> {
        let act = async || {
            self.run.progress(95, "removing what is not needed any more");
            if !self.params.keep_old {
                copy::remove(&self.server.beside(copy::OLD, self.run)).await?;
            }
            copy::remove_copies(self).await?;
            copy::remove(&self.server.beside(rewind::KEPT, self.run)).await?;
            super::server::sync_beside(self.server.data())
                .map_err(|error| disk("cannot clean up beside", self.server.data(), &error))
        };
        self.run.repeatable(CLEAN, act).await
    }
}

pub(in super::super) async fn plan(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
) -> Result<Vec<Value>, Failure> {
    let resync = Resync::new(params, run, ends)?;
    let source = resync.source().await?;
    let target = resync.name();
    let Some(method) = resync.way(&source).await? else { return Ok(Vec::new()) };
    let mut plan = Vec::new();
    if let Some(slot) = &resync.slot {
        plan.push(planned(SLOT, json!({ "target": resync.source_name(), "slot": slot })));
    }
    let steps: &[&str] = match method {
        Method::Rewind => &[STOP, rewind::REWIND, START, CLEAN],
        _ => &[copy::COPY, STOP, copy::SWAP, START, CLEAN],
    };
    plan.extend(steps.iter().map(|step| planned(step, json!({ "target": target, "method": method }))));
    Ok(plan)
}

pub(in super::super) async fn execute(params: &Params, run: &Run, ends: &Ends<'_>) -> Result<Done, Failure> {
    let resync = Resync::new(params, run, ends)?;
    if run.is_begun(CLEAN) {
        return resync.concluded().await;
    }
    let source = resync.source().await?;
    // Once something was done to the data they do not say any more how they were.
    let method = if run.is_begun(rewind::REWIND) || run.is_begun(copy::COPY) {
        if run.is_begun(rewind::REWIND) { Method::Rewind } else { Method::Basebackup }
    } else {
        match resync.way(&source).await? {
            Some(method) => method,
            None => return Ok(resync.follows_already(&source).await),
        }
    };
    resync.keep_log(&source).await?;
    if method == Method::Rewind {
        resync.stop(STOP, &source).await?;
        let why = match rewind::rewind(&resync, &source).await? {
            rewind::Rewound::Done => match resync.start(START, &source).await? {
                Started::Follows { .. } => return resync.concluded().await,
                Started::DoesNot { why } => why,
            },
            rewind::Rewound::Failed { why } => why,
        };
        if params.method == Method::Rewind {
            return Err(Failure::permanent("rewind_failed", why).with("hint", "basebackup makes a new copy"));
        }
        run.warn(format!("the rewind failed, so everything is copied: {why}"));
        copy::possible(&resync, &source).await?;
    }
    let again = run.is_begun(rewind::REWIND);
    copy::copy(&resync, &source).await?;
    resync.stop(if again { STOP_AGAIN } else { STOP }, &source).await?;
    copy::swap(&resync).await?;
    match resync.start(if again { START_AGAIN } else { START }, &source).await? {
        Started::Follows { .. } => resync.concluded().await,
        Started::DoesNot { why } => Err(Failure::permanent("does_not_follow", why)),
    }
}

impl Resync<'_> {
    async fn follows_already(&self, source: &Session) -> Done {
        let lag = follow::lag(self, source).await.ok().flatten();
        let resynced = Resynced {
            source: self.source_name().to_owned(),
            replication_state: "streaming".to_owned(),
            lag_bytes: lag,
            ..Resynced::default()
        };
        Done::new(format!("{} follows {} already", self.name(), self.source_name()), false, &resynced)
    }

    /// It follows: what remains to be done, and what there is to say.
    async fn concluded(&self) -> Result<Done, Failure> {
        self.clean().await?;
        let copied = self.run.trace::<Value, u64>(copy::COPY)?.and_then(|trace| trace.result);
        let started = match self.run.trace::<(), Started>(START_AGAIN)? {
            Some(started) => Some(started),
            None => self.run.trace::<(), Started>(START)?,
        };
        let lag_bytes = match started.and_then(|trace| trace.result) {
            Some(Started::Follows { lag }) => Some(lag),
            _ => None,
        };
        let old = self.server.beside(copy::OLD, self.run);
        let method = if copied.is_some() { Method::Basebackup } else { Method::Rewind };
        let resynced = Resynced {
            source: self.source_name().to_owned(),
            method_used: Some(method),
            bytes_copied: copied,
            replication_state: "streaming".to_owned(),
            lag_bytes,
            seconds_behind: None,
            old_data_path: old.exists().then(|| old.to_string_lossy().into_owned()),
        };
        let message = format!("{} follows {} again", self.name(), self.source_name());
        Ok(Done::new(message, true, &resynced))
    }
}
