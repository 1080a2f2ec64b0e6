//! Reads bodies and statuses by their places in snapshot and journal.

use std::path::PathBuf;
use std::sync::Arc;

use super::index::{Known, SNAPSHOT, Spot, WRITTEN};
use crate::store::bodies::Stored;
use crate::store::codec::Malformed;
use crate::store::disk::Disk;
use crate::store::journal::{OpenSegment, Place, PlaceReader};
use crate::store::record::{Record, StoredKeyUse};
use crate::store::snapshot::{Blocks, Unreadable};
use crate::store::table::later::next_packed;
use crate::store::table::{KeyHash, TableError};

/// Where things are read: shared by all who read.
pub(in crate::store) struct Sources {
    pub disk: Arc<dyn Disk>,
    /// The snapshot's file, if there is one, and where its blocks are.
    pub snapshot: Option<PathBuf>,
    pub status_blocks: Vec<u64>,
    pub key_blocks: Vec<u64>,
    /// The segment that is file 1.
    pub first_segment: u64,
    pub journal: PlaceReader,
}

/// What one reader has open: the next place is often in the same file, or even block.
#[derive(Default)]
pub(in crate::store) struct Cursor {
    snapshot: Option<Blocks>,
    block: Option<(u32, Vec<u8>)>,
    bodies: OpenSegment,
    statuses: OpenSegment,
}

/// The spot of a journal's record, if it can be named.
pub(super) fn spot_of(place: Place, first_segment: u64) -> Result<Spot, String> {
    let file = place.segment.checked_sub(first_segment).and_then(|file| u32::try_from(file + 1).ok());
    let file = file.ok_or_else(|| format!("segment {} is out of order", place.segment))?;
    Ok(Spot { file, at: place.offset })
}

impl Sources {
    fn blocks<'c>(&self, open: &'c mut Option<Blocks>) -> Result<&'c Blocks, TableError> {
        if open.is_none() {
            let path = self.snapshot.as_ref().ok_or_else(|| TableError("there is no snapshot".to_owned()))?;
            *open = Some(Blocks::open(&*self.disk, path).map_err(|error| self.unreadable(&error))?);
        }
        open.as_ref().ok_or_else(|| TableError("there is no snapshot".to_owned()))
    }

    fn unreadable(&self, Unreadable { offset, detail, .. }: &Unreadable) -> TableError {
        let path = self.snapshot.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        TableError(format!("{path} is damaged at offset {offset}: {detail}"))
    }

    /// The last status of an action, unless that is the one in its body file.
    pub fn later_status(&self, known: &Known, cursor: &mut Cursor) -> Result<Option<Vec<u8>>, TableError> {
        if known.status == WRITTEN {
            return Ok(None);
        }
        self.parts(known.id, known.status, cursor, true).map(|(_, status)| Some(status))
    }

    /// The action with its last status, of which the journal has the body.
    pub fn stored(&self, known: &Known, cursor: &mut Cursor) -> Result<Stored, TableError> {
        let Known { id, body: body_spot, status: status_spot, .. } = *known;
        let (body, status) = self.parts(id, body_spot, cursor, false)?;
        let status =
            if status_spot == body_spot { status } else { self.parts(id, status_spot, cursor, true)?.1 };
        Ok(Stored { id, body, status })
    }

    /// Body and status at a spot; of a later status the body is empty.
    fn parts(
        &self,
        id: u64,
        spot: Spot,
        cursor: &mut Cursor,
        is_status: bool,
    ) -> Result<(Vec<u8>, Vec<u8>), TableError> {
        let lost = || TableError(format!("action {id} is not where it was"));
        if spot.file == SNAPSHOT {
            if cursor.block.as_ref().is_none_or(|(number, _)| *number != spot.at) {
                let at = self.status_blocks.get(spot.at as usize).ok_or_else(lost)?;
                let blocks = self.blocks(&mut cursor.snapshot)?;
                cursor.block = Some((spot.at, blocks.pack(*at).map_err(|error| self.unreadable(&error))?));
            }
            let mut pack = cursor.block.as_ref().map_or(&[][..], |(_, pack)| pack);
            let mut newest = None;
            while let Some((found, _, status)) = next_packed(&mut pack)? {
                if found == id {
                    newest = Some(status);
                }
            }
            if let Some(status) = newest {
                return Ok((Vec::new(), status.to_vec()));
            }
            return Err(lost());
        }
        let segment = self.first_segment + u64::from(spot.file) - 1;
        let open = if is_status { &mut cursor.statuses } else { &mut cursor.bodies };
        let record = self.journal.read_at(segment, spot.at, open);
        let record = record.map_err(|error| TableError(error.to_string()))?;
        match Record::decode(&record).map_err(|Malformed(error)| TableError(error))? {
            Record::Submitted { id: found, body, status } if found == id => {
                Ok((body.to_vec(), status.to_vec()))
            }
            Record::Changed { id: found, status, .. } if found == id => Ok((Vec::new(), status.to_vec())),
            _ => Err(lost()),
        }
    }

    /// The body that an action was submitted with, if the journal has it.
    pub fn journal_body(&self, known: &Known, cursor: &mut Cursor) -> Result<Option<Vec<u8>>, TableError> {
        if known.is_written() {
            return Ok(None);
        }
        self.parts(known.id, known.body, cursor, false).map(|(body, _)| Some(body))
    }

    /// The keys in one of the snapshot's blocks.
    pub fn keys(&self, at: u64, cursor: &mut Cursor) -> Result<Vec<(KeyHash, StoredKeyUse)>, TableError> {
        self.blocks(&mut cursor.snapshot)?.keys(at).map_err(|error| self.unreadable(&error))
    }
}
