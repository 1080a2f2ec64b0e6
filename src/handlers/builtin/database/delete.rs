//! `database_delete`.
//!
//! The database is dumped first, and nothing is written to it after its dump was begun: before that it is out of
//! everybody's reach. What an engine does for that is in its own file.

mod mariadb;
mod postgres;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dump::Dump;
use super::names::{self, Of};
use super::{Engine, any_names, chosen, target_of};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

pub(in super::super) struct DatabaseDelete;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Params {
    /// Name of the database.
    database: String,
    /// Needed where targets of both engines are configured.
    engine: Option<Engine>,
    /// The server by its name in the configuration, where there are several.
    server: Option<String>,
    /// Ends the sessions that are in it; else it is not deleted while there are any.
    #[serde(default)]
    force: bool,
    /// The dump that is made before.
    #[serde(default)]
    backup: Backup,
    /// The name of the database once more: needed to delete it without a dump.
    confirm: Option<String>,
    /// What to do if there is none of that name.
    #[serde(default)]
    if_missing: super::IfMissing,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Backup {
    /// False: it is deleted without one, and its data are lost.
    required: bool,
}

impl Default for Backup {
    fn default() -> Self {
        Self { required: true }
    }
}

#[derive(Debug, Serialize)]
struct Deleted<'a> {
    database: &'a str,
    engine: Engine,
    dropped: bool,
    terminated_sessions: i64,
    #[serde(flatten)]
    dump: Option<Dump>,
}

impl Kind for DatabaseDelete {
    const ACTION: &'static str = "database_delete";
    const PAGE: Page = Page {
        does: "Deletes a database after it has dumped it into the target's backup_dir. Before the dump it is renamed to \
               actiond_delete_ID, on MariaDB its tables are moved there, so that nothing can be written that is not in it.",
        engines: super::ENGINES,
        result: &[
            ("database", "its name"),
            ("engine", "postgresql or mariadb"),
            ("dropped", "whether it was there and is no more"),
            ("terminated_sessions", "how many sessions were ended (force)"),
            ("backup_path", "the dump, which pg_restore -d DATABASE reads, or mariadb DATABASE"),
            ("backup_bytes", "its size"),
            ("backup_sha256", "its SHA-256"),
        ],
        recovery: "Goes on. Which of the two names it has, whether its dump has its final name and whether it is gone says \
                   how far an earlier attempt came.",
        undo: "Gives it its name back and opens it again, and removes the dump. Once it is dropped there is nothing to take \
               back: the dump stays, and a warning names it.",
        rights: "PostgreSQL: CREATEDB, membership in the owner's role, pg_read_all_data for the dump, pg_signal_backend for \
                 force. MariaDB: SELECT, INSERT, CREATE, DROP, ALTER, TRIGGER, EVENT, SHOW VIEW and PROCESS, CONNECTION ADMIN \
                 for force, and for databases with triggers what it takes to make them again: SET USER, and SUPER or \
                 log_bin_trust_function_creators. The handler's user must be able to write to backup_dir.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let target = target_of(around, params.engine, params.server.as_deref())?;
        let engine = Engine::of(target)?;
        names::check(&params.database, Of::Database, engine, any_names(target, engine)?)
            .map_err(|problem| format!("database {problem}"))?;
        match engine {
            Engine::Postgresql => postgres::check(params, target)?,
            Engine::Mariadb => mariadb::check(params, target)?,
        }
        let is_confirmed = params.confirm.as_ref().is_none_or(|confirm| *confirm == params.database);
        if !is_confirmed || !params.backup.required && params.confirm.is_none() {
            return Err("confirm must be the name of the database".to_owned());
        }
        Ok(vec![format!("database:{}:{}", target.name, params.database)])
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
    /// What there is to say if there is no such database.
    fn missing(&self, engine: Engine, target: &str) -> Result<Done, Failure> {
        self.if_missing.judge(&format!("there is no database {} on {target}", self.database), |told| {
            let nothing = Deleted {
                database: &self.database,
                engine,
                dropped: false,
                terminated_sessions: 0,
                dump: None,
            };
            Done::new(told, false, &nothing)
        })
    }
}
