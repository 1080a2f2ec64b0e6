//! `database_user_delete`.

mod mariadb;
mod postgres;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::{self, Of};
use super::{Engine, IfMissing, Preset, any_names, chosen, target_of};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

pub(in super::super) struct DatabaseUserDelete;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Params {
    /// Name of the user.
    username: String,
    /// MariaDB: the host that it logs in from, of those that the target allows; else the first of them.
    host: Option<String>,
    /// Needed where targets of both engines are configured.
    engine: Option<Engine>,
    /// The server by its name in the configuration, where there are several.
    server: Option<String>,
    /// Where it had its rights. Says nothing: they end in all databases.
    #[expect(dead_code, reason = "accepted, for who knows it says it")]
    database: Option<String>,
    /// What rights it had. Says nothing: they end whatever they are.
    #[expect(dead_code, reason = "accepted, for who knows them says them")]
    privileges: Option<Preset>,
    /// PostgreSQL: who gets what it owns; else the owner of each database, or the target's user.
    reassign_to: Option<String>,
    /// Ends its sessions; else it is not deleted while it has any.
    #[serde(default = "yes")]
    terminate_sessions: bool,
    /// What to do if there is none of that name.
    #[serde(default)]
    if_missing: IfMissing,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Serialize)]
struct Deleted<'a> {
    username: &'a str,
    engine: Engine,
    dropped: bool,
    terminated_sessions: i64,
    reassigned: Vec<Reassigned>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reassigned {
    database: String,
    objects: i64,
}

impl Kind for DatabaseUserDelete {
    const ACTION: &'static str = "database_user_delete";
    const PAGE: Page = Page {
        does: "Deletes a user. What it owns goes to somebody else and nothing of it is dropped; its sessions are ended and \
               its rights end. A password that an action made up for it is removed.",
        engines: super::ENGINES,
        result: &[
            ("username", "its name"),
            ("engine", "postgresql or mariadb"),
            ("dropped", "whether it was there and is no more"),
            ("terminated_sessions", "how many sessions were ended"),
            (
                "reassigned",
                "PostgreSQL: the databases in which it owned objects, and how many (of the first 100)",
            ),
        ],
        recovery: "Goes on: every step may be done again, and a user that is gone was deleted by this action.",
        undo: "Lets it log in again. Rights that have ended and objects that have gone to others stay so, and a warning says \
               it; with all of it in one database that is one with the end of the user, after which there is nothing to take \
               back.",
        rights: "PostgreSQL: CREATEROLE (from version 16 with ADMIN OPTION on the role), CREATEDB if it owns databases, \
                 membership in who gets what it owns, pg_signal_backend to end sessions. MariaDB: CREATE USER, \
                 CONNECTION ADMIN, PROCESS, SELECT on mysql.global_priv.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let target = target_of(around, params.engine, params.server.as_deref())?;
        let engine = Engine::of(target)?;
        let any = any_names(target, engine)?;
        names::check(&params.username, Of::User, engine, any)
            .map_err(|problem| format!("username {problem}"))?;
        match engine {
            Engine::Postgresql => postgres::check(params, target, any)?,
            Engine::Mariadb => mariadb::check(params, target)?,
        }
        Ok(vec![format!("user:{}:{}", target.name, params.username)])
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        match engine {
            Engine::Postgresql => postgres::plan(params, run, target).await,
            Engine::Mariadb => mariadb::plan(params, run, target).await,
        }
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        match engine {
            Engine::Postgresql => postgres::execute(params, run, target).await,
            Engine::Mariadb => mariadb::execute(params, run, target).await,
        }
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        match engine {
            Engine::Postgresql => postgres::undo(params, run, target).await,
            Engine::Mariadb => mariadb::undo(params, run, target).await,
        }
    }
}

impl Params {
    /// What there is to say if there is no such user.
    fn missing(&self, engine: Engine, target: &str) -> Result<Done, Failure> {
        self.if_missing.judge(&format!("there is no user {} on {target}", self.username), |told| {
            let username = &self.username;
            let nothing =
                Deleted { username, engine, dropped: false, terminated_sessions: 0, reassigned: Vec::new() };
            Done::new(told, false, &nothing)
        })
    }
}
