//! Accounts of MariaDB: a user and the host that he logs in from.
//!
//! An account has no comment that could be a mark. The verifier of a password that an action made up is one: whose account
//! has it was made by that action.

use serde::{Deserialize, Serialize};

use super::mariadb::{Session, literal};
use super::names::quoted;
use super::{Engine, Preset};
use crate::handlers::builtin::Failure;

/// What a preset allows. An owner may do all that ends at the database.
const READ: &str = "SELECT, SHOW VIEW";
const WRITE: &str = "SELECT, SHOW VIEW, INSERT, UPDATE, DELETE";
const OWN: &str = "SELECT, SHOW VIEW, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, \
    CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, CREATE VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER";

/// Longest name of a database as it stands in a grant, in characters.
const PATTERN_MAX: usize = 64;

/// Which account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'a> {
    pub(super) name: &'a str,
    pub(super) host: &'a str,
}

/// An account as it is.
pub(super) struct State {
    /// What the server keeps of its password. Not to be written down.
    pub(super) verifier: String,
    pub(super) rights: Rights,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rights {
    pub(super) is_locked: bool,
    /// It may do something in all databases.
    pub(super) is_powerful: bool,
}

impl Account<'_> {
    /// As it stands in a statement.
    pub(super) fn quoted(self) -> String {
        format!("{}@{}", literal(self.name), literal(self.host))
    }

    /// The account, if there is one.
    pub(super) async fn look(self, session: &Session) -> Result<Option<State>, Failure> {
        const LOOK: &str = "SELECT COALESCE(JSON_VALUE(Priv, '$.authentication_string'), ''),
            COALESCE(JSON_VALUE(Priv, '$.account_locked'), 0) = 1, COALESCE(JSON_VALUE(Priv, '$.access'), 0) <> 0
            FROM mysql.global_priv WHERE BINARY User = ? AND BINARY Host = ?";
        let what = "cannot look for the user";
        let row: Option<(String, bool, bool)> = session.first(what, LOOK, (self.name, self.host)).await?;
        Ok(row.map(|(verifier, is_locked, is_powerful)| State {
            verifier,
            rights: Rights { is_locked, is_powerful },
        }))
    }

    /// Gives it the rights of a preset in a database. To give them once more changes nothing.
    pub(super) async fn grant(
        self,
        session: &Session,
        database: &str,
        preset: Preset,
    ) -> Result<(), Failure> {
        let rights = match preset {
            Preset::Owner => OWN,
            Preset::ReadOnly => READ,
            Preset::ReadWrite => WRITE,
        };
        let statement = format!(
            "GRANT {rights} ON {}.* TO {}",
            quoted(&pattern(database), Engine::Mariadb),
            self.quoted()
        );
        session.execute(&format!("cannot give {} its rights in {database}", self.name), &statement).await
    }

    /// Ends its sessions; how many there were.
    pub(super) async fn end_sessions(self, session: &Session) -> Result<i64, Failure> {
        let statement = format!("KILL HARD CONNECTION USER {}", self.quoted());
        session.affected("cannot end the user's sessions", &statement).await
    }

    /// Drops it, if it is there.
    pub(super) async fn drop(self, session: &Session) -> Result<(), Failure> {
        let statement = format!("DROP USER IF EXISTS {}", self.quoted());
        session.execute(&format!("cannot drop the user {}", self.name), &statement).await
    }
}

/// The name of a database as it stands in a grant, where `_` and `%` stand for others (MariaDB, "GRANT", "Database
/// Privileges"): without the backslashes a right in `shop_1` is one in `shopX1` too.
fn pattern(database: &str) -> String {
    let mut pattern = String::new();
    for letter in database.chars() {
        if matches!(letter, '_' | '%' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// Judges whether rights can be given in that database and in no other.
pub(super) fn check_grant(database: &str) -> Result<(), String> {
    let count = pattern(database).chars().count();
    if count > PATTERN_MAX {
        return Err(format!(
            "database takes {count} characters in a grant, where _ and % take two; MariaDB keeps {PATTERN_MAX}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_in_a_database_is_one_in_no_other() {
        assert_eq!(pattern("shop_1%\\"), "shop\\_1\\%\\\\");
        assert!(check_grant(&"_".repeat(32)).is_ok());
        assert!(check_grant(&"_".repeat(33)).is_err());
    }

    #[test]
    fn account_is_quoted_as_two_literals() {
        let account = Account { name: "a'b", host: "localhost" };
        assert_eq!(account.quoted(), "'a''b'@'localhost'");
    }
}
