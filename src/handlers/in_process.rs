//! Which attempt's in-process handler this thread is polling just now, so that a fatal signal can be blamed
//! on it. Set by `engine::worker` around each poll; read by the daemon's signal hook.

use std::cell::Cell;

use crate::action::ActionId;

thread_local! {
    // Constant and without a destructor: reading it is a plain load, also within a signal handler.
    static CURRENT: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// The attempt whose handler is being polled on this thread. Safe to call in a signal handler.
#[must_use]
pub fn current() -> Option<(ActionId, u32)> {
    let (id, attempt) = CURRENT.get();
    (id != 0).then_some((ActionId(id), attempt))
}

/// Notes the attempt that this thread polls from now on; none after the poll.
pub fn set(attempt: Option<(ActionId, u32)>) {
    CURRENT.set(attempt.map_or((0, 0), |(id, attempt)| (id.0, attempt)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_is_known_only_to_the_thread_that_polls_it() {
        set(Some((ActionId(7), 2)));
        assert_eq!(current(), Some((ActionId(7), 2)));
        assert_eq!(std::thread::spawn(current).join().unwrap(), None);
        set(None);
        assert_eq!(current(), None);
    }
}
