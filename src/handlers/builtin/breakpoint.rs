//! Places at which a test stops or kills a built-in handler: before and after the effect of each step, and after its end.
//! Compiled to nothing without the feature `crash-points`.
//!
//! `STEP_BREAKPOINTS` is a directory. A file `NAME.PLACE` there acts once: with `kill` in it keeper and handler are killed, as
//! by a loss of power; with `wait` in it the file becomes `NAME.PLACE.reached`, and the handler waits until that is removed.

#[cfg(feature = "crash-points")]
pub(super) async fn breakpoint(step: &str, place: &str) {
    use std::time::Duration;

    let Some(dir) = std::env::var_os("STEP_BREAKPOINTS").map(std::path::PathBuf::from) else { return };
    let file = dir.join(format!("{step}.{place}"));
    let Ok(what) = std::fs::read_to_string(&file) else { return };
    if what.trim() == "kill" {
        let _ = std::fs::remove_file(&file);
        for process in [rustix::process::getppid(), Some(rustix::process::getpid())].into_iter().flatten() {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
    let reached = dir.join(format!("{step}.{place}.reached"));
    let _ = std::fs::rename(&file, &reached);
    while reached.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(not(feature = "crash-points"))]
pub(super) async fn breakpoint(_step: &str, _place: &str) {}
