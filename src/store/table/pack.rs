//! How actions lie in one value: several consecutive ones behind each other, each with its body and the
//! status known at that time. Also the form of a snapshot's blocks of actions.
//!
//! ```text
//!  id u64 | body_len u32 | status_len u32 | body | status      (little endian), again and again
//! ```

use crate::store::codec::Malformed;

const HEADER: usize = 16;

/// One action as stored: its bytes are not looked into here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Stored {
    pub id: u64,
    pub body: Vec<u8>,
    pub status: Vec<u8>,
}

/// Id, body and status of one action in a pack.
pub(in crate::store) type Packed<'a> = (u64, &'a [u8], &'a [u8]);

/// How many bytes an action takes in a pack.
pub(in crate::store) fn packed_len(body: &[u8], status: &[u8]) -> usize {
    HEADER + body.len() + status.len()
}

/// Appends one action to a pack.
pub(in crate::store) fn pack_into(pack: &mut Vec<u8>, id: u64, body: &[u8], status: &[u8]) {
    pack.extend_from_slice(&id.to_le_bytes());
    pack.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    pack.extend_from_slice(&u32::try_from(status.len()).unwrap_or(u32::MAX).to_le_bytes());
    pack.extend_from_slice(body);
    pack.extend_from_slice(status);
}

/// The next action of a pack: id, body and status; `pack` moves on behind it.
pub(in crate::store) fn next_packed<'a>(pack: &mut &'a [u8]) -> Result<Option<Packed<'a>>, Malformed> {
    if pack.is_empty() {
        return Ok(None);
    }
    let short = || Malformed::new("a pack of actions is cut short");
    let (id, rest) = pack.split_first_chunk::<8>().ok_or_else(short)?;
    let (body_len, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (status_len, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*body_len) as usize).ok_or_else(short)?;
    let (status, rest) = rest.split_at_checked(u32::from_le_bytes(*status_len) as usize).ok_or_else(short)?;
    *pack = rest;
    Ok(Some((u64::from_le_bytes(*id), body, status)))
}

/// All actions of a pack, in its order.
pub(in crate::store) fn unpack(mut pack: &[u8]) -> Result<Vec<Stored>, Malformed> {
    let mut actions = Vec::new();
    while let Some((id, body, status)) = next_packed(&mut pack)? {
        actions.push(Stored { id, body: body.to_vec(), status: status.to_vec() });
    }
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_gives_back_its_actions_and_refuses_every_cut() {
        let mut pack = Vec::new();
        pack_into(&mut pack, 7, b"body", b"status");
        let first = pack.len();
        pack_into(&mut pack, 8, b"", b"s");
        assert_eq!(first, packed_len(b"body", b"status"));
        let actions = unpack(&pack).unwrap();
        assert_eq!(actions.len(), 2);
        assert_eq!(actions[0], Stored { id: 7, body: b"body".to_vec(), status: b"status".to_vec() });
        for cut in 1..pack.len() {
            let whole = unpack(&pack[..cut]);
            assert!(whole.is_err() || cut == first, "cut at {cut}");
        }
    }
}
