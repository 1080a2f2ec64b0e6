//! Takes up the journal's records at a start, on top of what a trusted table holds. A start without a table is
//! in [`super::rebuild`].
//!
//! Every change passes through the one transition function and must follow the version before it; what it follows
//! in the table is checked when that is walked ([`super::load`]), so that the replay looks nothing up. The result
//! is a generation as a running store would have it, and the ledger that goes with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::StoreError;
use super::codec::Malformed;
use super::journal::Replayed;
use super::ledger::Ledger;
use super::memory::{Entry, Generation, Live};
use super::record::{Record, StoredKeyUse, peek_key, peek_status};
use super::table::key_hash;
use crate::action::{Body, Event, IllegalTransition, State};

/// The first change of an action that the table has.
pub(super) struct First {
    pub event: Event,
    /// The version that it changes.
    pub from: u64,
    pub next: State,
}

pub(super) struct Replay {
    pub firsts: BTreeMap<u64, First>,
    pub generation: Generation,
    pub ledger: Ledger,
    /// The last group that the table holds; records up to it are not taken up.
    pub held: u64,
    /// Live count and digest that the journal says the table's checkpoint has.
    pub checkpointed: Option<(u64, u64)>,
    /// Why the table is not trusted after all: a contradiction is taken for its fault.
    pub distrust: Option<String>,
    pub journal: PathBuf,
}

/// Why the table cannot be what the journal was written on.
struct Trouble(String);

impl From<Malformed> for Trouble {
    fn from(Malformed(error): Malformed) -> Self {
        Self(error)
    }
}

impl Replay {
    /// Takes up one record.
    pub fn take(&mut self, replayed: &Replayed<'_>) -> Result<(), StoreError> {
        let damaged = |journal: &PathBuf, detail: String| StoreError::Damaged {
            file: journal.join(format!("segment {}", replayed.place.segment)),
            offset: u64::from(replayed.place.offset),
            detail,
            next_step: "copy the store's directory, then see what a backup or `actiond doctor` can do",
        };
        let record =
            Record::decode(replayed.bytes).map_err(|Malformed(error)| damaged(&self.journal, error))?;
        if replayed.group.0 <= self.held {
            if let Record::Checkpointed { live_count, digest } = record
                && replayed.group.0 == self.held
            {
                self.checkpointed = Some((live_count, digest));
            }
            return Ok(());
        }
        self.apply(record).map_err(|Trouble(why)| {
            self.distrust = Some(why);
            StoreError::Rebuilding
        })
    }

    fn apply(&mut self, record: Record<'_>) -> Result<(), Trouble> {
        match record {
            Record::Submitted { id, body, status } => self.submitted(id, body, status)?,
            Record::Changed { id, event, status } => self.changed(id, event, status)?,
            Record::Deleted { actions } => {
                for (id, version) in actions {
                    self.ledger.deleted(id, version);
                    self.generation.insert(id, Entry::Deleted);
                }
            }
            Record::QueuePaused { queue, paused } => self.ledger.paused(queue, paused),
            Record::Started { incarnation, boot_id: _ } => self.ledger.incarnation = incarnation,
            Record::Checkpointed { live_count, digest } => {
                if (live_count, digest) != (self.ledger.live_count, self.ledger.digest) {
                    return Err(Trouble(format!(
                        "there are {} actions where a checkpoint counted {live_count}, or other versions of them",
                        self.ledger.live_count
                    )));
                }
            }
        }
        Ok(())
    }

    fn submitted(&mut self, id: u64, body: &[u8], status: &[u8]) -> Result<(), Trouble> {
        let (version, state) = peek_status(status)?;
        if id != self.ledger.next_id || version != 1 {
            return Err(Trouble(format!(
                "action {id} was accepted where {} is the next one",
                self.ledger.next_id
            )));
        }
        if let Some((uid, key, used)) = peek_key(id, body)? {
            self.generation.insert_key(key_hash(uid, key), used);
        }
        self.ledger.submitted(id, version);
        let live = Live { version, state, body: Some(body.into()), status: status.into() };
        self.generation.insert(id, Entry::Live(live));
        Ok(())
    }

    fn changed(&mut self, id: u64, event: Event, status: &[u8]) -> Result<(), Trouble> {
        let (version, next) = peek_status(status)?;
        let from = version.checked_sub(1);
        let from = from.ok_or_else(|| Trouble(format!("action {id} has version 0")))?;
        match self.generation.actions.get(&id) {
            Some(Entry::Live(live)) if live.version == from => {
                check(live.state, event, next)
                    .map_err(|illegal| Trouble(format!("action {id}: {illegal}")))?;
            }
            Some(Entry::Live(live)) => {
                return Err(Trouble(format!(
                    "version {version} of action {id} does not follow {}",
                    live.version
                )));
            }
            Some(Entry::Deleted) => {
                return Err(Trouble(format!("action {id} changed after it was deleted")));
            }
            None if id < self.ledger.next_id => {
                self.firsts.insert(id, First { event, from, next });
            }
            None => return Err(Trouble(format!("action {id} changed and was never accepted"))),
        }
        self.ledger.changed(id, from, version);
        let live = Live { version, state: next, body: None, status: status.into() };
        self.generation.insert(id, Entry::Live(live));
        Ok(())
    }
}

/// Whether `event` leads from one state to the other.
pub(super) fn check(state: State, event: Event, next: State) -> Result<(), IllegalTransition> {
    if state.apply(event)? == next { Ok(()) } else { Err(IllegalTransition { state, event }) }
}

/// The use of its idempotency key that an action makes, if it has one.
pub(super) fn key_of(id: u64, body: &Body) -> Option<([u8; 20], StoredKeyUse)> {
    let key = body.idempotency_key.as_ref()?;
    let used = StoredKeyUse { id, digest: body.request_digest, accepted_at: body.accepted_at.0 };
    Some((key_hash(body.submitter.uid, key), used))
}
