//! `database_create` on MariaDB: one statement makes the database with its mark. Nobody but who has rights on all databases
//! may enter it.
//!
//! CREATE DATABASE makes a directory and then a file with character set and mark in it; a server that is killed between the
//! two has a database without a mark. It cannot be told from one that somebody else has made meanwhile: a person decides.

use super::super::mariadb::{Session, literal};
use super::{Database, Engine, Params, Server, Standing, mark, quoted};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;

/// Names are compared by their bytes, not as the collation of the catalogue has it.
const STANDING: &str =
    "SELECT schema_comment = ? FROM information_schema.schemata WHERE BINARY schema_name = ?";
const HAS_TABLES: &str =
    "SELECT EXISTS (SELECT 1 FROM information_schema.tables WHERE BINARY table_schema = ?)";
const LOOK: &str = "SELECT default_character_set_name, default_collation_name, (
    SELECT CAST(COALESCE(SUM(data_length + index_length), 0) AS SIGNED) FROM information_schema.tables
    WHERE BINARY table_schema = schema_name) FROM information_schema.schemata WHERE BINARY schema_name = ?";

/// Judges what is MariaDB's own in the parameters.
pub(super) fn check(params: &Params) -> Result<(), String> {
    if params.owner.is_some() {
        return Err("owner: a database of MariaDB has none".to_owned());
    }
    if !params.extensions.is_empty() {
        return Err("extensions: a database of MariaDB has none".to_owned());
    }
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_word(&params.encoding) {
        return Err("encoding is no name of a character set".to_owned());
    }
    if params.collation.as_deref().is_some_and(|collation| !is_word(collation)) {
        return Err("collation is no name of a collation".to_owned());
    }
    Ok(())
}

impl Server for Session {
    const ENGINE: Engine = Engine::Mariadb;

    async fn open(run: &Run, target: &Target) -> Result<Self, Failure> {
        Self::open(run, target).await
    }

    async fn alone(&self, _run: &Run) -> Result<(), Failure> {
        // Or it would not be open.
        Ok(())
    }

    async fn execute(&self, what: &str, statement: &str) -> Result<(), Failure> {
        self.execute(what, statement).await
    }

    fn statement(params: &Params, id: u64) -> String {
        let name = quoted(&params.database, Self::ENGINE);
        // What MariaDB calls utf8 is not all of it.
        let is_utf8 = ["utf8", "utf-8"].contains(&params.encoding.to_lowercase().as_str());
        let encoding = literal(if is_utf8 { "utf8mb4" } else { &params.encoding });
        let collation =
            params.collation.as_deref().map(|collation| format!(" COLLATE {}", literal(collation)));
        let collation = collation.unwrap_or_default();
        format!("CREATE DATABASE {name} CHARACTER SET {encoding}{collation} COMMENT {}", literal(&mark(id)))
    }

    async fn standing(&self, name: &str, id: u64) -> Result<Standing, Failure> {
        let what = "cannot look for the database";
        let folds: Option<(bool,)> = self.first(what, "SELECT @@lower_case_table_names <> 0", ()).await?;
        if folds != Some((false,)) && name != name.to_lowercase() {
            let told =
                format!("the server takes {name} for {} (lower_case_table_names)", name.to_lowercase());
            return Err(Failure::permanent("name", told));
        }
        let is_marked: Option<(bool,)> = self.first(what, STANDING, (mark(id), name)).await?;
        Ok(match is_marked {
            None => Standing::Absent,
            Some((true,)) => Standing::Own,
            Some((false,)) => Standing::Foreign,
        })
    }

    async fn finish(&self, _params: &Params, _run: &Run, _target: &Target) -> Result<(), Failure> {
        Ok(())
    }

    async fn has_tables(&self, _run: &Run, _target: &Target, name: &str) -> Result<bool, Failure> {
        let has: Option<(bool,)> = self.first("cannot look for its tables", HAS_TABLES, (name,)).await?;
        Ok(has != Some((false,)))
    }

    async fn drop(&self, name: &str) -> Result<(), Failure> {
        let drop = format!("DROP DATABASE IF EXISTS {}", quoted(name, Self::ENGINE));
        self.execute(&format!("cannot drop the database {name}"), &drop).await
    }

    async fn look(&self, name: &str) -> Result<Database, Failure> {
        let what = "cannot look at the database";
        let row: Option<(String, String, i64)> = self.first(what, LOOK, (name,)).await?;
        let Some((encoding, collation, size_bytes)) = row else {
            return Err(Failure::permanent("not_found", format!("{what}: {name} is gone")));
        };
        Ok(Database {
            name: name.to_owned(),
            engine: Self::ENGINE,
            owner: None,
            encoding,
            collation,
            size_bytes,
        })
    }
}
