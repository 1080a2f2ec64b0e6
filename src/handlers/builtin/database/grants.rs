//! What a role may do in a database of PostgreSQL.

use super::names::quoted;
use super::postgres::{Session, failure};
use super::{Engine, Preset};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;

fn ident(name: &str) -> String {
    quoted(name, Engine::Postgresql)
}

/// The owner of a database in which the target's user can give rights.
///
/// # Errors
///
/// There is no such database; or it belongs to somebody else. Said before anything is done: the server would say it in the
/// middle, or not at all.
pub(super) async fn may_grant(session: &Session, database: &str) -> Result<String, Failure> {
    const MAY: &str = "select pg_get_userbyid(datdba)::text, pg_has_role(current_user, datdba, 'MEMBER')
        from pg_database where datname = $1";
    let Some(row) = session.row("cannot look at the database", MAY, &[&database]).await? else {
        return Err(Failure::permanent("not_found", format!("there is no database {database}")));
    };
    let (owner, may): (String, bool) = (row.get(0), row.get(1));
    if may {
        return Ok(owner);
    }
    let told = format!(
        "the database {database} belongs to {owner}, and the target's user is no member of that role"
    );
    Err(Failure::permanent("not_allowed", told))
}

/// Gives `role` the rights of a preset in a database, all of them or none. To give them once more changes nothing.
pub(super) async fn grant(
    run: &Run,
    target: &Target,
    database: &str,
    role: &str,
    preset: Preset,
) -> Result<(), Failure> {
    let inside = Session::open(run, target, Some(database)).await?;
    let owner = may_grant(&inside, database).await?;
    let what = format!("cannot give {role} its rights in {database}");
    let statement = match preset {
        Preset::Owner if owner == role => return Ok(()),
        Preset::Owner => owning(&inside, database, &owner, role).await?,
        Preset::ReadOnly => using(&inside, database, &owner, role, "SELECT", "SELECT").await?,
        Preset::ReadWrite => {
            using(&inside, database, &owner, role, "SELECT, INSERT, UPDATE, DELETE", "USAGE, SELECT").await?
        }
    };
    inside.execute(&what, &statement).await?;
    let hidden = unreadable(&inside, role).await?;
    if hidden > 0 && preset != Preset::Owner {
        run.warn(format!(
            "{role} cannot read {hidden} tables of {database}: they belong to others than its owner"
        ));
    }
    Ok(())
}

/// A database that belongs to the target's user becomes the role's; of another the role becomes a second owner.
async fn owning(inside: &Session, database: &str, owner: &str, role: &str) -> Result<String, Failure> {
    const OWNER: &str =
        "select rolname = current_user, rolsuper or rolreplication or rolcreaterole or rolcreatedb
        or rolbypassrls from pg_roles where rolname = $1";
    let row = inside.row("cannot look at the owner of the database", OWNER, &[&owner]).await?;
    let (is_own, is_powerful) = row.map_or((false, true), |row| (row.get(0), row.get(1)));
    if is_own {
        return Ok(format!("ALTER DATABASE {} OWNER TO {}", ident(database), ident(role)));
    }
    if is_powerful {
        let told = format!("{database} belongs to {owner}, which may do more than own a database");
        return Err(Failure::permanent("not_allowed", told));
    }
    Ok(format!("GRANT {} TO {}", ident(owner), ident(role)))
}

/// Rights in every schema of the database, also on what its owner makes there later.
async fn using(
    inside: &Session,
    database: &str,
    owner: &str,
    role: &str,
    tables: &str,
    sequences: &str,
) -> Result<String, Failure> {
    const SCHEMAS: &str = "select nspname::text from pg_namespace where nspname not like 'pg\\_%'
        and nspname <> 'information_schema' and pg_has_role(current_user, nspowner, 'MEMBER') order by nspname";
    let rows = inside.client.query(SCHEMAS, &[]).await;
    let rows = rows.map_err(|error| failure("cannot look for schemas", &error))?;
    let (owner, role) = (ident(owner), ident(role));
    let mut statement = format!("GRANT CONNECT ON DATABASE {} TO {role}", ident(database));
    for row in &rows {
        let schema = ident(row.get(0));
        let later = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema}");
        statement = format!(
            "{statement}; GRANT USAGE ON SCHEMA {schema} TO {role}; \
             GRANT {tables} ON ALL TABLES IN SCHEMA {schema} TO {role}; \
             GRANT {sequences} ON ALL SEQUENCES IN SCHEMA {schema} TO {role}; \
             {later} GRANT {tables} ON TABLES TO {role}; {later} GRANT {sequences} ON SEQUENCES TO {role}"
        );
    }
    Ok(statement)
}

/// How many tables that role cannot read.
async fn unreadable(inside: &Session, role: &str) -> Result<i64, Failure> {
    const UNREADABLE: &str = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not like 'pg\\_%'
        and n.nspname <> 'information_schema' and not has_table_privilege($1::text::name, c.oid, 'SELECT')";
    let row = inside.row("cannot look at its rights", UNREADABLE, &[&role]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}
