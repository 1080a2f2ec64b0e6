//! A lock at which many actions stand: sets of its own, because looking through all of them would take long.

use std::collections::BTreeSet;

use super::{Role, View};
use crate::action::ActionId;

/// See the module. One action has one role.
#[derive(Default)]
pub(super) struct Crowd {
    holder: Option<ActionId>,
    queued: BTreeSet<ActionId>,
    later: BTreeSet<ActionId>,
}

impl Crowd {
    /// Gives `id` this role and no other. A new holder takes the place of the one before.
    pub fn put(&mut self, id: ActionId, role: Role) {
        self.remove(id);
        match role {
            Role::Holder => self.holder = Some(id),
            Role::Queued => _ = self.queued.insert(id),
            Role::Later => _ = self.later.insert(id),
        }
    }

    pub fn remove(&mut self, id: ActionId) {
        if self.holder == Some(id) {
            self.holder = None;
        } else if !self.queued.remove(&id) {
            self.later.remove(&id);
        }
    }

    pub fn view(&self, id: ActionId) -> View {
        let own = if self.holder == Some(id) {
            Some(Role::Holder)
        } else if self.queued.contains(&id) {
            Some(Role::Queued)
        } else {
            self.later.contains(&id).then_some(Role::Later)
        };
        let holder = self.holder.filter(|holder| *holder != id);
        let first = self.queued.iter().copied().find(|first| *first != id);
        let all = usize::from(self.holder.is_some()) + self.queued.len() + self.later.len();
        View { own, holder, first, others: all - usize::from(own.is_some()), at: 0 }
    }

    /// Its holder, then who waits, then who will.
    pub fn standing(&self) -> impl Iterator<Item = ActionId> + '_ {
        self.roles().map(|(id, _)| id)
    }

    pub fn roles(&self) -> impl Iterator<Item = (ActionId, Role)> + '_ {
        let holder = self.holder.into_iter().map(|id| (id, Role::Holder));
        let queued = self.queued.iter().map(|id| (*id, Role::Queued));
        holder.chain(queued).chain(self.later.iter().map(|id| (*id, Role::Later)))
    }
}
