//! Which attempt the current thread is working for, so that a fatal signal or panic can be attributed to it.
//!
//! Only handlers that work inside the daemon's own process are marked, and only while their future is polled:
//! a death in between is not theirs. [`current`] only reads thread-local cells that need neither
//! initialisation nor a destructor, so a signal handler may call it. Marked by `engine::worker`, read by
//! the daemon's last words.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{Ordering, compiler_fence};
use std::task::{Context, Poll};

use crate::action::ActionId;

thread_local! {
    /// 0: no attempt. Written last and cleared first, so that whoever sees an id sees its attempt.
    static ID: Cell<u64> = const { Cell::new(0) };
    static ATTEMPT: Cell<u32> = const { Cell::new(0) };
}

/// The attempt whose handler is being polled on this thread.
#[must_use]
pub fn current() -> Option<(ActionId, u32)> {
    let id = ID.get();
    compiler_fence(Ordering::SeqCst);
    (id != 0).then(|| (ActionId(id), ATTEMPT.get()))
}

/// A future that is polled under the name of its attempt.
pub struct Marked<F> {
    id: ActionId,
    attempt: u32,
    inner: F,
}

impl<F> Marked<F> {
    pub fn new(id: ActionId, attempt: u32, inner: F) -> Self {
        Self { id, attempt, inner }
    }
}

impl<F: Future + Unpin> Future for Marked<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        /// Restores what was marked before also when the poll panics.
        struct Restore(u64, u32);
        impl Drop for Restore {
            fn drop(&mut self) {
                mark(self.0, self.1);
            }
        }
        let _restore = Restore(ID.get(), ATTEMPT.get());
        mark(self.id.0, self.attempt);
        Pin::new(&mut self.inner).poll(context)
    }
}

fn mark(id: u64, attempt: u32) {
    ID.set(0);
    compiler_fence(Ordering::SeqCst);
    ATTEMPT.set(attempt);
    compiler_fence(Ordering::SeqCst);
    ID.set(id);
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn attempt_is_current_only_while_its_future_is_polled() {
        let work = Box::pin(async { current() });
        let seen = Marked::new(ActionId(7), 3, work).now_or_never();
        assert_eq!(seen, Some(Some((ActionId(7), 3))));
        assert_eq!(current(), None);
    }

    #[test]
    fn panic_leaves_no_mark_behind() {
        let work = Box::pin(async { panic!("as a handler might") });
        let marked = Marked::<Pin<Box<dyn Future<Output = ()>>>>::new(ActionId(7), 1, work);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| marked.now_or_never()));
        assert!(ended.is_err());
        assert_eq!(current(), None);
    }
}
