//! Fills a new sled with everything that is live: keys first, so that submissions with keys are soon answered.
//!
//! Called by the checkpoint thread before its first checkpoint.

use std::sync::{Arc, PoisonError};

use super::sources::Cursor;
use super::{Index, Rebuild, Sources};
use crate::store::base::ReadError;
use crate::store::bodies::Appender;
use crate::store::crash_point::crash_point;
use crate::store::record::peek_key;
use crate::store::table::{Table, TableError, key_hash};

/// How it ended.
pub(in crate::store) enum Filled {
    Whole(Arc<Table>),
    /// `stop` said so.
    Stopped,
}

/// Asked again after this many actions.
const STOP_ASKED_EVERY: usize = 100;

/// Makes the new sled. `stop` is asked now and then.
pub(in crate::store) fn fill(rebuild: &Rebuild, stop: &dyn Fn() -> bool) -> Result<Filled, ReadError> {
    rebuild.begin_again().map_err(|error| TableError(error.to_string()))?;
    let Rebuild { index, sources, dir, cache_bytes, keys, .. } = rebuild;
    let table = Arc::new(Table::open(dir, *cache_bytes)?);
    crash_point("rebuild_begun");
    if put_keys(&table, index, sources, stop)? {
        return Ok(Filled::Stopped);
    }
    crash_point("rebuild_keys");
    *keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&table));
    if put_actions(&table, rebuild, stop)? {
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
) -> Result<bool, ReadError> {
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
            && let Some((uid, key, used)) = peek_key(known.id, &body)?
        {
            writer.put_key(&key_hash(uid, key), &used)?;
        }
    }
    writer.finish()?;
    Ok(false)
}

/// Whether it was stopped. What is in no body file is written into one, and shown once all of it is.
fn put_actions(table: &Table, rebuild: &Rebuild, stop: &dyn Fn() -> bool) -> Result<bool, ReadError> {
    let mut appender = rebuild.bodies.appender();
    match put_each(table, rebuild, &mut appender, stop) {
        Ok(true) => {
            let added = appender.finish()?;
            rebuild.bodies.publish(added);
            Ok(false)
        }
        stopped => {
            appender.abandon();
            stopped.map(|_| true)
        }
    }
}

/// Whether it came to the end.
fn put_each(
    table: &Table,
    rebuild: &Rebuild,
    appender: &mut Appender<'_>,
    stop: &dyn Fn() -> bool,
) -> Result<bool, ReadError> {
    let (mut writer, mut cursor) = (table.writer(), Cursor::default());
    for (number, known) in rebuild.index.iter().enumerate() {
        if number % STOP_ASKED_EVERY == 0 {
            crash_point("rebuild_actions");
            if stop() {
                return Ok(false);
            }
        }
        let id = known.id;
        if known.is_written() {
            let lost = || TableError(format!("action {id} is in no body file"));
            let (ticket, _) = rebuild.bodies.ticket(id)?.ok_or_else(lost)?;
            if known.state.is_none() {
                writer.restate(id, ticket.version, &[])?;
            } else if let Some(status) = rebuild.sources.later_status(&known, &mut cursor)? {
                writer.restate(id, ticket.version, &status)?;
            }
        } else if known.state.is_some() {
            let stored = rebuild.sources.stored(&known, &mut cursor)?;
            appender.add(id, &stored.body, &stored.status)?;
        }
    }
    writer.finish()?;
    Ok(true)
}
