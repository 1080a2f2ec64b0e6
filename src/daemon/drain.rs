//! The way out: no more claims, attempts get their grace, the store is closed, within 30 s of the signal.
//!
//! ```text
//!  SIGTERM ─▶ [systemd's socket: accepts no more] ─▶ drain ──(all ended, or grace over, or a second signal:
//!  attempts are told to end)──▶ doors close ─▶ store closes with its clean mark ─▶ exit 0
//! ```
//!
//! A socket that is systemd's outlives the daemon: who connects is better served by the next one than refused by this one, so
//! it is left first, before new work is refused. The status endpoint only reads, and says how the stop goes until its end.
//!
//! Whatever does not end in time is interrupted: the next start recovers it by its policy.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::api::LINGER;
use crate::config::Shutdown;
use crate::engine::Engine;
use crate::store::StoreError;

use super::running::{Serving, store_failed};
use super::signals::{Asked, Signals};
use super::{exit, service};

/// From the first signal to the end of everything.
const TOTAL: Duration = Duration::from_secs(29);
/// Kept of it for closing the store.
const CLOSING: Duration = Duration::from_millis(1_500);
/// Beyond `kill_grace`, for reaping and recording what was ended.
const REAPING: Duration = Duration::from_millis(500);
/// For the doors, which leave each connection the time for a last request.
const DOORS: Duration = Duration::from_millis(900);
const SOCKET: Duration = Duration::from_millis(600);
const _: () = assert!(LINGER.as_millis() < SOCKET.as_millis() && SOCKET.as_millis() < DOORS.as_millis());
/// Longest wait for the engine to refuse new work before the stop is announced: a sync may hang.
const REFUSING: Duration = Duration::from_secs(1);

/// Stops the daemon; returns the exit code.
pub(super) async fn stop(
    engine: &Engine,
    signals: &mut Signals,
    fatal: &mut oneshot::Receiver<StoreError>,
    mut serving: Serving,
    settings: &Shutdown,
) -> u8 {
    let began = Instant::now();
    tracing::info!(grace_ms = settings.grace_ms, "stopping: nothing more is started");
    if serving.made.is_none() {
        serving.socket.send_replace(true);
        // The first task to end: the other goes on. Connections that are busy for longer end with the rest.
        let _ = timeout(SOCKET, serving.tasks.join_next()).await;
    }
    let drained = engine.drain();
    tokio::pin!(drained);
    let mut draining = engine.draining();
    let is_drained = tokio::select! {
        () = &mut drained => true,
        failed = &mut *fatal => return store_failed(failed),
        _ = timeout(REFUSING, draining.wait_for(|draining| *draining)) => false,
    };
    // Said only now: whoever hears it finds that new work is refused.
    service::stopping("stopping: waiting for running attempts");
    let ended = if is_drained {
        Ok(true)
    } else {
        attempts_end(engine, drained, signals, fatal, settings, began).await
    };
    match ended {
        Ok(true) => {}
        Ok(false) => tracing::warn!("some attempts did not end; the next start recovers them"),
        Err(code) => return code,
    }
    let Serving { mut tasks, socket, status, made } = serving;
    socket.send_replace(true);
    status.send_replace(true);
    let _ = timeout(DOORS, async { while tasks.join_next().await.is_some() {} }).await;
    // Removed while the store is still locked: it cannot be a successor's yet.
    if let Some(path) = made
        && let Err(error) = std::fs::remove_file(&path)
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
    }
    if timeout_at(began + TOTAL, engine.close()).await.is_err() {
        tracing::warn!("the store did not close in time; the next start recovers it");
        return exit::OK;
    }
    // A failed close ends the engine's thread by an error, as every failure of the store does, a panic too. The
    // thread says so, or ends without a word if all went well, a moment after its answer.
    if let Ok(Ok(error)) = timeout_at(began + TOTAL, fatal).await {
        return store_failed(Ok(error));
    }
    tracing::info!(duration_ms = began.elapsed().as_millis(), "stopped");
    exit::OK
}

/// Waits until nothing runs, and tells what still runs to end when its time is over. False: something still
/// runs. An error is the exit code of a store that failed meanwhile.
async fn attempts_end(
    engine: &Engine,
    mut drained: Pin<&mut impl Future<Output = ()>>,
    signals: &mut Signals,
    fatal: &mut oneshot::Receiver<StoreError>,
    settings: &Shutdown,
    began: Instant,
) -> Result<bool, u8> {
    let last = began + TOTAL - CLOSING;
    let kill_grace = Duration::from_millis(settings.kill_grace_ms);
    let grace_ends = (began + Duration::from_millis(settings.grace_ms)).min(last - REAPING - kill_grace);
    let again = loop {
        tokio::select! {
            () = &mut drained => return Ok(true),
            failed = &mut *fatal => return Err(store_failed(failed)),
            () = tokio::time::sleep_until(grace_ends) => break false,
            asked = signals.next() => if asked == Asked::Stop { break true },
        }
    };
    tracing::info!(asked_again = again, "running attempts are told to end");
    service::stopping("stopping: ending running attempts");
    engine.stop_attempts();
    let patience = (Instant::now() + kill_grace + REAPING).min(last);
    tokio::select! {
        () = &mut drained => Ok(true),
        failed = &mut *fatal => Err(store_failed(failed)),
        () = tokio::time::sleep_until(patience) => Ok(false),
    }
}
