//! Redis: a database of a server, or the keys of it that have a pattern.
//!
//! `FLUSHDB` takes no notice of keys that a user may not see: where applications share a database, only a pattern keeps
//! them apart.

use std::path::PathBuf;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError, ServerErrorKind,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Failure;
use super::super::run::{Found, Run};
use super::{Cleared, step};
use crate::handlers::targets::Target;

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// A synchronous flush of a large database takes its time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// Keys that a step of a scan looks at.
const SCAN_KEYS: u32 = 1_000;

/// `[targets.NAME]` with `engine = "redis"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Redis {
    /// The server's Unix socket.
    socket: PathBuf,
    /// Number of the database.
    #[serde(default)]
    db: u32,
    /// Only keys with this glob pattern, such as "shop:*"; none: the whole database.
    pattern: Option<String>,
    /// How memory is freed: by the server's background thread, or before it answers anybody.
    #[serde(default)]
    mode: Mode,
    /// User to log in as (ACL); needs `password_file`.
    user: Option<String>,
    /// File with the password alone.
    password_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Async,
    Sync,
}

/// What was there before.
#[derive(Serialize, Deserialize)]
struct Before {
    entries: u64,
}

/// A connection of this attempt.
struct Session {
    connection: MultiplexedConnection,
    settings: Redis,
    name: String,
}

/// How many entries there are to clear.
pub(super) async fn count(run: &Run, target: &Target) -> Result<u64, Failure> {
    Session::open(run, target).await?.count().await
}

pub(super) async fn clear(run: &Run, target: &Target) -> Result<Cleared, Failure> {
    let before = async || Ok(Before { entries: count(run, target).await? });
    let clear = async |before: &Before| {
        let mut session = Session::open(run, target).await?;
        if session.count().await? > 0 {
            session.clear().await?;
        }
        let entries_after = session.count().await?;
        Ok(Cleared {
            changed: before.entries > 0,
            entries_before: before.entries,
            entries_after,
            bytes_freed: None,
        })
    };
    run.step(&step(target), before, clear, async |_: &Before| Ok(Found::NotDone)).await
}

impl Session {
    async fn open(run: &Run, target: &Target) -> Result<Self, Failure> {
        let settings: Redis = target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        let what = format!("cannot connect to {} ({})", target.name, settings.socket.display());
        // What names the library is a command too, which a user may not be allowed.
        let mut login =
            redis::RedisConnectionInfo::default().set_db(settings.db.into()).set_skip_set_lib_name();
        if let Some(user) = &settings.user {
            login = login.set_username(user);
        }
        if let Some(file) = &settings.password_file {
            let unread =
                |error| Failure::permanent("password", format!("cannot read {}: {error}", file.display()));
            let password = std::fs::read_to_string(file).map_err(unread)?;
            run.redact(password.trim_end())?;
            login = login.set_password(password.trim_end());
        }
        let to_server = ConnectionAddr::Unix(settings.socket.clone())
            .into_connection_info()
            .and_then(|info| redis::Client::open(info.set_redis_settings(login)))
            .map_err(|error| failure(&what, &error))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_PATIENCE))
            .set_response_timeout(Some(ANSWER_PATIENCE));
        let connection = to_server.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connection.map_err(|error| failure(&what, &error))?;
        Ok(Self { connection, settings, name: target.name.clone() })
    }

    async fn count(&mut self) -> Result<u64, Failure> {
        if self.settings.pattern.is_some() {
            return self.each_batch(async |_, keys| Ok(keys.len() as u64)).await;
        }
        redis::cmd("DBSIZE")
            .query_async(&mut self.connection)
            .await
            .map_err(|error| self.told("count", &error))
    }

    async fn clear(&mut self) -> Result<(), Failure> {
        let mode = self.settings.mode;
        if self.settings.pattern.is_some() {
            let remove = if mode == Mode::Async { "UNLINK" } else { "DEL" };
            let remove = async |connection: &mut MultiplexedConnection, keys: Vec<Vec<u8>>| {
                redis::cmd(remove).arg(keys).query_async::<u64>(connection).await
            };
            return self.each_batch(remove).await.map(drop);
        }
        let mode = if mode == Mode::Async { "ASYNC" } else { "SYNC" };
        let flushed = redis::cmd("FLUSHDB").arg(mode).query_async::<()>(&mut self.connection).await;
        flushed.map_err(|error| self.told("flush", &error))
    }

    /// Gives all keys with the pattern to `take`, some at a time; the sum of what it answers.
    async fn each_batch(
        &mut self,
        take: impl AsyncFn(&mut MultiplexedConnection, Vec<Vec<u8>>) -> Result<u64, RedisError>,
    ) -> Result<u64, Failure> {
        let pattern = self.settings.pattern.clone().unwrap_or_default();
        let (mut cursor, mut sum) = (0_u64, 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_KEYS);
            let scanned = scan.query_async::<(u64, Vec<Vec<u8>>)>(&mut self.connection).await;
            let (next, keys) = scanned.map_err(|error| self.told("scan", &error))?;
            if !keys.is_empty() {
                sum += take(&mut self.connection, keys).await.map_err(|error| self.told("clear", &error))?;
            }
            if next == 0 {
                return Ok(sum);
            }
            cursor = next;
        }
    }

    fn told(&self, what: &str, error: &RedisError) -> Failure {
        failure(&format!("cannot {what} {}", self.name), error)
    }
}

/// What an error of the server or of the way to it means.
fn failure(what: &str, error: &RedisError) -> Failure {
    let told = format!("{what}: {error}");
    match error.kind() {
        ErrorKind::Io => Failure::transient("unreachable", told),
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => {
            Failure::permanent("not_allowed", told)
        }
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::TryAgain
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown,
        ) => Failure::transient("unavailable", told),
        ErrorKind::Server(ServerErrorKind::ReadOnly) => Failure::permanent("read_only", told),
        _ if error.is_connection_dropped() || error.is_timeout() => Failure::transient("unreachable", told),
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Failure::permanent("not_allowed", told),
            Some("BUSY" | "MISCONF" | "OOM") => Failure::transient("unavailable", told),
            _ => Failure::permanent("redis", told),
        },
    }
}
