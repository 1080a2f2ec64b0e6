//! Replication of MariaDB: a primary on a loopback port of its own and its replica, which has a Unix socket only.

mod disable;
mod promote;
mod resync;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::common::until;
use crate::servers::mariadb::Mariadb;
use crate::subject::Subject;

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let pair = Pair::start();
    try_it(&promote::Promote { pair: &pair });
    for mode in ["detach", "stop", "pause"] {
        try_it(&disable::Disable { pair: &pair, mode });
    }
    for is_diverged in [false, true] {
        try_it(&resync::Resync { pair: &pair, is_diverged });
    }
}

/// The rights that the example asks for, beside those of a user of databases.
const GRANTS: [&str; 1] =
    ["GRANT REPLICATION SLAVE ADMIN, SLAVE MONITOR, READ_ONLY ADMIN, BINLOG MONITOR, EVENT,
     RELOAD, BINLOG ADMIN ON *.* TO root@localhost"];
/// Somebody whom `read_only` keeps from writing.
const APP: &str = "CREATE USER app@localhost; GRANT ALL ON shop.* TO app@localhost";
/// Of the user that the replica connects as.
const PASSWORD: &str = "canary-replica";

/// A primary and its replica.
pub struct Pair {
    pub primary: Mariadb,
    pub replica: Mariadb,
    port: u16,
    count: AtomicU32,
}

impl Pair {
    fn start() -> Self {
        // It is free again, and nobody takes the same one so soon.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let port_option = format!("--port={port}");
        let both = ["--log-slave-updates", "--gtid-strict-mode", "--slave-net-timeout=5"];
        let with = |own: &[&str]| Mariadb::start_with(&[own, &both].concat(), &GRANTS);
        let primary = with(&["--bind-address=127.0.0.1", &port_option, "--server-id=1"]);
        let replica = with(&["--skip-networking", "--server-id=2"]);
        for server in [&primary, &replica] {
            server.query(&format!(
                "CREATE USER replica@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
                 GRANT REPLICATION SLAVE ON *.* TO replica@'127.0.0.1'; {APP}"
            ));
        }
        std::fs::write(primary.dir().join("password"), format!("{PASSWORD}\n")).expect("a password");
        Self { primary, replica, port, count: AtomicU32::new(0) }
    }

    /// The targets of the example, with these servers.
    pub fn targets(&self) -> String {
        let mut example: toml::Table =
            toml::from_str(include_str!("../../../config/examples/mariadb-replication.toml")).expect("TOML");
        let mut targets = example.remove("targets").expect("targets");
        for (name, server) in [("db1", &self.primary), ("db2", &self.replica)] {
            let target = targets[name].as_table_mut().expect("a table");
            target.insert("socket".to_owned(), server.socket().display().to_string().into());
            target.insert("user".to_owned(), "root".into());
            if target.contains_key("backup_dir") {
                target.insert("backup_dir".to_owned(), server.backups().display().to_string().into());
            }
            target.insert("read_only_file".to_owned(), server.read_only_file().display().to_string().into());
        }
        let replication = targets["db1"]["replication"].as_table_mut().expect("a table");
        replication.insert("host".to_owned(), "127.0.0.1".into());
        replication.insert("port".to_owned(), i64::from(self.port).into());
        replication.insert("password_file".to_owned(), self.password_file().display().to_string().into());
        toml::Table::from_iter([("targets".to_owned(), targets)]).to_string()
    }

    fn password_file(&self) -> PathBuf {
        self.primary.dir().join("password")
    }

    /// A primary with data and a replica that follows, whatever they were before. The last rows may still be on their way.
    pub fn make_new(&self) {
        for server in [&self.replica, &self.primary] {
            let _ = std::fs::remove_file(server.read_only_file());
            server.query(
                "STOP SLAVE; RESET SLAVE ALL; SET sql_log_bin = 0;
                 DROP DATABASE IF EXISTS shop; DROP DATABASE IF EXISTS own",
            );
        }
        self.primary.query("SET GLOBAL read_only = 0; RESET MASTER; SET GLOBAL gtid_slave_pos = ''");
        self.replica.query("SET GLOBAL read_only = 1; RESET MASTER; SET GLOBAL gtid_slave_pos = ''");
        keep_read_only(&self.replica);
        self.primary.query(
            "CREATE DATABASE shop; CREATE TABLE shop.goods (id INT PRIMARY KEY AUTO_INCREMENT, name TEXT)",
        );
        self.replica.query(&format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'replica',
             MASTER_PASSWORD = '{PASSWORD}', MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos; START SLAVE",
            self.port
        ));
        self.await_following();
        for _ in 0..10 {
            self.write();
        }
    }

    /// One more row on the primary.
    pub fn write(&self) {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        self.primary.query(&format!("INSERT INTO shop.goods (name) VALUES ('{count}')"));
    }

    /// What the replica does: its threads, or nothing.
    pub fn threads(&self) -> String {
        self.replica
            .query("SHOW ALL SLAVES STATUS")
            .split('\t')
            .skip(12)
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    }

    pub fn await_following(&self) {
        until("both threads", || (self.threads() == "Yes Yes").then_some(()));
    }

    /// The replica has what the primary has.
    pub fn assert_same(&self) {
        let all = "SELECT * FROM shop.goods WHERE name <> 'after' ORDER BY id";
        let written = self.primary.query(all);
        assert!(!written.is_empty());
        // The table may be on its way, too.
        until("the rows", || {
            self.replica.query_as("app", all).is_ok_and(|rows| rows == written).then_some(())
        });
    }

    /// It follows, and what is written now arrives.
    pub fn assert_following(&self) {
        self.await_following();
        self.write();
        self.assert_same();
    }
}

/// As an operator configures a replica.
fn keep_read_only(server: &Mariadb) {
    std::fs::write(server.read_only_file(), "[mariadbd]\nread_only = 1\n").expect("a file");
}

/// The password is nowhere where it has no business.
fn assert_secret(action: &Value) {
    assert!(!action.to_string().contains(PASSWORD), "the password is in {action}");
}

fn is_read_only(server: &Mariadb) -> bool {
    server.query("SELECT @@GLOBAL.read_only") == "1"
}

/// Whether an application can write to it.
fn takes_writes(server: &Mariadb) -> bool {
    match server.query_as("app", "INSERT INTO shop.goods (name) VALUES ('after')") {
        Ok(_) => true,
        Err(why) => {
            assert!(why.contains("--read-only"), "{why}");
            false
        }
    }
}
