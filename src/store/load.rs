//! Hands every unfinished action to the engine at a start, and counts all.
//!
//! [`Load`] takes one action at a time, from its ticket if that says enough: of a million waiting actions no body is
//! read. [`Merge`] brings together what a trusted table says of the actions in the body files, and what the journal
//! added behind its checkpoint.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;

use super::Loader;
use super::base::ReadError;
use super::bodies::{CLAIMED, Front, MORE_LOCKS, Ticket};
use super::ledger::Ledger;
use super::memory::{Entry, Generation};
use super::record::{decode_status, peek_status, version_hash};
use super::replay::{First, check};
use super::shared::action;
use super::table::later::Later;
use super::table::{Table, TableError};
use crate::action::{LockKey, State, Unfinished};

/// Clusters of later statuses that are read at once.
const CLUSTERS_AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 4 << 20;

pub(super) struct Load<'a> {
    loader: &'a mut dyn Loader,
    counted: Ledger,
    pub finished: u64,
}

impl<'a> Load<'a> {
    pub fn new(loader: &'a mut dyn Loader) -> Self {
        Self { loader, counted: Ledger::default(), finished: 0 }
    }

    /// How many there were, and the digest over them.
    pub fn counted(&self) -> (u64, u64) {
        (self.counted.live_count, self.counted.digest)
    }

    /// Counts it; whether the loader must know of it.
    fn count(&mut self, id: u64, version: u64, state: State) -> bool {
        self.counted.live_count += 1;
        self.counted.digest = self.counted.digest.wrapping_add(version_hash(id, version));
        self.finished += u64::from(state.is_final());
        !state.is_final()
    }

    /// An action of which everything is at hand.
    pub fn whole(&mut self, id: u64, body: &[u8], status: &[u8]) -> Result<(), ReadError> {
        let (version, state) = peek_status(status)?;
        if self.count(id, version, state) {
            self.loader.load(&Unfinished::of(&action(id, body, status)?));
        }
        Ok(())
    }

    /// An action in a body file, with its later status if it has one.
    pub fn written(
        &mut self,
        front: &Front<'_>,
        ticket: &Ticket,
        later: Option<&[u8]>,
    ) -> Result<(), ReadError> {
        let told_by_ticket = if later.is_some() { MORE_LOCKS } else { MORE_LOCKS | CLAIMED };
        let (version, state) = match later {
            Some(status) => peek_status(status)?,
            None => (u64::from(ticket.version), ticket.state),
        };
        if !self.count(ticket.id, version, state) {
            return Ok(());
        }
        if ticket.flags & told_by_ticket != 0 {
            let (body, written) = front.parts(ticket)?;
            let action = action(ticket.id, &body, later.unwrap_or(&written))?;
            self.loader.load(&Unfinished::of(&action));
            return Ok(());
        }
        let mut lock = [LockKey(0)];
        let told = ticket.unfinished(front.names(), &mut lock)?;
        if let Some(status) = later {
            let status = decode_status(status)?;
            self.loader.load(&Unfinished {
                state: status.state,
                attempt: status.attempt,
                locks_freed: status.locks_freed,
                due_at: status.due_at,
                claim: status.claim.as_ref(),
                ..told
            });
        } else {
            self.loader.load(&told);
        }
        Ok(())
    }
}

/// All of the table's later statuses, in the order of ids.
struct Laters<'a> {
    table: &'a Table,
    read: std::vec::IntoIter<Later>,
    ahead: Option<Later>,
    next: Option<u64>,
    /// Ids of those that say nothing any more: their body files were written anew, and a crash came before the table
    /// had forgotten them.
    stale: Vec<u64>,
}

impl Laters<'_> {
    /// That of the action, if it belongs to the body that was written with that version.
    fn of(&mut self, id: u64, written: u32) -> Result<Option<Later>, TableError> {
        loop {
            match self.ahead.take() {
                Some(later) if later.id > id => {
                    self.ahead = Some(later);
                    return Ok(None);
                }
                Some(later) if later.id == id && later.written == written => return Ok(Some(later)),
                Some(later) => self.stale.push(later.id),
                None => {}
            }
            self.ahead = self.read.next();
            while self.ahead.is_none() {
                let Some(from) = self.next else { return Ok(None) };
                let (found, next) = self.table.laters_from(from, CLUSTERS_AT_ONCE, BYTES_AT_ONCE)?;
                self.next = next;
                self.read = found.into_iter();
                self.ahead = self.read.next();
            }
        }
    }
}

pub(super) struct Merge<'a> {
    pub load: Load<'a>,
    laters: Laters<'a>,
    changed: Peekable<btree_map::Iter<'a, u64, Entry>>,
    firsts: &'a BTreeMap<u64, First>,
}

impl<'a> Merge<'a> {
    pub fn new(
        loader: &'a mut dyn Loader,
        table: &'a Table,
        generation: &'a Generation,
        firsts: &'a BTreeMap<u64, First>,
    ) -> Self {
        let laters =
            Laters { table, read: Vec::new().into_iter(), ahead: None, next: Some(0), stale: Vec::new() };
        Self { load: Load::new(loader), laters, changed: generation.actions.iter().peekable(), firsts }
    }

    /// The next block.
    pub fn take(&mut self, front: &Front<'_>) -> Result<(), ReadError> {
        let mut tickets = front.tickets();
        while let Some(ticket) = tickets.next()? {
            while let Some((id, entry)) = self.changed.next_if(|(id, _)| **id < ticket.id) {
                self.unwritten(*id, entry)?;
            }
            let later = self.laters.of(ticket.id, ticket.version)?;
            match &later {
                Some(later) if later.is_deleted() => front.fate().deleted(ticket.bytes(), false),
                Some(_) => front.fate().restated(),
                None => {}
            }
            let Some((_, entry)) = self.changed.next_if(|(id, _)| **id == ticket.id) else {
                match later {
                    Some(later) if later.is_deleted() => {}
                    later => {
                        self.load.written(front, &ticket, later.as_ref().map(|later| &*later.status))?;
                    }
                }
                continue;
            };
            self.follows(&ticket, later.as_ref())?;
            match entry {
                Entry::Deleted => {}
                Entry::Live(live) if live.body.is_none() => {
                    self.load.written(front, &ticket, Some(&live.status))?;
                }
                Entry::Live(_) => {
                    return Err(TableError(format!("it has action {} too early", ticket.id)).into());
                }
            }
        }
        Ok(())
    }

    /// Whether the first change behind the checkpoint goes on from what is there.
    ///
    /// The table may be *ahead* of its description, if a checkpoint was killed: an action may have a later status
    /// there than the journal expects, or be deleted already. Neither matters, since the journal has its last
    /// status whole; but then only the changes behind that status can be checked.
    fn follows(&self, ticket: &Ticket, later: Option<&Later>) -> Result<(), ReadError> {
        let Some(First { event, from, next }) = self.firsts.get(&ticket.id) else { return Ok(()) };
        let (version, state) = match later {
            Some(later) if later.is_deleted() => return Ok(()),
            Some(later) => peek_status(&later.status)?,
            None => (u64::from(ticket.version), ticket.state),
        };
        if version == *from {
            check(state, *event, *next)
                .map_err(|illegal| TableError(format!("action {}: {illegal}", ticket.id)))?;
        } else if version < *from {
            let id = ticket.id;
            return Err(
                TableError(format!("version {from} of action {id} changed, and {version} is there")).into()
            );
        }
        Ok(())
    }

    fn unwritten(&mut self, id: u64, entry: &Entry) -> Result<(), ReadError> {
        let Entry::Live(live) = entry else { return Ok(()) };
        let body = live.body.as_deref().ok_or_else(|| TableError(format!("it has lost action {id}")))?;
        self.load.whole(id, body, &live.status)
    }

    /// What is in no body file yet. The ids of statuses that are to be forgotten go with what was loaded.
    pub fn end(mut self) -> Result<(Load<'a>, Vec<u64>), ReadError> {
        while let Some((id, entry)) = self.changed.next() {
            self.unwritten(*id, entry)?;
        }
        self.laters.of(u64::MAX, 0)?;
        Ok((self.load, self.laters.stale))
    }
}
