//! `database_user_create` on MariaDB.
//!
//! | step | does | after an interruption |
//! | --- | --- | --- |
//! | `secret` | the password is in its file, or can be read | the file has its name, or the password is made up once more |
//! | `create` | the account, with a verifier of the password | an account with this verifier is ours; or it is not there |
//! | `grant` | its rights in the database | once more |
//!
//! The statement has the verifier, since the binary log and every replica have the statement.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Engine;
use super::super::account::{Account, check_grant};
use super::super::mariadb::{Mariadb, Session, literal};
use super::{Params, SecretFile};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const SECRET: &str = "secret";
const CREATE: &str = "create";
const GRANT: &str = "grant";

/// What was there before.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    existed: bool,
}

/// Judges what is MariaDB's own in the parameters.
pub(super) fn check(params: &Params, target: &Target) -> Result<(), String> {
    let settings: Mariadb = target.settings()?;
    settings.host(params.host.as_deref())?;
    if params.username == settings.user {
        return Err(format!("username: the target {} logs in as that one", target.name));
    }
    if params.valid_until.is_some() {
        return Err("valid_until: a password of MariaDB has days, and no time".to_owned());
    }
    params.database.as_deref().map_or(Ok(()), check_grant)?;
    params.given(&settings.password_credentials, settings.password_dir.as_deref()).map(drop)
}

fn settings(target: &Target) -> Result<Mariadb, Failure> {
    target.settings().map_err(|why| Failure::permanent("target", why))
}

fn account<'a>(params: &'a Params, settings: &'a Mariadb) -> Result<Account<'a>, Failure> {
    let host = settings.host(params.host.as_deref()).map_err(|why| Failure::permanent("metadata", why))?;
    Ok(Account { name: &params.username, host })
}

/// Creates the account; `verifier` as it stands in the statement.
fn statement(params: &Params, account: Account<'_>, verifier: &str) -> String {
    let account = account.quoted();
    let limit = params.connection_limit.map(|limit| format!(" WITH MAX_USER_CONNECTIONS {limit}"));
    let limit = limit.unwrap_or_default();
    format!("CREATE USER {account} IDENTIFIED VIA mysql_native_password USING {verifier}{limit}")
}

/// What is there, and whether the action can be carried out at all.
async fn look(params: &Params, account: Account<'_>, session: &Session) -> Result<Before, Failure> {
    const DATABASE: &str = "SELECT 1 FROM information_schema.schemata WHERE BINARY schema_name = ?";
    let existed = account.look(session).await?.is_some();
    if existed {
        params.refuse_existing()?;
        return Ok(Before { existed });
    }
    // A right may be given in a database that is not there.
    if let Some(database) = &params.database {
        let is_there: Option<(i64,)> =
            session.first("cannot look at the database", DATABASE, (database,)).await?;
        if is_there.is_none() {
            return Err(Failure::permanent("not_found", format!("there is no database {database}")));
        }
    }
    Ok(Before { existed })
}

pub(super) async fn plan(params: &Params, run: &Run, target: &Target) -> Result<Vec<Value>, Failure> {
    let settings = settings(target)?;
    let account = account(params, &settings)?;
    let session = Session::open(run, target).await?;
    if look(params, account, &session).await?.existed {
        return Ok(Vec::new());
    }
    let secret = params.password_ref.clone().unwrap_or_else(|| SecretFile::of(run, run.id).reference());
    let statement = statement(params, account, "'...'");
    let mut plan = vec![
        json!({ "step": SECRET, "secret_ref": secret }),
        json!({ "step": CREATE, "target": target.name, "statement": statement }),
    ];
    if let Some(preset) = params.preset() {
        plan.push(json!({ "step": GRANT, "database": params.database, "privileges": preset }));
    }
    Ok(plan)
}

pub(super) async fn execute(params: &Params, run: &Run, target: &Target) -> Result<Done, Failure> {
    let settings = settings(target)?;
    let account = account(params, &settings)?;
    let given = params
        .given(&settings.password_credentials, settings.password_dir.as_deref())
        .map_err(|why| Failure::permanent("metadata", why))?;
    let session = Session::open(run, target).await?;
    let name = params.username.as_str();
    let provide = async |before: &Before| (!before.existed).then(|| params.provide(run, given)).transpose();
    let found = async |_: &Before| {
        let file = SecretFile::of(run, run.id);
        let is_there = given.is_none() && file.read()?.is_some();
        Ok(if is_there { Found::Done(Some(file.reference())) } else { Found::NotDone })
    };
    let before = async || look(params, account, &session).await;
    let Some(secret_ref) = run.step(SECRET, before, provide, found).await? else {
        let told = format!("the user {name} is on {} already", target.name);
        return Ok(params.created(Engine::Mariadb, told, None));
    };
    let create = async |(): &()| {
        let verifier = literal(&Params::password(run, given)?.native());
        let statement = statement(params, account, &verifier);
        session.execute(&format!("cannot create the user {name}"), &statement).await
    };
    let found = async |(): &()| {
        let Some(state) = account.look(&session).await? else { return Ok(Found::NotDone) };
        let is_ours = state.verifier == Params::password(run, given)?.native();
        // Another's is not touched: to create it fails then.
        Ok(if is_ours { Found::Done(()) } else { Found::NotDone })
    };
    run.step(CREATE, async || Ok(()), create, found).await?;
    let mut message = format!("created the user {name} on {}", target.name);
    if let (Some(database), Some(preset)) = (&params.database, params.preset()) {
        run.repeatable(GRANT, async || account.grant(&session, database, preset).await).await?;
        message = format!("{message}: {} in {database}", preset.title());
    }
    Ok(params.created(Engine::Mariadb, message, Some(secret_ref)))
}

pub(super) async fn undo(params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Before, Option<String>>(SECRET)? else { return Ok(()) };
    if trace.intent.existed {
        return Ok(());
    }
    let settings = settings(target)?;
    let account = account(params, &settings)?;
    let session = Session::open(run, target).await?;
    if run.trace::<(), ()>(CREATE)?.is_some()
        && let Some(state) = account.look(&session).await?
    {
        let given = params
            .given(&settings.password_credentials, settings.password_dir.as_deref())
            .map_err(|why| Failure::permanent("metadata", why))?;
        if state.verifier == Params::password(run, given)?.native() {
            run.repeatable("undo.create", async || {
                account.drop(&session).await?;
                // It could log in until now.
                account.end_sessions(&session).await
            })
            .await?;
        }
    }
    if params.password_ref.is_none() {
        run.repeatable("undo.secret", async || SecretFile::of(run, run.id).remove().map(drop)).await?;
    }
    Ok(())
}
