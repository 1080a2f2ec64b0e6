//! The HTTP faces: one HTTP/1.1 service behind two doors.
//!
//! ```text
//!  Unix socket ──▶ server ──▶ direct ──────────▶ submit, stream      plain submissions
//!  TCP (GET)   ──▶   │           └─▶ routes ──▶ submit, stream      by way of hyper, as all the rest
//!                    │                 ├─────▶ actions, log, events, commands, queues
//!                    │                 └─────▶ status, metrics, page, openapi
//!                    └ limits, peer credentials, time-outs
//! ```
//!
//! # Guarantees
//!
//! - What is answered with 202 is durable: the answer is written after the engine's.
//! - The caller's identity is what the kernel says of the peer, taken once at accept, never text of the request.
//! - The TCP door only reads, and tells no payload unless `details` is set.
//! - Every refusal is a problem document (RFC 9457) with a stable type; `problem` lists them all.
//!
//! Started by the daemon; knows the engine and the logs, and of the store only its errors and its health.

mod actions;
#[cfg(test)]
mod bench;
mod chunks;
mod commands;
mod convert;
mod depth;
mod digest;
mod direct;
mod events;
mod head;
mod log;
mod metrics;
mod openapi;
mod page;
mod parse;
mod patience;
mod problem;
mod query;
mod reply;
mod routes;
mod server;
mod spare;
mod status;
mod stopping;
mod stream;
mod submit;
mod time;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::engine::Engine;
use crate::runner::logs::Logs;

/// What the configuration says to the API; replaced whole by a reload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest request body of one object, and longest line of an NDJSON stream, in bytes.
    pub body_bytes_max: usize,
    pub metadata_bytes_max: usize,
    /// Levels of nesting in metadata; the object itself is 1.
    pub metadata_depth_max: usize,
    /// Connections at once, per door.
    pub connections_max: usize,
    /// Longest time for a request's head, and for each pause in its body.
    pub header_timeout_ms: u64,
    /// A client that takes nothing of its answer for this long is cut off.
    pub write_timeout_ms: u64,
    /// Longest blocking read (`?wait=`).
    pub wait_max_ms: u64,
    /// Whether the TCP door shows metadata, messages, results and logs.
    pub details: bool,
    /// Names under which the TCP door may be addressed (`Host`), beside localhost, 127.0.0.1 and `[::1]`.
    pub hosts: Vec<String>,
}

impl Settings {
    /// Longest pause in a body.
    fn pause(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }
}

/// What the routes need; one for both doors.
pub struct Api {
    pub engine: Engine,
    pub logs: Logs,
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The TCP address really bound, once it is.
    pub status_address: watch::Receiver<Option<String>>,
    pub clock: fn() -> crate::action::Timestamp,
}

pub use self::server::{LINGER, serve_socket, serve_status};
