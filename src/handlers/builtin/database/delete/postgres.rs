//! `database_delete` on PostgreSQL.
//!
//! ```text
//!  aside    x: ALLOW_CONNECTIONS false, no session is left; x becomes actiond_delete_ID and is opened for the dump
//!  backup   pg_dump -Fc ──▶ DIR/x-ID.dump.part, synced ──▶ DIR/x-ID.dump
//!  drop     DROP DATABASE actiond_delete_ID
//! ```
//!
//! To close a database is not enough: pg_dump could not log in either. To dump it first and close it then would lose what
//! is written in between.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Engine;
use super::super::dump::{Dump, DumpFile, Piece};
use super::super::names::quoted;
use super::super::postgres::{Postgresql, Session, application};
use super::{Deleted, Params};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const ASIDE: &str = "aside";
const BACKUP: &str = "backup";
const DROP: &str = "drop";
/// Longest wait for sessions to come to their end.
const SESSIONS_PATIENCE: Duration = Duration::from_secs(5);

/// A database as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Database {
    owner: String,
    is_open: bool,
    sessions: i64,
}

/// Its name once it is out of reach: of this action alone.
fn aside_name(run: &Run) -> String {
    format!("actiond_delete_{}", run.id)
}

fn ident(name: &str) -> String {
    quoted(name, Engine::Postgresql)
}

pub(super) fn check(params: &Params, target: &Target) -> Result<(), String> {
    let settings: Postgresql = target.settings()?;
    if params.database == settings.database {
        return Err(format!("database: the target {} logs in to it", target.name));
    }
    if params.backup.required && settings.backup_dir.is_none() {
        return Err(format!("backup: the target {} has no backup_dir", target.name));
    }
    Ok(())
}

pub(super) async fn plan(params: &Params, run: &Run, target: &Target) -> Result<Vec<Value>, Failure> {
    let session = Session::open(run, target, None).await?;
    let Some(database) = look(&session, &params.database).await? else {
        params.missing(Engine::Postgresql, &target.name)?;
        return Ok(Vec::new());
    };
    may_delete(&session, &database).await?;
    let mut plan = vec![
        json!({ "step": ASIDE, "target": target.name, "owner": database.owner, "sessions": database.sessions }),
    ];
    if params.backup.required {
        plan.push(json!({ "step": BACKUP, "backup_path": file(params, run, target)?.path }));
    }
    let drop = format!("DROP DATABASE {}", ident(&params.database));
    plan.push(json!({ "step": DROP, "target": target.name, "statement": drop }));
    Ok(plan)
}

pub(super) async fn execute(params: &Params, run: &Run, target: &Target) -> Result<Done, Failure> {
    let session = Session::open(run, target, None).await?;
    let (name, aside) = (params.database.as_str(), aside_name(run));
    if run.trace::<Database, i64>(ASIDE)?.is_none() {
        match look(&session, name).await? {
            None => return params.missing(Engine::Postgresql, &target.name),
            Some(database) => may_delete(&session, &database).await?,
        }
    }
    let intent = async || {
        let gone = || Failure::permanent("not_found", format!("the database {name} is gone"));
        look(&session, name).await?.ok_or_else(gone)
    };
    let found = async |_: &Database| {
        session.alone(run).await?;
        Ok(if look(&session, &aside).await?.is_some() { Found::Done(0) } else { Found::NotDone })
    };
    let terminated = run
        .step(ASIDE, intent, async |_: &Database| set_aside(params, run, &session, &aside).await, found)
        .await?;
    let dump = if params.backup.required {
        let file = file(params, run, target)?;
        let found = async |()| Ok(file.finished().await?.map_or(Found::NotDone, Found::Done));
        run.progress(10, "dumping the database");
        let settings: Postgresql = target.settings().map_err(|why| Failure::permanent("target", why))?;
        let act = async |(): &()| file.fill(vec![Piece::Program(pg_dump(&settings, run, &aside))]).await;
        Some(run.step(BACKUP, async || Ok(()), act, async |(): &()| found(()).await).await?)
    } else {
        None
    };
    let found = async |(): &()| {
        session.alone(run).await?;
        Ok(if look(&session, &aside).await?.is_some() { Found::NotDone } else { Found::Done(()) })
    };
    let drop = async |(): &()| {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", ident(&aside));
        session.execute(&format!("cannot drop the database {name}"), &statement).await
    };
    run.step(DROP, async || Ok(()), drop, found).await?;
    let message = match &dump {
        Some(dump) => {
            format!("deleted the database {name} on {}; its data are in {}", target.name, dump.path)
        }
        None => format!("deleted the database {name} on {}, without a dump", target.name),
    };
    let engine = Engine::Postgresql;
    let deleted = Deleted { database: name, engine, dropped: true, terminated_sessions: terminated, dump };
    Ok(Done::new(message, true, &deleted))
}

/// Takes the database out of everybody's reach: how many sessions were ended for that.
async fn set_aside(params: &Params, run: &Run, session: &Session, aside: &str) -> Result<i64, Failure> {
    const END: &str =
        "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity where datname = $1";
    let (name, what) = (params.database.as_str(), format!("cannot close the database {}", params.database));
    let close = format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", ident(name));
    session.execute(&what, &close).await?;
    let mut terminated = 0;
    if params.force {
        let row = session.row("cannot end its sessions", END, &[&name]).await?;
        terminated = row.map_or(0, |row| row.get(0));
    }
    let is_empty = run
        .wait_for(SESSIONS_PATIENCE, async || {
            let database = look(session, name).await?;
            Ok(database.is_none_or(|database| database.sessions == 0).then_some(()))
        })
        .await?;
    if is_empty.is_none() {
        let told = format!("there are sessions in the database {name}");
        return Err(Failure::permanent("in_use", told).with("hint", "force = true ends them"));
    }
    let (from, to) = (ident(name), ident(aside));
    let rename = format!("ALTER DATABASE {from} RENAME TO {to}; ALTER DATABASE {to} ALLOW_CONNECTIONS true");
    session.execute(&what, &rename).await?;
    Ok(terminated)
}

fn file(params: &Params, run: &Run, target: &Target) -> Result<DumpFile, Failure> {
    let settings: Postgresql = target.settings().map_err(|why| Failure::permanent("target", why))?;
    let dir: PathBuf =
        settings.backup_dir.ok_or_else(|| Failure::permanent("target", "it has no backup_dir any more"))?;
    Ok(DumpFile::new(&dir, &params.database, run.id))
}

/// The program that writes the dump to its standard output.
fn pg_dump(settings: &Postgresql, run: &Run, database: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(&settings.pg_dump);
    command
        .args(["--format=custom", "--no-password", "--lock-wait-timeout=60s", "--host"])
        .arg(&settings.socket)
        .args(["--port", &settings.port.to_string(), "--username", &settings.user, "--dbname", database])
        // So that its session counts as one of this action.
        .env("PGAPPNAME", application(run.id));
    command
}

pub(super) async fn undo(params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Database, i64>(ASIDE)? else { return Ok(()) };
    let session = Session::open(run, target, None).await?;
    session.alone(run).await?;
    let (name, aside) = (params.database.as_str(), aside_name(run));
    if let Some(now) = look(&session, name).await? {
        if now.is_open != trace.intent.is_open {
            run.repeatable("undo.close", async || open(&session, name, trace.intent.is_open).await).await?;
        }
    } else if look(&session, &aside).await?.is_some() {
        run.repeatable("undo.aside", async || {
            let back = format!(
                "ALTER DATABASE {aside} RENAME TO {name}; ALTER DATABASE {name} ALLOW_CONNECTIONS {}",
                trace.intent.is_open,
                aside = ident(&aside),
                name = ident(name),
            );
            session.execute(&format!("cannot give the database {name} its name back"), &back).await
        })
        .await?;
    } else {
        let dump = run.trace::<(), Dump>(BACKUP)?.and_then(|trace| trace.result);
        let told =
            dump.map_or("there is no dump of it".to_owned(), |dump| format!("its data are in {}", dump.path));
        run.warn(format!("the database {name} was dropped already, which cannot be taken back: {told}"));
        return Ok(());
    }
    if run.trace::<(), Dump>(BACKUP)?.is_some() {
        let file = file(params, run, target)?;
        run.repeatable("undo.backup", async || file.remove()).await?;
    }
    Ok(())
}

async fn open(session: &Session, name: &str, is_open: bool) -> Result<(), Failure> {
    let statement = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {is_open}", ident(name));
    session.execute(&format!("cannot open the database {name} again"), &statement).await
}

async fn look(session: &Session, name: &str) -> Result<Option<Database>, Failure> {
    const LOOK: &str = "select pg_get_userbyid(datdba)::text, datallowconn,
        (select count(*) from pg_stat_activity a where a.datid = d.oid and a.backend_type = 'client backend')
        from pg_database d where datname = $1";
    let row = session.row("cannot look at the database", LOOK, &[&name]).await?;
    Ok(row.map(|row| Database { owner: row.get(0), is_open: row.get(1), sessions: row.get(2) }))
}

/// Said before anything is touched: the server would say it in the middle.
async fn may_delete(session: &Session, database: &Database) -> Result<(), Failure> {
    const MAY: &str = "select pg_has_role(current_user, $1::text::name, 'MEMBER')";
    let row = session.row("cannot look at the owner of the database", MAY, &[&database.owner]).await?;
    if row.is_some_and(|row| row.get(0)) {
        return Ok(());
    }
    let told =
        format!("the database belongs to {}, and the target's user is no member of it", database.owner);
    Err(Failure::permanent("not_allowed", told))
}
