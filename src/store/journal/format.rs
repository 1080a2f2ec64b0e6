//! The bytes of a journal, and nothing else: no file is opened here.
//!
//! A journal is a directory of segments, `%016x.seg`, named by segment number; `spare-*` are prepared segments
//! without a number. A segment is a header block and then groups, each at a multiple of 4096:
//!
//! ```text
//! | header block | group 17 ......... | group 18 | group 19 ... | zeros, or groups of an earlier use |
//! 0              4096                 12288      16384
//! ```
//!
//! Groups begin at block boundaries and are padded to the next one, so that no later write touches a sector that
//! was synced before: a write that tears when the power is cut can then only hurt what was not acknowledged.
//!
//! All integers are little-endian.
//!
//! | segment header, at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `ACTIONDJ` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 8 | segment number, as in the file's name |
//! | 24 | 8 | salt: random, one for all segments of a store |
//! | 32 | 8 | length of the segment in bytes |
//! | 40 | 8 | number of the first group written into it |
//! | 48 | 8 | number of the last group known to be synced when the segment was begun |
//! | 56 | 4 | zero |
//! | 60 | 4 | crc32c of bytes 0 to 59 |
//!
//! Magic, version and checksum stay where they are in every later version.
//!
//! | group header, at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `ACTGROUP` |
//! | 8 | 8 | number of the segment: a recycled file holds old groups that are valid by themselves |
//! | 16 | 8 | salt, as in the segment header |
//! | 24 | 8 | group number, from 1, without gaps over all segments |
//! | 32 | 8 | number of the last group known to be synced when this one was written |
//! | 40 | 4 | length of the payload in bytes |
//! | 44 | 4 | number of records in it |
//! | 48 | 4 | crc32c of bytes 0 to 47 and the payload |
//! | 52 | 4 | zero |
//! | 56 | 4 | zero |
//! | 60 | 4 | crc32c of bytes 0 to 59, so that the length can be trusted before the payload is read |
//! | 64 | | payload: the records |
//!
//! | record, at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | length of the bytes |
//! | 4 | 4 | crc32c of segment number (8 bytes), offset of the bytes in the segment (4 bytes), and the bytes |
//! | 8 | | the bytes |
//!
//! The salt keeps submitted bytes from posing as a group: recovery looks for groups at every block boundary
//! behind a bad one, and whoever submits chooses what stands there but does not know the salt. A record's
//! checksum binds it to its place, so that a single record can be read and never be taken from a later use of
//! the file.

use std::path::{Path, PathBuf};

pub const BLOCK: u64 = 4096;
pub const BLOCK_BYTES: usize = 4096;
pub const VERSION: u32 = 1;
/// Of a group's header and of a segment's.
pub const HEADER_BYTES: usize = 64;
pub const RECORD_HEADER_BYTES: usize = 8;
/// A record's offset in its segment is a `u32`, and so is a payload's length.
pub const RECORD_BYTES_MAX: usize = 1 << 30;

const SEGMENT_MAGIC: &[u8; 8] = b"ACTIONDJ";
const GROUP_MAGIC: &[u8; 8] = b"ACTGROUP";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub segment: u64,
    pub salt: u64,
    pub bytes: u64,
    pub first_group: u64,
    pub synced: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    pub segment: u64,
    pub salt: u64,
    pub group: u64,
    pub synced: u64,
    pub payload_bytes: u32,
    pub records: u32,
}

/// What the first bytes of a segment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentStart {
    Header(SegmentHeader),
    /// A sound header of a later release.
    Newer(u32),
    /// Zeros, a torn write, or damage.
    Unreadable,
}

pub fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:016x}.seg"))
}

/// The number in a segment's file name.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

pub fn is_spare(name: &str) -> bool {
    name.starts_with("spare-")
}

/// `bytes` rounded up to whole blocks.
pub const fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// Puts the fields one after the other and the checksum of all of it into the last four bytes.
fn seal(fields: [&[u8]; 9]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut rest = header.as_mut_slice();
    for field in fields {
        let (place, behind) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = behind;
    }
    if let Some((covered, checksum)) = header.split_last_chunk_mut::<4>() {
        *checksum = crc32c::crc32c(covered).to_le_bytes();
    }
    header
}

fn is_sealed(header: &[u8; HEADER_BYTES]) -> bool {
    header.split_last_chunk::<4>().is_some_and(|(covered, sum)| *sum == crc32c::crc32c(covered).to_le_bytes())
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        seal([
            SEGMENT_MAGIC,
            &VERSION.to_le_bytes(),
            &[0; 4],
            &self.segment.to_le_bytes(),
            &self.salt.to_le_bytes(),
            &self.bytes.to_le_bytes(),
            &self.first_group.to_le_bytes(),
            &self.synced.to_le_bytes(),
            &[0; 4],
        ])
    }

    pub fn decode(header: &[u8; HEADER_BYTES]) -> SegmentStart {
        if !header.starts_with(SEGMENT_MAGIC) || !is_sealed(header) {
            return SegmentStart::Unreadable;
        }
        let fields = || {
            Some(Self {
                segment: u64_at(header, 16)?,
                salt: u64_at(header, 24)?,
                bytes: u64_at(header, 32)?,
                first_group: u64_at(header, 40)?,
                synced: u64_at(header, 48)?,
            })
        };
        match u32_at(header, 8) {
            Some(VERSION) => fields().map_or(SegmentStart::Unreadable, SegmentStart::Header),
            Some(version) if version > VERSION => SegmentStart::Newer(version),
            _ => SegmentStart::Unreadable,
        }
    }
}

impl GroupHeader {
    /// The header for `payload`, whose length must be `payload_bytes`.
    pub fn encode(&self, payload: &[u8]) -> [u8; HEADER_BYTES] {
        let fields = self.covered_fields();
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&fields), payload);
        seal([&fields, &checksum.to_le_bytes(), &[0; 8], &[], &[], &[], &[], &[], &[]])
    }

    fn covered_fields(&self) -> [u8; 48] {
        let mut fields = [0; 48];
        let words = [self.segment, self.salt, self.group, self.synced];
        let lengths = [self.payload_bytes, self.records];
        let values = words.iter().flat_map(|word| word.to_le_bytes());
        let values = values.chain(lengths.iter().flat_map(|length| length.to_le_bytes()));
        for (place, value) in fields.iter_mut().zip(GROUP_MAGIC.iter().copied().chain(values)) {
            *place = value;
        }
        fields
    }

    /// The header, if these bytes are one; says nothing of the payload yet.
    pub fn decode(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        if !header.starts_with(GROUP_MAGIC) || !is_sealed(header) {
            return None;
        }
        Some(Self {
            segment: u64_at(header, 8)?,
            salt: u64_at(header, 16)?,
            group: u64_at(header, 24)?,
            synced: u64_at(header, 32)?,
            payload_bytes: u32_at(header, 40)?,
            records: u32_at(header, 44)?,
        })
    }

    /// Bytes of the group in its segment, padding included.
    pub fn bytes(&self) -> u64 {
        padded(HEADER_BYTES as u64 + u64::from(self.payload_bytes))
    }

    /// Whether `payload` is the one that `header` (this header's bytes) was written for.
    pub fn fits(header: &[u8; HEADER_BYTES], payload: &[u8]) -> bool {
        let Some(covered) = header.get(..48) else { return false };
        let checksum = crc32c::crc32c_append(crc32c::crc32c(covered), payload);
        let mut records = Records::new(payload);
        let count = records.by_ref().count();
        u32_at(header, 48) == Some(checksum)
            && u32_at(header, 44).map(|records| records as usize) == Some(count)
            && records.rest.is_empty()
    }
}

/// The header of a record whose bytes begin at `offset` of `segment`.
pub fn record_header(segment: u64, offset: u32, record: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
    let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
    let place = crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), &offset.to_le_bytes());
    let checksum = crc32c::crc32c_append(place, record);
    (u64::from(len) | u64::from(checksum) << 32).to_le_bytes()
}

/// The records of a payload, each with the offset of its bytes in the payload. Ends where the bytes make no sense.
pub struct Records<'a> {
    rest: &'a [u8],
    offset: u32,
}

impl<'a> Records<'a> {
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, offset: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, behind) = self.rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let len = u32_at(header, 0)?;
        let (record, rest) = behind.split_at_checked(len as usize)?;
        let offset = self.offset.checked_add(8)?;
        self.offset = offset.checked_add(len)?;
        self.rest = rest;
        Some((offset, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEGMENT: SegmentHeader = SegmentHeader {
        segment: 0x1a2b,
        salt: 0x0102_0304_0506_0708,
        bytes: 65536,
        first_group: 7,
        synced: 6,
    };

    #[test]
    fn names_of_segments_are_exact() {
        let path = segment_path(Path::new("/j"), 0x1f);
        assert_eq!(path, Path::new("/j/000000000000001f.seg"));
        assert_eq!(segment_number("000000000000001f.seg"), Some(0x1f));
        for wrong in ["1f.seg", "000000000000001F.seg", "000000000000001f", "+00000000000001f.seg", ".seg"] {
            assert_eq!(segment_number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn any_flipped_bit_makes_a_header_unreadable() {
        let header = SEGMENT.encode();
        assert_eq!(SegmentHeader::decode(&header), SegmentStart::Header(SEGMENT));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = header;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), SegmentStart::Unreadable, "bit {bit}");
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut bytes = SEGMENT.encode();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), SegmentStart::Newer(2));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut header = [0; HEADER_BYTES];
            for (place, byte) in header.iter_mut().zip(&bytes) {
                *place = *byte;
            }
            let _ = SegmentHeader::decode(&header);
            let _ = GroupHeader::decode(&header);
            let _ = GroupHeader::fits(&header, &bytes);
            let total: usize = Records::new(&bytes).map(|(_, record)| record.len() + 8).sum();
            prop_assert!(total <= bytes.len());
        }

        #[test]
        fn a_group_header_comes_back(segment: u64, salt: u64, group: u64, synced: u64, len in 0u32..400) {
            let payload = vec![7; len as usize];
            let header = GroupHeader { segment, salt, group, synced, payload_bytes: len, records: 0 };
            prop_assert_eq!(GroupHeader::decode(&header.encode(&payload)), Some(header));
        }
    }
}
