//! MariaDB: its target, a session with it, and what its errors mean.
//!
//! # Earlier attempts
//!
//! Every session of an action holds the server's lock `actiond-ID` (GET_LOCK) as long as it lives. A statement whose client
//! is gone goes on in its session, so whoever has got the lock knows that nothing of an earlier attempt goes on. Unlike a look
//! at the list of processes this needs no privilege. After a crash of the server there are no sessions and no locks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, DriverError, Error, OptsBuilder, Params, Row, Value as MysqlValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::super::Failure;
use super::super::run::Run;
use crate::handlers::targets::Target;

/// Longest wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for the statements of an earlier attempt to come to their end.
const ALONE_PATIENCE: Duration = Duration::from_secs(60);
/// A literal has no escapes then but a doubled quote, and no GRANT makes a user.
const SQL_MODE: &str = "SET SESSION sql_mode = CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'NO_BACKSLASH_ESCAPES,NO_AUTO_CREATE_USER')";

/// `[targets.NAME]` with `engine = "mariadb"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Mariadb {
    /// The server's Unix socket.
    pub(super) socket: PathBuf,
    /// User to log in as; the server knows him by the plugin unix_socket, so he has the name of the system's user that the
    /// handler runs as.
    pub(super) user: String,
    /// Names of databases and users may be any that the server takes, not only plain ones.
    #[serde(default)]
    pub(super) any_names: bool,
    /// Directory of the dumps that are made before a database is deleted.
    pub(super) backup_dir: Option<PathBuf>,
    /// The program that makes them.
    #[serde(default = "dump")]
    pub(super) dump: PathBuf,
    /// The program that reads them.
    #[serde(default = "client")]
    pub(super) client: PathBuf,
    /// Hosts that users may log in from, as the server has them (`localhost`, `10.0.0.7`, `%`); the first is meant where
    /// none is said.
    #[serde(default = "hosts")]
    pub(super) hosts: Vec<String>,
    /// Credentials of the daemon that may be a user's password: `password_ref = "credential:NAME"`.
    #[serde(default)]
    pub(super) password_credentials: Vec<String>,
    /// Directory of files that may be a user's password: `password_ref = "file:/PATH"`.
    pub(super) password_dir: Option<PathBuf>,
    /// Of a replica: the target that is its primary.
    pub(super) replica_of: Option<String>,
    /// A file that the server's configuration includes: keeps `read_only` beyond a restart, which SET GLOBAL does not. It is
    /// written anew, and the handler's user must be able to do that in its directory.
    pub(super) read_only_file: Option<PathBuf>,
    /// Of a primary: how its replicas connect with it.
    pub(super) replication: Option<Replication>,
}

/// How replicas connect with their primary: a replica takes no Unix socket.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Replication {
    /// The primary's host, as its replicas name it.
    pub(super) host: String,
    #[serde(default = "port")]
    pub(super) port: u16,
    /// A user with REPLICATION SLAVE.
    pub(super) user: String,
    /// File with his password alone.
    pub(super) password_file: Option<PathBuf>,
}

fn port() -> u16 {
    3306
}

fn dump() -> PathBuf {
    "mariadb-dump".into()
}

fn client() -> PathBuf {
    "mariadb".into()
}

fn hosts() -> Vec<String> {
    vec!["localhost".to_owned()]
}

impl Mariadb {
    /// A program of MariaDB that logs in as the target's user does.
    pub(super) fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let mut socket = OsString::from("--socket=");
        socket.push(&self.socket);
        // Files with options of whoever runs it are not the target's.
        command.arg("--no-defaults").arg(socket).arg(format!("--user={}", self.user));
        command
    }

    /// The host that a user logs in from.
    ///
    /// # Errors
    ///
    /// It is none that the target allows.
    pub(super) fn host<'a>(&'a self, host: Option<&'a str>) -> Result<&'a str, String> {
        let first = self.hosts.first().map(String::as_str);
        let host = host.or(first).ok_or("host: the target has no hosts")?;
        if self.hosts.iter().any(|allowed| allowed == host) {
            return Ok(host);
        }
        Err(format!("host: {host:?} is none that the target allows"))
    }
}

/// A connection of this attempt, which holds the lock of its action.
pub(super) struct Session(Mutex<Conn>);

impl Session {
    /// Logs in, and returns when no other session of this action does anything in the server.
    ///
    /// # Errors
    ///
    /// Transient, if the server cannot be reached or takes nobody yet, or if an earlier attempt goes on for too long.
    pub(super) async fn open(run: &Run, target: &Target) -> Result<Self, Failure> {
        let settings: Mariadb = target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        let options = OptsBuilder::default()
            .socket(Some(settings.socket.to_string_lossy()))
            .user(Some(settings.user))
            .stmt_cache_size(0)
            .setup(vec![SQL_MODE]);
        let what = format!("cannot connect to {} ({})", target.name, settings.socket.display());
        let connected = tokio::time::timeout(CONNECT_PATIENCE, Conn::new(options)).await;
        let Ok(connected) = connected else {
            return Err(Failure::transient("unreachable", format!("{what}: it does not answer")));
        };
        let session = Self(Mutex::new(connected.map_err(|error| failure(&what, &error))?));
        session.alone(run).await?;
        Ok(session)
    }

    async fn alone(&self, run: &Run) -> Result<(), Failure> {
        let lock = format!("actiond-{}", run.id);
        let is_alone = run.wait_for(ALONE_PATIENCE, async || {
            let what = "cannot look for sessions of earlier attempts";
            let got: Option<(Option<bool>,)> = self.first(what, "SELECT GET_LOCK(?, 0)", (&lock,)).await?;
            Ok(matches!(got, Some((Some(true),))).then_some(()))
        });
        match is_alone.await? {
            Some(()) => Ok(()),
            None => {
                Err(Failure::transient("busy", "a statement of an earlier attempt still runs in the server"))
            }
        }
    }

    /// Carries out a statement that has no parameters.
    ///
    /// # Errors
    ///
    /// The server's, with `what` in front.
    pub(super) async fn execute(&self, what: &str, statement: &str) -> Result<(), Failure> {
        self.0.lock().await.query_drop(statement).await.map_err(|error| failure(what, &error))
    }

    /// Carries out a statement that has no parameters; how many it was about.
    ///
    /// # Errors
    ///
    /// The server's, with `what` in front.
    pub(super) async fn affected(&self, what: &str, statement: &str) -> Result<i64, Failure> {
        let mut session = self.0.lock().await;
        session.query_drop(statement).await.map_err(|error| failure(what, &error))?;
        Ok(i64::try_from(session.affected_rows()).unwrap_or(i64::MAX))
    }

    /// The first row of the answer to a statement, if there is any.
    ///
    /// # Errors
    ///
    /// The server's, with `what` in front.
    pub(super) async fn first<R: FromRow + Send + 'static>(
        &self,
        what: &str,
        statement: &str,
        parameters: impl Into<Params> + Send,
    ) -> Result<Option<R>, Failure> {
        let first = self.0.lock().await.exec_first(statement, parameters).await;
        first.map_err(|error| failure(what, &error))
    }

    /// All rows of the answer to a statement that has no parameters, by the names of its columns: of SHOW.
    ///
    /// # Errors
    ///
    /// The server's, with `what` in front.
    pub(super) async fn named(
        &self,
        what: &str,
        statement: &str,
    ) -> Result<Vec<BTreeMap<String, String>>, Failure> {
        let rows: Vec<Row> =
            self.0.lock().await.query(statement).await.map_err(|error| failure(what, &error))?;
        let of_row = |row: &Row| {
            let columns = row.columns_ref().iter().enumerate();
            columns.map(|(n, column)| (column.name_str().into_owned(), text(row.as_ref(n)))).collect()
        };
        Ok(rows.iter().map(of_row).collect())
    }

    /// All rows of the answer to a statement.
    ///
    /// # Errors
    ///
    /// The server's, with `what` in front.
    pub(super) async fn all<R: FromRow + Send + 'static>(
        &self,
        what: &str,
        statement: &str,
        parameters: impl Into<Params> + Send,
    ) -> Result<Vec<R>, Failure> {
        let all = self.0.lock().await.exec(statement, parameters).await;
        all.map_err(|error| failure(what, &error))
    }
}

/// A field as text; empty, if it is null.
fn text(value: Option<&MysqlValue>) -> String {
    match value {
        Some(MysqlValue::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(MysqlValue::Int(number)) => number.to_string(),
        Some(MysqlValue::UInt(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// A literal as it stands in a statement of a [`Session`].
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What an error of the server or of the way to it means (MariaDB, "MariaDB Error Code Reference").
pub(super) fn failure(what: &str, error: &Error) -> Failure {
    let answer = match error {
        Error::Server(answer) => answer,
        Error::Driver(DriverError::UnknownAuthPlugin { .. } | DriverError::CleartextPluginDisabled) => {
            return Failure::permanent("not_allowed", format!("{what}: {error}"));
        }
        // What comes of a server that is gone in the middle of an answer has many names.
        error => return Failure::transient("unreachable", format!("{what}: {error}")),
    };
    let told = format!("{what}: {}", answer.message);
    let code = match answer.code {
        // Too many connections, shutting down, no space, no memory, lock wait, deadlock, interrupted, killed.
        1040 | 1053 | 1021 | 1037 | 1038 | 1041 | 1203 | 1205 | 1213 | 1226 | 1317 | 1927 => {
            return Failure::transient("unavailable", told).with("errno", answer.code);
        }
        1007 => "exists",
        1008 | 1049 => "not_found",
        1044 | 1045 | 1142 | 1227 | 1410 | 1698 => "not_allowed",
        1290 | 1836 => "read_only",
        1094 => "no_session",
        _ => "sql",
    };
    Failure::permanent(code, told).with("errno", answer.code).with("sqlstate", answer.state.as_str())
}

#[cfg(test)]
mod tests {
    use mysql_async::ServerError;

    use super::*;

    #[test]
    fn error_is_tried_again_only_if_its_cause_may_pass() {
        let of = |code| {
            let error = ServerError { code, message: "no".to_owned(), state: "HY000".to_owned() };
            failure("cannot", &Error::Server(error))
        };
        assert_eq!(of(1040), Failure::transient("unavailable", "cannot: no").with("errno", 1040));
        for (number, code) in [(1007, "exists"), (1698, "not_allowed"), (1290, "read_only"), (1064, "sql")] {
            let expected = Failure::permanent(code, "cannot: no");
            assert_eq!(of(number), expected.with("errno", number).with("sqlstate", "HY000"));
        }
        let gone = failure("cannot", &Error::Driver(DriverError::ConnectionClosed));
        assert_eq!(gone.code(), "unreachable");
    }

    #[test]
    fn quotes_within_a_literal_are_doubled() {
        assert_eq!(literal("a'b\\"), "'a''b\\'");
    }
}
