//! A limit on waiting without news that costs nothing while there is news.
//!
//! Setting a timer for each piece that comes in, and taking it back when it came, is a good part of what a small
//! request costs. Here news only notes the time; the timer is looked at when it fires, and set on then.

use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep};

pub(super) struct Patience {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// Whom the timer wakes: who asks again before it fires need not be noted again.
    waker: Option<Waker>,
}

impl Patience {
    /// Begins to wait now.
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: Box::pin(sleep(limit)), waker: None }
    }

    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// There was news: the limit counts from now on.
    pub fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when there was no news for the whole limit.
    pub fn poll_over(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let is_awaited = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_awaited && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        loop {
            // Whatever the task has spent of its budget: else the timer would not know whom to wake.
            ready!(pin!(unconstrained(self.timer.as_mut())).poll(cx));
            let end = self.since + self.limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_whole_limit_without_news_is_too_long() {
        let limit = Duration::from_millis(20);
        let mut patience = Patience::new(limit);
        for _ in 0..2 {
            patience.renew();
            let since = Instant::now();
            std::future::poll_fn(|cx| patience.poll_over(cx)).await;
            assert!(since.elapsed() >= limit, "{:?}", since.elapsed());
        }
    }
}
