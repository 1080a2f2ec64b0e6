//! `disable_replication_slave_db` on PostgreSQL.

use serde_json::{Value, json};

use super::Servers;
use crate::servers::replicas::World;
use crate::subject::Subject;

pub struct Disable<'a> {
    pub servers: &'a Servers,
    /// Mode pause, else detach.
    pub is_paused: bool,
}

impl Disable<'_> {
    fn setting(&self, name: &str) -> String {
        self.servers.replicas.query("db2", &format!("select current_setting('{name}')"))
    }

    /// It gets no row that is written now. What shows that is a second replica's place: the slot's on the primary, or the
    /// replica's own, which do not move while the primary's does.
    fn assert_gets_nothing(&self) {
        let replicas = &self.servers.replicas;
        let place = || replicas.query("db2", "select pg_last_wal_replay_lsn()");
        let before = place();
        let row = self.servers.write("db1");
        replicas.query("db1", "select pg_switch_wal()");
        if self.is_paused {
            // It has it, and does not apply it.
            crate::common::until("the row's log", || {
                let behind = "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
                (replicas.query("db2", behind) == "t").then_some(())
            });
        } else {
            assert_eq!(replicas.query("db2", "select count(*) from pg_stat_wal_receiver"), "0");
            assert_eq!(replicas.query("db1", "select count(*) from pg_stat_replication"), "0");
        }
        assert_eq!(place(), before);
        assert!(!self.servers.has("db2", &row));
    }
}

impl Subject for Disable<'_> {
    fn name(&self) -> String {
        let mode = if self.is_paused { ", pause" } else { "" };
        format!("disable_replication_slave_db (postgresql{mode})")
    }

    fn action(&self) -> &'static str {
        "disable_replication_slave_db"
    }

    fn tables(&self) -> String {
        self.servers.replicas.targets(|_, _| {})
    }

    fn prepare(&self) -> Value {
        self.servers.replicas.make_ready(World::Replica);
        self.servers.assert_follows("db1", "db2");
        let metadata = json!({ "engine": "postgresql", "server": "db2" });
        if self.is_paused { crate::common::with(metadata, "mode", "pause") } else { metadata }
    }

    fn assert_done(&self, _: &Value, action: &Value) {
        let result = &action["finished_result"];
        assert_eq!(result["read_only"], true, "{action}");
        assert!(self.servers.is_replica("db2"), "{action}");
        assert!(self.servers.has("db2", &self.servers.row()), "{action}");
        let previous = &result["previous"];
        assert_eq!((&previous["user"], &previous["slot"]), (&json!("replicator"), &json!("db2")), "{action}");
        if self.is_paused {
            assert_eq!(
                self.servers.replicas.query("db2", "select pg_get_wal_replay_pause_state()"),
                "paused"
            );
        } else {
            assert_eq!(self.setting("primary_conninfo"), "", "{action}");
            assert_eq!(self.servers.slots("db1"), "", "{action}");
            assert_eq!(result["slot_dropped"], true, "{action}");
        }
        self.assert_gets_nothing();
    }

    fn assert_undone(&self, _: &Value, action: &Value) {
        assert!(self.setting("primary_conninfo").contains("application_name=db2"), "{action}");
        assert_eq!(self.servers.slots("db1"), "db2", "{action}");
        self.servers.assert_follows("db1", "db2");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({ "engine": "postgresql", "server": "db9" }), "db9"),
            (json!({ "engine": "mysql", "server": "db2" }), "mariadb"),
            (json!({ "engine": "postgresql" }), "target"),
            (json!({ "server": "db2", "mode": "off" }), "pause"),
            (json!({ "server": "db2", "mode": "stop", "drop_slot": true }), "drop_slot"),
        ]
    }

    fn fails(&self) -> Vec<(Value, &'static str)> {
        vec![(json!({ "engine": "postgresql", "server": "db1" }), "not_replica")]
    }

    fn take_down(&self) {
        self.servers.replicas.take_down("db2");
    }

    fn bring_up(&self) {
        self.servers.replicas.bring_up("db2");
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        if self.is_paused {
            return;
        }
        let replicas = &self.servers.replicas;
        // A primary that is down: the slot on it cannot be removed, so nothing is done.
        let metadata = self.prepare();
        replicas.take_down("db1");
        let action = ask(metadata.clone());
        assert_eq!(action["finished_result"]["error"]["code"], "unreachable", "{action}");
        assert!(action["finished_result"]["error"]["hint"].as_str().expect("a hint").contains("drop_slot"));
        assert_ne!(self.setting("primary_conninfo"), "");
        let action = ask(crate::common::with(metadata.clone(), "drop_slot", false));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(self.setting("primary_conninfo"), "");
        replicas.bring_up("db1");
        assert_eq!(self.servers.slots("db1"), "db2");
        // The slot alone is left to be removed.
        let action = ask(metadata);
        assert_eq!(action["finished_result"]["changed"], true, "{action}");
        assert_eq!(self.servers.slots("db1"), "");
        // Stop keeps the slot.
        let metadata = self.prepare();
        let action = ask(crate::common::with(metadata.clone(), "mode", "stop"));
        assert_eq!(action["finished_result"]["slot_dropped"], false, "{action}");
        assert_eq!(self.servers.slots("db1"), "db2");
        self.assert_gets_nothing();
        // A password never gets into the action.
        self.prepare();
        let with_password = "alter system set primary_conninfo = 'host=/x user=replicator password=canary'";
        replicas.query("db2", with_password);
        replicas.query("db2", "select pg_reload_conf()");
        crate::common::until("the setting", || {
            self.setting("primary_conninfo").contains("canary").then_some(())
        });
        let action = ask(metadata);
        assert_eq!(action["finished_result"]["error"]["code"], "has_password", "{action}");
        assert!(!action.to_string().contains("canary"), "{action}");
    }
}
