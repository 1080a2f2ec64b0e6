//! Sets of transactions by their global ids (MariaDB, "Global Transaction ID"): for each domain and each server that wrote
//! in it, the number of the last.

use std::collections::BTreeMap;

use super::Server;
use crate::handlers::builtin::Failure;

/// `DOMAIN-SERVER-NUMBER` of each domain and server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transactions(BTreeMap<(u64, u64), u64>);

impl Transactions {
    /// Reads a list as `@@gtid_binlog_state` and `@@gtid_slave_pos` have it.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut read = Self::default();
        for id in text.split(',').map(str::trim).filter(|id| !id.is_empty()) {
            let mut parts = id.split('-').map(|part| part.parse::<u64>().ok());
            let (Some(domain), Some(server), Some(number)) = (parts.next()?, parts.next()?, parts.next()?)
            else {
                return None;
            };
            let last = read.0.entry((domain, server)).or_default();
            *last = number.max(*last);
        }
        Some(read)
    }

    fn add(&mut self, other: Self) {
        for (of, number) in other.0 {
            let last = self.0.entry(of).or_default();
            *last = number.max(*last);
        }
    }

    /// The last one of each domain and server that has some which `other` lacks.
    pub(super) fn beyond(&self, other: &Self) -> Vec<String> {
        let lacks = |of, number: u64| other.0.get(of).is_none_or(|has| *has < number);
        let beyond = self.0.iter().filter(|(of, number)| lacks(*of, **number));
        beyond.map(|((domain, server), number)| format!("{domain}-{server}-{number}")).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Server<'_> {
    /// Everything that it has, its own and others', as far as it has kept a log of it.
    pub(super) async fn transactions(&self) -> Result<Transactions, Failure> {
        const ALL: &str = "SELECT @@GLOBAL.gtid_binlog_state, @@GLOBAL.gtid_slave_pos";
        let what = format!("cannot look at the transactions of {}", self.name());
        let row: Option<(String, String)> = self.session.first(&what, ALL, ()).await?;
        let (written, applied) = row.unwrap_or_default();
        let unread = || Failure::permanent("gtid", format!("{what}: {written:?}, {applied:?}"));
        let mut all = Transactions::read(&written).ok_or_else(unread)?;
        all.add(Transactions::read(&applied).ok_or_else(unread)?);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_of_two_servers_has_is_told() {
        let read = |text| Transactions::read(text).unwrap();
        let primary = read("0-1-100,0-2-120");
        assert_eq!(read("0-1-100, 0-2-110").beyond(&primary), Vec::<String>::new());
        assert_eq!(read("0-1-105").beyond(&primary), ["0-1-105"], "written before it was replaced");
        assert_eq!(read("0-1-90,0-3-1,1-1-1").beyond(&primary), ["0-3-1", "1-1-1"]);
        assert!(read("").is_empty());
        assert_eq!(Transactions::read("0-1"), None);
    }
}
