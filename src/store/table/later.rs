//! What changed of 16 neighbouring actions since their bodies were written: the value of one key of sled, and the
//! form of a snapshot's blocks of them.
//!
//! ```text
//!  id u64 | version with which the body was written u32 | status_len u32 | status     (little endian), again and again
//! ```
//!
//! Without status the action was deleted. The version tells, without a look at the body file, what to take from the
//! digest over all actions and what to add.

use crate::store::codec::Malformed;
use crate::store::record::{peek_status, version_hash};

const IDS: u64 = 16;

/// The newest status of an action that is in a body file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Later {
    pub id: u64,
    /// The version with which it is in its body file.
    pub written: u32,
    /// Empty: it was deleted.
    pub status: Vec<u8>,
}

/// By how much an action's later state changes what is counted over the body files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Balance {
    pub deleted: u64,
    pub digest: u64,
}

impl Balance {
    pub fn add(&mut self, Self { deleted, digest }: Self) {
        self.deleted = self.deleted.wrapping_add(deleted);
        self.digest = self.digest.wrapping_add(digest);
    }

    pub fn take(&mut self, Self { deleted, digest }: Self) {
        self.deleted = self.deleted.wrapping_sub(deleted);
        self.digest = self.digest.wrapping_sub(digest);
    }

    pub fn of(id: u64, written: u32, status: &[u8]) -> Result<Self, Malformed> {
        let before = version_hash(id, u64::from(written));
        if status.is_empty() {
            return Ok(Self { deleted: 1, digest: 0u64.wrapping_sub(before) });
        }
        let (version, _) = peek_status(status)?;
        Ok(Self { deleted: 0, digest: version_hash(id, version).wrapping_sub(before) })
    }
}

impl Later {
    pub fn is_deleted(&self) -> bool {
        self.status.is_empty()
    }

    pub fn balance(&self) -> Result<Balance, Malformed> {
        Balance::of(self.id, self.written, &self.status)
    }
}

/// The cluster that an action is in.
pub(in crate::store) fn cluster_of(id: u64) -> u64 {
    id / IDS
}

/// Appends one action to a pack.
pub(in crate::store) fn pack_into(pack: &mut Vec<u8>, id: u64, written: u32, status: &[u8]) {
    pack.extend_from_slice(&id.to_le_bytes());
    pack.extend_from_slice(&written.to_le_bytes());
    pack.extend_from_slice(&u32::try_from(status.len()).unwrap_or(u32::MAX).to_le_bytes());
    pack.extend_from_slice(status);
}

/// Id, written version and status of one action in a pack.
pub(in crate::store) type Packed<'a> = (u64, u32, &'a [u8]);

/// The next action of a pack; `pack` moves on behind it.
pub(in crate::store) fn next_packed<'a>(pack: &mut &'a [u8]) -> Result<Option<Packed<'a>>, Malformed> {
    if pack.is_empty() {
        return Ok(None);
    }
    let short = || Malformed::new("a pack of statuses is cut short");
    let (id, rest) = pack.split_first_chunk::<8>().ok_or_else(short)?;
    let (written, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (status, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(short)?;
    *pack = rest;
    Ok(Some((u64::from_le_bytes(*id), u32::from_le_bytes(*written), status)))
}

/// All actions of a cluster, in the order of ids.
pub(super) fn unpack(cluster: u64, mut pack: &[u8]) -> Result<Vec<Later>, Malformed> {
    let mut found: Vec<Later> = Vec::new();
    while let Some((id, written, status)) = next_packed(&mut pack)? {
        if cluster_of(id) != cluster || found.last().is_some_and(|last| last.id >= id) {
            return Err(Malformed::new(format!("action {id} is in the wrong pack of statuses")));
        }
        found.push(Later { id, written, status: status.to_vec() });
    }
    Ok(found)
}
