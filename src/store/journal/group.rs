//! The group that is being staged: records are appended straight into the bytes that will be written.
//!
//! Guarantees: no allocation for a record once the buffer has grown; the place that [`GroupBuffer::push`] returns
//! is where the record will be. Used by the journal's writer and by recovery, which writes old groups again.

use super::Place;
use super::format::{
    BLOCK, BLOCK_BYTES, GroupHeader, HEADER_BYTES, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, SegmentHeader,
    padded, record_header,
};

/// A buffer that a large group made larger than this is given back after the group.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Where a group goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site {
    pub segment: u64,
    pub segment_bytes: u64,
    /// Of the group's header in the segment.
    pub offset: u64,
    /// The segment does not exist yet: its header block is written with the group.
    pub begins_segment: bool,
}

#[derive(Default)]
pub struct GroupBuffer {
    site: Site,
    /// The segment's header block if the group begins it, the group's header, the payload.
    bytes: Vec<u8>,
    records: u32,
}

impl GroupBuffer {
    pub fn new(site: Site) -> Self {
        let mut buffer = Self { site, bytes: Vec::new(), records: 0 };
        buffer.restart(site);
        buffer
    }

    /// Empties the buffer for a group at another site.
    pub fn restart(&mut self, site: Site) {
        self.site = site;
        self.records = 0;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.bytes.resize(self.lead() + HEADER_BYTES, 0);
    }

    fn lead(&self) -> usize {
        if self.site.begins_segment { BLOCK_BYTES } else { 0 }
    }

    fn payload_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.lead() + HEADER_BYTES)
    }

    pub fn site(&self) -> Site {
        self.site
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Where the group after this one begins in the segment.
    pub fn end(&self) -> u64 {
        self.site.offset + padded((HEADER_BYTES + self.payload_bytes()) as u64)
    }

    /// Whether a record of `len` bytes has room in this group's segment.
    pub fn has_room(&self, len: usize) -> bool {
        let group = HEADER_BYTES + self.payload_bytes() + RECORD_HEADER_BYTES + len;
        self.site.offset + group as u64 <= self.site.segment_bytes
    }

    /// Appends a record for which there is room.
    pub fn push(&mut self, record: &[u8]) -> Place {
        let inside = (HEADER_BYTES + self.payload_bytes() + RECORD_HEADER_BYTES) as u64;
        // A segment is at most 4 GiB, and has_room was asked.
        let offset = u32::try_from(self.site.offset + inside).unwrap_or(u32::MAX);
        let header = record_header(self.site.segment, offset, record);
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(record);
        self.records += 1;
        Place { segment: self.site.segment, offset, len: u32::try_from(record.len()).unwrap_or(u32::MAX) }
    }

    /// The whole group with its headers, padded to blocks: what is to be written at [`Self::write_offset`].
    pub fn finish(&mut self, salt: u64, group: u64, synced: u64) -> &[u8] {
        let lead = self.lead();
        let header = GroupHeader {
            segment: self.site.segment,
            salt,
            group,
            synced,
            payload_bytes: u32::try_from(self.payload_bytes()).unwrap_or(u32::MAX),
            records: self.records,
        };
        let header = header.encode(self.bytes.get(lead + HEADER_BYTES..).unwrap_or_default());
        if let Some(place) = self.bytes.get_mut(lead..lead + HEADER_BYTES) {
            place.copy_from_slice(&header);
        }
        if self.site.begins_segment {
            let header = SegmentHeader {
                segment: self.site.segment,
                salt,
                bytes: self.site.segment_bytes,
                first_group: group,
                synced,
            };
            if let Some(place) = self.bytes.first_chunk_mut() {
                *place = header.encode();
            }
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        &self.bytes
    }

    pub fn write_offset(&self) -> u64 {
        if self.site.begins_segment { 0 } else { self.site.offset }
    }
}

/// The configured length of segments, in whole blocks and within what a [`Place`] can say.
pub fn usual_bytes(configured: u64) -> u64 {
    padded(configured.clamp(2 * BLOCK, RECORD_BYTES_MAX as u64))
}

/// Length of a new segment: the usual one, or more if its first record needs it.
pub fn segment_bytes_for(usual: u64, record_bytes: usize) -> u64 {
    let needed = (HEADER_BYTES + RECORD_HEADER_BYTES + record_bytes) as u64;
    usual.max(BLOCK + padded(needed))
}
