//! The one place that names bincode: plain records to bytes and back.
//!
//! Fixed-width little-endian integers, a limit on what is decoded, nothing left over behind a value, and
//! decoding from slices only, so that a hostile length is an error and never an allocation. bincode is not
//! self-describing: a field can neither be added nor removed; a changed record is a new version beside the
//! old one. It has no checksum either: whoever stores the bytes adds one.

use bincode::Options as _;
use serde::{Deserialize, Serialize};

/// Largest value that is decoded; far above any limit on a submission.
const DECODE_BYTES_MAX: u64 = 64 << 20;

/// Bytes that are not a record of the kind and version they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub String);

impl Malformed {
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Appends the value's bytes.
pub(super) fn encode_into<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    let done = bincode::DefaultOptions::new().with_fixint_encoding().serialize_into(bytes, value);
    debug_assert!(done.is_ok(), "plain records of known length always encode into memory");
}

/// How many bytes [`encode_into`] appends.
fn encoded_bytes<T: Serialize>(value: &T) -> usize {
    let bytes = bincode::DefaultOptions::new().with_fixint_encoding().serialized_size(value);
    bytes.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}

/// The value whose bytes these are, all of them.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(DECODE_BYTES_MAX)
        .reject_trailing_bytes()
        .deserialize(bytes)
        .map_err(|error| Malformed(error.to_string()))
}

/// A version byte, then the value.
pub(super) fn encode_versioned<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    // Measured first: a buffer that grows as it is written costs more than the encoding.
    let mut bytes = Vec::with_capacity(1 + encoded_bytes(value));
    bytes.push(version);
    encode_into(&mut bytes, value);
    bytes
}

/// The value behind a version byte that must be `version`.
pub(super) fn decode_versioned<'a, T: Deserialize<'a>>(
    what: &str,
    version: u8,
    bytes: &'a [u8],
) -> Result<T, Malformed> {
    match bytes.split_first() {
        Some((found, rest)) if *found == version => {
            decode(rest).map_err(|Malformed(error)| Malformed(format!("{what}: {error}")))
        }
        Some((found, _)) => Err(Malformed(format!("{what} has version {found}, known is {version}"))),
        None => Err(Malformed(format!("{what} is empty"))),
    }
}
