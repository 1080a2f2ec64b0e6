//! Signals as messages: SIGHUP reload, SIGTERM and SIGINT stop. Everything else keeps its default.
//!
//! SIGCHLD is caught, without effect: whoever starts the daemon may have left it ignored, and then the kernel
//! throws away how programs end, and gives their pids to others (`sigaction(2)`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Reload,
    Stop,
}

/// Signals in the order in which they came; none is lost once this exists.
pub(super) struct Signals(mpsc::UnboundedReceiver<Asked>);

impl Signals {
    /// Takes the signals over for the life of the process.
    pub(super) fn listen() -> io::Result<Self> {
        let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        signal_hook::flag::register(SIGCHLD, Arc::new(AtomicBool::new(false)))?;
        let (tell, asked) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let what = if signal == SIGHUP { Asked::Reload } else { Asked::Stop };
                if tell.send(what).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(asked))
    }

    /// The next request; never resolves if there will be none.
    pub(super) async fn next(&mut self) -> Asked {
        match self.0.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}
