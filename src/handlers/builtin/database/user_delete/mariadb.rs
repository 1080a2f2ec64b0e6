//! `database_user_delete` on MariaDB.
//!
//! | step | does | after an interruption |
//! | --- | --- | --- |
//! | `lock` | the account cannot log in | once more |
//! | `sessions` | its sessions are ended | once more |
//! | `drop` | the account and its rights | once more |
//! | `secret` | the password that an action made up for it is gone | once more |
//!
//! To drop an account ends no session of it. It owns nothing: what it made stays as it is.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Engine;
use super::super::account::{Account, Rights};
use super::super::mariadb::{Mariadb, Session};
use super::super::password::SecretFile;
use super::{Deleted, Params};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const LOCK: &str = "lock";
const SESSIONS: &str = "sessions";
const DROP: &str = "drop";
const SECRET: &str = "secret";

/// What was there before.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Before {
    rights: Rights,
    /// The action that made up its password.
    made_by: Option<u64>,
}

/// Judges what is MariaDB's own in the parameters.
pub(super) fn check(params: &Params, target: &Target) -> Result<(), String> {
    let settings: Mariadb = target.settings()?;
    settings.host(params.host.as_deref())?;
    if params.username == settings.user {
        return Err(format!("username: the target {} logs in as that one", target.name));
    }
    if params.reassign_to.is_some() {
        return Err("reassign_to: a user of MariaDB owns nothing".to_owned());
    }
    Ok(())
}

fn settings(target: &Target) -> Result<Mariadb, Failure> {
    target.settings().map_err(|why| Failure::permanent("target", why))
}

fn account<'a>(params: &'a Params, settings: &'a Mariadb) -> Result<Account<'a>, Failure> {
    let host = settings.host(params.host.as_deref()).map_err(|why| Failure::permanent("metadata", why))?;
    Ok(Account { name: &params.username, host })
}

async fn look(account: Account<'_>, run: &Run, session: &Session) -> Result<Option<Before>, Failure> {
    let Some(state) = account.look(session).await? else { return Ok(None) };
    if state.rights.is_powerful {
        let told = format!("{} may do more than a user of a database: it is not deleted", account.name);
        return Err(Failure::permanent("not_allowed", told));
    }
    let made_by = SecretFile::made_up(run, |secret| secret.native() == state.verifier)?;
    Ok(Some(Before { rights: state.rights, made_by }))
}

pub(super) async fn plan(params: &Params, run: &Run, target: &Target) -> Result<Vec<Value>, Failure> {
    let settings = settings(target)?;
    let account = account(params, &settings)?;
    let session = Session::open(run, target).await?;
    if look(account, run, &session).await?.is_none() {
        params.missing(Engine::Mariadb, &target.name)?;
        return Ok(Vec::new());
    }
    Ok(vec![
        json!({ "step": LOCK, "target": target.name }),
        json!({ "step": DROP, "target": target.name, "statement": format!("DROP USER {}", account.quoted()) }),
    ])
}

pub(super) async fn execute(params: &Params, run: &Run, target: &Target) -> Result<Done, Failure> {
    let settings = settings(target)?;
    let account = account(params, &settings)?;
    let session = Session::open(run, target).await?;
    let name = params.username.as_str();
    let before = match run.trace::<Before, ()>(LOCK)? {
        Some(trace) => trace.intent,
        None => match look(account, run, &session).await? {
            Some(before) => before,
            None => return params.missing(Engine::Mariadb, &target.name),
        },
    };
    let made_by = before.made_by;
    let lock = async |_: &Before| {
        let statement = format!("ALTER USER {} ACCOUNT LOCK", account.quoted());
        session.execute(&format!("cannot lock the user {name}"), &statement).await
    };
    run.step(LOCK, async || Ok(before), lock, async |_: &Before| Ok(Found::NotDone)).await?;
    let terminated = run.repeatable(SESSIONS, async || end_sessions(params, account, &session).await).await?;
    run.repeatable(DROP, async || account.drop(&session).await).await?;
    if let Some(action) = made_by {
        run.repeatable(SECRET, async || SecretFile::of(run, action).remove()).await?;
    }
    let deleted = Deleted {
        username: name,
        engine: Engine::Mariadb,
        dropped: true,
        terminated_sessions: terminated,
        reassigned: Vec::new(),
    };
    Ok(Done::new(format!("deleted the user {name} on {}", target.name), true, &deleted))
}

async fn end_sessions(params: &Params, account: Account<'_>, session: &Session) -> Result<i64, Failure> {
    const ANY: &str = "SELECT 1 FROM information_schema.processlist WHERE BINARY user = ? LIMIT 1";
    let name = params.username.as_str();
    if !params.terminate_sessions {
        let any: Option<(i64,)> = session.first("cannot look for its sessions", ANY, (name,)).await?;
        if any.is_some() {
            let told = format!("the user {name} has sessions");
            return Err(
                Failure::permanent("in_use", told).with("hint", "terminate_sessions = true ends them")
            );
        }
    }
    account.end_sessions(session).await
}

pub(super) async fn undo(params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Before, ()>(LOCK)? else { return Ok(()) };
    let settings = settings(target)?;
    let account = account(params, &settings)?;
    let session = Session::open(run, target).await?;
    let name = params.username.as_str();
    let Some(now) = account.look(&session).await? else {
        run.warn(format!("the user {name} was dropped already, which cannot be taken back"));
        return Ok(());
    };
    if now.rights.is_locked && !trace.intent.rights.is_locked {
        run.repeatable("undo.lock", async || {
            let statement = format!("ALTER USER {} ACCOUNT UNLOCK", account.quoted());
            session.execute(&format!("cannot let {name} log in again"), &statement).await
        })
        .await?;
    }
    Ok(())
}
