//! How many bytes lie behind each group, at eight bytes of memory a group.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub struct Extents {
    /// Bytes of all groups up to the one at the same place, counted from some beginning.
    ends: VecDeque<u64>,
    /// The group before the first in `ends`, and the bytes up to its end.
    base: u64,
    base_bytes: u64,
}

impl Extents {
    /// Knows of the groups (number and bytes, ascending) those that form a row up to `last`.
    pub fn new(last: u64, groups: impl DoubleEndedIterator<Item = (u64, u64)>) -> Self {
        let numbers = (0..=last).rev();
        let row = groups.rev().zip(numbers).take_while(|((group, _), number)| group == number);
        let mut sizes: Vec<u64> = row.map(|((_, bytes), _)| bytes).collect();
        sizes.reverse();
        let mut extents = Self { base: last - sizes.len() as u64, ..Self::default() };
        for bytes in sizes {
            extents.push(bytes);
        }
        extents
    }

    fn total(&self) -> u64 {
        self.ends.back().copied().unwrap_or(self.base_bytes)
    }

    /// The next group has so many bytes.
    pub fn push(&mut self, bytes: u64) {
        self.ends.push_back(self.total() + bytes);
    }

    /// Bytes of all known groups above `group`.
    pub fn bytes_since(&self, group: u64) -> u64 {
        let end = match group.checked_sub(self.base + 1) {
            None => self.base_bytes,
            Some(at) => {
                let end = usize::try_from(at).ok().and_then(|at| self.ends.get(at));
                end.copied().unwrap_or_else(|| self.total())
            }
        };
        self.total() - end
    }

    /// Nobody will ask for less than `group` any more.
    pub fn forget(&mut self, group: u64) {
        while self.base < group
            && let Some(end) = self.ends.pop_front()
        {
            self.base += 1;
            self.base_bytes = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_from_behind_the_group() {
        let mut extents = Extents::new(9, [(5, 1), (7, 10), (8, 20), (9, 40)].into_iter());
        for (group, bytes) in [(0, 70), (6, 70), (7, 60), (8, 40), (9, 0), (100, 0)] {
            assert_eq!(extents.bytes_since(group), bytes, "since {group}");
        }
        extents.push(80);
        extents.forget(8);
        for (group, bytes) in [(0, 120), (8, 120), (9, 80), (10, 0)] {
            assert_eq!(extents.bytes_since(group), bytes, "since {group}");
        }
        extents.forget(50);
        assert_eq!(extents.bytes_since(0), 0);
        extents.push(5);
        assert_eq!((extents.bytes_since(10), extents.bytes_since(11)), (5, 0));
    }
}
