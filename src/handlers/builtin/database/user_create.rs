//! `database_user_create`.
//!
//! The password of the user is made up, or read from where `password_ref` says. Either way it is on disk before the user
//! exists, the server gets a verifier of it, and the result only says where it is.

mod mariadb;
mod postgres;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::{self, Of};
use super::password::{Generate, Given, Secret, SecretFile};
use super::{Engine, IfExists, Preset, any_names, chosen, target_of};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

pub(in super::super) struct DatabaseUserCreate;

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
    /// The database that it is for. Without one it may log in, and has no rights.
    database: Option<String>,
    /// What it may do in the database; "read_write" if it is not said.
    privileges: Option<Preset>,
    /// The password: "credential:NAME" or "file:/PATH", of those that the target allows. Else one is made up.
    password_ref: Option<String>,
    /// How to make up a password; else it has 32 letters and digits.
    password_generate: Option<Generate>,
    /// How many sessions it may have at a time.
    connection_limit: Option<u16>,
    /// PostgreSQL: when its password stops working, as `2030-01-31T12:00:00Z`.
    valid_until: Option<String>,
    /// What to do if it exists already: "ok" leaves it as it is, with its password and its rights.
    #[serde(default)]
    if_exists: IfExists,
}

#[derive(Debug, Serialize)]
struct Created<'a> {
    username: &'a str,
    engine: Engine,
    database: Option<&'a str>,
    privileges: Option<Preset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_ref: Option<String>,
}

impl Kind for DatabaseUserCreate {
    const ACTION: &'static str = "database_user_create";
    const PAGE: Page = Page {
        does: "Creates a user who may log in with a password, and gives it rights in a database. The password is made up and \
               kept in a file that only the handler's user can read, unless password_ref says where it is.",
        engines: super::ENGINES,
        result: &[
            ("username", "its name"),
            ("engine", "postgresql or mariadb"),
            ("database", "the database that it has rights in"),
            ("privileges", "owner, read_only or read_write"),
            (
                "secret_ref",
                "where its password is: file:/PATH, or what password_ref said; never the password",
            ),
            ("changed", "false if it existed already"),
        ],
        recovery: "Goes on. A password that was made up is on disk before the user exists, and the user is made and marked \
                   as made by this action in one transaction; its rights are given again. On MariaDB a user with the verifier of that password is \
                   this action's.",
        undo: "Drops the user if this action made it, gives what it owns to whom the database belonged before, and removes the \
               password that was made up.",
        rights: "PostgreSQL: CREATEROLE (before version 16 it may change every role that is no superuser), and membership in \
                 the role that owns the database. The target's user becomes a member of the new role, to be able to delete it. \
                 MariaDB: CREATE USER, CONNECTION ADMIN, SELECT on mysql.global_priv, and what it gives to users, with GRANT \
                 OPTION.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let target = target_of(around, params.engine, params.server.as_deref())?;
        let engine = Engine::of(target)?;
        let any = any_names(target, engine)?;
        names::check(&params.username, Of::User, engine, any)
            .map_err(|problem| format!("username {problem}"))?;
        let mut locks = vec![format!("user:{}:{}", target.name, params.username)];
        if let Some(database) = &params.database {
            names::check(database, Of::Database, engine, any)
                .map_err(|problem| format!("database {problem}"))?;
            locks.push(format!("database:{}:{database}", target.name));
        } else if params.privileges.is_some() {
            return Err("privileges: say in which database".to_owned());
        }
        match engine {
            Engine::Postgresql => postgres::check(params, target)?,
            Engine::Mariadb => mariadb::check(params, target)?,
        }
        if let Some(generate) = params.password_generate {
            generate.check()?;
            if params.password_ref.is_some() {
                return Err("password_generate: there is a password_ref already".to_owned());
            }
        }
        Ok(locks)
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
    /// The rights it gets, if there is a database for them.
    fn preset(&self) -> Option<Preset> {
        self.database.as_ref().map(|_| self.privileges.unwrap_or_default())
    }

    fn given<'a>(
        &'a self,
        credentials: &[String],
        dir: Option<&'a Path>,
    ) -> Result<Option<Given<'a>>, String> {
        self.password_ref.as_deref().map(|reference| Given::new(reference, credentials, dir)).transpose()
    }

    /// Sees that there is a password; where it is.
    fn provide(&self, run: &Run, given: Option<Given<'_>>) -> Result<String, Failure> {
        let Some(given) = given else {
            let file = SecretFile::of(run, run.id);
            file.fill(self.password_generate)?;
            return Ok(file.reference());
        };
        given.read(run)?;
        Ok(self.password_ref.clone().unwrap_or_default())
    }

    /// The password that was provided. From here on it is in nothing that is written of this action.
    fn password(run: &Run, given: Option<Given<'_>>) -> Result<Secret, Failure> {
        let secret = match given {
            Some(given) => given.read(run)?,
            None => SecretFile::of(run, run.id)
                .read()?
                .ok_or_else(|| Failure::permanent("secret", "the password that was made up is gone"))?,
        };
        secret.redact(run)?;
        Ok(secret)
    }

    fn refuse_existing(&self) -> Result<(), Failure> {
        match self.if_exists {
            IfExists::Ok => Ok(()),
            IfExists::Fail => {
                let told = format!("the user {} exists already", self.username);
                Err(Failure::permanent("exists", told).with("hint", "if_exists = \"ok\" takes it as it is"))
            }
        }
    }

    fn created(&self, engine: Engine, message: String, secret_ref: Option<String>) -> Done {
        let is_changed = secret_ref.is_some();
        let (database, privileges) = (self.database.as_deref(), self.preset());
        let created = Created { username: &self.username, engine, database, privileges, secret_ref };
        Done::new(message, is_changed, &created)
    }
}
