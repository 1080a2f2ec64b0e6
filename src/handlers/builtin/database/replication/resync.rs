//! `resync_slave_db`: a server becomes a replica of its primary that has what the primary has, whatever it was before.
//!
//! The only copy of something is never destroyed before its replacement is seen to work, unless whoever asks has agreed to
//! lose what only that copy has (`confirm_data_loss`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ends, Engine, mariadb, postgres};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

pub(in super::super::super) struct Resync;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super::super) struct Params {
    /// Needed where targets of both engines are configured.
    pub(super) engine: Option<Engine>,
    /// The replica by its name in the configuration, where there are several servers.
    pub(super) server: Option<String>,
    /// The server to follow, by its name in the configuration; else the one that the replica's target names.
    pub(super) source: Option<String>,
    /// How.
    #[serde(default)]
    pub(super) method: Method,
    /// Most that is copied in a second, in KiB; 32 to 1048576.
    pub(super) max_rate_kib: Option<u32>,
    /// Keeps the replaced data beside the new ones.
    #[serde(default)]
    pub(super) keep_old: bool,
    /// Needed if the server has something that its new primary lacks, and where that cannot be known: it is lost.
    #[serde(default)]
    pub(super) confirm_data_loss: bool,
}

/// How a server becomes a replica again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in super::super::super) enum Method {
    /// Nothing, if it follows already; else what is quickest, and a new copy if that fails.
    #[default]
    Auto,
    /// PostgreSQL: only what differs is copied (`pg_rewind`).
    Rewind,
    /// PostgreSQL: everything is copied (`pg_basebackup`).
    Basebackup,
    /// MariaDB: it goes on from its own position.
    Gtid,
    /// MariaDB: everything is copied (`mariadb-dump`).
    Seed,
}

/// What there is to say afterwards.
#[derive(Debug, Default, Serialize)]
pub(super) struct Resynced {
    pub(super) source: String,
    /// None: it followed already.
    pub(super) method_used: Option<Method>,
    /// None: not known.
    pub(super) bytes_copied: Option<u64>,
    pub(super) replication_state: String,
    /// PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag_bytes: Option<u64>,
    /// MariaDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds_behind: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) old_data_path: Option<String>,
}

impl Kind for Resync {
    const ACTION: &'static str = "resync_slave_db";
    const PAGE: Page = Page {
        does: "Makes a server a replica of its primary that has what the primary has: by rewinding it, or by a new copy that \
               takes the place of its data once it is complete. What it replaces goes when the replica is seen to follow.",
        engines: super::super::ENGINES,
        result: &[
            ("source", "the target that it follows"),
            ("method_used", "rewind, basebackup, gtid or seed; null if it followed already"),
            ("bytes_copied", "how much was copied, if that is known"),
            ("replication_state", "streaming, once it follows"),
            ("lag_bytes", "PostgreSQL: what it lacked when it was last looked at"),
            ("seconds_behind", "MariaDB: how far it was behind when it was last looked at"),
            ("old_data_path", "where the replaced data are (keep_old)"),
        ],
        recovery: "Goes on. PostgreSQL: the names of the directories say how far an earlier attempt came; a rewind that was \
                   interrupted is not repeated, but replaced by a new copy. MariaDB: every step may be done again; a dump that \
                   is complete is not made again.",
        undo: "PostgreSQL: the old data get their place back, and the server is started if it ran. What was rewound cannot \
               be taken back, and once the replica follows, it stays: a warning says so. MariaDB: it does what it did \
               before, but what was replaced cannot be taken back: then it follows nobody, and a warning says so.",
        rights: "PostgreSQL: what stops and starts the server, write access to the parent of its data directory, a role with \
                 REPLICATION; pg_rewind needs more. MariaDB: as for promote_slave_db, and for a seed BINLOG ADMIN and \
                 all rights on databases. See the example.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let ends = Ends::asked(around, params.engine, params.server.as_deref(), params.source.as_deref())?;
        if params.max_rate_kib.is_some_and(|rate| !(32..=1_048_576).contains(&rate)) {
            return Err("max_rate_kib must be 32 to 1048576".to_owned());
        }
        match ends.engine {
            Engine::Postgresql => postgres::resync::check(params, &ends)?,
            Engine::Mariadb => mariadb::resync::check(params, &ends)?,
        }
        Ok(ends.locks())
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), params.source.as_deref())?;
        match ends.engine {
            Engine::Postgresql => postgres::resync::plan(params, run, &ends).await,
            Engine::Mariadb => mariadb::resync::plan(params, run, &ends).await,
        }
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), params.source.as_deref())?;
        match ends.engine {
            Engine::Postgresql => postgres::resync::execute(params, run, &ends).await,
            Engine::Mariadb => mariadb::resync::execute(params, run, &ends).await,
        }
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), params.source.as_deref())?;
        match ends.engine {
            Engine::Postgresql => postgres::resync::undo(params, run, &ends).await,
            Engine::Mariadb => mariadb::resync::undo(params, run, &ends).await,
        }
    }
}
