//! What lies below the memory table: the body files, and what became of their actions since, either from sled or,
//! while that is rebuilt, from where a start found it.

use std::sync::Arc;

use super::StoreError;
use super::bodies::{Block, Bodies, Stored, Ticket};
use super::codec::Malformed;
use super::rebuild::Rebuild;
use super::record::{StoredKeyUse, decode_status, peek_status};
use super::table::later::Later;
use super::table::{KeyHash, Table, TableError};
use crate::action::{State, Status};

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

/// Blocks that one step of a walk looks at.
const BLOCKS_WALKED: usize = 8;

/// What a walk sees of an action.
pub(super) enum Seen {
    Waiting,
    Finished(Vec<u8>),
}

/// One step of a walk over all actions.
#[derive(Default)]
pub(super) struct Walked {
    pub found: Vec<(u64, Seen)>,
    /// Deleted ones included.
    pub looked_at: usize,
    /// Where the next step goes on; none at the end.
    pub next: Option<u64>,
}

type Living = Vec<(Ticket, Option<Later>)>;

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

    /// A step of a walk over all actions in the order of ids, a bounded number of blocks. Reads no bodies.
    pub fn walk(&self, mut from: u64) -> Result<Walked, ReadError> {
        let mut walked = Walked::default();
        for _ in 0..BLOCKS_WALKED {
            let Some(block) = self.bodies.block_from(from)? else {
                let Over::Rebuild(rebuild) = &self.over else { return Ok(walked) };
                for stored in rebuild.some_from(from)? {
                    let is_final = peek_status(&stored.status)?.1.is_final();
                    let seen = if is_final { Seen::Finished(stored.status) } else { Seen::Waiting };
                    walked.found.push((stored.id, seen));
                    walked.looked_at += 1;
                    walked.next = Some(stored.id + 1);
                }
                return Ok(walked);
            };
            let mut tickets = block.tickets()?;
            tickets.retain(|ticket| ticket.id >= from);
            let last = tickets.last().map_or(from, |last| last.id);
            walked.looked_at += tickets.len();
            if let Some(living) = self.living(&block, &tickets)? {
                for (ticket, later) in living {
                    walked.found.push((ticket.id, seen(&block, &ticket, later)?));
                }
                from = last + 1;
            }
            walked.next = Some(from);
        }
        Ok(walked)
    }

    /// The status of an action without its body: for one whose body is damaged. If the status is damaged too, as
    /// much of it as its ticket has.
    pub fn status(&self, id: u64) -> Result<Option<Status>, ReadError> {
        if let Over::Rebuild(rebuild) = &self.over
            && let Some(known) = rebuild.index.find(id)
            && !known.is_written()
        {
            let stored = rebuild.get(&known)?;
            return Ok(stored.map(|stored| decode_status(&stored.status)).transpose()?);
        }
        loop {
            let Some(block) = self.bodies.block_of(id)? else { return Ok(None) };
            let Some(ticket) = block.ticket(id)? else { return Ok(None) };
            let Some(living) = self.living(&block, &[ticket])? else { continue };
            return match living.into_iter().next() {
                None => Ok(None),
                Some((_, Some(later))) => Ok(Some(decode_status(&later.status)?)),
                Some((_, None)) => Ok(Some(match block.status(&ticket) {
                    Ok(status) => decode_status(status)?,
                    Err(_) => ticket.status(),
                })),
            };
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
        let Some(living) = self.living(block, &tickets)? else { return Ok(None) };
        let whole = |(ticket, later): (Ticket, Option<Later>)| match later {
            Some(later) => {
                let stored = block.stored(&ticket)?;
                Ok(Stored { status: later.status, ..stored })
            }
            None => block.stored(&ticket),
        };
        Ok(Some(living.into_iter().map(whole).collect::<Result<_, StoreError>>()?))
    }

    /// Those tickets of a block whose actions are alive, each with its later status if it has one.
    fn living(&self, block: &Block, tickets: &[Ticket]) -> Result<Option<Living>, ReadError> {
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
        for ticket in tickets {
            while laters.next_if(|later| later.id < ticket.id).is_some() {}
            match laters.next_if(|later| later.id == ticket.id) {
                Some(later) if later.is_deleted() => {}
                later => found.push((*ticket, later)),
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

fn seen(block: &Block, ticket: &Ticket, later: Option<Later>) -> Result<Seen, ReadError> {
    if let Some(later) = later {
        let is_final = peek_status(&later.status)?.1.is_final();
        return Ok(if is_final { Seen::Finished(later.status) } else { Seen::Waiting });
    }
    if !ticket.state.is_final() {
        return Ok(Seen::Waiting);
    }
    Ok(match block.status(ticket) {
        Ok(status) => Seen::Finished(status.to_vec()),
        Err(error) => {
            // It stays: nobody knows when it ended.
            tracing::error!(%error, action_id = ticket.id, "a stored status is damaged");
            Seen::Waiting
        }
    })
}

fn stored_in(block: Option<&Block>, id: u64) -> Result<Option<Stored>, StoreError> {
    let Some(block) = block else { return Ok(None) };
    block.ticket(id)?.map(|ticket| block.stored(&ticket)).transpose()
}
