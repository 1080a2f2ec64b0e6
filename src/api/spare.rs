//! Buffers that a connection has only while it has something in them.
//!
//! Were they its own, each request would touch some KiB that no other does, and a thousand connections more than the
//! processor's cache holds. So a connection borrows a buffer when bytes come or go, and returns it when it has used
//! them up, mostly before the next connection has its turn: all of a thread use the same few.
//!
//! Guarantees: at most [`COUNT_MAX`] buffers of each kind are kept for a thread, none larger than [`BYTES_MAX`].
//!
//! Called by `direct` and `stream`.

use std::cell::RefCell;
use std::thread::LocalKey;

use bytes::BytesMut;

const COUNT_MAX: usize = 4;
pub(super) const BYTES_MAX: usize = 256 * 1_024;

thread_local! {
    static IN: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static OUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Puts a spare buffer in place of one that has no room at all, if there is one.
pub(super) fn borrow(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = IN.with_borrow_mut(Vec::pop).unwrap_or_default();
    }
}

/// Takes the buffer away if it is empty.
pub(super) fn give_back(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        let mut buffer = std::mem::take(buffer);
        // From its first byte on again: that is what is in the cache.
        let _ = buffer.try_reclaim(buffer.capacity() + 1);
        let room = buffer.capacity();
        keep(&IN, buffer, room);
    }
}

/// As [`borrow`], for what is to be sent.
pub(super) fn borrow_out(buffer: &mut Vec<u8>) {
    if buffer.capacity() == 0 {
        *buffer = OUT.with_borrow_mut(Vec::pop).unwrap_or_default();
    }
}

/// As [`give_back`], for what was sent.
pub(super) fn give_back_out(buffer: &mut Vec<u8>) {
    if buffer.is_empty() {
        let room = buffer.capacity();
        keep(&OUT, std::mem::take(buffer), room);
    }
}

fn keep<T>(spare: &'static LocalKey<RefCell<Vec<T>>>, buffer: T, room: usize) {
    spare.with_borrow_mut(|spare| {
        if (1..=BYTES_MAX).contains(&room) && spare.len() < COUNT_MAX {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_and_not_too_large_is_given_back() {
        let mut full = BytesMut::from(&b"x"[..]);
        give_back(&mut full);
        assert_eq!(&full[..], b"x");
        let mut large = BytesMut::with_capacity(2 * BYTES_MAX);
        give_back(&mut large);
        assert_eq!(large.capacity(), 0);
        borrow(&mut large);
        assert_eq!(large.capacity(), 0, "nothing was kept");
        let mut buffer = BytesMut::with_capacity(100);
        give_back(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
        borrow(&mut buffer);
        assert!(buffer.capacity() >= 100, "it is the same again");
    }
}
