//! One block of a body file: some consecutive actions, what a start must know of each in front.
//!
//! ```text
//!  header   "bod" 1 | count u32 | tickets_len u32 | bodies_len u32 | first id u64 | crc32c u32 of the ticket part
//!           | crc32c u32 of the header before, the file's number u64 and the block's offset u64
//!  tickets  count of names u16, each len u16 and bytes: the queues of these actions
//!           per action, 64 bytes, in the order of ids:
//!             id u64 | first lock u64 | due_at i64 | deadline i64 | version u32 | attempt u32 | body_len u32
//!             | status_len u32 | crc32c u32 of the body | crc32c u32 of the status | kind u16 | queue u16
//!             | state u8 | priority u8 | flags u8 | 0
//!  bodies   per action: body, status                                  (all little endian)
//! ```
//!
//! A start reads headers and tickets only. A ticket that cannot say all has [`CLAIMED`] or [`MORE_LOCKS`] set: then
//! status or body must be read. Frozen: a changed form gets another number in the magic.

use crate::action::{ActionId, LockKey, State, Status, Timestamp, Unfinished};
use crate::store::codec::Malformed;
use crate::store::record::{BodyFacts, StatusFacts, peek_body, peek_waiting};

const MAGIC: [u8; 4] = *b"bod\x01";
pub const HEADER_BYTES: usize = 32;
pub const TICKET_BYTES: usize = 64;

const LOCKS_FREED: u8 = 1;
const DUE: u8 = 2;
const DEADLINE: u8 = 4;
const LOCKED: u8 = 8;
/// It has more locks than the one in its ticket.
pub const MORE_LOCKS: u8 = 16;
/// Its status has a claim.
pub const CLAIMED: u8 = 32;

/// What is said of an action in front of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub id: u64,
    pub version: u32,
    pub state: State,
    pub flags: u8,
    priority: u8,
    attempt: u32,
    kind: u16,
    queue: u16,
    lock: u64,
    due_at: i64,
    deadline: i64,
    pub body_len: u32,
    pub status_len: u32,
    body_crc: u32,
    status_crc: u32,
    /// Of its body in the body part.
    pub offset: usize,
}

impl Ticket {
    /// Bytes that it takes in its file.
    pub fn bytes(&self) -> u64 {
        TICKET_BYTES as u64 + u64::from(self.body_len) + u64::from(self.status_len)
    }

    /// Where its status begins in the body part.
    pub fn status_at(&self) -> usize {
        self.offset + self.body_len as usize
    }

    /// Whether that is its body.
    pub fn check_body(&self, body: &[u8]) -> Result<(), Malformed> {
        self.check("body", body, self.body_crc)
    }

    /// Whether that is its status.
    pub fn check_status(&self, status: &[u8]) -> Result<(), Malformed> {
        self.check("status", status, self.status_crc)
    }

    fn check(&self, what: &str, part: &[u8], crc: u32) -> Result<(), Malformed> {
        if crc32c::crc32c(part) == crc {
            Ok(())
        } else {
            Err(Malformed::new(format!("the {what} of action {} does not match its checksum", self.id)))
        }
    }

    /// As much of its status as the ticket has.
    pub fn status(&self) -> Status {
        Status {
            version: u64::from(self.version),
            attempt: self.attempt,
            locks_freed: self.flags & LOCKS_FREED != 0,
            ..Status::accepted(self.state, (self.flags & DUE != 0).then_some(Timestamp(self.due_at)))
        }
    }

    fn encode(&self, to: &mut Vec<u8>) {
        let Self { id, version, state, flags, priority, attempt, kind, queue, .. } = *self;
        to.extend_from_slice(&id.to_le_bytes());
        to.extend_from_slice(&self.lock.to_le_bytes());
        to.extend_from_slice(&self.due_at.to_le_bytes());
        to.extend_from_slice(&self.deadline.to_le_bytes());
        for part in [version, attempt, self.body_len, self.status_len, self.body_crc, self.status_crc] {
            to.extend_from_slice(&part.to_le_bytes());
        }
        to.extend_from_slice(&kind.to_le_bytes());
        to.extend_from_slice(&queue.to_le_bytes());
        to.extend_from_slice(&[state as u8, priority, flags, 0]);
    }

    fn decode(bytes: &[u8; TICKET_BYTES], offset: usize) -> Result<Self, Malformed> {
        let mut rest: &[u8] = bytes;
        let id = u64::from_le_bytes(take(&mut rest)?);
        let lock = u64::from_le_bytes(take(&mut rest)?);
        let due_at = i64::from_le_bytes(take(&mut rest)?);
        let deadline = i64::from_le_bytes(take(&mut rest)?);
        let version = u32::from_le_bytes(take(&mut rest)?);
        let attempt = u32::from_le_bytes(take(&mut rest)?);
        let body_len = u32::from_le_bytes(take(&mut rest)?);
        let status_len = u32::from_le_bytes(take(&mut rest)?);
        let body_crc = u32::from_le_bytes(take(&mut rest)?);
        let status_crc = u32::from_le_bytes(take(&mut rest)?);
        let kind = u16::from_le_bytes(take(&mut rest)?);
        let queue = u16::from_le_bytes(take(&mut rest)?);
        let [state, priority, flags, _] = take(&mut rest)?;
        let state = State::from_number(state)
            .ok_or_else(|| Malformed::new(format!("no state has number {state}")))?;
        Ok(Self {
            id,
            version,
            state,
            flags,
            priority,
            attempt,
            kind,
            queue,
            lock,
            due_at,
            deadline,
            body_len,
            status_len,
            body_crc,
            status_crc,
            offset,
        })
    }

    /// What scheduling must know. `lock` is where its only lock is put. Not for one that is claimed or has more
    /// locks.
    pub fn unfinished<'t>(
        &self,
        names: &Names<'t>,
        lock: &'t mut [LockKey; 1],
    ) -> Result<Unfinished<'t>, Malformed> {
        *lock = [LockKey(self.lock)];
        let locks: &[LockKey] = if self.flags & LOCKED == 0 { &[] } else { lock };
        Ok(Unfinished {
            id: ActionId(self.id),
            queue: names.get(self.queue)?,
            kind: self.kind,
            priority: self.priority,
            deadline: (self.flags & DEADLINE != 0).then_some(Timestamp(self.deadline)),
            locks,
            state: self.state,
            attempt: self.attempt,
            locks_freed: self.flags & LOCKS_FREED != 0,
            due_at: (self.flags & DUE != 0).then_some(Timestamp(self.due_at)),
            claim: None,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (first, rest) =
        bytes.split_first_chunk::<N>().ok_or_else(|| Malformed::new("a block is cut short"))?;
    *bytes = rest;
    Ok(*first)
}

/// The queues of a block's actions.
#[derive(Clone, Debug)]
pub struct Names<'a>(Vec<&'a str>);

impl<'a> Names<'a> {
    fn get(&self, number: u16) -> Result<&'a str, Malformed> {
        let name = self.0.get(usize::from(number)).copied();
        name.ok_or_else(|| Malformed::new("a ticket names a queue that is not there"))
    }
}

/// The front of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub count: u32,
    pub tickets_len: u32,
    pub bodies_len: u32,
    pub first_id: u64,
    tickets_crc: u32,
}

impl Header {
    pub fn decode(bytes: &[u8], number: u64, offset: u64) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let magic: [u8; 4] = take(&mut rest)?;
        let count = u32::from_le_bytes(take(&mut rest)?);
        let tickets_len = u32::from_le_bytes(take(&mut rest)?);
        let bodies_len = u32::from_le_bytes(take(&mut rest)?);
        let first_id = u64::from_le_bytes(take(&mut rest)?);
        let tickets_crc = u32::from_le_bytes(take(&mut rest)?);
        let crc = u32::from_le_bytes(take(&mut rest)?);
        let described = bytes.get(..HEADER_BYTES - 4).unwrap_or_default();
        if crc != header_crc(described, number, offset) {
            return Err(Malformed::new("the header of a block does not match its checksum"));
        }
        if magic != MAGIC {
            return Err(Malformed::new("a block is of another format"));
        }
        Ok(Self { count, tickets_len, bodies_len, first_id, tickets_crc })
    }

    /// Where the body part begins in the block.
    pub fn bodies_at(&self) -> usize {
        HEADER_BYTES + self.tickets_len as usize
    }

    pub fn bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.tickets_len) + u64::from(self.bodies_len)
    }
}

fn header_crc(described: &[u8], number: u64, offset: u64) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(described), &number.to_le_bytes());
    crc32c::crc32c_append(crc, &offset.to_le_bytes())
}

/// The checked ticket part of a block.
#[derive(Clone, Debug)]
pub struct Tickets<'a> {
    pub names: Names<'a>,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Tickets<'a> {
    /// `bytes` begins with the block's header.
    pub fn of(header: &Header, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let part = bytes.get(HEADER_BYTES..header.bodies_at());
        let part = part.ok_or_else(|| Malformed::new("a block is cut short"))?;
        if crc32c::crc32c(part) != header.tickets_crc {
            return Err(Malformed::new("the tickets of a block do not match their checksum"));
        }
        let mut rest = part;
        let count = u16::from_le_bytes(take(&mut rest)?);
        let mut names = Vec::with_capacity(usize::from(count.min(64)));
        for _ in 0..count {
            let len = usize::from(u16::from_le_bytes(take(&mut rest)?));
            let cut = || Malformed::new("a block is cut short");
            let (name, behind) = rest.split_at_checked(len).ok_or_else(cut)?;
            names.push(std::str::from_utf8(name).map_err(|error| Malformed::new(error.to_string()))?);
            rest = behind;
        }
        if rest.len() != header.count as usize * TICKET_BYTES {
            return Err(Malformed::new("a block has another number of tickets than it says"));
        }
        Ok(Self { names: Names(names), bytes: rest, offset: 0 })
    }

    /// The next ticket, in the order of ids.
    pub fn next(&mut self) -> Result<Option<Ticket>, Malformed> {
        let Some((first, rest)) = self.bytes.split_first_chunk::<TICKET_BYTES>() else { return Ok(None) };
        let ticket = Ticket::decode(first, self.offset)?;
        self.bytes = rest;
        self.offset += ticket.body_len as usize + ticket.status_len as usize;
        Ok(Some(ticket))
    }
}

/// Body and status of a ticket's action, from the whole block.
pub fn parts_of<'a>(
    header: &Header,
    ticket: &Ticket,
    block: &'a [u8],
) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    let bodies = block.get(header.bodies_at()..).unwrap_or_default();
    let body = bodies.get(ticket.offset..ticket.status_at());
    let body = body.ok_or_else(|| Malformed::new("a block is cut short"))?;
    ticket.check_body(body)?;
    Ok((body, status_of(header, ticket, block)?))
}

/// The status of a ticket's action, whatever its body is like.
pub fn status_of<'a>(header: &Header, ticket: &Ticket, block: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let bodies = block.get(header.bodies_at()..).unwrap_or_default();
    let status = bodies.get(ticket.status_at()..ticket.status_at() + ticket.status_len as usize);
    let status = status.ok_or_else(|| Malformed::new("a block is cut short"))?;
    ticket.check_status(status)?;
    Ok(status)
}

/// A block that is being filled.
#[derive(Default)]
pub struct Builder {
    names: Vec<String>,
    names_bytes: usize,
    tickets: Vec<u8>,
    bodies: Vec<u8>,
    count: u32,
    first_id: u64,
    /// The last one that was finished. Its room is used again, like all of the above.
    block: Vec<u8>,
}

impl Builder {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn bytes(&self) -> usize {
        HEADER_BYTES + 2 + self.names_bytes + self.tickets.len() + self.bodies.len()
    }

    /// Adds an action with an id above all that are there; the version that it has.
    pub fn add(&mut self, id: u64, body: &[u8], status: &[u8]) -> Result<u64, Malformed> {
        let BodyFacts { queue, kind, priority, deadline, first_lock, lock_count } = peek_body(body)?;
        let StatusFacts { version, state, due_at, attempt, locks_freed, has_claim } = peek_waiting(status)?;
        let too_large = |what: &str| Malformed::new(format!("action {id} has too large a {what}"));
        let flag = |holds: bool, flag: u8| if holds { flag } else { 0 };
        let flags = flag(locks_freed, LOCKS_FREED)
            | flag(due_at.is_some(), DUE)
            | flag(deadline.is_some(), DEADLINE)
            | flag(first_lock.is_some(), LOCKED)
            | flag(lock_count > 1, MORE_LOCKS)
            | flag(has_claim, CLAIMED);
        let ticket = Ticket {
            id,
            version: u32::try_from(version).map_err(|_| too_large("version"))?,
            state,
            flags,
            priority,
            attempt,
            kind,
            queue: self.name(queue).ok_or_else(|| too_large("queue name"))?,
            lock: first_lock.unwrap_or(0),
            due_at: due_at.unwrap_or(0),
            deadline: deadline.unwrap_or(0),
            body_len: u32::try_from(body.len()).map_err(|_| too_large("body"))?,
            status_len: u32::try_from(status.len()).map_err(|_| too_large("status"))?,
            body_crc: crc32c::crc32c(body),
            status_crc: crc32c::crc32c(status),
            offset: 0,
        };
        if self.is_empty() {
            self.first_id = id;
        }
        ticket.encode(&mut self.tickets);
        self.bodies.extend_from_slice(body);
        self.bodies.extend_from_slice(status);
        self.count += 1;
        Ok(version)
    }

    fn name(&mut self, name: &str) -> Option<u16> {
        if let Some(at) = self.names.iter().position(|known| known == name) {
            return u16::try_from(at).ok();
        }
        u16::try_from(name.len()).ok()?;
        self.names.push(name.to_owned());
        self.names_bytes += 2 + name.len();
        u16::try_from(self.names.len() - 1).ok()
    }

    /// The block for that place; the builder is empty then. Its first id goes with it.
    pub fn finish(&mut self, number: u64, offset: u64) -> Result<(u64, &[u8]), Malformed> {
        let bytes = self.bytes();
        let Self { names, names_bytes, tickets, bodies, count, first_id, block } = self;
        block.clear();
        block.reserve(bytes);
        block.resize(HEADER_BYTES, 0);
        block.extend_from_slice(&u16::try_from(names.len()).unwrap_or(u16::MAX).to_le_bytes());
        for name in &*names {
            block.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            block.extend_from_slice(name.as_bytes());
        }
        block.extend_from_slice(tickets);
        let too_large = |_| Malformed::new("a block is too large");
        let tickets_len = u32::try_from(block.len() - HEADER_BYTES).map_err(too_large)?;
        let bodies_len = u32::try_from(bodies.len()).map_err(too_large)?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&count.to_le_bytes());
        header.extend_from_slice(&tickets_len.to_le_bytes());
        header.extend_from_slice(&bodies_len.to_le_bytes());
        header.extend_from_slice(&first_id.to_le_bytes());
        let crc = crc32c::crc32c(block.get(HEADER_BYTES..).unwrap_or_default());
        header.extend_from_slice(&crc.to_le_bytes());
        header.extend_from_slice(&header_crc(&header, number, offset).to_le_bytes());
        if let Some(place) = block.get_mut(..HEADER_BYTES) {
            place.copy_from_slice(&header);
        }
        block.extend_from_slice(bodies);
        names.clear();
        tickets.clear();
        bodies.clear();
        (*names_bytes, *count) = (0, 0);
        Ok((*first_id, block))
    }
}
