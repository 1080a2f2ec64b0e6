//! `promote_slave_db`: a replica becomes the primary.
//!
//! Two primaries at once lose data. So the old primary is *fenced* before: it cannot be written to any more, and that stays
//! so, whatever becomes of the action, until a person or a resync makes it a replica. What the replica lacks of it is known
//! before it is promoted, or the action fails.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ends, Engine, mariadb, postgres};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

pub(in super::super::super) struct Promote;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super::super) struct Params {
    /// Needed where targets of both engines are configured.
    pub(super) engine: Option<Engine>,
    /// The replica by its name in the configuration, where there are several servers.
    pub(super) server: Option<String>,
    /// What is done before so that the old primary cannot be written to.
    #[serde(default)]
    pub(super) fence: Fence,
    /// How many bytes of the primary's log the replica may lack.
    #[serde(default)]
    pub(super) max_lag_bytes: u64,
    /// Promotes it even if it lacks more, or if what it lacks cannot be known, as after a crash of the primary.
    #[serde(default)]
    pub(super) allow_data_loss: bool,
    /// Longest wait for the replica to catch up, and for it to become the primary; in seconds, 1 to 3600.
    #[serde(default = "wait_s")]
    pub(super) wait_s: u32,
}

fn wait_s() -> u32 {
    60
}

/// What is done to the old primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in super::super::super) enum Fence {
    /// It is made sure that it cannot be written to, or nothing is promoted.
    #[default]
    Require,
    /// What can be done is done.
    BestEffort,
    /// Nothing: whoever asks has seen to it.
    None,
}

/// What there is to say afterwards.
#[derive(Debug, Default, Serialize)]
pub(super) struct Promoted {
    pub(super) new_primary: String,
    pub(super) old_primary: Option<String>,
    /// PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeline_id: Option<u32>,
    /// PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lsn: Option<String>,
    /// MariaDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gtid_position: Option<String>,
    /// None: not known.
    pub(super) lag_bytes_at_promotion: Option<u64>,
    pub(super) fenced: bool,
}

impl Kind for Promote {
    const ACTION: &'static str = "promote_slave_db";
    const PAGE: Page = Page {
        does: "Promotes a replica to be the primary. Before that the old primary is fenced, and the replica has caught up \
               with it.",
        engines: super::super::ENGINES,
        result: &[
            ("new_primary", "the target that is the primary now"),
            ("old_primary", "the target that was it"),
            ("timeline_id", "PostgreSQL: the timeline that begins with it"),
            ("lsn", "PostgreSQL: where that timeline begins"),
            ("gtid_position", "MariaDB: the position up to which it has everything"),
            ("lag_bytes_at_promotion", "what it lacked of the old primary; null if that could not be known"),
            ("fenced", "whether the old primary cannot be written to any more"),
        ],
        recovery: "Goes on. The server itself says whether it still is a replica; before it is promoted the fence is looked \
                   at again. Never promoted twice: a replica whose timeline has grown meanwhile is held for a person.",
        undo: "Nothing: a promotion cannot be taken back, and a fence is never taken away by itself. A warning says what \
               stays. To make the old primary a replica of the new one, resync it.",
        rights: "PostgreSQL: EXECUTE on pg_promote, pg_checkpoint, pg_monitor; and what stops the old primary. MariaDB: \
                 REPLICATION SLAVE ADMIN, SLAVE MONITOR, READ_ONLY ADMIN, BINLOG MONITOR, EVENT, RELOAD. See the example.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let ends = Ends::asked(around, params.engine, params.server.as_deref(), None)?;
        if !(1..=3_600).contains(&params.wait_s) {
            return Err("wait_s must be 1 to 3600".to_owned());
        }
        match ends.engine {
            Engine::Postgresql => postgres::promote::check(params, &ends)?,
            Engine::Mariadb => mariadb::promote::check(params, &ends)?,
        }
        Ok(ends.locks())
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), None)?;
        match ends.engine {
            Engine::Postgresql => postgres::promote::plan(params, run, &ends).await,
            Engine::Mariadb => mariadb::promote::plan(params, run, &ends).await,
        }
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), None)?;
        match ends.engine {
            Engine::Postgresql => postgres::promote::execute(params, run, &ends).await,
            Engine::Mariadb => mariadb::promote::execute(params, run, &ends).await,
        }
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let ends = Ends::chosen(run, params.engine, params.server.as_deref(), None)?;
        match ends.engine {
            Engine::Postgresql => postgres::promote::undo(params, run, &ends).await,
            Engine::Mariadb => mariadb::promote::undo(params, run, &ends).await,
        }
    }
}
