//! The actions of one queue that may start as soon as there is room, in the order in which they are served:
//! priority (9 first), then id.
//!
//! One bit each, in words of 64 neighbours, so that a long backlog costs half a byte an action and not sixteen.
//! Used by the scheduler only.

use std::collections::BTreeMap;

use crate::action::ActionId;

/// Priority and id in one number that sorts as they are served: ids are below 2^53 and priorities below 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    pub fn new(priority: u8, id: ActionId) -> Self {
        Self((u64::from(9 - priority.min(9)) << 53) | id.0)
    }

    pub fn id(self) -> ActionId {
        ActionId(self.0 & ActionId::MAX.0)
    }

    fn word(self) -> u64 {
        self.0 / 64
    }

    fn bit(self) -> u64 {
        1 << (self.0 % 64)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Ready {
    words: BTreeMap<u64, u64>,
}

impl Ready {
    pub fn insert(&mut self, place: Place) {
        *self.words.entry(place.word()).or_default() |= place.bit();
    }

    pub fn remove(&mut self, place: Place) {
        if let Some(word) = self.words.get_mut(&place.word()) {
            *word &= !place.bit();
            if *word == 0 {
                self.words.remove(&place.word());
            }
        }
    }

    pub fn contains(&self, place: Place) -> bool {
        self.words.get(&place.word()).is_some_and(|word| word & place.bit() != 0)
    }

    /// Who is served next.
    pub fn first(&self) -> Option<Place> {
        let (number, word) = self.words.first_key_value()?;
        Some(Place(number * 64 + u64::from(word.trailing_zeros())))
    }

    /// How many are served before `place`, counted up to `most`.
    pub fn count_before(&self, place: Place, most: usize) -> usize {
        let mut count = 0;
        for (number, word) in self.words.range(..=place.word()) {
            let before = if *number == place.word() { word & (place.bit() - 1) } else { *word };
            count += before.count_ones() as usize;
            if count >= most {
                return most;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn set_is_what_a_plain_set_is(
            steps in proptest::collection::vec((any::<bool>(), 0u8..12, 0u64..300, 0usize..3), 1..300)
        ) {
            let (mut ready, mut model) = (Ready::default(), BTreeSet::new());
            for (insert, priority, near, far) in steps {
                let id = ActionId([near, near << 30, ActionId::MAX.0 - near][far]);
                let place = Place::new(priority, id);
                prop_assert_eq!(place.id(), id);
                let plain = (9 - priority.min(9), id);
                if insert {
                    ready.insert(place);
                    model.insert(plain);
                } else {
                    ready.remove(place);
                    model.remove(&plain);
                }
                prop_assert_eq!(ready.contains(place), model.contains(&plain));
                prop_assert_eq!(ready.first().map(Place::id), model.first().map(|(_, id)| *id));
                for most in [0, 3, 1_000] {
                    let before = model.range(..plain).take(most).count();
                    prop_assert_eq!(ready.count_before(place, most), before);
                }
            }
            while let Some(place) = ready.first() {
                prop_assert_eq!(Some(place.id()), model.pop_first().map(|(_, id)| id));
                ready.remove(place);
            }
            prop_assert!(model.is_empty() && ready.words.is_empty());
        }
    }
}
