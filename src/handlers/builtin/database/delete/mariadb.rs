//! `database_delete` on MariaDB.
//!
//! ```text
//!  aside    how to make triggers, views, routines and events of x ──▶ two files in DIR
//!           the triggers of x are dropped, and its tables become those of actiond_delete_ID
//!  backup   mariadb-dump actiond_delete_ID and the two files ──▶ DIR/x-ID.dump.part, synced ──▶ DIR/x-ID.dump
//!  drop     DROP DATABASE actiond_delete_ID, then of x
//! ```
//!
//! MariaDB can neither close nor rename a database. To rename a table into another one waits for those who write to it, and
//! whoever comes later finds no such table. It takes no trigger along, so triggers are made again from their file if it is
//! taken back.
//!
//! What makes a new table in x meanwhile keeps x from being dropped; between the last look and the drop is no time, but no lock
//! either. DROP DATABASE drops one table after the other: after a crash of the server in its middle there is no way back,
//! and undo goes forward.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::Command;

use super::super::Engine;
use super::super::dump::{Dump, DumpFile, Piece};
use super::super::mariadb::{Mariadb, Session};
use super::super::names::quoted;
use super::{Deleted, Params};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child::Child;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const ASIDE: &str = "aside";
const BACKUP: &str = "backup";
const DROP: &str = "drop";
const UNDO_ASIDE: &str = "undo.aside";
const UNDO_DROP: &str = "undo.drop";

/// Longest wait for sessions to come to their end.
const SESSIONS_PATIENCE: Duration = Duration::from_secs(5);
/// Who waits for a table keeps others waiting, too.
const LOCK_PATIENCE: &str = "SET SESSION lock_wait_timeout = 5";
/// Made to see whether triggers can be.
const TRY: &str = "actiond_try";

/// A database as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Database {
    tables: usize,
    triggers: usize,
    sessions: usize,
}

/// What came of it that it was set aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Aside {
    terminated_sessions: i64,
    tables: usize,
}

fn ident(name: &str) -> String {
    quoted(name, Engine::Mariadb)
}

pub(super) fn check(params: &Params, target: &Target) -> Result<(), String> {
    let settings: Mariadb = target.settings()?;
    if params.backup.required && settings.backup_dir.is_none() {
        return Err(format!("backup: the target {} has no backup_dir", target.name));
    }
    Ok(())
}

pub(super) async fn plan(params: &Params, run: &Run, target: &Target) -> Result<Vec<Value>, Failure> {
    let delete = Delete::open(params, run, target).await?;
    let Some(database) = delete.look().await? else {
        params.missing(Engine::Mariadb, &target.name)?;
        return Ok(Vec::new());
    };
    delete.refuse_referred(delete.name).await?;
    let mut plan = Vec::new();
    if params.backup.required {
        plan.push(json!({ "step": ASIDE, "target": target.name, "tables": database.tables, "sessions": database.sessions }));
        plan.push(json!({ "step": BACKUP, "backup_path": delete.file("")?.path }));
    }
    let drop = format!("DROP DATABASE {}", ident(delete.name));
    plan.push(json!({ "step": DROP, "target": target.name, "statement": drop }));
    Ok(plan)
}

pub(super) async fn execute(params: &Params, run: &Run, target: &Target) -> Result<Done, Failure> {
    let delete = Delete::open(params, run, target).await?;
    let name = delete.name;
    let first = if params.backup.required { ASIDE } else { DROP };
    if !run.is_begun(first) {
        if delete.look().await?.is_none() {
            return params.missing(Engine::Mariadb, &target.name);
        }
        delete.refuse_referred(name).await?;
    }
    let look = async || {
        let gone = || Failure::permanent("not_found", format!("the database {name} is gone"));
        delete.look().await?.ok_or_else(gone)
    };
    let (mut terminated_sessions, mut dump) = (0, None);
    if params.backup.required {
        let act = async |before: &Database| delete.set_aside(before).await;
        let again = async |_: &Database| Ok(Found::NotDone);
        terminated_sessions = run.step(ASIDE, look, act, again).await?.terminated_sessions;
        run.progress(10, "dumping the database");
        let found =
            async |(): &()| Ok(delete.file("")?.finished().await?.map_or(Found::NotDone, Found::Done));
        dump = Some(run.step(BACKUP, async || Ok(()), async |(): &()| delete.dump().await, found).await?);
        run.step(
            DROP,
            async || Ok(()),
            async |(): &()| delete.drop().await,
            async |(): &()| delete.dropped().await,
        )
        .await?;
    } else {
        let act = async |_: &Database| delete.drop_at_once().await;
        let found =
            async |_: &Database| Ok(if delete.exists(name).await? { Found::NotDone } else { Found::Done(0) });
        terminated_sessions += run.step(DROP, look, act, found).await?;
    }
    let message = match &dump {
        Some(dump) => {
            format!("deleted the database {name} on {}; its data are in {}", target.name, dump.path)
        }
        None => format!("deleted the database {name} on {}, without a dump", target.name),
    };
    let engine = Engine::Mariadb;
    let deleted = Deleted { database: name, engine, dropped: true, terminated_sessions, dump };
    Ok(Done::new(message, true, &deleted))
}

pub(super) async fn undo(params: &Params, run: &Run, target: &Target) -> Result<(), Failure> {
    if !run.is_begun(ASIDE) && !run.is_begun(DROP) {
        return Ok(());
    }
    let delete = Delete::open(params, run, target).await?;
    let name = delete.name;
    let Some(aside) = run.trace::<Database, Aside>(ASIDE)? else {
        let before = run.trace::<Database, i64>(DROP)?.map_or(0, |drop| drop.intent.tables);
        let now = delete.look().await?.map(|now| now.tables);
        if now.is_none_or(|now| now < before) {
            let left = if now.is_some() { ", in part," } else { "" };
            run.warn(format!("the database {name} was dropped already{left}, which cannot be taken back: there is no dump of it"));
        }
        return Ok(());
    };
    let moved = aside.result.map_or(0, |aside| aside.tables);
    let left = delete.tables(&delete.aside).await?.len();
    // Judged once: tables that an undo before this one has put back are no more where they were looked for, either.
    let is_dropped = run.is_begun(UNDO_DROP)
        || !run.is_begun(UNDO_ASIDE) && run.is_begun(DROP) && (left < moved || !delete.exists(name).await?);
    if is_dropped {
        run.repeatable(UNDO_DROP, async || delete.drop().await).await?;
        let dump = run.trace::<(), Dump>(BACKUP)?.and_then(|trace| trace.result);
        let path = dump.map_or_else(String::new, |dump| dump.path);
        run.warn(format!(
            "the database {name} was dropped already, which cannot be taken back: its data are in {path}"
        ));
        return Ok(());
    }
    run.repeatable(UNDO_ASIDE, async || delete.put_back(&aside.intent).await).await?;
    run.repeatable("undo.backup", async || {
        delete.file("")?.remove()?;
        delete.tidy()
    })
    .await
}

/// One action with its session.
struct Delete<'a> {
    params: &'a Params,
    run: &'a Run,
    session: Session,
    settings: Mariadb,
    name: &'a str,
    /// Where its tables are once they are out of reach: a database of this action alone.
    aside: String,
}

impl<'a> Delete<'a> {
    async fn open(params: &'a Params, run: &'a Run, target: &Target) -> Result<Self, Failure> {
        let settings = target.settings().map_err(|why| Failure::permanent("target", why))?;
        let session = Session::open(run, target).await?;
        session.execute("cannot limit waits for tables", LOCK_PATIENCE).await?;
        let aside = format!("actiond_delete_{}", run.id);
        Ok(Self { params, run, session, settings, name: params.database.as_str(), aside })
    }

    async fn exists(&self, name: &str) -> Result<bool, Failure> {
        const EXISTS: &str = "SELECT 1 FROM information_schema.schemata WHERE BINARY schema_name = ?";
        let row: Option<(i64,)> = self.session.first("cannot look for the database", EXISTS, (name,)).await?;
        Ok(row.is_some())
    }

    /// Sequences are tables, too.
    async fn tables(&self, database: &str) -> Result<Vec<String>, Failure> {
        const TABLES: &str = "SELECT table_name FROM information_schema.tables
            WHERE BINARY table_schema = ? AND table_type NOT LIKE '%VIEW' ORDER BY table_name";
        self.session.all("cannot look for its tables", TABLES, (database,)).await
    }

    async fn look(&self) -> Result<Option<Database>, Failure> {
        if !self.exists(self.name).await? {
            return Ok(None);
        }
        Ok(Some(Database {
            tables: self.tables(self.name).await?.len(),
            triggers: self.triggers().await?.len(),
            sessions: self.sessions().await?.len(),
        }))
    }

    /// Those that have the database as their own.
    async fn sessions(&self) -> Result<Vec<u64>, Failure> {
        const SESSIONS: &str = "SELECT id FROM information_schema.processlist
            WHERE BINARY db = ? AND id <> CONNECTION_ID()";
        self.session.all("cannot look for its sessions", SESSIONS, (self.name,)).await
    }

    /// Said before anything is touched: the server would say it in the middle.
    async fn refuse_referred(&self, database: &str) -> Result<(), Failure> {
        const REFERRED: &str =
            "SELECT constraint_schema, table_name FROM information_schema.referential_constraints
            WHERE BINARY unique_constraint_schema = ? AND NOT BINARY constraint_schema <=> ? LIMIT 1";
        let what = "cannot look for foreign keys";
        let row: Option<(String, String)> = self.session.first(what, REFERRED, (database, database)).await?;
        match row {
            None => Ok(()),
            Some((other, table)) => {
                let told = format!("the table {table} of the database {other} refers to {}", self.name);
                Err(Failure::permanent("in_use", told))
            }
        }
    }

    /// Returns when there are no sessions in it: how many were ended for that.
    async fn emptied(&self) -> Result<i64, Failure> {
        let mut ended = 0;
        let is_empty = self
            .run
            .wait_for(SESSIONS_PATIENCE, async || {
                let sessions = self.sessions().await?;
                if self.params.force {
                    for session in &sessions {
                        let kill = format!("KILL HARD CONNECTION {session}");
                        match self.session.execute("cannot end its sessions", &kill).await {
                            Ok(()) => ended += 1,
                            // It has ended by itself.
                            Err(failure) if failure.code() == "no_session" => {}
                            Err(failure) => return Err(failure),
                        }
                    }
                }
                Ok(sessions.is_empty().then_some(()))
            })
            .await?;
        if is_empty.is_none() {
            let told = format!("there are sessions in the database {}", self.name);
            return Err(Failure::permanent("in_use", told).with("hint", "force = true ends them"));
        }
        Ok(ended)
    }

    /// Takes its tables out of everybody's reach.
    async fn set_aside(&self, before: &Database) -> Result<Aside, Failure> {
        let terminated_sessions = self.emptied().await?;
        let make = format!("CREATE DATABASE IF NOT EXISTS {}", ident(&self.aside));
        self.session.execute("cannot set it aside", &make).await?;
        if before.triggers > 0 {
            self.try_triggers().await?;
        }
        self.keep_definitions().await?;
        let what = format!("cannot move the tables of {}", self.name);
        for trigger in self.triggers().await? {
            let drop = format!("DROP TRIGGER IF EXISTS {}.{}", ident(self.name), ident(&trigger));
            self.session.execute(&what, &drop).await?;
        }
        self.rename(&what, self.name, &self.aside).await?;
        Ok(Aside { terminated_sessions, tables: self.tables(&self.aside).await?.len() })
    }

    async fn triggers(&self) -> Result<Vec<String>, Failure> {
        const TRIGGERS: &str =
            "SELECT trigger_name FROM information_schema.triggers WHERE BINARY trigger_schema = ?";
        self.session.all("cannot look for its triggers", TRIGGERS, (self.name,)).await
    }

    /// All tables of one database to the other, by one statement.
    async fn rename(&self, what: &str, from: &str, to: &str) -> Result<(), Failure> {
        let (from_ident, to_ident) = (ident(from), ident(to));
        let of_table = |table: &String| {
            let table = ident(table);
            format!("{from_ident}.{table} TO {to_ident}.{table}")
        };
        let tables: Vec<String> = self.tables(from).await?.iter().map(of_table).collect();
        if tables.is_empty() {
            return Ok(());
        }
        self.session.execute(what, &format!("RENAME TABLE {}", tables.join(", "))).await
    }

    /// Nothing may be dropped that could not be made again.
    async fn try_triggers(&self) -> Result<(), Failure> {
        let table = format!("{}.{TRY}", ident(&self.aside));
        let what = "its triggers could not be made again";
        for statement in [
            format!("CREATE TABLE IF NOT EXISTS {table} (id INT)"),
            format!(
                "CREATE OR REPLACE DEFINER = actiond_nobody@localhost TRIGGER {table} BEFORE INSERT ON {table}
                 FOR EACH ROW SET NEW.id = NEW.id"
            ),
            format!("DROP TABLE {table}"),
        ] {
            self.session.execute(what, &statement).await?;
        }
        Ok(())
    }

    /// Writes down what does not move with the tables. Once a table has moved, views could not be read any more, but then
    /// the files have their names.
    async fn keep_definitions(&self) -> Result<(), Failure> {
        const VIEWS: &str = "SELECT table_name FROM information_schema.views WHERE BINARY table_schema = ?";
        let triggers = self.file("_triggers")?;
        if triggers.finished().await?.is_none() {
            let options =
                ["--no-data", "--no-create-info", "--skip-routines", "--triggers", "--add-drop-trigger"];
            triggers.fill(vec![self.dump_of(&options, self.name, &[])]).await?;
        }
        let views = self.file("_views")?;
        if views.finished().await?.is_none() {
            let options = ["--no-data", "--no-create-info", "--skip-triggers", "--routines", "--events"];
            let mut pieces = vec![self.dump_of(&options, self.name, &[])];
            let names: Vec<String> =
                self.session.all("cannot look for its views", VIEWS, (self.name,)).await?;
            if !names.is_empty() {
                pieces.push(self.dump_of(&["--no-data", "--skip-triggers"], self.name, &names));
            }
            views.fill(pieces).await?;
        }
        Ok(())
    }

    fn dump_of(&self, options: &[&str], database: &str, tables: &[String]) -> Piece {
        let mut command: Command = self.settings.program(&self.settings.dump);
        command.args(["--default-character-set=utf8mb4", "--single-transaction", "--no-tablespaces"]);
        // Under the locks that a dump takes when it is read, no default could read a sequence.
        command.args(["--hex-blob", "--skip-add-locks"]).args(options).arg("--").arg(database).args(tables);
        Piece::Program(command)
    }

    async fn dump(&self) -> Result<Dump, Failure> {
        let (triggers, views) = (self.file("_triggers")?, self.file("_views")?);
        // Triggers last: they are not to see the rows come in.
        let tables = self.dump_of(&["--skip-triggers"], &self.aside, &[]);
        self.file("")?.fill(vec![tables, Piece::File(views.path), Piece::File(triggers.path)]).await
    }

    async fn drop(&self) -> Result<(), Failure> {
        let has_tables = !self.tables(self.name).await?.is_empty();
        if self.exists(&self.aside).await? {
            if has_tables {
                let told = format!("tables were made in {} after it was set aside", self.name);
                return Err(Failure::permanent("in_use", told));
            }
            self.refuse_referred(&self.aside).await?;
            self.drop_database(&self.aside).await?;
        }
        if has_tables {
            self.run.warn(format!("the database {} was made again by somebody else: it is left", self.name));
        } else {
            self.drop_database(self.name).await?;
        }
        self.tidy()
    }

    async fn dropped(&self) -> Result<Found<()>, Failure> {
        if self.exists(&self.aside).await? || self.exists(self.name).await? {
            return Ok(Found::NotDone);
        }
        self.tidy()?;
        Ok(Found::Done(()))
    }

    /// Removes the files that only the way back needs.
    fn tidy(&self) -> Result<(), Failure> {
        self.file("_triggers")?.remove()?;
        self.file("_views")?.remove()
    }

    async fn drop_at_once(&self) -> Result<i64, Failure> {
        let terminated = self.emptied().await?;
        self.drop_database(self.name).await?;
        Ok(terminated)
    }

    async fn drop_database(&self, name: &str) -> Result<(), Failure> {
        let drop = format!("DROP DATABASE IF EXISTS {}", ident(name));
        self.session.execute(&format!("cannot drop the database {}", self.name), &drop).await
    }

    /// Undoes [`Self::set_aside`], however far it came.
    async fn put_back(&self, before: &Database) -> Result<(), Failure> {
        if !self.exists(&self.aside).await? {
            return Ok(());
        }
        let what = format!("cannot give the database {} its tables back", self.name);
        let drop = format!("DROP TABLE IF EXISTS {}.{TRY}", ident(&self.aside));
        self.session.execute(&what, &drop).await?;
        self.rename(&what, &self.aside, self.name).await?;
        let triggers = self.file("_triggers")?;
        if before.triggers > 0 && triggers.finished().await?.is_some() {
            self.load(&triggers.path).await?;
        }
        if self.triggers().await?.len() < before.triggers {
            let told =
                format!("{} has not all of its triggers; they are in {}", self.name, triggers.path.display());
            return Err(Failure::permanent("triggers", told));
        }
        self.drop_database(&self.aside).await
    }

    /// Has the server carry out what is in a file, in the database.
    async fn load(&self, path: &Path) -> Result<(), Failure> {
        let what = format!("cannot make the triggers of {} again", self.name);
        let file = File::open(path).map_err(|error| {
            Failure::permanent("triggers", format!("{what}: {}: {error}", path.display()))
        })?;
        let mut command = self.settings.program(&self.settings.client);
        command.arg("--default-character-set=utf8mb4").arg("--").arg(self.name).stdin(file);
        let ended = Child::start(&what, &mut command)?.end().await?;
        if ended.is_success() {
            return Ok(());
        }
        Err(Failure::transient("triggers", format!("{what}: {}", ended.told())))
    }

    /// The dump, or a file of what does not move.
    fn file(&self, kind: &str) -> Result<DumpFile, Failure> {
        let none = || Failure::permanent("target", "it has no backup_dir any more");
        let dir = self.settings.backup_dir.as_ref().ok_or_else(none)?;
        Ok(DumpFile::new(dir, &format!("{}{kind}", self.name), self.run.id))
    }
}
