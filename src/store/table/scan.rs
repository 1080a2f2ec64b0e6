//! Walking through all actions of the table in the order of ids, with little in memory.

use super::pack::{Stored, unpack};
use super::{Table, TableError, guard, id_key, id_of};

/// The packs of a table, one after the other, each action with its last status.
pub(in crate::store) struct Packs<'a> {
    table: &'a Table,
    bodies: sled::Iter,
    statuses: std::iter::Peekable<sled::Iter>,
}

impl Table {
    /// All actions from `from` on.
    pub fn packs(&self, from: u64) -> Result<Packs<'_>, TableError> {
        guard(|| {
            // `from` may lie inside a pack whose key is below it.
            let start = match self.pack_of(from)? {
                Some((key, _)) => id_of(b'b', &key).unwrap_or(from),
                None => from,
            };
            Ok(Packs {
                table: self,
                bodies: self.tree.range(id_key(b'b', start)..=id_key(b'b', u64::MAX)),
                statuses: self.tree.range(id_key(b's', start)..=id_key(b's', u64::MAX)).peekable(),
            })
        })
    }
}

impl Packs<'_> {
    /// The next pack's actions, in the order of ids; none at the end. May be empty before that.
    pub fn next(&mut self) -> Result<Option<Vec<Stored>>, TableError> {
        guard(|| {
            let Some(found) = self.bodies.next() else { return Ok(None) };
            let (key, value) = found?;
            // sled evicts a page only after 64 accesses to its 256th of the cache, and an iterator makes
            // one or two accesses a page: up to 16,384 pages of 16 values each would stay beside the cache.
            // One more access a value keeps that below a tenth.
            self.table.tree.contains_key(&key)?;
            let mut actions = unpack(&self.table.whole(&key, &value)?.unwrap_or_default())?;
            for stored in &mut actions {
                self.newest_status(stored)?;
            }
            Ok(Some(actions))
        })
    }

    /// Both run in the order of ids, so the statuses are walked beside the packs.
    fn newest_status(&mut self, stored: &mut Stored) -> Result<(), TableError> {
        loop {
            let id = match self.statuses.peek() {
                None => return Ok(()),
                Some(Ok((key, _))) => id_of(b's', key).unwrap_or(0),
                Some(Err(error)) => return Err(error.clone().into()),
            };
            if id > stored.id {
                return Ok(());
            }
            let Some(Ok((key, value))) = self.statuses.next() else { return Ok(()) };
            if id == stored.id {
                if let Some(status) = self.table.whole(&key, &value)? {
                    stored.status = status;
                }
                return Ok(());
            }
        }
    }
}
