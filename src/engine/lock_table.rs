//! Who holds each lock, and who waits for it in order of acceptance.
//!
//! An action takes all its locks or none. It may begin when, for each of them, nobody holds it and no
//! earlier action waits for it; so nobody overtakes on a resource and nobody waits in a circle.
//!
//! Almost every lock of a long backlog has one action at it, or a few. These are kept in 65,536 small buckets, as one
//! number each: id, role, and some bits of the key's hash. Whose key it really is, the caller knows ([`Keys`]), so
//! keys are not kept a second time. A lock at which many stand becomes a [`Crowd`] of its own. A bucket of a million
//! locks has about 15 numbers; it grows by itself, so no insertion ever takes long. Used by the scheduler only.

mod crowd;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use self::crowd::Crowd;
use crate::action::{ActionId, LockKey};

/// Knows the locks of every action that stands in the table.
pub trait Keys {
    fn has(&self, id: ActionId, key: LockKey) -> bool;
}

/// What an action has to do with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Holder = 0,
    /// Due and waiting for this lock.
    Queued = 1,
    /// Not due yet; takes its place among the queued when it is.
    Later = 2,
}

/// So many may stand at a lock before it becomes a crowd, and so few are left when it is none any more.
const FEW: usize = 6;
const FEW_AGAIN: usize = 3;

/// Buckets, and how many of them are made at a time.
const BUCKETS: usize = 1 << 16;
const BLOCK: usize = 1 << 8;

/// A number in a bucket: 14 bits of the hash, 2 of the role, 48 of the id. An id that does not fit, of which no host
/// will see any, stands in a crowd.
const ID_BITS: u32 = 48;
const ROLE_BITS: u32 = 2;

type Bucket = Vec<u64>;

/// What stands at one lock, seen from one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct View {
    own: Option<Role>,
    /// Somebody else who holds it.
    holder: Option<ActionId>,
    /// Who stands first of the others that wait.
    first: Option<ActionId>,
    /// The others, whatever their role.
    others: usize,
    /// Where the action's own number is in the bucket.
    at: usize,
}

/// What follows for an action that waits, and for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The lock is free, and nobody comes before it.
    pub is_next: bool,
    /// Who stood first before, and no longer does.
    pub overtaken: Option<ActionId>,
}

/// See the module.
pub struct LockTable {
    blocks: Vec<Box<[Bucket]>>,
    crowds: BTreeMap<LockKey, Box<Crowd>>,
    /// Chosen at each start, so that nobody can choose resources that share a bucket.
    seed: u64,
}

impl Default for LockTable {
    fn default() -> Self {
        let blocks = std::iter::repeat_with(Box::default).take(BUCKETS / BLOCK).collect();
        Self { blocks, crowds: BTreeMap::new(), seed: RandomState::new().hash_one(0) }
    }
}

impl LockTable {
    /// Lets a due action wait.
    pub fn wait(&mut self, key: LockKey, id: ActionId, keys: &impl Keys) -> Turn {
        let view = self.put(key, id, Role::Queued, keys);
        let stood_first = view.holder.is_none() && view.own != Some(Role::Queued);
        let overtaken = view.first.filter(|first| *first > id && stood_first);
        Turn { is_next: view.is_next(id), overtaken }
    }

    /// Notes an action that will wait for this lock when it is due.
    pub fn plan(&mut self, key: LockKey, id: ActionId, keys: &impl Keys) {
        self.put(key, id, Role::Later, keys);
    }

    /// Takes the lock; the caller made sure that it [`Self::is_next`], or restores what a start found. Says who
    /// waited first at it, and now for this one.
    pub fn take(&mut self, key: LockKey, id: ActionId, keys: &impl Keys) -> Option<ActionId> {
        self.put(key, id, Role::Holder, keys).first
    }

    /// Ends all that `id` has to do with this lock. Says who may have it now.
    pub fn leave(&mut self, key: LockKey, id: ActionId, keys: &impl Keys) -> Option<ActionId> {
        let view = if let Some(crowd) = self.crowds.get_mut(&key) {
            let view = crowd.view(id);
            crowd.remove(id);
            if view.others <= FEW_AGAIN {
                self.disperse(key, keys);
            }
            view
        } else {
            let (at, tag) = self.place(key);
            let bucket = self.bucket_mut(at)?;
            let view = look(bucket, tag, key, id, keys);
            if view.own.is_some() {
                bucket.swap_remove(view.at);
                if bucket.len() * 2 <= bucket.capacity() {
                    bucket.shrink_to(bucket.len() + bucket.len() / 4);
                }
            }
            view
        };
        view.first.filter(|_| view.holder.is_none())
    }

    /// Whether the lock is free and `id` the first that waits for it.
    pub fn is_next(&self, key: LockKey, id: ActionId, keys: &impl Keys) -> bool {
        let view = self.view(key, id, keys);
        view.own == Some(Role::Queued) && view.is_next(id)
    }

    /// Whom `id` waits for at this lock: the holder, or the one that stands first.
    pub fn in_the_way(&self, key: LockKey, id: ActionId, keys: &impl Keys) -> Option<ActionId> {
        let view = self.view(key, id, keys);
        match view.own {
            Some(Role::Holder) => None,
            Some(Role::Queued) => view.holder.or(view.first.filter(|first| *first < id)),
            _ => view.holder.or(view.first),
        }
    }

    /// Everyone that stands at this lock: its holder, then who waits, then who will.
    pub fn standing(&self, key: LockKey, keys: &impl Keys) -> impl Iterator<Item = ActionId> + '_ {
        let crowd = self.crowds.get(&key);
        let mut few = Vec::new();
        if crowd.is_none() {
            let (at, tag) = self.place(key);
            few.extend(self.bucket(at).iter().copied().filter(|slot| is_of(*slot, tag, key, keys)));
            // By role, then by id.
            few.sort_unstable();
        }
        few.into_iter().map(id_of).chain(crowd.into_iter().flat_map(|crowd| crowd.standing()))
    }

    fn view(&self, key: LockKey, id: ActionId, keys: &impl Keys) -> View {
        if let Some(crowd) = self.crowds.get(&key) {
            return crowd.view(id);
        }
        let (at, tag) = self.place(key);
        look(self.bucket(at), tag, key, id, keys)
    }

    /// Gives `id` this role, and no other, at the lock. Says how it was before.
    fn put(&mut self, key: LockKey, id: ActionId, role: Role, keys: &impl Keys) -> View {
        if let Some(crowd) = self.crowds.get_mut(&key) {
            let view = crowd.view(id);
            crowd.put(id, role);
            return view;
        }
        let (at, tag) = self.place(key);
        let Some(bucket) = self.bucket_mut(at) else { return View::default() };
        let view = look(bucket, tag, key, id, keys);
        let replaces = role == Role::Holder && view.holder.is_some();
        if view.others >= FEW || id.0 >> ID_BITS != 0 || replaces {
            let mut crowd = Box::<Crowd>::default();
            for slot in bucket.extract_if(.., |slot| is_of(*slot, tag, key, keys)) {
                crowd.put(id_of(slot), role_of(slot));
            }
            crowd.put(id, role);
            self.crowds.insert(key, crowd);
            return view;
        }
        let slot = slot(tag, role, id);
        if let Some(own) = bucket.get_mut(view.at).filter(|_| view.own.is_some()) {
            *own = slot;
            return view;
        }
        if bucket.len() == bucket.capacity() {
            // In small steps: room that is not used would cost more than the copying.
            bucket.reserve_exact(2 + bucket.len() / 8);
        }
        bucket.push(slot);
        view
    }

    /// Lets the few that are left of a crowd stand in their bucket again.
    fn disperse(&mut self, key: LockKey, keys: &impl Keys) {
        let Some(crowd) = self.crowds.remove(&key) else { return };
        if crowd.standing().any(|id| id.0 >> ID_BITS != 0) {
            self.crowds.insert(key, crowd);
            return;
        }
        for (id, role) in crowd.roles() {
            self.put(key, id, role, keys);
        }
    }

    /// The bucket of a key, and the bits of its hash that its numbers there begin with.
    fn place(&self, key: LockKey) -> (usize, u64) {
        // A multiplication carries low bits up, the shift high bits down: each bit of the key counts in all.
        let hash = (key.0 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (usize::try_from(hash >> 32).unwrap_or(0) % BUCKETS, hash >> (ID_BITS + ROLE_BITS))
    }

    fn bucket(&self, at: usize) -> &[u64] {
        let block = self.blocks.get(at / BLOCK);
        block.and_then(|block| block.get(at % BLOCK)).map_or(&[], Vec::as_slice)
    }

    /// There is one for every key.
    fn bucket_mut(&mut self, at: usize) -> Option<&mut Bucket> {
        let block = self.blocks.get_mut(at / BLOCK)?;
        if block.is_empty() {
            *block = std::iter::repeat_with(Bucket::new).take(BLOCK).collect();
        }
        block.get_mut(at % BLOCK)
    }
}

impl View {
    /// Whether an action that waits, or is about to, need not wait any more.
    fn is_next(&self, id: ActionId) -> bool {
        self.holder.is_none() && self.first.is_none_or(|first| first > id)
    }
}

/// How `id` and the others stand at the lock whose numbers in the bucket begin with `tag`.
fn look(bucket: &[u64], tag: u64, key: LockKey, id: ActionId, keys: &impl Keys) -> View {
    let mut view = View::default();
    for (at, slot) in bucket.iter().copied().enumerate() {
        if slot >> (ID_BITS + ROLE_BITS) != tag {
            continue;
        }
        let other = id_of(slot);
        if other == id {
            (view.own, view.at) = (Some(role_of(slot)), at);
        } else if keys.has(other, key) {
            view.others += 1;
            match role_of(slot) {
                Role::Holder => view.holder = Some(other),
                Role::Queued => view.first = Some(view.first.map_or(other, |first| first.min(other))),
                Role::Later => {}
            }
        }
    }
    view
}

fn is_of(slot: u64, tag: u64, key: LockKey, keys: &impl Keys) -> bool {
    slot >> (ID_BITS + ROLE_BITS) == tag && keys.has(id_of(slot), key)
}

fn slot(tag: u64, role: Role, id: ActionId) -> u64 {
    tag << (ID_BITS + ROLE_BITS) | (role as u64) << ID_BITS | id.0
}

fn id_of(slot: u64) -> ActionId {
    ActionId(slot & ((1 << ID_BITS) - 1))
}

fn role_of(slot: u64) -> Role {
    match slot >> ID_BITS & ((1 << ROLE_BITS) - 1) {
        0 => Role::Holder,
        1 => Role::Queued,
        _ => Role::Later,
    }
}

#[cfg(test)]
impl LockTable {
    /// Bytes on the heap, crowds aside.
    pub fn heap_bytes(&self) -> usize {
        let buckets = self.blocks.iter().flatten();
        buckets.map(|bucket| size_of::<Bucket>() + bucket.capacity() * size_of::<u64>()).sum()
    }

    /// Nobody stands anywhere.
    pub fn is_empty(&self) -> bool {
        self.crowds.is_empty() && self.blocks.iter().flatten().all(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests;
