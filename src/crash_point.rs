//! Named points at which a test kills the daemon. Compiled to nothing without the feature `crash-points`.
//!
//! `ACTIOND_CRASH_AT=name` kills at the first pass of that point, `name:n` at the n-th, with SIGKILL, so
//! that no destructor and no handler runs. Called by store, engine, handlers and runner before and after each
//! step that a crash could tear apart; `tests/whole/recovery.rs` finds the names in the sources and passes each.

#[cfg(feature = "crash-points")]
pub(crate) fn crash_point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);

    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("ACTIOND_CRASH_AT").ok()?;
        Some(match text.split_once(':') {
            Some((name, pass)) => (name.to_owned(), pass.parse().unwrap_or(1)),
            None => (text, 1),
        })
    });
    let Some((wanted, pass)) = wanted else { return };
    if wanted == name && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == *pass {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// What a keeper needs to pass the points of its own.
#[cfg(feature = "crash-points")]
pub(crate) fn environment() -> Vec<std::ffi::CString> {
    let wanted = std::env::var("ACTIOND_CRASH_AT").ok();
    wanted
        .and_then(|name| std::ffi::CString::new(format!("ACTIOND_CRASH_AT={name}")).ok())
        .into_iter()
        .collect()
}

#[cfg(not(feature = "crash-points"))]
pub(crate) fn environment() -> Vec<std::ffi::CString> {
    Vec::new()
}

#[cfg(not(feature = "crash-points"))]
#[inline]
pub(crate) fn crash_point(_name: &str) {}
