//! `resync_slave_db` on PostgreSQL: an old primary that has gone on becomes a replica of the new one.

use serde_json::{Value, json};

use super::Servers;
use crate::cases::Stage;
use crate::common::{Daemon, until, with};
use crate::servers::replicas::World;
use crate::subject::Subject;

pub struct Resync<'a> {
    pub servers: &'a Servers,
    pub method: &'static str,
}

const ALONE: &str = "of db1 alone";

impl Subject for Resync<'_> {
    fn name(&self) -> String {
        format!("resync_slave_db (postgresql, {})", self.method)
    }

    fn action(&self) -> &'static str {
        "resync_slave_db"
    }

    fn tables(&self) -> String {
        self.servers.replicas.targets(|_, _| {})
    }

    fn prepare(&self) -> Value {
        self.servers.replicas.make_ready(World::Diverged);
        self.servers.write("db2");
        let metadata = json!({ "engine": "postgresql", "server": "db1", "confirm_data_loss": true });
        if self.method == "auto" { metadata } else { with(metadata, "method", self.method) }
    }

    fn assert_done(&self, _: &Value, action: &Value) {
        let (servers, replicas) = (self.servers, &self.servers.replicas);
        let row = servers.row();
        servers.assert_follows("db2", "db1");
        assert!(servers.has("db1", &row) && servers.has("db1", "of db2"), "{action}");
        assert!(!servers.has("db1", ALONE), "{action}");
        assert_eq!(servers.timeline("db2"), "2", "the source was touched: {action}");
        // Its own configuration stays: it even is up at its own socket only by that.
        assert_eq!(replicas.query("db1", "select current_setting('cluster_name')"), "db1");
        assert_eq!(replicas.beside(), Vec::<String>::new(), "{action}");
        assert_eq!(servers.slots("db2"), "db1", "{action}");
        // A slot of its own from before would keep its log for ever.
        assert_eq!(servers.slots("db1"), "", "{action}");
        let result = &action["finished_result"];
        assert_eq!((&result["replication_state"], &result["source"]), (&json!("streaming"), &json!("db2")));
        let steps = result["steps"].to_string();
        let method = if steps.contains("\"swap\"") { "basebackup" } else { "rewind" };
        assert_eq!(result["method_used"], method, "{action}");
        if self.method == "auto" && result["recovered"] == false && result["attempts"] == 1 {
            assert_eq!(method, "rewind", "{action}");
        }
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let (servers, replicas) = (self.servers, &self.servers.replicas);
        let has_begun = |step: &str| {
            let steps = action["finished_result"]["steps"].as_array();
            steps.is_some_and(|steps| steps.iter().any(|of| of["name"] == step))
        };
        if has_begun("clean") {
            let warning = action["finished_result"]["warnings"][0].as_str();
            assert!(warning.is_some_and(|told| told.contains("stays so")), "{action}");
            servers.assert_follows("db2", "db1");
            return;
        }
        let _ = metadata;
        until("the old primary", || replicas.is_up("db1").then_some(()));
        assert!(!servers.is_replica("db1"), "{action}");
        assert!(servers.has("db1", ALONE), "{action}");
        assert_eq!(servers.timeline("db1"), "1", "{action}");
        assert_eq!(servers.slots("db2"), "", "{action}");
        assert_eq!(replicas.beside(), Vec::<String>::new(), "{action}");
        replicas.query("db1", "insert into goods values ('goes on') on conflict do nothing");
    }

    /// What was rewound stays so.
    fn keeps_effect(&self) -> bool {
        self.method == "auto"
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    /// A new copy is made as often as it is asked for.
    fn repeats(&self) -> bool {
        self.method == "basebackup"
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({ "engine": "postgresql", "server": "db9" }), "db9"),
            (json!({ "engine": "mysql", "server": "db1" }), "mariadb"),
            (json!({ "server": "db1", "source": "db1" }), "itself"),
            (json!({ "server": "db1", "source": "db9" }), "db9"),
            (json!({ "server": "db1", "method": "seed" }), "method"),
            (json!({ "server": "db1", "method": "rewind", "keep_old": true }), "keep_old"),
            (json!({ "server": "db1", "max_rate_kib": 1 }), "max_rate_kib"),
        ]
    }

    fn fails(&self) -> Vec<(Value, &'static str)> {
        let metadata = |method: &str| json!({ "engine": "postgresql", "server": "db1", "method": method });
        vec![
            (metadata("auto"), "data_loss"),
            (metadata("rewind"), "data_loss"),
            (metadata("basebackup"), "data_loss"),
        ]
    }

    /// The source.
    fn take_down(&self) {
        self.servers.replicas.take_down("db2");
    }

    fn bring_up(&self) {
        self.servers.replicas.bring_up("db2");
    }

    fn special(&self, stage: &Stage<'_>) {
        if self.method == "auto" {
            cancelled_before_the_rewind_is_as_before(self, stage);
            cancelled_after_the_rewind_is_told(self, stage);
            half_a_rewind_is_replaced(self, stage);
        }
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let (servers, replicas) = (self.servers, &self.servers.replicas);
        if self.method == "basebackup" {
            let metadata = self.prepare();
            let action = ask(with(metadata, "keep_old", true));
            let old = action["finished_result"]["old_data_path"].as_str().expect("a path").to_owned();
            assert!(std::path::Path::new(&old).join("PG_VERSION").exists(), "{action}");
            servers.assert_follows("db2", "db1");
            assert_eq!(replicas.beside().len(), 1);
            // No data at all.
            self.prepare();
            replicas.take_down("db1");
            std::fs::remove_dir_all(replicas.data("db1").join("base")).expect("its tables");
            let action = ask(json!({ "engine": "postgresql", "server": "db1", "confirm_data_loss": true,
                "method": "basebackup" }));
            assert_eq!(action["state"], "succeeded", "{action}");
            self.assert_done(&Value::Null, &action);
            return;
        }
        // A replica that was detached has nothing of its own: no need to agree to anything.
        replicas.make_ready(World::Replica);
        replicas.query("db2", "alter system set primary_conninfo = ''");
        replicas.query("db2", "select pg_reload_conf()");
        let gone =
            || (replicas.query("db1", "select count(*) from pg_stat_replication") == "0").then_some(());
        until("no replica", gone);
        servers.write("db1");
        let action = ask(json!({ "engine": "postgresql", "server": "db2" }));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(action["finished_result"]["method_used"], "rewind", "{action}");
        servers.assert_follows("db1", "db2");
        assert_eq!(replicas.query("db1", "select count(*) from goods where name like 'of db2%'"), "0");
    }
}

/// Cancels it at that place; how it ended.
fn cancelled(resync: &Resync<'_>, stage: &Stage<'_>, step: &str, place: &str) -> Value {
    let daemon = Daemon::start(&stage.home);
    let metadata = resync.prepare();
    stage.breakpoint(step, place, "wait");
    let id = daemon.accepted(&stage.spec(&metadata));
    stage.await_reached(&daemon, id, step, place);
    assert!(daemon.command(id, "cancel").status < 300);
    let action = daemon.finished(id);
    assert_eq!(action["state"], "cancelled", "{action}");
    stage.release(step, place);
    action
}

fn cancelled_before_the_rewind_is_as_before(resync: &Resync<'_>, stage: &Stage<'_>) {
    for (step, place) in [("slot", "acted"), ("stop", "intent"), ("stop", "acted"), ("rewind", "intent")] {
        let action = cancelled(resync, stage, step, place);
        resync.assert_undone(&Value::Null, &action);
    }
}

fn cancelled_after_the_rewind_is_told(resync: &Resync<'_>, stage: &Stage<'_>) {
    let action = cancelled(resync, stage, "rewind", "acted");
    let warnings = action["finished_result"]["warnings"].to_string();
    assert!(warnings.contains("was rewound, and follows"), "{action}");
    until("the replica", || resync.servers.replicas.is_up("db1").then_some(()));
    resync.servers.assert_follows("db2", "db1");
}

/// Killed in the middle of `pg_rewind`, which is known by what was kept before it.
fn half_a_rewind_is_replaced(resync: &Resync<'_>, stage: &Stage<'_>) {
    let replicas = &resync.servers.replicas;
    let mut daemon = Daemon::start(&stage.home);
    let metadata = resync.prepare();
    stage.breakpoint("rewind", "acted", "wait");
    let id = daemon.accepted(&stage.spec(&metadata));
    stage.await_reached(&daemon, id, "rewind", "acted");
    daemon.kill9();
    stage.home.kill_programs();
    stage.release("rewind", "acted");
    let data = replicas.data("db1");
    let kept = data.with_file_name(format!("db1.conf-{id}"));
    std::fs::remove_file(kept.join("rewound")).expect("it was rewound");
    std::fs::remove_dir_all(data.join("base")).expect("its tables");
    daemon = Daemon::start(&stage.home);
    let action = daemon.finished(id);
    assert_eq!(action["state"], "succeeded", "{action}");
    assert_eq!(action["finished_result"]["method_used"], "basebackup", "{action}");
    resync.assert_done(&metadata, &action);
}
