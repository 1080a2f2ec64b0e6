//! `promote_slave_db` on PostgreSQL.

use serde_json::{Value, json};

use super::Servers;
use crate::cases::Stage;
use crate::common::{Daemon, with};
use crate::servers::replicas::{World, standby};
use crate::subject::Subject;

pub struct Promote<'a> {
    pub servers: &'a Servers,
    /// The old primary is stopped, else made read only.
    pub can_stop: bool,
}

impl Promote<'_> {
    /// Nobody can write to the old primary, now and when it is started by whoever does not know.
    fn assert_fenced(&self, action: &Value) {
        let replicas = &self.servers.replicas;
        assert_eq!(action["finished_result"]["fenced"], true, "{action}");
        if self.can_stop {
            assert!(!replicas.is_up("db1"), "{action}");
            replicas.bring_up("db1");
        }
        let refused = replicas.try_query("db1", "insert into goods values ('lost')").unwrap_err();
        assert!(refused.contains("read-only"), "{refused}");
        if self.can_stop {
            assert!(self.servers.is_replica("db1"));
            replicas.take_down("db1");
        }
    }
}

impl Subject for Promote<'_> {
    fn name(&self) -> String {
        let how = if self.can_stop { "" } else { ", read only" };
        format!("promote_slave_db (postgresql{how})")
    }

    fn action(&self) -> &'static str {
        "promote_slave_db"
    }

    fn tables(&self) -> String {
        self.servers.replicas.targets(|_, target| {
            if !self.can_stop {
                target.remove("cluster");
            }
        })
    }

    fn prepare(&self) -> Value {
        self.servers.replicas.make_ready(World::Replica);
        self.servers.write("db1");
        let metadata = json!({ "engine": "postgresql", "server": "db2" });
        if self.can_stop { metadata } else { with(metadata, "fence", "best_effort") }
    }

    fn assert_done(&self, _: &Value, action: &Value) {
        let result = &action["finished_result"];
        assert!(!self.servers.is_replica("db2"), "{action}");
        // Each promotion begins a timeline.
        assert_eq!(self.servers.timeline("db2"), "2", "{action}");
        assert_eq!(result["timeline_id"], 2, "{action}");
        assert_eq!((&result["new_primary"], &result["old_primary"]), (&json!("db2"), &json!("db1")));
        assert_eq!(result["lag_bytes_at_promotion"], 0, "{action}");
        assert!(self.servers.has("db2", &self.servers.row()), "{action}");
        self.servers.write("db2");
        let control = "select timeline_id from pg_control_checkpoint()";
        assert_eq!(self.servers.replicas.query("db2", control), "2", "{action}");
        self.assert_fenced(action);
    }

    fn assert_undone(&self, _: &Value, action: &Value) {
        assert!(!self.servers.is_replica("db1"), "{action}");
        self.servers.assert_follows("db1", "db2");
    }

    /// Neither a promotion nor a fence is taken back.
    fn keeps_effect(&self) -> bool {
        true
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let mut refused = vec![
            (json!({ "engine": "postgresql", "server": "db9" }), "db9"),
            (json!({ "engine": "mysql", "server": "db2" }), "mariadb"),
            (json!({ "server": "db2", "fence": "maybe" }), "best_effort"),
            (json!({ "server": "db2", "wait_s": 0, "fence": "none" }), "wait_s"),
            (json!({ "server": "db2", "max_lag_bytes": -1 }), "u64"),
        ];
        if !self.can_stop {
            refused.push((json!({ "engine": "postgresql", "server": "db2" }), "cluster"));
        }
        refused
    }

    fn take_down(&self) {
        self.servers.replicas.take_down("db2");
    }

    fn bring_up(&self) {
        self.servers.replicas.bring_up("db2");
    }

    fn special(&self, stage: &Stage<'_>) {
        cancelled_fence_stays(self, stage);
        if self.can_stop {
            is_not_promoted_when_fence_is_taken_away(self, stage);
        }
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let (servers, replicas) = (self.servers, &self.servers.replicas);
        let code = |action: &Value| action["finished_result"]["error"]["code"].clone();
        // What it lacks of a primary that has crashed cannot be known.
        let metadata = self.prepare();
        replicas.take_down("db1");
        let action = ask(metadata.clone());
        assert_eq!(code(&action), "lag", "{action}");
        assert!(servers.is_replica("db2"));
        assert!(!standby(&replicas.data("db1")).exists(), "it was fenced for nothing");
        let action = ask(with(metadata, "allow_data_loss", true));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(action["finished_result"]["fenced"], self.can_stop, "{action}");
        assert!(action["finished_result"]["lag_bytes_at_promotion"].is_null(), "{action}");
        // One that applies nothing.
        let metadata = self.prepare();
        replicas.query("db2", "select pg_wal_replay_pause()");
        assert_eq!(code(&ask(metadata.clone())), "paused");
        assert!(!servers.is_replica("db1"));
        // One that gets nothing lacks what is written meanwhile.
        self.prepare();
        replicas.query("db2", "alter system set primary_conninfo = ''");
        replicas.query("db2", "select pg_reload_conf()");
        let gone =
            || (replicas.query("db1", "select count(*) from pg_stat_replication") == "0").then_some(());
        crate::common::until("no replica", gone);
        servers.write("db1");
        let action = ask(with(metadata.clone(), "wait_s", 1));
        // The fence waits for a replica that gets what there is.
        assert!(["lag", "not_streaming"].contains(&code(&action).as_str().expect("a code")), "{action}");
        assert!(servers.is_replica("db2") && !servers.is_replica("db1"));
        servers.write("db1");
        if !self.can_stop {
            return;
        }
        // Not its primary.
        replicas.make_ready(World::Diverged);
        let action = ask(with(metadata, "server", "db1"));
        assert_eq!(action["finished_result"]["changed"], false, "it is a primary already: {action}");
    }
}

fn cancelled_fence_stays(promote: &Promote<'_>, stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let metadata = promote.prepare();
    stage.breakpoint("fence", "acted", "wait");
    let id = daemon.accepted(&stage.spec(&metadata));
    stage.await_reached(&daemon, id, "fence", "acted");
    assert!(daemon.command(id, "cancel").status < 300);
    let action = daemon.finished(id);
    assert_eq!(action["state"], "cancelled", "{action}");
    stage.release("fence", "acted");
    let result = &action["finished_result"];
    assert_eq!(result["promoted"], false, "{action}");
    assert!(result["warnings"].to_string().contains("no server takes writes"), "{action}");
    assert!(promote.servers.is_replica("db2"));
    promote.assert_fenced(&action);
}

/// A person has started the old primary again while the action was interrupted.
fn is_not_promoted_when_fence_is_taken_away(promote: &Promote<'_>, stage: &Stage<'_>) {
    let replicas = &promote.servers.replicas;
    let mut daemon = Daemon::start(&stage.home);
    let metadata = promote.prepare();
    stage.breakpoint("promote", "intent", "wait");
    let id = daemon.accepted(&stage.spec(&metadata));
    stage.await_reached(&daemon, id, "promote", "intent");
    daemon.kill9();
    stage.home.kill_programs();
    stage.release("promote", "intent");
    std::fs::remove_file(standby(&replicas.data("db1"))).expect("it was fenced");
    replicas.bring_up("db1");
    daemon = Daemon::start(&stage.home);
    let action = daemon.finished(id);
    assert_eq!(action["finished_result"]["error"]["code"], "not_fenced", "{action}");
    assert!(promote.servers.is_replica("db2") && !promote.servers.is_replica("db1"), "{action}");
}
