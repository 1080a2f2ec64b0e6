//! `disable_replication_slave_db`: a replica stops following its primary. It stays readable, and read only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ends, Engine, mariadb, postgres};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

pub(in super::super::super) struct DisableReplication;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super::super) struct Params {
    /// Needed where targets of both engines are configured.
    pub(super) engine: Option<Engine>,
    /// The replica by its name in the configuration, where there are several servers.
    pub(super) server: Option<String>,
    /// How far.
    #[serde(default)]
    pub(super) mode: Mode,
    /// PostgreSQL, mode detach: removes its slot on the primary, which would keep the log for it for ever. True, unless said.
    pub(super) drop_slot: Option<bool>,
}

/// How far a replica lets go of its primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in super::super::super) enum Mode {
    /// It forgets its primary, and the primary forgets it.
    #[default]
    Detach,
    /// It gets nothing more, and can go on later: the primary keeps its slot, MariaDB its settings.
    Stop,
    /// It still gets everything, and applies nothing of it until it is restarted or told to go on.
    Pause,
}

/// What there is to say afterwards.
#[derive(Debug, Default, Serialize)]
pub(super) struct Disabled {
    pub(super) mode: Mode,
    /// What it followed, as far as that is no secret.
    pub(super) previous: Previous,
    pub(super) slot_dropped: bool,
    pub(super) read_only: bool,
}

/// What a replica followed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Previous {
    pub(super) source_host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    /// PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slot: Option<String>,
    /// PostgreSQL: up to where it has everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lsn: Option<String>,
    /// MariaDB: up to where it has everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gtid: Option<String>,
}

impl Kind for DisableReplication {
    const ACTION: &'static str = "disable_replication_slave_db";
    const PAGE: Page = Page {
        does: "Has a replica stop following its primary. It stays up and read only; to follow again it is resynced.",
        engines: super::super::ENGINES,
        result: &[
            ("mode", "detach, stop or pause"),
            ("previous", "what it followed: source_host, port, user, and slot and lsn, or gtid"),
            ("slot_dropped", "PostgreSQL: whether its slot on the primary was removed"),
            ("read_only", "whether it still takes no writes"),
        ],
        recovery: "Goes on. The server itself says whether it still follows, and the primary whether the slot is there.",
        undo: "Has it follow again as before; a slot that was removed is made again. If it does not come to follow within 15 s, \
               a warning says so.",
        rights: "PostgreSQL: ALTER SYSTEM on primary_conninfo, EXECUTE on pg_reload_conf, pg_monitor; REPLICATION on the \
                 primary. MariaDB: REPLICATION SLAVE ADMIN, SLAVE MONITOR, RELOAD. See the example.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let ends = Ends::asked(around, params.engine, params.server.as_deref(), None)?;
        match ends.engine {
            Engine::Postgresql => postgres::disable::check(params, &ends)?,
            Engine::Mariadb => mariadb::disable::check(params, &ends)?,
        }
        Ok(ends.locks())
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), None)?;
        match ends.engine {
            Engine::Postgresql => postgres::disable::plan(params, run, &ends).await,
            Engine::Mariadb => mariadb::disable::plan(params, run, &ends).await,
        }
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), None)?;
        match ends.engine {
            Engine::Postgresql => postgres::disable::execute(params, run, &ends).await,
            Engine::Mariadb => mariadb::disable::execute(params, run, &ends).await,
        }
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), None)?;
        match ends.engine {
            Engine::Postgresql => postgres::disable::undo(params, run, &ends).await,
            Engine::Mariadb => mariadb::disable::undo(params, run, &ends).await,
        }
    }
}
