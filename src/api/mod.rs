//! CONTRACT SKELETON: the HTTP faces over one hyper service.
pub mod wire;

use std::sync::Arc;

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
    /// Longest blocking read (`?wait=`).
    pub wait_max_ms: u64,
    /// Whether the TCP door shows metadata, messages, results and logs.
    pub details: bool,
    /// Names under which the TCP door may be addressed (`Host`), beside localhost, 127.0.0.1 and [::1].
    pub hosts: Vec<String>,
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

/// Serves the Unix socket: reads and writes. Ends, with its connections, when `stop` becomes true.
pub async fn serve_socket(_listener: tokio::net::UnixListener, _api: Arc<Api>, _stop: watch::Receiver<bool>) {
    todo!()
}

/// Serves the status endpoint over TCP: reads only. Ends, with its connections, when `stop` becomes true.
pub async fn serve_status(_listener: tokio::net::TcpListener, _api: Arc<Api>, _stop: watch::Receiver<bool>) {
    todo!()
}
