//! PostgreSQL: its target, a session with it, and what its errors mean.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use super::super::Failure;
use super::super::run::Run;
use super::conninfo::{Conninfo, has_password};
use crate::handlers::targets::Target;

/// Longest wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for the statements of an earlier attempt to come to their end.
const ALONE_PATIENCE: Duration = Duration::from_secs(60);

/// `[targets.NAME]` with `engine = "postgresql"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Postgresql {
    /// Directory of the server's Unix socket.
    pub(super) socket: PathBuf,
    /// Part of the socket's name.
    #[serde(default = "port")]
    pub(super) port: u16,
    /// Role to log in as, by peer authentication.
    pub(super) user: String,
    /// Database to log in to.
    #[serde(default = "maintenance")]
    pub(super) database: String,
    /// Extensions that may be asked for.
    #[serde(default)]
    pub(super) extensions: Vec<String>,
    /// Names of databases and users may be any that the server takes, not only plain ones.
    #[serde(default)]
    pub(super) any_names: bool,
    /// Directory of the dumps that are made before a database is deleted.
    pub(super) backup_dir: Option<PathBuf>,
    /// The program that makes them.
    #[serde(default = "pg_dump")]
    pub(super) pg_dump: PathBuf,
    /// Directory of the files that `password_ref` may mean with `file:`.
    pub(super) password_dir: Option<PathBuf>,
    /// The systemd credentials of the daemon that `password_ref` may mean with `credential:`.
    #[serde(default)]
    pub(super) password_credentials: Vec<String>,
    /// Of a replica: the target that is its primary.
    pub(super) replica_of: Option<String>,
    /// Of a replica: the name of its slot on the primary.
    pub(super) slot: Option<String>,
    /// Of a primary: how its replicas connect with it, as libpq has it and without a password:
    /// `host=... port=... user=...`.
    pub(super) replication: Option<String>,
    /// The server's processes and files, for what cannot be done by a statement.
    pub(super) cluster: Option<Cluster>,
}

/// A server's processes and files on this host.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Cluster {
    /// Where its data are.
    pub(super) data_directory: PathBuf,
    /// Where its programs are.
    pub(super) bin_directory: PathBuf,
    /// Its postgresql.conf, if that is not in the data directory.
    pub(super) config_file: Option<PathBuf>,
    /// The system's user that it runs as, and whose its files are.
    #[serde(default = "system_user")]
    pub(super) system_user: String,
    /// A program that starts it. It must not be a child of that program's: `systemctl start postgresql@15-main`.
    pub(super) start: Vec<String>,
    /// A program that stops it and ends when it is down.
    pub(super) stop: Vec<String>,
    /// Longest time for either, in seconds.
    #[serde(default = "patience_s")]
    pub(super) patience_s: u32,
}

fn system_user() -> String {
    "postgres".to_owned()
}

fn patience_s() -> u32 {
    120
}

impl Postgresql {
    /// Judges what the types do not say.
    ///
    /// # Errors
    ///
    /// What is wrong, with the key.
    pub(in super::super) fn check(&self) -> Result<(), String> {
        let is_slot = |name: &str| {
            let is_letter =
                |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
            (1..64).contains(&name.len()) && name.chars().all(is_letter)
        };
        if self.slot.as_deref().is_some_and(|name| !is_slot(name)) {
            return Err("slot must be of a-z 0-9 _ and have 1 to 63 of them".to_owned());
        }
        if let Some(replication) = &self.replication {
            Conninfo::read(replication).map_err(|problem| format!("replication {problem}"))?;
            if has_password(replication) {
                return Err("replication has a password; let the replica have it from a passfile".to_owned());
            }
        }
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let paths =
            [Some(&cluster.data_directory), Some(&cluster.bin_directory), cluster.config_file.as_ref()];
        if let Some(path) = paths.into_iter().flatten().find(|path| !path.is_absolute()) {
            return Err(format!("cluster: {} must be an absolute path", path.display()));
        }
        for argv in [&cluster.start, &cluster.stop] {
            if !argv.first().is_some_and(|path| path.starts_with('/')) {
                return Err(format!("cluster: {argv:?} must begin with the absolute path of a program"));
            }
        }
        Ok(())
    }
}

fn pg_dump() -> PathBuf {
    "pg_dump".into()
}

fn port() -> u16 {
    5432
}

fn maintenance() -> String {
    "postgres".to_owned()
}

/// A connection of this attempt.
pub(super) struct Session {
    pub(super) client: Client,
}

impl Session {
    /// Logs in to a database of the target, or to its maintenance database.
    ///
    /// # Errors
    ///
    /// Transient, if the server cannot be reached or takes nobody yet.
    pub(super) async fn open(run: &Run, target: &Target, database: Option<&str>) -> Result<Self, Failure> {
        let settings: Postgresql =
            target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        let mut config = Config::new();
        config
            .host_path(&settings.socket)
            .port(settings.port)
            .user(&settings.user)
            .dbname(database.unwrap_or(&settings.database))
            .application_name(application(run.id))
            .connect_timeout(CONNECT_PATIENCE);
        let what = format!("cannot connect to {} ({})", target.name, settings.socket.display());
        let (client, connection) = config.connect(NoTls).await.map_err(|error| failure(&what, &error))?;
        // Ends with the client; what it has to say the client says too.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client })
    }

    /// Returns when no other session of this action does anything: what an earlier attempt has begun goes on in the server
    /// without it, and is not to be overtaken.
    ///
    /// # Errors
    ///
    /// It goes on for too long; transient.
    pub(super) async fn alone(&self, run: &Run) -> Result<(), Failure> {
        const OTHERS: &str =
            "select count(*) from pg_stat_activity where application_name = $1 and pid <> pg_backend_pid()";
        let application = application(run.id);
        let is_alone = run.wait_for(ALONE_PATIENCE, async || {
            let row = self.client.query_one(OTHERS, &[&application]).await;
            let others: i64 =
                row.map_err(|error| failure("cannot look for sessions of earlier attempts", &error))?.get(0);
            Ok((others == 0).then_some(()))
        });
        match is_alone.await? {
            Some(()) => Ok(()),
            None => {
                Err(Failure::transient("busy", "a statement of an earlier attempt still runs in the server"))
            }
        }
    }

    /// The first row of a query, if it has one.
    ///
    /// # Errors
    ///
    /// The server's, with `what` in front.
    pub(super) async fn row(
        &self,
        what: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Failure> {
        self.client.query_opt(query, parameters).await.map_err(|error| failure(what, &error))
    }

    /// Carries out a statement that has no parameters, or several within one transaction.
    ///
    /// # Errors
    ///
    /// The server's, with `what` in front.
    pub(super) async fn execute(&self, what: &str, statement: &str) -> Result<(), Failure> {
        // Not as a prepared statement: several kinds cannot be, or not within the transaction that this would make.
        self.client.batch_execute(statement).await.map_err(|error| failure(what, &error))
    }
}

/// The name by which the server knows the sessions of an action.
pub(super) fn application(id: u64) -> String {
    format!("actiond-{id}")
}

/// A literal as it stands in a statement (`standard_conforming_strings`, on since 9.1).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What an error of the server or of the way to it means (PostgreSQL 15, appendix A).
pub(super) fn failure(what: &str, error: &tokio_postgres::Error) -> Failure {
    let Some(answer) = error.as_db_error() else {
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        return Failure::transient("unreachable", format!("{what}: {why}"));
    };
    let told = format!("{what}: {}", answer.message());
    let state = answer.code();
    let class = state.code().get(..2).unwrap_or_default();
    let is_transient = matches!(class, "08" | "40" | "53" | "57" | "58");
    let failure = if is_transient {
        Failure::transient("unavailable", told)
    } else {
        let code = match state {
            state if *state == SqlState::DUPLICATE_DATABASE || *state == SqlState::DUPLICATE_OBJECT => {
                "exists"
            }
            state if *state == SqlState::OBJECT_IN_USE => "in_use",
            state if *state == SqlState::INSUFFICIENT_PRIVILEGE => "not_allowed",
            state if *state == SqlState::UNDEFINED_OBJECT || *state == SqlState::INVALID_CATALOG_NAME => {
                "not_found"
            }
            _ if class == "28" => "not_allowed",
            _ => "sql",
        };
        Failure::permanent(code, told)
    };
    let failure = failure.with("sqlstate", state.code());
    match answer.hint() {
        Some(hint) => failure.with("hint", hint),
        None => failure,
    }
}
