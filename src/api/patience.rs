//! A limit on waiting without news that costs nothing while there is news.
//!
//! Setting a timer for each piece that comes in, and taking it back when it came, is a good part of what a small
//! request costs. Here news only notes the time; the timer is looked at when it fires, and set on then.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

pub(super) struct Patience {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    /// Begins to wait now.
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: Box::pin(sleep(limit)) }
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
        loop {
            ready!(self.timer.as_mut().poll(cx));
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
