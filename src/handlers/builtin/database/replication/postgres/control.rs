//! What the control file of a data directory says (`pg_controldata`), which is the truth about a server that is down.

use std::collections::BTreeMap;

use super::lsn::Lsn;

/// The parts of it that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    /// Equal in all copies of one server.
    pub(super) system: String,
    /// `in production`, `shut down`, `in archive recovery`, ...
    pub(super) state: String,
    /// Where the last checkpoint begins; after a clean end it is the last thing in the log.
    pub(super) checkpoint: Lsn,
    pub(super) timeline: u32,
    /// Of a replica: up to where at least it has to have the log, and on which timeline.
    pub(super) recovery_end: Lsn,
    pub(super) recovery_timeline: u32,
    /// `pg_rewind` can find out what differs.
    pub(super) can_rewind: bool,
}

impl Control {
    /// Reads what the program prints in the language C.
    ///
    /// # Errors
    ///
    /// Something is missing.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let lines: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(':')).map(|(key, of)| (key, of.trim())).collect();
        let field = |key: &str| {
            lines.get(key).copied().ok_or_else(|| format!("pg_controldata does not say its {key:?}"))
        };
        let number = |key: &str| {
            field(key)?.parse::<u32>().map_err(|_| format!("pg_controldata: {key:?} is no number"))
        };
        Ok(Self {
            system: field("Database system identifier")?.to_owned(),
            state: field("Database cluster state")?.to_owned(),
            checkpoint: field("Latest checkpoint location")?.parse()?,
            timeline: number("Latest checkpoint's TimeLineID")?,
            recovery_end: field("Minimum recovery ending location")?.parse()?,
            recovery_timeline: number("Min recovery ending loc's timeline")?,
            can_rewind: field("wal_log_hints setting")? == "on" || number("Data page checksum version")? != 0,
        })
    }

    /// Where the log of a primary ends, if it was stopped as it should be.
    pub(super) fn clean_end(&self) -> Option<Lsn> {
        (self.state == "shut down").then_some(self.checkpoint)
    }

    /// Whether it was last run as a replica.
    pub(super) fn is_replica(&self) -> bool {
        ["in archive recovery", "shut down in recovery"].contains(&self.state.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_file_is_read_or_what_is_missing_is_told() {
        let text = "pg_control version number:            1300\n\
            Database system identifier:           7301\n\
            Database cluster state:               shut down\n\
            Latest checkpoint location:           0/3000028\n\
            Latest checkpoint's TimeLineID:       2\n\
            Minimum recovery ending location:     0/0\n\
            Min recovery ending loc's timeline:   0\n\
            wal_log_hints setting:                off\n\
            Data page checksum version:           1\n";
        let control = Control::read(text).unwrap();
        assert_eq!((control.system.as_str(), control.timeline), ("7301", 2));
        assert_eq!(control.clean_end(), Some("0/3000028".parse().unwrap()));
        assert!(control.can_rewind && !control.is_replica());
        let crashed = Control::read(&text.replace("shut down", "in production")).unwrap();
        assert_eq!(crashed.clean_end(), None);
        assert!(Control::read("").unwrap_err().contains("system identifier"));
    }
}
