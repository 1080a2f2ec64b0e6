//! What the engine shows of itself: counts and queues, for `/readyz`, `/metrics` and the page.
//!
//! Written in place after each turn, so that a busy engine allocates nothing for it. Called by
//! `engine::core`.

use super::core::Core;
use super::request::QueueStatus;
use super::scheduler::QueueIndex;
use super::unpoison;

impl Core {
    pub(super) fn queue_status(&self, at: QueueIndex) -> Option<QueueStatus> {
        let name = self.queue_names.get(usize::from(at))?;
        let settings = self.settings.queues.iter().find(|queue| queue.name == *name);
        let (waiting, running, paused) = self.scheduler.queue_counts(at);
        Some(QueueStatus {
            name: name.clone(),
            concurrency: settings.map_or(1, |queue| queue.concurrency),
            paused,
            waiting,
            running: u64::from(running),
            length_max: settings.map_or(0, |queue| queue.length_max),
        })
    }

    pub(super) fn show_status(&mut self) {
        let mut status = unpoison(self.shared.status.lock());
        if self.queues_changed || status.queues.len() != self.queue_names.len() {
            self.queues_changed = false;
            status.queues =
                (0..).zip(&self.queue_names).filter_map(|(at, _)| self.queue_status(at)).collect();
        }
        for (at, queue) in (0..).zip(&mut status.queues) {
            let (waiting, running, paused) = self.scheduler.queue_counts(at);
            (queue.waiting, queue.running, queue.paused) = (waiting, u64::from(running), paused);
        }
        status.incarnation = self.incarnation;
        status.draining = self.scheduler.is_draining();
        status.reboot_due = self.reboot.is_due();
        status.by_state = self.by_state;
        status.accepted = self.accepted;
        status.recovered = self.recovered;
    }
}
