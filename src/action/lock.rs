//! The name of a lock as the scheduler needs it: a 64-bit hash, the same on every host and for ever.
//!
//! Keys are stored with the action, so the hash must not depend on the process or the compiler:
//! FNV-1a, 64 bits (draft-eastlake-fnv). Two resources whose keys collide merely wait for each other.

/// What an action holds while it runs, so that no other action on the same thing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockKey(pub u64);

impl LockKey {
    /// The lock of one resource of the host.
    #[must_use]
    pub fn resource(resource_type: &str, resource_id: u64) -> Self {
        let hash = fnv1a(FNV_OFFSET, resource_type.as_bytes());
        // 0xFF cannot occur in UTF-8, so no type name can run into the number behind it.
        let hash = fnv1a(hash, &[0xFF]);
        Self(fnv1a(hash, &resource_id.to_le_bytes()))
    }

    /// The lock of something else that has a name, such as `unit:web.service`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        // Behind a byte with which no resource type begins.
        Self(fnv1a(fnv1a(FNV_OFFSET, &[0xFF]), name.as_bytes()))
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hash of some bytes by themselves.
pub(super) fn fnv1a_of(bytes: &[u8]) -> u64 {
    fnv1a(FNV_OFFSET, bytes)
}

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_of_a_resource_never_changes_between_releases() {
        assert_eq!(fnv1a_of(b"foobar"), 0x8594_4171_f739_67e8, "published FNV-1a vector");
        assert_eq!(LockKey::resource("Stack", 12345), LockKey::resource("Stack", 12345));
        assert_ne!(LockKey::resource("Stack", 1), LockKey::resource("Server", 1));
        assert_ne!(LockKey::resource("Stack", 1), LockKey::resource("Stack", 2));
        assert_ne!(LockKey::named("unit:a"), LockKey::named("unit:b"));
    }
}
