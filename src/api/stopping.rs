//! A flag that is raised once and not lowered again, watched at no cost while it is down.
//!
//! A task that has asked once is woken by the flag, so there is nothing to ask each time when something else wakes it.
//!
//! Called by `server` and `stream`.

use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll, Waker, ready};

use tokio::sync::watch;
use tokio::task::unconstrained;

use super::server::is_true;

pub(super) struct Stopping {
    flag: watch::Receiver<bool>,
    /// None once it was ready.
    raised: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whom the flag wakes.
    waker: Option<Waker>,
}

impl Stopping {
    pub fn new(flag: watch::Receiver<bool>) -> Self {
        let mut waiting = flag.clone();
        Self { flag, raised: Some(Box::pin(async move { is_true(&mut waiting).await })), waker: None }
    }

    /// Ready from when the flag is raised, or nobody is left who could raise it.
    pub fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(raised) = &mut self.raised else { return Poll::Ready(()) };
        let is_awaited = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_awaited && self.flag.has_changed().is_ok_and(|changed| !changed) {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        // Whatever the task has spent of its budget: else it could be left out of those who are woken.
        ready!(pin!(unconstrained(raised)).poll(cx));
        self.raised = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn whoever_asked_is_woken() {
        let (raise, flag) = watch::channel(false);
        let mut stopping = Stopping::new(flag);
        assert_eq!(futures_util::poll!(poll_fn(|cx| stopping.poll(cx))), Poll::Pending);
        assert_eq!(futures_util::poll!(poll_fn(|cx| stopping.poll(cx))), Poll::Pending);
        let waiting = tokio::spawn(async move { poll_fn(|cx| stopping.poll(cx)).await });
        tokio::task::yield_now().await;
        raise.send_replace(true);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn flag_that_was_raised_before_is_seen_each_time() {
        let (_raise, flag) = watch::channel(true);
        let mut stopping = Stopping::new(flag);
        for _ in 0..2 {
            assert_eq!(futures_util::poll!(poll_fn(|cx| stopping.poll(cx))), Poll::Ready(()));
        }
    }

    #[tokio::test]
    async fn flag_that_nobody_can_raise_counts_as_raised() {
        let (raise, flag) = watch::channel(false);
        drop(raise);
        let mut stopping = Stopping::new(flag);
        assert_eq!(futures_util::poll!(poll_fn(|cx| stopping.poll(cx))), Poll::Ready(()));
    }
}
