//! `database_create`.
//!
//! A database carries the mark of the action that made it (`actiond:ID`, as its comment): only such a one is ever taken
//! back, and only while nobody has made a table in it.

mod mariadb;
mod postgres;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::names::{self, Of, quoted};
use super::{Engine, IfExists, any_names, chosen, target_of};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const CREATE: &str = "create";

pub(in super::super) struct DatabaseCreate;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Params {
    /// Name of the database.
    database: String,
    /// Needed where targets of both engines are configured.
    engine: Option<Engine>,
    /// The server by its name in the configuration, where there are several.
    server: Option<String>,
    /// PostgreSQL: the role that owns it; it must exist. Else the target's user.
    owner: Option<String>,
    /// Its encoding; MariaDB: its character set, where UTF8 means utf8mb4.
    #[serde(default = "utf8")]
    encoding: String,
    /// PostgreSQL: `LC_COLLATE` and `LC_CTYPE`; MariaDB: the collation. Else the server's own.
    collation: Option<String>,
    /// PostgreSQL: extensions to be made in it, of those that the target allows.
    #[serde(default)]
    extensions: Vec<String>,
    /// What to do if it exists already.
    #[serde(default)]
    if_exists: IfExists,
}

fn utf8() -> String {
    "UTF8".to_owned()
}

/// What was there before.
#[derive(Serialize, Deserialize)]
struct Before {
    existed: bool,
}

#[derive(Serialize)]
struct Database {
    #[serde(rename = "database")]
    name: String,
    engine: Engine,
    owner: Option<String>,
    encoding: String,
    collation: String,
    size_bytes: i64,
}

/// How a database stands that was not there when this action looked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Absent,
    /// Made by this action.
    Own,
    /// There is no proof of that.
    Foreign,
}

/// A session with a server, and what differs from server to server.
trait Server: Sized {
    const ENGINE: Engine;

    async fn open(run: &Run, target: &Target) -> Result<Self, Failure>;

    /// Returns when nothing that an earlier attempt has begun goes on any more.
    async fn alone(&self, run: &Run) -> Result<(), Failure>;

    async fn execute(&self, what: &str, statement: &str) -> Result<(), Failure>;

    /// What creates it.
    fn statement(params: &Params, id: u64) -> String;

    async fn standing(&self, name: &str, id: u64) -> Result<Standing, Failure>;

    /// The steps after its creation.
    async fn finish(&self, params: &Params, run: &Run, target: &Target) -> Result<(), Failure>;

    /// Whether anybody has made a table in it.
    async fn has_tables(&self, run: &Run, target: &Target, name: &str) -> Result<bool, Failure>;

    async fn drop(&self, name: &str) -> Result<(), Failure>;

    async fn look(&self, name: &str) -> Result<Database, Failure>;
}

impl Kind for DatabaseCreate {
    const ACTION: &'static str = "database_create";
    const PAGE: Page = Page {
        does: "Creates a database, closed to everybody but its owner, and marks it as made by this action.",
        engines: super::ENGINES,
        result: &[
            ("database", "its name"),
            ("engine", "postgresql or mariadb"),
            ("owner", "PostgreSQL: the role that owns it"),
            ("encoding", "its encoding"),
            ("collation", "its collation"),
            ("size_bytes", "its size"),
            ("changed", "false if it existed already"),
        ],
        recovery: "Goes on. Whether it existed is durable before it is created: one that exists now and did not then was made \
                   by this action. On MariaDB it also has to have the mark, or a person decides.",
        undo: "Drops the database if this action made it and it has no table yet.",
        rights: "PostgreSQL: CREATEDB, and membership in the owner's role. MariaDB: CREATE and DROP on *.*.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let target = target_of(around, params.engine, params.server.as_deref())?;
        let engine = Engine::of(target)?;
        names::check(&params.database, Of::Database, engine, any_names(target, engine)?)
            .map_err(|problem| format!("database {problem}"))?;
        match engine {
            Engine::Postgresql => postgres::check(params, target)?,
            Engine::Mariadb => mariadb::check(params)?,
        }
        Ok(vec![format!("database:{}:{}", target.name, params.database)])
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        match engine {
            Engine::Postgresql => plan_on::<super::postgres::Session>(params, run, target).await,
            Engine::Mariadb => plan_on::<super::mariadb::Session>(params, run, target).await,
        }
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        match engine {
            Engine::Postgresql => execute_on::<super::postgres::Session>(params, run, target).await,
            Engine::Mariadb => execute_on::<super::mariadb::Session>(params, run, target).await,
        }
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let Some(trace) = run.trace::<Before, bool>(CREATE)? else { return Ok(()) };
        if trace.intent.existed {
            return Ok(());
        }
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        match engine {
            Engine::Postgresql => undo_on::<super::postgres::Session>(params, run, target).await,
            Engine::Mariadb => undo_on::<super::mariadb::Session>(params, run, target).await,
        }
    }
}

async fn plan_on<S: Server>(params: &Params, run: &Run, target: &Target) -> Result<Vec<Value>, Failure> {
    let session = S::open(run, target).await?;
    if session.standing(&params.database, run.id).await? != Standing::Absent {
        refuse_existing(params)?;
        return Ok(Vec::new());
    }
    let statement = S::statement(params, run.id);
    Ok(vec![json!({ "step": CREATE, "target": target.name, "statement": statement })])
}

async fn execute_on<S: Server>(params: &Params, run: &Run, target: &Target) -> Result<Done, Failure> {
    let session = S::open(run, target).await?;
    let name = params.database.as_str();
    let before = async || {
        let existed = session.standing(name, run.id).await? != Standing::Absent;
        if existed {
            refuse_existing(params)?;
        }
        Ok(Before { existed })
    };
    let create = async |before: &Before| {
        if before.existed {
            return Ok(false);
        }
        let what = format!("cannot create the database {name}");
        session.execute(&what, &S::statement(params, run.id)).await?;
        Ok(true)
    };
    let found = async |before: &Before| {
        session.alone(run).await?;
        Ok(match session.standing(name, run.id).await? {
            Standing::Absent => Found::NotDone,
            Standing::Own | Standing::Foreign if before.existed => Found::Done(false),
            Standing::Own => Found::Done(true),
            Standing::Foreign => {
                Found::Unknown(format!("the database {name} is there without the mark of this action"))
            }
        })
    };
    let created = run.step(CREATE, before, create, found).await?;
    if created {
        session.finish(params, run, target).await?;
    }
    let database = session.look(name).await?;
    let message = if created {
        format!("created the database {name} on {}", target.name)
    } else {
        format!("the database {name} is on {} already", target.name)
    };
    Ok(Done::new(message, created, &database))
}

async fn undo_on<S: Server>(params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
    let session = S::open(run, target).await?;
    session.alone(run).await?;
    let name = params.database.as_str();
    match session.standing(name, run.id).await? {
        Standing::Absent => return Ok(()),
        Standing::Own => {}
        Standing::Foreign => {
            let told = format!("the database {name} is there without the mark of this action: it is left");
            return Err(Failure::permanent("not_own", told));
        }
    }
    if session.has_tables(run, target, name).await? {
        return Err(Failure::permanent(
            "in_use",
            format!("the database {name} has tables already: it is left"),
        ));
    }
    run.repeatable("undo.create", async || session.drop(name).await).await
}

fn mark(id: u64) -> String {
    format!("actiond:{id}")
}

fn refuse_existing(params: &Params) -> Result<(), Failure> {
    match params.if_exists {
        IfExists::Ok => Ok(()),
        IfExists::Fail => {
            let told = format!("the database {} exists already", params.database);
            Err(Failure::permanent("exists", told).with("hint", "if_exists = \"ok\" takes it as it is"))
        }
    }
}
