//! `promote_slave_db` on MariaDB.

use serde_json::{Value, json};

use super::{Pair, is_read_only, takes_writes};
use crate::common::{until, with};
use crate::subject::Subject;

pub struct Promote<'a> {
    pub pair: &'a Pair,
}

impl Subject for Promote<'_> {
    fn name(&self) -> String {
        "promote_slave_db (mariadb)".to_owned()
    }

    fn action(&self) -> &'static str {
        "promote_slave_db"
    }

    fn tables(&self) -> String {
        self.pair.targets()
    }

    fn prepare(&self) -> Value {
        self.pair.make_new();
        json!({ "engine": "mysql", "server": "db2" })
    }

    fn assert_done(&self, _metadata: &Value, action: &Value) {
        let Pair { primary, replica, .. } = self.pair;
        assert_eq!(self.pair.threads(), "", "{action}");
        self.pair.assert_same();
        assert!(takes_writes(replica), "{action}");
        assert!(!takes_writes(primary), "{action}");
        let result = &action["finished_result"];
        assert_eq!((&result["new_primary"], &result["old_primary"]), (&json!("db2"), &json!("db1")));
        assert_eq!(
            (&result["fenced"], &result["lag_bytes_at_promotion"]),
            (&json!(true), &json!(0)),
            "{action}"
        );
        assert_eq!(
            result["gtid_position"],
            json!(primary.query("SELECT @@GLOBAL.gtid_binlog_pos")),
            "{action}"
        );
        assert_eq!(result["warnings"], json!([]), "{action}");
    }

    /// A promotion is not taken back and neither is a fence, and warnings say so. Never are there two primaries.
    fn assert_undone(&self, _metadata: &Value, action: &Value) {
        let Pair { primary, replica, .. } = self.pair;
        let warnings = action["finished_result"]["warnings"].to_string();
        let is_fenced = is_read_only(primary);
        assert_eq!(warnings.contains("db1 is fenced"), is_fenced, "{action}");
        if self.pair.threads().is_empty() {
            assert!(warnings.contains("cannot be taken back"), "{action}");
            assert!(is_fenced && !is_read_only(replica), "{action}");
            return self.pair.assert_same();
        }
        self.pair.await_following();
        assert!(is_read_only(replica), "{action}");
        self.pair.assert_same();
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({ "engine": "postgresql" }), "postgresql"),
            (json!({ "server": "db1" }), "replica_of"),
            (json!({ "server": "db3" }), "db3"),
            (json!({ "server": "db2", "fence": "maybe" }), "maybe"),
            (json!({ "server": "db2", "wait_s": 0 }), "wait_s"),
        ]
    }

    fn take_down(&self) {
        self.pair.replica.take_down();
    }

    fn bring_up(&self) {
        self.pair.replica.bring_up();
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let Pair { primary, replica, .. } = self.pair;
        let code = |action: &Value| action["finished_result"]["error"]["code"].clone();
        // A replica that is stopped goes on first, and what was promoted stays so when all is restarted.
        let metadata = self.prepare();
        replica.query("STOP SLAVE");
        self.pair.write();
        let action = ask(metadata.clone());
        self.assert_done(&metadata, &action);
        for server in [primary, replica] {
            server.take_down();
            server.bring_up();
        }
        assert!(is_read_only(primary) && !is_read_only(replica), "after a restart");
        // What cannot be applied in time keeps it from being promoted.
        let metadata = self.prepare();
        until("the rows", || {
            (replica.query("SELECT @@GLOBAL.gtid_slave_pos")
                == primary.query("SELECT @@GLOBAL.gtid_binlog_pos"))
            .then_some(())
        });
        let mut holder = replica.lock("shop.goods");
        self.pair.write();
        let action = ask(with(metadata.clone(), "wait_s", 1));
        assert_eq!((code(&action), takes_writes(primary)), (json!("lag"), false), "{action}");
        assert_eq!(self.pair.threads(), "Yes Yes");
        let small = with(with(metadata, "wait_s", 1), "max_lag_bytes", 100_000);
        let action = std::thread::scope(|scope| {
            // STOP SLAVE waits for the row, and the row for the lock.
            scope.spawn(|| {
                let of = |info: &str| {
                    replica.query(&format!(
                        "SELECT id FROM information_schema.processlist WHERE info = '{info}'"
                    ))
                };
                until("STOP SLAVE", || (!of("STOP SLAVE").is_empty()).then_some(()));
                replica.query(&format!("KILL {}", of("SELECT SLEEP(1000)")));
            });
            ask(small)
        });
        let _ = holder.wait();
        assert_eq!(action["state"], "succeeded", "{action}");
        assert!(action["finished_result"]["lag_bytes_at_promotion"].as_u64() > Some(0), "{action}");
        // Without its primary.
        let metadata = self.prepare();
        self.pair.assert_same();
        primary.take_down();
        let action = ask(metadata.clone());
        assert_eq!(code(&action), "not_fenced", "{action}");
        let best_effort = with(metadata, "fence", "best_effort");
        let action = ask(best_effort.clone());
        assert_eq!(code(&action), "lag_unknown", "{action}");
        assert!(is_read_only(replica));
        let action = ask(with(best_effort, "allow_data_loss", true));
        primary.bring_up();
        assert_eq!(action["state"], "succeeded", "{action}");
        let result = &action["finished_result"];
        assert_eq!(
            (&result["fenced"], &result["lag_bytes_at_promotion"]),
            (&json!(false), &json!(null)),
            "{action}"
        );
        assert!(result["warnings"].to_string().contains("could not be fenced"), "{action}");
        self.pair.assert_same();
        assert!(takes_writes(replica));
        // Whoever says none says that he has seen to it.
        let metadata = self.prepare();
        let action = ask(with(metadata, "fence", "none"));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert!(takes_writes(primary) && takes_writes(replica), "{action}");
    }
}
