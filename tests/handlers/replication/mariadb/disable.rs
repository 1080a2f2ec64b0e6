//! `disable_replication_slave_db` on MariaDB.

use serde_json::{Value, json};

use super::{Pair, assert_secret, is_read_only};
use crate::subject::Subject;

pub struct Disable<'a> {
    pub pair: &'a Pair,
    pub mode: &'static str,
}

impl Subject for Disable<'_> {
    fn name(&self) -> String {
        format!("disable_replication_slave_db (mariadb, {})", self.mode)
    }

    fn action(&self) -> &'static str {
        "disable_replication_slave_db"
    }

    fn tables(&self) -> String {
        self.pair.targets()
    }

    fn prepare(&self) -> Value {
        self.pair.make_new();
        self.pair.assert_same();
        json!({ "engine": "mysql", "server": "db2", "mode": self.mode })
    }

    fn assert_done(&self, _metadata: &Value, action: &Value) {
        let threads = match self.mode {
            "detach" => "",
            "stop" => "No No",
            _ => "Yes No",
        };
        assert_eq!(self.pair.threads(), threads, "{action}");
        self.pair.assert_same();
        assert!(is_read_only(&self.pair.replica), "{action}");
        let result = &action["finished_result"];
        assert_eq!((&result["mode"], &result["read_only"]), (&json!(self.mode), &json!(true)), "{action}");
        let previous = &result["previous"];
        let expected = (json!("127.0.0.1"), json!(self.pair.port), json!("replica"));
        let found = (&previous["source_host"], &previous["port"], &previous["user"]);
        assert_eq!(found, (&expected.0, &expected.1, &expected.2), "{action}");
        assert_eq!(
            previous["gtid"],
            json!(self.pair.replica.query("SELECT @@GLOBAL.gtid_slave_pos")),
            "{action}"
        );
    }

    fn assert_undone(&self, _metadata: &Value, action: &Value) {
        self.pair.assert_following();
        assert!(is_read_only(&self.pair.replica), "{action}");
        assert_eq!(
            self.pair.replica.query("SHOW ALL SLAVES STATUS").split('\t').nth(6),
            Some("1"),
            "the pause: {action}"
        );
        assert_secret(action);
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({ "engine": "postgresql" }), "postgresql"),
            (json!({ "server": "db3" }), "db3"),
            (json!({ "server": "db2", "mode": "maybe" }), "maybe"),
            (json!({ "server": "db2", "drop_slot": true }), "drop_slot"),
        ]
    }

    fn take_down(&self) {
        self.pair.replica.take_down();
    }

    fn bring_up(&self) {
        self.pair.replica.bring_up();
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        // One that follows by the names of files can be stopped, and not detached.
        let metadata = self.prepare();
        self.pair.replica.query("STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID = no; START SLAVE");
        self.pair.await_following();
        let action = ask(metadata);
        if self.mode == "detach" {
            assert_eq!(action["finished_result"]["error"]["code"], "no_gtid", "{action}");
            self.pair.assert_following();
        } else {
            assert_eq!(action["state"], "succeeded", "{action}");
        }
    }
}
