//! Where the daemon's own log goes: text on stderr, or journald with fields when stderr leads there.
//! Called once, first of all.

use std::io::IsTerminal as _;
use std::os::linux::fs::MetadataExt as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::lines::Lines;
use crate::config::Log;

/// Writes what waits of the log when it is dropped.
pub(super) struct Logging(Option<Lines>);

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(lines) = &self.0 {
            lines.flush();
        }
    }
}

/// Sends what `tracing` collects to where the configuration says. A second call changes nothing.
pub(super) fn init(log: &Log) -> Logging {
    // What libraries say below a warning is of no use to an operator.
    let filter = EnvFilter::new(format!("warn,actiond={}", log.level));
    let wanted = match log.format.as_str() {
        "journald" => true,
        "auto" => stderr_is_the_journal(),
        _ => false,
    };
    let subscriber = tracing_subscriber::registry().with(filter);
    if wanted && let Ok(journal) = tracing_journald::layer() {
        let _ = subscriber.with(journal.with_field_prefix(None)).try_init();
        return Logging(None);
    }
    let lines = Lines::to(std::io::stderr());
    let text = tracing_subscriber::fmt::layer()
        .with_writer(lines.clone())
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false);
    let _ = subscriber.with(text).try_init();
    Logging(Some(lines))
}

/// Whether stderr is the stream that systemd connected to the journal (`systemd.exec(5)`, `JOURNAL_STREAM`):
/// it may have been redirected since.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| device.parse() == Ok(found.st_dev()) && inode.parse() == Ok(found.st_ino()))
}
