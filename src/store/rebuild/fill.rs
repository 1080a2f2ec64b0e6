//! Fills a new sled with everything that is live: keys first, so that submissions with keys are soon answered.
//!
//! Called by the checkpoint thread before its first checkpoint.

use std::sync::{Arc, PoisonError};

use super::sources::Cursor;
use super::{Index, Rebuild, Sources};
use crate::store::crash_point::crash_point;
use crate::store::record::decode_body;
use crate::store::replay::key_of;
use crate::store::table::{Table, TableError};

/// How it ended.
pub(in crate::store) enum Filled {
    Whole(Arc<Table>),
    /// `stop` said so.
    Stopped,
}

/// Asked again after this many actions.
const STOP_ASKED_EVERY: usize = 1_000;

/// Makes the new sled. `stop` is asked now and then.
pub(in crate::store) fn fill(rebuild: &Rebuild, stop: &dyn Fn() -> bool) -> Result<Filled, TableError> {
    rebuild.begin_again().map_err(|error| TableError(error.to_string()))?;
    let Rebuild { index, sources, dir, cache_bytes, keys } = rebuild;
    let table = Arc::new(Table::open(dir, *cache_bytes)?);
    crash_point("rebuild_begun");
    if put_keys(&table, index, sources, stop)? {
        return Ok(Filled::Stopped);
    }
    crash_point("rebuild_keys");
    *keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&table));
    if put_actions(&table, index, sources, stop)? {
        return Ok(Filled::Stopped);
    }
    crash_point("rebuild_filled");
    Ok(Filled::Whole(table))
}

/// Whether it was stopped.
fn put_keys(
    table: &Table,
    index: &Index,
    sources: &Sources,
    stop: &dyn Fn() -> bool,
) -> Result<bool, TableError> {
    let (mut writer, mut cursor) = (table.writer(), Cursor::default());
    for at in &sources.key_blocks {
        if stop() {
            return Ok(true);
        }
        for (hash, used) in sources.keys(*at, &mut cursor)? {
            writer.put_key(&hash, &used)?;
        }
    }
    // What was submitted behind the snapshot, whether it is still there or not.
    for (number, known) in index.iter().enumerate() {
        if number % STOP_ASKED_EVERY == 0 && stop() {
            return Ok(true);
        }
        if let Some(body) = sources.journal_body(&known, &mut cursor)?
            && let Some((hash, used)) = key_of(known.id, &decode_body(&body)?)
        {
            writer.put_key(&hash, &used)?;
        }
    }
    writer.finish()?;
    Ok(false)
}

/// Whether it was stopped.
fn put_actions(
    table: &Table,
    index: &Index,
    sources: &Sources,
    stop: &dyn Fn() -> bool,
) -> Result<bool, TableError> {
    let (mut writer, mut cursor) = (table.writer(), Cursor::default());
    for (number, known) in index.live_from(0).enumerate() {
        if number % STOP_ASKED_EVERY == 0 {
            crash_point("rebuild_actions");
            if stop() {
                return Ok(true);
            }
        }
        let stored = sources.stored(&known, &mut cursor)?;
        writer.add(stored.id, &stored.body, &stored.status)?;
    }
    writer.finish()?;
    Ok(false)
}
