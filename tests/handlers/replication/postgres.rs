//! Streaming replication of PostgreSQL, on a primary and its replica.

mod disable;
mod promote;
mod resync;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::servers::replicas::Replicas;
use crate::subject::Subject;

type TryIt<'a> = &'a mut dyn FnMut(&dyn Subject);

/// Gives the subjects of one type to `try_it`; the types have servers of their own, so they run beside each other.
pub fn disable(try_it: TryIt<'_>) {
    let servers = Servers::start();
    for is_paused in [false, true] {
        try_it(&disable::Disable { servers: &servers, is_paused });
    }
}

pub fn promote(try_it: TryIt<'_>) {
    let servers = Servers::start();
    for can_stop in [true, false] {
        try_it(&promote::Promote { servers: &servers, can_stop });
    }
}

pub fn rewind(try_it: TryIt<'_>) {
    try_it(&resync::Resync { servers: &Servers::start(), method: "auto" });
}

pub fn basebackup(try_it: TryIt<'_>) {
    try_it(&resync::Resync { servers: &Servers::start(), method: "basebackup" });
}

/// The servers, and what was written last.
pub struct Servers {
    replicas: Replicas,
    count: AtomicU32,
    row: Mutex<String>,
}

impl Servers {
    fn start() -> Self {
        Self { replicas: Replicas::start(), count: AtomicU32::new(0), row: Mutex::default() }
    }

    /// Writes a row on that server and remembers it.
    fn write(&self, name: &str) -> String {
        let row = format!("row {}", self.count.fetch_add(1, Ordering::SeqCst));
        self.replicas.query(name, &format!("insert into goods values ('{row}')"));
        self.row.lock().expect("the row").clone_from(&row);
        row
    }

    /// What was written last.
    fn row(&self) -> String {
        self.row.lock().expect("the row").clone()
    }

    fn has(&self, name: &str, row: &str) -> bool {
        self.replicas.query(name, &format!("select count(*) from goods where name = '{row}'")) == "1"
    }

    fn is_replica(&self, name: &str) -> bool {
        self.replicas.query(name, "select pg_is_in_recovery()") == "t"
    }

    /// Of a primary.
    fn timeline(&self, name: &str) -> String {
        let timeline = "select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";
        self.replicas.query(name, timeline)
    }

    /// The replica gets what is written on the primary now.
    fn assert_follows(&self, primary: &str, replica: &str) {
        let row = self.write(primary);
        crate::common::until("the row", || self.has(replica, &row).then_some(()));
        assert!(self.is_replica(replica));
        self.replicas.await_streaming(primary, replica);
    }

    fn slots(&self, name: &str) -> String {
        self.replicas.query(name, "select slot_name from pg_replication_slots order by 1")
    }
}
