//! Why the daemon ends, as an exit code (`sysexits.h`) that the unit file's `RestartPreventExitStatus=` knows.

use std::error::Error;

use crate::store::StoreError;

/// Told to stop, and stopped.
pub(super) const OK: u8 = 0;
/// `EX_DATAERR`: the store is damaged or of a later release. Not restarted: a person must act.
pub(super) const DATA: u8 = 65;
/// `EX_UNAVAILABLE`: a socket or port cannot be had.
pub(super) const UNAVAILABLE: u8 = 69;
/// `EX_IOERR`: the store failed; a restart recovers from disk.
pub(super) const STORE: u8 = 74;
/// `EX_TEMPFAIL`: another daemon has the store; a restart may find it free.
pub(super) const LOCKED: u8 = 75;
/// `EX_CONFIG`: the configuration, or the owner or mode of the store's directory. Not restarted.
pub(super) const CONFIG: u8 = 78;

/// The exit code for an error of the store.
pub(super) fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::Damaged { .. } | StoreError::FromTheFuture { .. } | StoreError::Illegal { .. } => DATA,
        StoreError::Locked { .. } => LOCKED,
        StoreError::Io { .. } | StoreError::Poisoned | StoreError::Rebuilding | StoreError::Thread(_) => {
            STORE
        }
    }
}

/// The error with its sources, outermost first, as one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_not_restarted_and_a_failed_disk_is() {
        let damaged =
            StoreError::Damaged { file: "j".into(), offset: 7, detail: String::new(), next_step: "restore" };
        assert_eq!(of_store(&damaged), 65);
        assert_eq!(of_store(&StoreError::Poisoned), 74);
        assert_eq!(of_store(&StoreError::Locked { dir: "/d".into() }), 75);
    }

    #[test]
    fn error_is_told_with_its_sources() {
        let error =
            StoreError::Io { what: "sync", path: "/j".into(), source: std::io::Error::other("no disk") };
        assert_eq!(chain(&error), "cannot sync /j: no disk");
    }
}
