//! A start without sled: one pass through the snapshot and the journal behind it, which tells where everything is
//! and checks it: each change must follow the version before it and be a legal one, and every checkpoint on the
//! way must have counted the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::{Index, Known, SNAPSHOT, Spot};
use super::sources::{Cursor, Sources, spot_of};
use crate::action::{ActionId, Event, IllegalTransition, State, Unfinished};
use crate::store::codec::Malformed;
use crate::store::disk::Disk;
use crate::store::journal::{PlaceReader, Replayed};
use crate::store::ledger::Ledger;
use crate::store::record::{Record, decode_status, peek_status, version_hash};
use crate::store::replay::check;
use crate::store::shared::action;
use crate::store::snapshot::{self, Piece, Unreadable};
use crate::store::table::TableError;
use crate::store::{Loader, StoreError};

/// The pass under way.
pub(in crate::store) struct Gather {
    index: Index,
    pub ledger: Ledger,
    action_blocks: Vec<u64>,
    key_blocks: Vec<u64>,
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
            action_blocks: Vec::new(),
            key_blocks: Vec::new(),
            first_segment: None,
            snapshot: None,
            journal,
            saw_checkpoint: false,
        }
    }

    /// Takes up a whole snapshot; the group that it is of. The pass cannot go on after an error.
    pub fn snapshot(&mut self, disk: &dyn Disk, path: &Path) -> Result<u64, Unreadable> {
        self.snapshot = Some(path.to_owned());
        let mut counted = Ledger::default();
        let (index, blocks, keys) = (&mut self.index, &mut self.action_blocks, &mut self.key_blocks);
        let meta = snapshot::read(disk, path, &mut |piece| match piece {
            Piece::Action { at, id, status } => {
                let spot = Spot { file: SNAPSHOT, at: number(blocks, at)? };
                let (version, state) = peek_status(status).map_err(|Malformed(error)| error)?;
                counted.live_count += 1;
                counted.digest = counted.digest.wrapping_add(version_hash(id, version));
                index.push(&Known { id, version, state: Some(state), body: spot, status: spot })
            }
            Piece::Later { at, id, status } => {
                let spot = Spot { file: SNAPSHOT, at: number(blocks, at)? };
                let known = index.find(id).filter(|known| known.state.is_some());
                let known = known.ok_or_else(|| format!("action {id} changed and is not there"))?;
                let Some(status) = status else {
                    counted.deleted(id, known.version);
                    return index.replace(&Known { state: None, ..known });
                };
                let (version, state) = peek_status(status).map_err(|Malformed(error)| error)?;
                counted.changed(id, known.version, version);
                index.replace(&Known { version, state: Some(state), status: spot, ..known })
            }
            Piece::Keys { at } => {
                keys.push(at);
                Ok(())
            }
        })?;
        if meta.store_id != self.ledger.store_id {
            return Err(Unreadable { offset: 0, detail: "it is not this store's".to_owned() });
        }
        if (counted.live_count, counted.digest) != (meta.live_count, meta.digest) {
            let detail = format!("it holds {} actions and says {}", counted.live_count, meta.live_count);
            return Err(Unreadable { offset: 0, detail });
        }
        let group = meta.group;
        self.ledger = Ledger::from_meta(meta);
        Ok(group)
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
                self.index.push(&Known { id, version, state: Some(state), body: spot, status: spot })?;
            }
            Record::Changed { id, event, status } => self.changed(id, event, status, spot)?,
            Record::Deleted { actions } => {
                for (id, version) in actions {
                    let known = self.index.find(id).filter(|known| known.state.is_some());
                    let Some(known) = known.filter(|known| known.version == version) else {
                        return Err(format!(
                            "version {version} of action {id} was deleted, which is not there"
                        )
                        .into());
                    };
                    self.ledger.deleted(id, version);
                    self.index.replace(&Known { state: None, ..known })?;
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
        let new = decode_status(status)?;
        let known = self.index.find(id);
        let before = known.and_then(|known| Some((known, known.state?)));
        let Some((known, state)) = before.filter(|(known, _)| known.version + 1 == new.version) else {
            return Err(format!(
                "version {} of action {id} does not follow {:?}",
                new.version,
                known.map(|known| known.version)
            )
            .into());
        };
        check(state, event, new.state).map_err(|illegal| Trouble::Illegal(id, illegal))?;
        self.ledger.changed(id, known.version, new.version);
        self.index.replace(&Known { version: new.version, state: Some(new.state), status: spot, ..known })?;
        Ok(())
    }

    pub fn end(self, disk: Arc<dyn Disk>, journal: PlaceReader) -> Gathered {
        let Self {
            index, ledger, action_blocks, key_blocks, first_segment, snapshot, saw_checkpoint, ..
        } = self;
        let first_segment = first_segment.unwrap_or(0);
        let sources = Sources { disk, snapshot, action_blocks, key_blocks, first_segment, journal };
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
    index: &Index,
    sources: &Sources,
    loader: &mut dyn Loader,
) -> Result<u64, TableError> {
    let (mut cursor, mut finished) = (Cursor::default(), 0);
    for known in index.live_from(0) {
        if known.state.is_some_and(State::is_final) {
            finished += 1;
        } else {
            let stored = sources.stored(&known, &mut cursor)?;
            loader.load(&Unfinished::of(&action(stored.id, &stored.body, &stored.status)?));
        }
    }
    Ok(finished)
}
