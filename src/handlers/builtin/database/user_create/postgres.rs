//! `database_user_create` on PostgreSQL.
//!
//! | step | does | after an interruption |
//! | --- | --- | --- |
//! | `secret` | the password is in its file, or can be read | the file has its name, or the password is made up once more |
//! | `create` | role, mark and membership in one transaction | the role has our mark, or nothing was done |
//! | `grant` | rights in the database in one transaction | once more |

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Engine;
use super::super::grants;
use super::super::names::quoted;
use super::super::postgres::{Postgresql, Session, literal};
use super::super::role::{self, Leaving, mark};
use super::{Params, SecretFile};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const ENGINE: Engine = Engine::Postgresql;
const SECRET: &str = "secret";
const CREATE: &str = "create";
const GRANT: &str = "grant";

/// What was there before.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    existed: bool,
    /// Whom the database belonged to.
    owner: Option<String>,
}

fn ident(name: &str) -> String {
    quoted(name, ENGINE)
}

pub(super) fn check(params: &Params, target: &Target) -> Result<(), String> {
    if params.host.is_some() {
        return Err("host: a role of PostgreSQL has none".to_owned());
    }
    let settings: Postgresql = target.settings()?;
    if params.username == settings.user {
        return Err(format!("username: the target {} logs in as that one", target.name));
    }
    params.given(&settings.password_credentials, settings.password_dir.as_deref())?;
    match &params.valid_until {
        Some(until) => match chrono::DateTime::parse_from_rfc3339(until) {
            Ok(_) => Ok(()),
            Err(why) => Err(format!("valid_until: {why}")),
        },
        None => Ok(()),
    }
}

/// Creates the role; `password` as it stands in the statement.
fn statement(params: &Params, password: &str) -> String {
    let mut statement = format!("CREATE ROLE {} LOGIN PASSWORD {password}", ident(&params.username));
    if let Some(limit) = params.connection_limit {
        statement = format!("{statement} CONNECTION LIMIT {limit}");
    }
    if let Some(until) = &params.valid_until {
        statement = format!("{statement} VALID UNTIL {}", literal(until));
    }
    statement
}

/// What is there, and whether the action can be carried out at all.
async fn look(params: &Params, session: &Session) -> Result<Before, Failure> {
    let existed = role::look(session, &params.username).await?.is_some();
    if existed {
        params.refuse_existing()?;
        return Ok(Before { existed, owner: None });
    }
    let Some(database) = &params.database else { return Ok(Before { existed, owner: None }) };
    grants::may_grant(session, database).await.map(|owner| Before { existed, owner: Some(owner) })
}

pub(super) async fn plan(params: &Params, run: &Run, target: &Target) -> Result<Vec<Value>, Failure> {
    let session = Session::open(run, target, None).await?;
    if look(params, &session).await?.existed {
        return Ok(Vec::new());
    }
    let secret = params.password_ref.clone().unwrap_or_else(|| SecretFile::of(run, run.id).reference());
    let mut plan = vec![
        json!({ "step": SECRET, "secret_ref": secret }),
        json!({ "step": CREATE, "target": target.name, "statement": statement(params, "'...'") }),
    ];
    if let Some(preset) = params.preset() {
        plan.push(json!({ "step": GRANT, "database": params.database, "privileges": preset }));
    }
    Ok(plan)
}

pub(super) async fn execute(params: &Params, run: &Run, target: &Target) -> Result<Done, Failure> {
    let settings: Postgresql = target.settings().map_err(|why| Failure::permanent("target", why))?;
    let given = params
        .given(&settings.password_credentials, settings.password_dir.as_deref())
        .map_err(|why| Failure::permanent("metadata", why))?;
    let session = Session::open(run, target, None).await?;
    let name = params.username.as_str();
    let provide = async |before: &Before| (!before.existed).then(|| params.provide(run, given)).transpose();
    let found = async |_: &Before| {
        let file = SecretFile::of(run, run.id);
        let is_there = given.is_none() && file.read()?.is_some();
        Ok(if is_there { Found::Done(Some(file.reference())) } else { Found::NotDone })
    };
    let secret = run.step(SECRET, async || look(params, &session).await, provide, found).await?;
    let Some(secret_ref) = secret else {
        return Ok(params.created(ENGINE, format!("the user {name} is on {} already", target.name), None));
    };
    let create = async |(): &()| {
        let verifier = literal(&Params::password(run, given)?.scram_sha_256());
        let role = ident(name);
        let together = format!(
            "{}; COMMENT ON ROLE {role} IS {}; GRANT {role} TO CURRENT_USER",
            statement(params, &verifier),
            literal(&mark(run.id))
        );
        session.execute(&format!("cannot create the user {name}"), &together).await
    };
    let found = async |(): &()| {
        session.alone(run).await?;
        // Another's is found not done, and not touched: to create it fails then.
        Ok(if is_ours(&session, run, name).await? { Found::Done(()) } else { Found::NotDone })
    };
    run.step(CREATE, async || Ok(()), create, found).await?;
    if let (Some(database), Some(preset)) = (&params.database, params.preset()) {
        run.repeatable(GRANT, async || {
            session.alone(run).await?;
            grants::grant(run, target, database, name, preset).await
        })
        .await?;
    }
    let message = match (&params.database, params.preset()) {
        (Some(database), Some(preset)) => {
            format!("created the user {name} on {}: {} in {database}", target.name, preset.title())
        }
        _ => format!("created the user {name} on {}", target.name),
    };
    Ok(params.created(ENGINE, message, Some(secret_ref)))
}

async fn is_ours(session: &Session, run: &Run, name: &str) -> Result<bool, Failure> {
    Ok(role::look(session, name)
        .await?
        .is_some_and(|role| role.mark.as_deref() == Some(mark(run.id).as_str())))
}

pub(super) async fn undo(params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Before, Option<String>>(SECRET)? else { return Ok(()) };
    let session = Session::open(run, target, None).await?;
    session.alone(run).await?;
    let name = params.username.as_str();
    if is_ours(&session, run, name).await? {
        run.repeatable("undo.create", async || {
            role::end_sessions(&session, run, name).await?;
            let heir = trace.intent.owner.as_deref();
            Leaving { run, target, session: &session, name, heir }.drop().await
        })
        .await?;
    }
    if params.password_ref.is_none() && !trace.intent.existed {
        run.repeatable("undo.secret", async || SecretFile::of(run, run.id).remove().map(drop)).await?;
    }
    Ok(())
}
