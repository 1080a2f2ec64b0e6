//! `resync_slave_db` on MariaDB: a replica that has only fallen behind, and one that has data of its own.

use serde_json::{Value, json};

use super::{Pair, assert_secret, is_read_only, takes_writes};
use crate::common::{until, with};
use crate::subject::Subject;

pub struct Resync<'a> {
    pub pair: &'a Pair,
    /// It has what its primary lacks: only a copy of the primary's data makes it a replica.
    pub is_diverged: bool,
}

impl Resync<'_> {
    /// A replica that was detached, while its primary went on.
    fn leave_behind(&self) {
        self.pair.make_new();
        self.pair.assert_same();
        self.pair.replica.query("STOP SLAVE; RESET SLAVE ALL");
        for _ in 0..5 {
            self.pair.write();
        }
    }

    /// The superuser writes although it is read only.
    fn write_own(&self) {
        self.pair.replica.query(
            "CREATE DATABASE own; CREATE TABLE own.goods (id INT PRIMARY KEY); INSERT INTO own.goods VALUES (1);
             UPDATE shop.goods SET name = 'mine' WHERE id = 1; CREATE TABLE shop.mine (id INT)",
        );
    }

    fn owned(&self) -> String {
        self.pair.replica.query(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema = 'own' OR table_name = 'mine'",
        )
    }

    fn dumps(&self) -> usize {
        std::fs::read_dir(self.pair.replica.backups()).expect("the dumps").count()
    }
}

impl Subject for Resync<'_> {
    fn name(&self) -> String {
        format!("resync_slave_db (mariadb, {})", if self.is_diverged { "seed" } else { "gtid" })
    }

    fn action(&self) -> &'static str {
        "resync_slave_db"
    }

    fn tables(&self) -> String {
        self.pair.targets()
    }

    fn prepare(&self) -> Value {
        self.leave_behind();
        if self.is_diverged {
            self.write_own();
        }
        json!({ "engine": "mysql", "server": "db2", "confirm_data_loss": self.is_diverged })
    }

    fn assert_done(&self, _metadata: &Value, action: &Value) {
        let Pair { replica, .. } = self.pair;
        assert_eq!(self.pair.threads(), "Yes Yes", "{action}");
        self.pair.assert_same();
        self.pair.assert_following();
        assert_eq!((self.owned().as_str(), self.dumps()), ("", 0), "{action}");
        assert!(is_read_only(replica) && !takes_writes(replica), "{action}");
        let result = &action["finished_result"];
        let method = if self.is_diverged { "seed" } else { "gtid" };
        assert_eq!((&result["source"], &result["method_used"]), (&json!("db1"), &json!(method)), "{action}");
        assert_eq!(result["replication_state"], "streaming", "{action}");
        assert!(result["seconds_behind"].is_u64(), "{action}");
        assert_eq!(result["bytes_copied"].as_u64() > Some(1_000), self.is_diverged, "{action}");
        assert_eq!(result["warnings"], json!([]), "{action}");
        assert_secret(action);
    }

    /// What was replaced does not come back, and what follows goes on: warnings say so.
    fn assert_undone(&self, _metadata: &Value, action: &Value) {
        let warnings = action["finished_result"]["warnings"].to_string();
        assert!(is_read_only(&self.pair.replica), "{action}");
        assert_eq!(self.dumps(), 0, "{action}");
        if self.pair.threads() == "Yes Yes" {
            assert!(warnings.contains("stays so"), "{action}");
            return self.pair.assert_following();
        }
        assert_eq!(self.pair.threads(), "", "{action}");
        if warnings.contains("cannot be taken back") {
            return;
        }
        assert_eq!(self.owned().is_empty(), !self.is_diverged, "{action}");
        assert_eq!(self.pair.replica.query("SELECT COUNT(*) FROM shop.goods"), "10", "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({ "engine": "postgresql" }), "postgresql"),
            (json!({ "server": "db1" }), "replica_of"),
            (json!({ "server": "db2", "source": "db2" }), "itself"),
            (json!({ "server": "db2", "source": "db9" }), "db9"),
            (json!({ "server": "db2", "method": "rewind" }), "PostgreSQL"),
            (json!({ "server": "db2", "max_rate_kib": 100 }), "max_rate_kib"),
            (json!({ "server": "db2", "keep_old": true }), "keep_old"),
        ]
    }

    fn fails(&self) -> Vec<(Value, &'static str)> {
        let metadata = json!({ "server": "db2" });
        if self.is_diverged {
            let by_gtid = with(with(metadata.clone(), "method", "gtid"), "confirm_data_loss", true);
            return vec![(metadata, "data_loss"), (by_gtid, "data_loss")];
        }
        Vec::new()
    }

    fn take_down(&self) {
        self.pair.replica.take_down();
    }

    fn bring_up(&self) {
        self.pair.replica.bring_up();
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let Pair { primary, replica, .. } = self.pair;
        if !self.is_diverged {
            // A primary that was replaced becomes a replica of the new one, with what it has written itself.
            self.pair.make_new();
            self.pair.assert_same();
            let metadata = json!({ "server": "db2" });
            replica.query("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0");
            let _ = std::fs::remove_file(replica.read_only_file());
            let action = ask(metadata);
            self.assert_done(&Value::Null, &action);
            replica.take_down();
            replica.bring_up();
            assert!(is_read_only(replica), "after a restart");
            self.pair.assert_following();
            return;
        }
        // Its primary has no more what it lacks: it gets a copy, and it loses nothing.
        self.leave_behind();
        primary.query("FLUSH BINARY LOGS");
        // What is still sent to somebody is not purged.
        until("a purge", || {
            let logs = primary.query("PURGE BINARY LOGS TO 'binlog.000002'; SHOW BINARY LOGS");
            (logs.lines().count() == 1).then_some(())
        });
        let by_gtid = ask(json!({ "server": "db2", "method": "gtid" }));
        assert_eq!(by_gtid["finished_result"]["error"]["code"], "broken", "{by_gtid}");
        assert_eq!(self.pair.threads(), "");
        let action = ask(json!({ "server": "db2" }));
        assert_eq!(action["finished_result"]["method_used"], "seed", "{action}");
        self.pair.assert_following();
        // One thread says Yes and the other has given up.
        self.pair.make_new();
        self.pair.assert_same();
        replica.query("STOP SLAVE");
        self.write_own();
        replica.query("CHANGE MASTER TO MASTER_USE_GTID = current_pos; START SLAVE");
        let action = ask(json!({ "server": "db2", "confirm_data_loss": true }));
        self.assert_done(&Value::Null, &action);
    }
}
