//! Roles of PostgreSQL: what is known of one, and how one goes with all that hangs on it.
//!
//! A role cannot be dropped while it owns something or has rights somewhere, and only a session within a database can
//! change that for the objects in it. So the last database and the role itself go in one transaction, and where there is
//! but one, all of it does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::names::quoted;
use super::postgres::{Session, failure};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;

/// Longest wait for sessions to come to their end.
const SESSIONS_PATIENCE: Duration = Duration::from_secs(10);

/// What stands at a role as its comment if an action made it.
pub(super) fn mark(id: u64) -> String {
    format!("actiond:{id}")
}

/// A role as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Role {
    pub(super) can_login: bool,
    /// It may do what no role of an application does: superuser, replication, other roles.
    pub(super) is_powerful: bool,
    /// The target's user is a member of it.
    pub(super) is_ours: bool,
    /// Its comment.
    pub(super) mark: Option<String>,
}

/// The role of that name, if there is one.
pub(super) async fn look(session: &Session, name: &str) -> Result<Option<Role>, Failure> {
    const LOOK: &str = "select rolcanlogin, rolsuper or rolreplication or rolcreaterole or rolbypassrls,
        pg_has_role(current_user, oid, 'MEMBER'), shobj_description(oid, 'pg_authid') from pg_roles where rolname = $1";
    let row = session.row("cannot look for the role", LOOK, &[&name]).await?;
    Ok(row.map(|row| Role {
        can_login: row.get(0),
        is_powerful: row.get(1),
        is_ours: row.get(2),
        mark: row.get(3),
    }))
}

/// Ends the sessions of a role, and returns how many there were once they are gone.
pub(super) async fn end_sessions(session: &Session, run: &Run, name: &str) -> Result<i64, Failure> {
    const END: &str =
        "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity where usename = $1";
    const LEFT: &str = "select count(*) from pg_stat_activity where usename = $1";
    let count = async |query| {
        let row = session.row("cannot end the role's sessions", query, &[&name]).await?;
        Ok::<i64, Failure>(row.map_or(0, |row| row.get(0)))
    };
    let ended = count(END).await?;
    let gone = run.wait_for(SESSIONS_PATIENCE, async || Ok((count(LEFT).await? == 0).then_some(()))).await?;
    gone.map(|()| ended)
        .ok_or_else(|| Failure::transient("in_use", format!("{name} has sessions that do not end")))
}

/// What hangs on a role in a database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Holding {
    pub(super) database: String,
    /// Whom the database belongs to.
    pub(super) owner: String,
    /// Objects in it that belong to the role.
    pub(super) objects: i64,
}

/// The databases in which a role owns something or has rights.
pub(super) async fn holdings(session: &Session, name: &str) -> Result<Vec<Holding>, Failure> {
    const HOLDINGS: &str = "select d.datname::text, pg_get_userbyid(d.datdba)::text,
        count(*) filter (where s.deptype = 'o') from pg_shdepend s join pg_database d on d.oid = s.dbid
        where s.refclassid = 'pg_authid'::regclass and s.refobjid = (select oid from pg_roles where rolname = $1)
        group by d.oid, d.datname, d.datdba order by d.datname";
    let rows = session.client.query(HOLDINGS, &[&name]).await;
    let rows = rows.map_err(|error| failure("cannot look for what hangs on the role", &error))?;
    let holding =
        |row: &tokio_postgres::Row| Holding { database: row.get(0), owner: row.get(1), objects: row.get(2) };
    Ok(rows.iter().map(holding).collect())
}

/// A role on its way out.
pub(super) struct Leaving<'a> {
    pub(super) run: &'a Run,
    pub(super) target: &'a Target,
    /// In the maintenance database.
    pub(super) session: &'a Session,
    pub(super) name: &'a str,
    /// Who gets what it owns; else the owner of each database.
    pub(super) heir: Option<&'a str>,
}

impl Leaving<'_> {
    /// Frees that database of it: what it owns goes to the heir, its rights end. With `rest` in the same transaction.
    async fn release(&self, holding: Option<&Holding>, rest: &str) -> Result<(), Failure> {
        let ident = |name: &str| quoted(name, Engine::Postgresql);
        let heir = match (self.heir, holding) {
            (Some(heir), _) => ident(heir),
            (None, Some(holding)) if holding.owner != self.name => ident(&holding.owner),
            _ => "CURRENT_USER".to_owned(),
        };
        let name = ident(self.name);
        // REASSIGN would give databases to the heir of whichever database it is said in.
        let databases = self.databases().await?;
        let to = self.heir.map_or("CURRENT_USER".to_owned(), ident);
        let databases =
            databases.iter().map(|database| format!("ALTER DATABASE {} OWNER TO {to}; ", ident(database)));
        let statement = format!(
            "{}REASSIGN OWNED BY {name} TO {heir}; DROP OWNED BY {name}{rest}",
            databases.collect::<String>()
        );
        let what =
            format!("cannot free {} of {}", holding.map_or("the server", |it| &it.database), self.name);
        match holding {
            None => self.session.execute(&what, &statement).await,
            Some(holding) => {
                let inside = Session::open(self.run, self.target, Some(&holding.database)).await?;
                inside.execute(&what, &statement).await
            }
        }
    }

    /// Databases that belong to it.
    async fn databases(&self) -> Result<Vec<String>, Failure> {
        const OWNED: &str = "select datname::text from pg_database where pg_get_userbyid(datdba) = $1::text";
        let rows = self.session.client.query(OWNED, &[&self.name]).await;
        let rows = rows.map_err(|error| failure("cannot look for its databases", &error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Frees all databases of it but one, which is left for [`Self::drop`].
    pub(super) async fn release_others(&self) -> Result<(), Failure> {
        let holdings = holdings(self.session, self.name).await?;
        for holding in holdings.iter().skip(1) {
            self.release(Some(holding), "").await?;
        }
        Ok(())
    }

    /// Drops it, and all that hangs on it.
    pub(super) async fn drop(&self) -> Result<(), Failure> {
        self.release_others().await?;
        let holdings = holdings(self.session, self.name).await?;
        let rest = format!("; DROP ROLE {}", quoted(self.name, Engine::Postgresql));
        self.release(holdings.first(), &rest).await
    }
}
