//! `database_create`.
//!
//! A database carries the mark of the action that made it (`actiond:ID`, as its comment): only such a one is ever taken
//! back, and only while nobody has made a table in it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::names::{self, Of, quoted};
use super::postgres::{self, Postgresql, Session, literal};
use super::{Engine, IfExists, chosen, target_of};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::{Found, Run};

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
    /// PostgreSQL: the encoding.
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
                   by this action.",
        undo: "Drops the database if this action made it and it has no table yet.",
        rights: "PostgreSQL: CREATEDB, and membership in the owner's role. MariaDB: CREATE and DROP on *.*.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let target = target_of(around, params.engine, params.server.as_deref())?;
        let engine = Engine::of(target)?;
        if engine == Engine::Mariadb {
            return Err("engine: MariaDB cannot be done yet".to_owned());
        }
        let settings: Postgresql = target.settings()?;
        names::check(&params.database, Of::Database, engine, settings.any_names)
            .map_err(|problem| format!("database {problem}"))?;
        if let Some(owner) = &params.owner {
            names::check(owner, Of::User, engine, settings.any_names)
                .map_err(|problem| format!("owner {problem}"))?;
        }
        if let Some(extension) =
            params.extensions.iter().find(|extension| !settings.extensions.contains(extension))
        {
            return Err(format!("extensions: {extension:?} is none that the target {} allows", target.name));
        }
        Ok(vec![format!("database:{}:{}", target.name, params.database)])
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        let session = Session::open(run, target, None).await?;
        if exists(&session, &params.database).await? {
            refuse_existing(params)?;
            return Ok(Vec::new());
        }
        let statement = statement(params, engine);
        Ok(vec![json!({ "step": CREATE, "target": target.name, "statement": statement })])
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        let session = Session::open(run, target, None).await?;
        let name = params.database.as_str();
        let before = async || {
            let existed = exists(&session, name).await?;
            if existed {
                refuse_existing(params)?;
            }
            Ok(Before { existed })
        };
        let create = async |before: &Before| {
            if before.existed {
                return Ok(false);
            }
            session
                .execute(&format!("cannot create the database {name}"), &statement(params, engine))
                .await?;
            Ok(true)
        };
        let found = async |before: &Before| {
            session.alone(run).await?;
            let is_there = exists(&session, name).await?;
            Ok(if is_there { Found::Done(!before.existed) } else { Found::NotDone })
        };
        let created = run.step(CREATE, before, create, found).await?;
        if created {
            let quoted = quoted(name, engine);
            let mark = literal(&mark(run.id));
            run.repeatable("mark", async || {
                session.execute("cannot mark it", &format!("COMMENT ON DATABASE {quoted} IS {mark}")).await?;
                let close = format!("REVOKE CONNECT ON DATABASE {quoted} FROM PUBLIC");
                session.execute("cannot close it to everybody else", &close).await
            })
            .await?;
            if !params.extensions.is_empty() {
                run.repeatable("extensions", async || {
                    let inside = Session::open(run, target, Some(name)).await?;
                    for extension in &params.extensions {
                        let make =
                            format!("CREATE EXTENSION IF NOT EXISTS {}", names::quoted(extension, engine));
                        inside.execute(&format!("cannot make the extension {extension}"), &make).await?;
                    }
                    Ok(())
                })
                .await?;
            }
        }
        let database = look(&session, name, engine).await?;
        let message = if created {
            format!("created the database {name} on {}", target.name)
        } else {
            format!("the database {name} is on {} already", target.name)
        };
        Ok(Done::new(message, created, &database))
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let Some(trace) = run.trace::<Before, bool>(CREATE)? else { return Ok(()) };
        if trace.intent.existed {
            return Ok(());
        }
        let (target, engine) = chosen(run, params.engine, params.server.as_deref())?;
        let session = Session::open(run, target, None).await?;
        session.alone(run).await?;
        let name = params.database.as_str();
        if !exists(&session, name).await? {
            return Ok(());
        }
        let inside = Session::open(run, target, Some(name)).await?;
        if has_tables(&inside).await? {
            return Err(Failure::permanent(
                "in_use",
                format!("the database {name} has tables already: it is left"),
            ));
        }
        drop(inside);
        run.repeatable("undo.create", async || {
            let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name, engine));
            session.execute(&format!("cannot drop the database {name}"), &drop).await
        })
        .await
    }
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

fn statement(params: &Params, engine: Engine) -> String {
    let mut statement = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {}",
        quoted(&params.database, engine),
        literal(&params.encoding)
    );
    if let Some(owner) = &params.owner {
        statement = format!("{statement} OWNER {}", quoted(owner, engine));
    }
    if let Some(collation) = &params.collation {
        let collation = literal(collation);
        statement = format!("{statement} LC_COLLATE {collation} LC_CTYPE {collation}");
    }
    statement
}

async fn exists(session: &Session, name: &str) -> Result<bool, Failure> {
    let row = session
        .client
        .query_one("select exists (select from pg_database where datname = $1)", &[&name])
        .await;
    row.map(|row| row.get(0)).map_err(|error| postgres::failure("cannot look for the database", &error))
}

/// Whether anybody has made a table in the database of this session.
async fn has_tables(inside: &Session) -> Result<bool, Failure> {
    const TABLES: &str = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'm', 'f') and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema')";
    let row = inside.client.query_one(TABLES, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| postgres::failure("cannot look for its tables", &error))
}

async fn look(session: &Session, name: &str, engine: Engine) -> Result<Database, Failure> {
    const LOOK: &str =
        "select pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, datcollate::text,
        pg_database_size(oid) from pg_database where datname = $1";
    let row = session.client.query_one(LOOK, &[&name]).await;
    let row = row.map_err(|error| postgres::failure("cannot look at the database", &error))?;
    Ok(Database {
        name: name.to_owned(),
        engine,
        owner: Some(row.get(0)),
        encoding: row.get(1),
        collation: row.get(2),
        size_bytes: row.get(3),
    })
}
