//! What lies below the memory table: the body files, and what became of their actions since, either from sled or,
//! while that is rebuilt, from where a start found it.

use std::sync::Arc;

use super::StoreError;
use super::bodies::{Block, Bodies, Stored, Ticket};
use super::codec::Malformed;
use super::rebuild::Rebuild;
use super::record::{StoredKeyUse, peek_status};
use super::table::later::Later;
use super::table::{KeyHash, Table, TableError};
use crate::action::State;

/// Why something cannot be read.
pub(super) enum ReadError {
    /// The table failed: it is not trusted any more.
    Table(TableError),
    /// A body file is damaged, or the disk said no.
    Store(StoreError),
}

impl From<TableError> for ReadError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Malformed> for ReadError {
    fn from(error: Malformed) -> Self {
        Self::Table(error.into())
    }
}

#[derive(Clone)]
pub(super) struct Base {
    pub bodies: Arc<Bodies>,
    pub over: Over,
}

/// Where later statuses and keys are.
#[derive(Clone)]
pub(super) enum Over {
    Table(Arc<Table>),
    Rebuild(Arc<Rebuild>),
}

impl Base {
    pub fn is_rebuilding(&self) -> bool {
        matches!(self.over, Over::Rebuild(_))
    }

    pub fn get(&self, id: u64) -> Result<Option<Stored>, ReadError> {
        loop {
            let block = self.bodies.block_of(id)?;
            let found = match &self.over {
                Over::Rebuild(rebuild) => match rebuild.index.find(id) {
                    Some(known) => rebuild.get(&known)?,
                    None => stored_in(block.as_deref(), id)?,
                },
                Over::Table(table) => match (stored_in(block.as_deref(), id)?, table.later(id)?) {
                    (None, _) => None,
                    (Some(_), Some(later)) if later.is_deleted() => None,
                    (Some(stored), Some(later)) => Some(Stored { status: later.status, ..stored }),
                    (stored, None) => stored,
                },
            };
            if self.still_holds(block.as_deref()) {
                return Ok(found);
            }
        }
    }

    /// Whether the file was not replaced while the table was read: see [`super::bodies`].
    fn still_holds(&self, block: Option<&Block>) -> bool {
        block.is_none_or(|block| self.bodies.holds(block.number()))
    }

    /// Whether every idempotency key can be looked up: early in a rebuild they cannot.
    pub fn knows_keys(&self) -> bool {
        match &self.over {
            Over::Table(_) => true,
            Over::Rebuild(rebuild) => rebuild.keys().is_some(),
        }
    }

    /// Version and state of an action.
    pub fn version(&self, id: u64) -> Result<Option<(u64, State)>, ReadError> {
        if let Over::Rebuild(rebuild) = &self.over
            && let Some(known) = rebuild.index.find(id)
        {
            return Ok(known.state.map(|state| (known.version, state)));
        }
        loop {
            let block = self.bodies.block_of(id)?;
            let Some(block) = block else { return Ok(None) };
            let ticket = block.ticket(id)?;
            let later = match &self.over {
                Over::Table(table) => table.later(id)?,
                Over::Rebuild(_) => None,
            };
            if self.still_holds(Some(&block)) {
                return Ok(match (ticket, later) {
                    (None, _) => None,
                    (Some(_), Some(later)) if later.is_deleted() => None,
                    (Some(_), Some(later)) => Some(peek_status(&later.status)?),
                    (Some(ticket), None) => Some((u64::from(ticket.version), ticket.state)),
                });
            }
        }
    }

    /// The nearest actions below `before`, in the order of ids; none at the end.
    pub fn some_before(&self, mut before: u64) -> Result<Vec<Stored>, ReadError> {
        if let Over::Rebuild(rebuild) = &self.over {
            let found = rebuild.some_before(before)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        while let Some(block) = self.bodies.block_before(before)? {
            let tickets = block.tickets()?;
            let first = tickets.first().map_or(0, |first| first.id);
            let Some(found) = self.newest(&block, tickets.into_iter().filter(|ticket| ticket.id < before))?
            else {
                continue;
            };
            if !found.is_empty() {
                return Ok(found);
            }
            before = first;
        }
        Ok(Vec::new())
    }

    /// The next actions from `from` on, in the order of ids; none at the end.
    pub fn some_from(&self, mut from: u64) -> Result<Vec<Stored>, ReadError> {
        while let Some(block) = self.bodies.block_from(from)? {
            let tickets = block.tickets()?;
            let last = tickets.last().map_or(from, |last| last.id);
            let Some(found) = self.newest(&block, tickets.into_iter().filter(|ticket| ticket.id >= from))?
            else {
                continue;
            };
            if !found.is_empty() {
                return Ok(found);
            }
            from = last + 1;
        }
        match &self.over {
            Over::Table(_) => Ok(Vec::new()),
            Over::Rebuild(rebuild) => Ok(rebuild.some_from(from)?),
        }
    }

    /// Those of a block's actions that are alive, each with its newest status; none if the block's file was replaced
    /// meanwhile.
    fn newest(
        &self,
        block: &Block,
        tickets: impl Iterator<Item = Ticket>,
    ) -> Result<Option<Vec<Stored>>, ReadError> {
        let tickets: Vec<Ticket> = tickets.collect();
        let (Some(first), Some(last)) = (tickets.first(), tickets.last()) else {
            return Ok(Some(Vec::new()));
        };
        let laters: Vec<Later> = match &self.over {
            Over::Table(table) => table.laters(first.id, last.id)?,
            Over::Rebuild(rebuild) => rebuild.laters(first.id, last.id)?,
        };
        if !self.still_holds(Some(block)) {
            return Ok(None);
        }
        let (mut found, mut laters) = (Vec::with_capacity(tickets.len()), laters.into_iter().peekable());
        for ticket in &tickets {
            while laters.next_if(|later| later.id < ticket.id).is_some() {}
            match laters.next_if(|later| later.id == ticket.id) {
                Some(later) if later.is_deleted() => {}
                Some(later) => found.push(Stored { status: later.status, ..block.stored(ticket)? }),
                None => found.push(block.stored(ticket)?),
            }
        }
        Ok(Some(found))
    }

    /// The first use of a key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Rebuilding`] while not all keys can be looked up.
    pub fn key_use(&self, hash: &KeyHash) -> Result<Option<StoredKeyUse>, ReadError> {
        match &self.over {
            Over::Table(table) => Ok(table.key_use(hash)?),
            Over::Rebuild(rebuild) => {
                let table = rebuild.keys().ok_or(StoreError::Rebuilding)?;
                Ok(table.key_use(hash)?)
            }
        }
    }
}

fn stored_in(block: Option<&Block>, id: u64) -> Result<Option<Stored>, StoreError> {
    let Some(block) = block else { return Ok(None) };
    block.ticket(id)?.map(|ticket| block.stored(&ticket)).transpose()
}
