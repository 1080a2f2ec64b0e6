//! Databases and their users on PostgreSQL and MariaDB.
//!
//! Statements go over the server's Unix socket as the user of the target. A server goes on with a statement whose client is
//! gone, so nothing is looked at before no session of an earlier attempt is left ([`postgres::Session::alone`],
//! [`mariadb::Session::open`]).

mod account;
mod conninfo;
mod create;
mod delete;
mod dump;
mod grants;
mod mariadb;
mod names;
mod password;
mod postgres;
mod replication;
mod role;
mod user_create;
mod user_delete;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::create::DatabaseCreate;
pub(super) use self::delete::DatabaseDelete;
pub(super) use self::mariadb::Mariadb;
pub(super) use self::postgres::Postgresql;
pub(super) use self::replication::{DisableReplication, Promote, Resync};
pub(super) use self::user_create::DatabaseUserCreate;
pub(super) use self::user_delete::DatabaseUserDelete;
use super::Failure;
use super::kind::{Around, Done};
use super::run::Run;
use crate::handlers::targets::{Choice, Target};

/// The engines of databases.
pub(super) const ENGINES: &[&str] = &["postgresql", "mariadb"];

/// Which server program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    Postgresql,
    /// "mysql" means the same.
    #[serde(alias = "mysql")]
    Mariadb,
}

impl Engine {
    const fn title(self) -> &'static str {
        match self {
            Self::Postgresql => "PostgreSQL",
            Self::Mariadb => "MariaDB",
        }
    }

    /// The engine of a target of this family.
    fn of(target: &Target) -> Result<Self, String> {
        match target.engine.as_str() {
            "postgresql" => Ok(Self::Postgresql),
            "mariadb" => Ok(Self::Mariadb),
            other => Err(format!("{other} is no engine of databases")),
        }
    }
}

/// What to do if it is already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum IfExists {
    /// Fail.
    #[default]
    Fail,
    /// Succeed, and leave it as it is.
    Ok,
}

/// What to do if it is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum IfMissing {
    /// Fail.
    Fail,
    /// Succeed: there is nothing to do.
    #[default]
    Ok,
}

impl IfMissing {
    /// What comes of it that `told`.
    fn judge(self, told: &str, done: impl FnOnce(&str) -> Done) -> Result<Done, Failure> {
        match self {
            Self::Ok => Ok(done(told)),
            Self::Fail => Err(Failure::permanent("not_found", told)),
        }
    }
}

/// What a user may do in a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Preset {
    /// Everything. On PostgreSQL a database that belongs to the target's user becomes its own; of a database of another role
    /// it becomes a member of that role.
    Owner,
    /// Read all tables, also those that the database's owner makes later.
    #[serde(alias = "readonly")]
    ReadOnly,
    /// Read and change the rows of all tables, also of those that the database's owner makes later.
    #[default]
    #[serde(alias = "readwrite")]
    ReadWrite,
}

impl Preset {
    const fn title(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::ReadOnly => "read only",
            Self::ReadWrite => "read and write",
        }
    }
}

const fn wanted(engine: Option<Engine>) -> &'static [&'static str] {
    match engine {
        Some(Engine::Postgresql) => &["postgresql"],
        Some(Engine::Mariadb) => &["mariadb"],
        None => ENGINES,
    }
}

/// The target that is meant, at submission.
fn target_of<'a>(
    around: &Around<'a>,
    engine: Option<Engine>,
    server: Option<&'a str>,
) -> Result<&'a Target, String> {
    around.targets.choose(Choice {
        engines: wanted(engine),
        name: around.common.target.as_deref(),
        server,
        resource_id: around.resource_id,
    })
}

/// The target that is meant, and its engine, when it is carried out.
fn chosen<'a>(
    run: &'a Run,
    engine: Option<Engine>,
    server: Option<&str>,
) -> Result<(&'a Target, Engine), Failure> {
    let target = run.target(wanted(engine), server)?;
    let engine = Engine::of(target).map_err(|problem| Failure::permanent("target", problem))?;
    Ok((target, engine))
}

/// Whether the target takes other names than plain ones.
fn any_names(target: &Target, engine: Engine) -> Result<bool, String> {
    Ok(match engine {
        Engine::Postgresql => target.settings::<Postgresql>()?.any_names,
        Engine::Mariadb => target.settings::<Mariadb>()?.any_names,
    })
}
