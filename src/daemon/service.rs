//! What systemd hears (`sd_notify(3)`): READY, RELOADING, STOPPING, STATUS, WATCHDOG. Nothing is sent, and
//! nothing is an error, when the daemon does not run under it.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::action::ActionId;
use crate::engine::{CommandError, Engine, EngineStatus};

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// One line of counts for `systemctl status`.
pub(super) fn line(status: &EngineStatus) -> String {
    let waiting: u64 = status.queues.iter().map(|queue| queue.waiting).sum();
    let running: u64 = status.queues.iter().map(|queue| queue.running).sum();
    let paused = status.queues.iter().filter(|queue| queue.paused).count();
    let paused = if paused > 0 { format!("; paused queues: {paused}") } else { String::new() };
    let reboot = if status.reboot_due { "; a reboot of the host is due" } else { "" };
    format!(
        "{waiting} waiting, {running} running, {} accepted since the start{paused}{reboot}",
        status.accepted
    )
}

/// Pings the watchdog as long as the engine's thread answers; returns at once without a watchdog.
///
/// A ping from a timer alone would only prove that the timer works.
pub(super) async fn watchdog(engine: Engine) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    let mut tick = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        tick.tick().await;
        // No action has the id 0: the answer costs nothing, but only the engine's thread can give it.
        if matches!(engine.explain(ActionId(0)).await, Err(CommandError::Stopping)) {
            return;
        }
        tell(&[NotifyState::Watchdog]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::QueueStatus;

    #[test]
    fn status_line_counts_over_all_queues() {
        let queue = |name: &str, paused| QueueStatus {
            name: name.to_owned(),
            concurrency: 1,
            paused,
            waiting: 2,
            running: 1,
            length_max: 9,
        };
        let status = EngineStatus {
            accepted: 8,
            queues: vec![queue("a", false), queue("b", true)],
            ..Default::default()
        };
        assert_eq!(line(&status), "4 waiting, 2 running, 8 accepted since the start; paused queues: 1");
    }
}
