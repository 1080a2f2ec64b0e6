//! Looks tickets up in the order of ids, with the front of one block in memory: never a body.

use std::sync::Arc;

use super::block::{Ticket, Tickets};
use super::file::{BodyFile, Fate, damaged};
use super::{Bodies, StoreError};
use crate::store::codec::Malformed;

pub struct TicketCursor<'a> {
    bodies: &'a Bodies,
    file: Option<Arc<BodyFile>>,
    tickets: Vec<Ticket>,
    front: Vec<u8>,
}

impl Bodies {
    pub fn ticket_cursor(&self) -> TicketCursor<'_> {
        TicketCursor { bodies: self, file: None, tickets: Vec::new(), front: Vec::new() }
    }
}

impl TicketCursor<'_> {
    /// The action's ticket, with the fate of the file that it is in.
    pub fn find(&mut self, id: u64) -> Result<Option<(Ticket, Arc<Fate>)>, StoreError> {
        let is_here = |tickets: &[Ticket]| {
            let ends = tickets.first().zip(tickets.last());
            ends.is_some_and(|(first, last)| (first.id..=last.id).contains(&id))
        };
        if !is_here(&self.tickets) {
            self.read(id)?;
        }
        let Some(file) = &self.file else { return Ok(None) };
        let found = self.tickets.binary_search_by_key(&id, |ticket| ticket.id);
        let found = found.ok().and_then(|at| self.tickets.get(at));
        Ok(found.map(|ticket| (*ticket, Arc::clone(&file.fate))))
    }

    /// The tickets of the block that would have the action.
    fn read(&mut self, id: u64) -> Result<(), StoreError> {
        (self.file, self.tickets) = (None, Vec::new());
        let files = self.bodies.files();
        let (at, block) = Bodies::place(&files, id);
        let Some(file) = files.get(at).filter(|file| file.first_id() <= id && id <= file.meta.last_id) else {
            return Ok(());
        };
        let Some((at, end)) = file.extent(block) else { return Ok(()) };
        let header = file.front(at, end, &mut self.front)?;
        let bad = |Malformed(detail)| damaged(&file.handle.path, at, detail);
        let mut tickets = Tickets::of(&header, &self.front).map_err(bad)?;
        while let Some(ticket) = tickets.next().map_err(bad)? {
            self.tickets.push(ticket);
        }
        self.file = Some(Arc::clone(file));
        Ok(())
    }
}
