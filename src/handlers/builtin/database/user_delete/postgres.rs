//! `database_user_delete` on PostgreSQL.
//!
//! | step | does | after an interruption |
//! | --- | --- | --- |
//! | `lock` | the role cannot log in, and the target's user is a member of it | once more |
//! | `sessions` | its sessions are gone | once more |
//! | `release` | all databases but one are free of it, if there are several | once more |
//! | `drop` | the last database and the role, in one transaction | the role is gone, or nothing was done |
//! | `secret` | the password that an action made up for it is gone | once more |

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Engine;
use super::super::names::{self, Of, quoted};
use super::super::password::SecretFile;
use super::super::postgres::{Postgresql, Session};
use super::super::role::{self, Leaving, Role};
use super::{Deleted, Params, Reassigned};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const LOCK: &str = "lock";
const SESSIONS: &str = "sessions";
const RELEASE: &str = "release";
const DROP: &str = "drop";
const SECRET: &str = "secret";
/// As many databases are told of in the result.
const REASSIGNED_MAX: usize = 100;

/// What was there before.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    role: Role,
    reassigned: Vec<Reassigned>,
    /// In how many databases there is something of it.
    databases: usize,
}

fn ident(name: &str) -> String {
    quoted(name, Engine::Postgresql)
}

pub(super) fn check(params: &Params, target: &Target, any_names: bool) -> Result<(), String> {
    if params.host.is_some() {
        return Err("host: a role of PostgreSQL has none".to_owned());
    }
    let settings: Postgresql = target.settings()?;
    if params.username == settings.user {
        return Err(format!("username: the target {} logs in as that one", target.name));
    }
    let Some(heir) = &params.reassign_to else { return Ok(()) };
    if *heir == params.username {
        return Err("reassign_to is the user itself".to_owned());
    }
    names::check(heir, Of::User, Engine::Postgresql, any_names)
        .map_err(|problem| format!("reassign_to {problem}"))
}

async fn look(params: &Params, session: &Session) -> Result<Option<Before>, Failure> {
    let name = params.username.as_str();
    let Some(role) = role::look(session, name).await? else { return Ok(None) };
    if role.is_powerful {
        let told = format!("{name} may do more than a user of a database: it is not deleted");
        return Err(Failure::permanent("not_allowed", told));
    }
    let holdings = role::holdings(session, name).await?;
    let databases = holdings.len();
    let owning = holdings.into_iter().filter(|holding| holding.objects > 0).take(REASSIGNED_MAX);
    let reassigned =
        owning.map(|holding| Reassigned { database: holding.database, objects: holding.objects });
    Ok(Some(Before { role, reassigned: reassigned.collect(), databases }))
}

pub(super) async fn plan(params: &Params, run: &Run, target: &Target) -> Result<Vec<Value>, Failure> {
    let session = Session::open(run, target, None).await?;
    let Some(before) = look(params, &session).await? else {
        params.missing(Engine::Postgresql, &target.name)?;
        return Ok(Vec::new());
    };
    let drop = format!("DROP ROLE {}", ident(&params.username));
    Ok(vec![
        json!({ "step": LOCK, "target": target.name }),
        json!({ "step": DROP, "reassigned": before.reassigned, "statement": drop }),
    ])
}

pub(super) async fn execute(params: &Params, run: &Run, target: &Target) -> Result<Done, Failure> {
    let session = Session::open(run, target, None).await?;
    let name = params.username.as_str();
    let before = match run.trace::<Before, ()>(LOCK)? {
        Some(trace) => trace.intent,
        None => match look(params, &session).await? {
            Some(before) => before,
            None => return params.missing(Engine::Postgresql, &target.name),
        },
    };
    let reassigned = before.reassigned.clone();
    let (databases, mark) = (before.databases, before.role.mark.clone());
    let lock = async |_: &Before| {
        let role = ident(name);
        let statement = format!("ALTER ROLE {role} NOLOGIN; GRANT {role} TO CURRENT_USER");
        session.execute(&format!("cannot lock the user {name}"), &statement).await
    };
    let found = async |_: &Before| {
        session.alone(run).await?;
        Ok(Found::NotDone)
    };
    run.step(LOCK, async || Ok(before), lock, found).await?;
    let terminated = run.repeatable(SESSIONS, async || end_sessions(params, run, &session).await).await?;
    let leaving = Leaving { run, target, session: &session, name, heir: params.reassign_to.as_deref() };
    if databases > 1 {
        run.repeatable(RELEASE, async || {
            session.alone(run).await?;
            leaving.release_others().await
        })
        .await?;
    }
    let found = async |(): &()| {
        session.alone(run).await?;
        Ok(if role::look(&session, name).await?.is_some() { Found::NotDone } else { Found::Done(()) })
    };
    run.step(DROP, async || Ok(()), async |(): &()| leaving.drop().await, found).await?;
    if let Some(action) = mark.and_then(|mark| mark.strip_prefix("actiond:")?.parse().ok()) {
        run.repeatable(SECRET, async || SecretFile::of(run, action).remove()).await?;
    }
    let engine = Engine::Postgresql;
    let deleted =
        Deleted { username: name, engine, dropped: true, terminated_sessions: terminated, reassigned };
    Ok(Done::new(format!("deleted the user {name} on {}", target.name), true, &deleted))
}

async fn end_sessions(params: &Params, run: &Run, session: &Session) -> Result<i64, Failure> {
    const ANY: &str = "select 1 from pg_stat_activity where usename = $1 limit 1";
    let name = params.username.as_str();
    if !params.terminate_sessions
        && session.row("cannot look for its sessions", ANY, &[&name]).await?.is_some()
    {
        let told = format!("the user {name} has sessions");
        return Err(Failure::permanent("in_use", told).with("hint", "terminate_sessions = true ends them"));
    }
    role::end_sessions(session, run, name).await
}

pub(super) async fn undo(params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Before, ()>(LOCK)? else { return Ok(()) };
    let session = Session::open(run, target, None).await?;
    session.alone(run).await?;
    let name = params.username.as_str();
    let before = trace.intent.role;
    let Some(now) = role::look(&session, name).await? else {
        run.warn(format!("the user {name} was dropped already, which cannot be taken back"));
        return Ok(());
    };
    if run.trace::<(), ()>(RELEASE)?.is_some() {
        run.warn(format!("what the user {name} owned and was allowed may have gone from some databases"));
    }
    let role = ident(name);
    if before.can_login && !now.can_login || !before.is_ours && now.is_ours {
        run.repeatable("undo.lock", async || {
            let mut statements = Vec::new();
            if before.can_login {
                statements.push(format!("ALTER ROLE {role} LOGIN"));
            }
            if !before.is_ours {
                statements.push(format!("REVOKE {role} FROM CURRENT_USER"));
            }
            session.execute(&format!("cannot let {name} log in again"), &statements.join("; ")).await
        })
        .await?;
    }
    Ok(())
}
