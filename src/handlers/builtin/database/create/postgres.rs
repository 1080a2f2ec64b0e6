//! `database_create` on PostgreSQL: the database, then its mark, and then it is closed to everybody but its owner.

use super::super::names::{self, Of};
use super::super::postgres::{self, Postgresql, Session, literal};
use super::{Database, Engine, Params, Server, Standing, mark, quoted};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;

/// Judges what is PostgreSQL's own in the parameters.
pub(super) fn check(params: &Params, target: &Target) -> Result<(), String> {
    let settings: Postgresql = target.settings()?;
    if let Some(owner) = &params.owner {
        names::check(owner, Of::User, Engine::Postgresql, settings.any_names)
            .map_err(|problem| format!("owner {problem}"))?;
    }
    match params.extensions.iter().find(|extension| !settings.extensions.contains(extension)) {
        None => Ok(()),
        Some(extension) => {
            Err(format!("extensions: {extension:?} is none that the target {} allows", target.name))
        }
    }
}

impl Server for Session {
    const ENGINE: Engine = Engine::Postgresql;

    async fn open(run: &Run, target: &Target) -> Result<Self, Failure> {
        Self::open(run, target, None).await
    }

    async fn alone(&self, run: &Run) -> Result<(), Failure> {
        self.alone(run).await
    }

    async fn execute(&self, what: &str, statement: &str) -> Result<(), Failure> {
        self.execute(what, statement).await
    }

    fn statement(params: &Params, _id: u64) -> String {
        let name = quoted(&params.database, Self::ENGINE);
        let encoding = literal(&params.encoding);
        let mut statement = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding}");
        if let Some(owner) = &params.owner {
            statement = format!("{statement} OWNER {}", quoted(owner, Self::ENGINE));
        }
        if let Some(collation) = &params.collation {
            let collation = literal(collation);
            statement = format!("{statement} LC_COLLATE {collation} LC_CTYPE {collation}");
        }
        statement
    }

    /// One that was not there is this action's, although its mark comes later.
    async fn standing(&self, name: &str, _id: u64) -> Result<Standing, Failure> {
        let row = self
            .client
            .query_one("select exists (select from pg_database where datname = $1)", &[&name])
            .await;
        let row = row.map_err(|error| postgres::failure("cannot look for the database", &error))?;
        Ok(if row.get(0) { Standing::Own } else { Standing::Absent })
    }

    async fn finish(&self, params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
        let name = quoted(&params.database, Self::ENGINE);
        let mark = literal(&mark(run.id));
        run.repeatable("mark", async || {
            self.execute("cannot mark it", &format!("COMMENT ON DATABASE {name} IS {mark}")).await?;
            let close = format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC");
            self.execute("cannot close it to everybody else", &close).await
        })
        .await?;
        if params.extensions.is_empty() {
            return Ok(());
        }
        run.repeatable("extensions", async || {
            let inside = Self::open(run, target, Some(&params.database)).await?;
            for extension in &params.extensions {
                let make = format!("CREATE EXTENSION IF NOT EXISTS {}", quoted(extension, Self::ENGINE));
                inside.execute(&format!("cannot make the extension {extension}"), &make).await?;
            }
            Ok(())
        })
        .await
    }

    async fn has_tables(&self, run: &Run, target: &Target, name: &str) -> Result<bool, Failure> {
        const TABLES: &str =
            "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p', 'm', 'f') and n.nspname not like 'pg\\_%'
            and n.nspname <> 'information_schema')";
        let inside = Self::open(run, target, Some(name)).await?;
        let row = inside.client.query_one(TABLES, &[]).await;
        row.map(|row| row.get(0)).map_err(|error| postgres::failure("cannot look for its tables", &error))
    }

    async fn drop(&self, name: &str) -> Result<(), Failure> {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name, Self::ENGINE));
        self.execute(&format!("cannot drop the database {name}"), &drop).await
    }

    async fn look(&self, name: &str) -> Result<Database, Failure> {
        const LOOK: &str =
            "select pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, datcollate::text,
            pg_database_size(oid) from pg_database where datname = $1";
        let row = self.client.query_one(LOOK, &[&name]).await;
        let row = row.map_err(|error| postgres::failure("cannot look at the database", &error))?;
        Ok(Database {
            name: name.to_owned(),
            engine: Self::ENGINE,
            owner: Some(row.get(0)),
            encoding: row.get(1),
            collation: row.get(2),
            size_bytes: row.get(3),
        })
    }
}
