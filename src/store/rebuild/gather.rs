//! A start without sled: one pass through the snapshot and the journal behind it, which tells where everything is
//! and checks it: each change must follow the version before it and be a legal one, and every checkpoint on the
//! way must have counted the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::{Index, Known, SNAPSHOT, Spot, WRITTEN};
use super::sources::{Cursor, Sources, spot_of};
use crate::action::{ActionId, Event, IllegalTransition, State};
use crate::store::base::ReadError;
use crate::store::bodies::Bodies;
use crate::store::codec::Malformed;
use crate::store::disk::Disk;
use crate::store::journal::{PlaceReader, Replayed};
use crate::store::ledger::Ledger;
use crate::store::load::Load;
use crate::store::record::{Meta, Record, peek_status};
use crate::store::replay::check;
use crate::store::snapshot::{self, Piece, Unreadable};
use crate::store::table::later::Balance;
use crate::store::{Loader, StoreError};

/// The pass under way.
pub(in crate::store) struct Gather {
    index: Index,
    pub ledger: Ledger,
    status_blocks: Vec<u64>,
    key_blocks: Vec<u64>,
    bodies: Option<Arc<Bodies>>,
    first_segment: Option<u64>,
    snapshot: Option<PathBuf>,
    journal: PathBuf,
    pub saw_checkpoint: bool,
}

/// What it found.
pub(in crate::store) struct Gathered {
    pub index: Index,
    pub sources: Sources,
    pub ledger: Ledger,
    pub saw_checkpoint: bool,
}

enum Trouble {
    Contradiction(String),
    Illegal(u64, IllegalTransition),
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Malformed> for Trouble {
    fn from(Malformed(error): Malformed) -> Self {
        Self::Contradiction(error)
    }
}

impl From<String> for Trouble {
    fn from(error: String) -> Self {
        Self::Contradiction(error)
    }
}

impl Gather {
    pub fn new(store_id: String, journal: PathBuf) -> Self {
        Self {
            index: Index::default(),
            ledger: Ledger::new(store_id),
            status_blocks: Vec::new(),
            key_blocks: Vec::new(),
            bodies: None,
            first_segment: None,
            snapshot: None,
            journal,
            saw_checkpoint: false,
        }
    }

    /// Takes up a whole snapshot; its description. The pass cannot go on after an error.
    pub fn snapshot(&mut self, disk: &dyn Disk, path: &Path) -> Result<Meta, Unreadable> {
        self.snapshot = Some(path.to_owned());
        let mut balance: BTreeMap<u64, Balance> = BTreeMap::new();
        let (index, blocks, keys) = (&mut self.index, &mut self.status_blocks, &mut self.key_blocks);
        let meta = snapshot::read(disk, path, &mut |piece| match piece {
            Piece::Later { at, id, written, status } => {
                let found = Balance::of(id, written, status).map_err(|Malformed(error)| error)?;
                balance.insert(id, found);
                let mut known = Known { id, version: 0, state: None, body: WRITTEN, status: WRITTEN };
                if !status.is_empty() {
                    let (version, state) = peek_status(status).map_err(|Malformed(error)| error)?;
                    let status = Spot { file: SNAPSHOT, at: number(blocks, at)? };
                    known = Known { version, state: Some(state), status, ..known };
                }
                index.put(known);
                Ok(())
            }
            Piece::Keys { at } => {
                keys.push(at);
                Ok(())
            }
        })?;
        if meta.store_id != self.ledger.store_id {
            return Err(Unreadable::new(0, "it is not this store's"));
        }
        let mut all = Balance::default();
        for one in balance.into_values() {
            all.add(one);
        }
        let count = meta.files.iter().fold(0u64, |sum, file| sum.wrapping_add(file.count));
        let digest = meta.files.iter().fold(0u64, |sum, file| sum.wrapping_add(file.digest));
        let counted = (count.wrapping_sub(all.deleted), digest.wrapping_add(all.digest));
        if counted != (meta.live_count, meta.digest) {
            let detail = format!("it holds {} actions and says {}", counted.0, meta.live_count);
            return Err(Unreadable::new(0, detail));
        }
        self.ledger = Ledger::from_meta(meta.clone());
        Ok(meta)
    }

    /// Where the bodies are that the snapshot names.
    pub fn over(&mut self, bodies: Arc<Bodies>) {
        self.bodies = Some(bodies);
    }

    fn find(&self, id: u64) -> Result<Option<Known>, StoreError> {
        if let Some(known) = self.index.find(id) {
            return Ok(Some(known));
        }
        let Some(bodies) = &self.bodies else { return Ok(None) };
        let written = bodies.ticket(id)?.map(|(ticket, _)| Known {
            id,
            version: u64::from(ticket.version),
            state: Some(ticket.state),
            body: WRITTEN,
            status: WRITTEN,
        });
        Ok(written)
    }

    /// Takes up one record behind the snapshot.
    pub fn take(&mut self, replayed: &Replayed<'_>) -> Result<(), StoreError> {
        let damaged = |detail: String| StoreError::Damaged {
            file: self.journal.join(format!("segment {}", replayed.place.segment)),
            offset: u64::from(replayed.place.offset),
            detail,
            next_step: "copy the store's directory, then see what a backup or `actiond doctor` can do",
        };
        let record = Record::decode(replayed.bytes).map_err(|Malformed(error)| damaged(error))?;
        let first = *self.first_segment.get_or_insert(replayed.place.segment);
        let applied = match spot_of(replayed.place, first) {
            Ok(spot) => self.apply(record, spot),
            Err(error) => Err(Trouble::Contradiction(error)),
        };
        applied.map_err(|trouble| match trouble {
            Trouble::Contradiction(detail) => StoreError::Damaged {
                file: self.journal.join(format!("segment {}", replayed.place.segment)),
                offset: u64::from(replayed.place.offset),
                detail,
                next_step: "copy the store's directory, then see what a backup or `actiond doctor` can do",
            },
            Trouble::Illegal(id, source) => StoreError::Illegal { id: ActionId(id), source },
            Trouble::Store(error) => error,
        })
    }

    fn apply(&mut self, record: Record<'_>, spot: Spot) -> Result<(), Trouble> {
        match record {
            Record::Submitted { id, status, .. } => {
                let (version, state) = peek_status(status)?;
                if id != self.ledger.next_id || version != 1 {
                    let next = self.ledger.next_id;
                    return Err(format!("action {id} was accepted where {next} is the next one").into());
                }
                self.ledger.submitted(id, version);
                self.index.put(Known { id, version, state: Some(state), body: spot, status: spot });
            }
            Record::Changed { id, event, status } => self.changed(id, event, status, spot)?,
            Record::Deleted { actions } => {
                for (id, version) in actions {
                    let known = self.find(id)?.filter(|known| known.state.is_some());
                    let Some(known) = known.filter(|known| known.version == version) else {
                        return Err(format!(
                            "version {version} of action {id} was deleted, which is not there"
                        )
                        .into());
                    };
                    self.ledger.deleted(id, version);
                    self.index.put(Known { state: None, ..known });
                }
            }
            Record::QueuePaused { queue, paused } => self.ledger.paused(queue, paused),
            Record::Started { incarnation, boot_id: _ } => self.ledger.incarnation = incarnation,
            Record::Checkpointed { live_count, digest } => {
                self.saw_checkpoint = true;
                if (live_count, digest) != (self.ledger.live_count, self.ledger.digest) {
                    return Err(format!(
                        "there are {} actions where a checkpoint counted {live_count}, or other versions of them",
                        self.ledger.live_count
                    )
                    .into());
                }
            }
        }
        Ok(())
    }

    fn changed(&mut self, id: u64, event: Event, status: &[u8], spot: Spot) -> Result<(), Trouble> {
        let (version, next) = peek_status(status)?;
        let known = self.find(id)?;
        let before = known.and_then(|known| Some((known, known.state?)));
        let Some((known, state)) = before.filter(|(known, _)| known.version + 1 == version) else {
            return Err(format!(
                "version {version} of action {id} does not follow {:?}",
                known.map(|known| known.version)
            )
            .into());
        };
        check(state, event, next).map_err(|illegal| Trouble::Illegal(id, illegal))?;
        self.ledger.changed(id, known.version, version);
        self.index.put(Known { version, state: Some(next), status: spot, ..known });
        Ok(())
    }

    pub fn end(self, disk: Arc<dyn Disk>, journal: PlaceReader) -> Gathered {
        let Self {
            index, ledger, status_blocks, key_blocks, first_segment, snapshot, saw_checkpoint, ..
        } = self;
        let first_segment = first_segment.unwrap_or(0);
        let sources = Sources { disk, snapshot, status_blocks, key_blocks, first_segment, journal };
        Gathered { index, sources, ledger, saw_checkpoint }
    }
}

/// The number of the block at `at`, which is the last one or a new one.
fn number(blocks: &mut Vec<u64>, at: u64) -> Result<u32, String> {
    if blocks.last() != Some(&at) {
        blocks.push(at);
    }
    u32::try_from(blocks.len() - 1).map_err(|_| "it has too many blocks".to_owned())
}

/// Hands every unfinished action to the loader; how many are finished.
pub(in crate::store) fn load(
    bodies: &Bodies,
    index: &Index,
    sources: &Sources,
    loader: &mut dyn Loader,
) -> Result<u64, ReadError> {
    let (mut cursor, mut load) = (Cursor::default(), Load::new(loader));
    for file in bodies.files().iter() {
        let of_file = index.range(file.first_id(), file.meta.last_id).collect::<Vec<_>>();
        let mut known = of_file.into_iter().peekable();
        file.fronts(&mut |front| {
            let mut tickets = front.tickets();
            while let Some(ticket) = tickets.next()? {
                while known.next_if(|known| known.id < ticket.id).is_some() {}
                match known.next_if(|known| known.id == ticket.id) {
                    Some(known) if known.state.is_none() => front.fate().deleted(ticket.bytes(), false),
                    Some(known) => {
                        let status = sources.later_status(&known, &mut cursor)?;
                        if status.is_some() {
                            front.fate().restated();
                        }
                        load.written(front, &ticket, status.as_deref())?;
                    }
                    None => load.written(front, &ticket, None)?,
                }
            }
            Ok(())
        })?;
    }
    for known in index.unwritten_from(0) {
        if known.state.is_some_and(State::is_final) {
            load.finished += 1;
        } else {
            let stored = sources.stored(&known, &mut cursor)?;
            load.whole(stored.id, &stored.body, &stored.status)?;
        }
    }
    Ok(load.finished)
}
