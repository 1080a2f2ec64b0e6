//! Services of systemd.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::common::with;
use crate::servers::systemd::Systemd;
use crate::subject::Subject;

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let systemd = Systemd::start();
    let count = AtomicU32::new(0);
    let units = Units { systemd: &systemd, count: &count };
    try_it(&Restart { units, action: "process_restart" });
    try_it(&Restart { units, action: "restart" });
    try_it(&Turn { units, action: "process_pause", to_paused: true });
    try_it(&Turn { units, action: "process_resume", to_paused: false });
}

/// Services to act on, each an instance of one template.
#[derive(Clone, Copy)]
struct Units<'a> {
    systemd: &'a Systemd,
    count: &'a AtomicU32,
}

impl Units<'_> {
    fn tables(self) -> String {
        let example = include_str!("../../config/examples/processes.toml");
        let targets: &str = example.split("[[handler]]").next().expect("targets");
        let here = |path: &str| self.systemd.outside(path).display().to_string();
        targets
            .replace("/run/dbus/system_bus_socket", &here("/run/dbus/system_bus_socket"))
            .replace("/sys/fs/cgroup", &here("/sys/fs/cgroup"))
    }

    /// A service that has just been started.
    fn next(self) -> String {
        let unit = format!("web@{}.service", self.count.fetch_add(1, Ordering::SeqCst));
        self.systemd.run(&format!("systemctl start {unit}"));
        // Its shell has written, and gone.
        self.systemd.run(&format!("until [ \"$(cat /proc/$(systemctl show --value --property MainPID {unit})/comm)\" = sleep ]; do :; done"));
        unit
    }

    /// The invocation ID of each of its starts.
    fn starts(self, unit: &str) -> Vec<String> {
        let instance = unit.trim_start_matches("web@").trim_end_matches(".service");
        let starts = self.systemd.run(&format!("cat /run/starts.{instance}"));
        starts.lines().map(str::to_owned).collect()
    }

    /// A service that is not like the others, by its `[Service]` section; it is not started.
    fn special(self, instance: &str, section: &str) -> String {
        let unit = format!("web@{instance}.service");
        self.systemd.write(&format!("/run/systemd/system/{unit}"), &format!("[Service]\n{section}\n"));
        self.systemd.run("systemctl daemon-reload");
        unit
    }

    /// One that systemd 252 takes for frozen although it runs: it was killed while it was frozen.
    fn stale(self) -> String {
        let unit = self.next();
        self.systemd.run(&format!("systemctl freeze {unit}; systemctl kill --signal=KILL {unit}"));
        self.systemd.run(&format!("until [ $(systemctl is-active {unit}) = failed ]; do :; done"));
        unit
    }

    /// Refused for the name of a unit under that key.
    fn refused(key: &'static str, more: &Value) -> Vec<(Value, &'static str)> {
        let named = |name: &str| with(more.clone(), key, name);
        vec![
            (named(""), key),
            (named("web@1"), ".service"),
            (named("web@1.socket"), ".service"),
            (named("web@.service"), "template"),
            (named("web@1;reboot.service"), "no name"),
            (named("../web@1.service"), "no name"),
            (named("ssh.service"), "none of the units"),
            (named("systemd-logind.service"), "none of the units"),
            (named("actiond.service"), "the daemon's own"),
        ]
    }
}

/// `process_restart`, and `restart` of a unit.
struct Restart<'a> {
    units: Units<'a>,
    action: &'static str,
}

impl Restart<'_> {
    fn unit(metadata: &Value) -> &str {
        metadata["process_name"].as_str().or(metadata["unit"].as_str()).expect("a unit")
    }
}

impl Subject for Restart<'_> {
    fn name(&self) -> String {
        self.action.to_owned()
    }

    fn action(&self) -> &'static str {
        self.action
    }

    fn tables(&self) -> String {
        self.units.tables()
    }

    fn prepare(&self) -> Value {
        let unit = self.units.next();
        if self.action == "restart" {
            return json!({ "kind": "unit", "unit": unit, "reason": "a test", "settle_s": 0 });
        }
        json!({ "process_name": unit, "settle_s": 0 })
    }

    /// Between what it was before and what it is now there was no start.
    fn assert_done(&self, metadata: &Value, action: &Value) {
        let unit = Self::unit(metadata);
        let result = &action["finished_result"];
        let (before, after) = (&result["invocation_id_before"], &result["invocation_id_after"]);
        assert_ne!(before, after, "{action}");
        crate::common::until("a start", || {
            self.units.starts(unit).iter().any(|start| after == start).then_some(())
        });
        let starts = self.units.starts(unit);
        let last: Vec<&String> = starts.iter().rev().take(2).collect();
        assert!(last.len() == 2 && after == last[0] && before == last[1], "{starts:?} {action}");
        assert_eq!(result["active_state"], "active", "{action}");
        assert_eq!(result["unit"], unit);
        assert_eq!(self.units.systemd.property(unit, "MainPID"), result["main_pid"].to_string());
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        assert_eq!(self.units.starts(Self::unit(metadata)).len(), 1, "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn repeats(&self) -> bool {
        true
    }

    fn keeps_effect(&self) -> bool {
        true
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let mut refused = vec![(json!({}), "missing")];
        if self.action == "restart" {
            refused.push((json!({ "reason": "kernel update" }), "missing"));
            refused.push((json!({ "kind": "host" }), "host"));
            refused.push((json!({ "unit": "web@1.service", "settle_s": 3601 }), "settle_s"));
            refused.extend(Units::refused("unit", &json!({ "kind": "unit" })));
        } else {
            refused.push((json!({ "process_name": "web@1.service", "settle_s": 3601 }), "settle_s"));
            refused.extend(Units::refused("process_name", &json!({})));
        }
        refused
    }

    fn take_down(&self) {
        self.units.systemd.take_down();
    }

    fn bring_up(&self) {
        self.units.systemd.bring_up();
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let key = if self.action == "restart" { "unit" } else { "process_name" };
        let restart = |unit: &str, settle_s: u32| ask(json!({ (key): unit, "settle_s": settle_s }));
        let failed = |action: &Value, code: &str| {
            assert_eq!(action["state"], "failed", "{action}");
            assert_eq!(action["finished_result"]["error"]["code"], code, "{action}");
        };
        failed(&restart("worker.service", 0), "not_found");
        // An alias of what is not allowed.
        self.units.systemd.write("/run/systemd/system/other.service", "[Service]\nExecStart=sleep 9999\n");
        self.units
            .systemd
            .run("ln -sf other.service /run/systemd/system/worker.service; systemctl daemon-reload");
        failed(&restart("worker.service", 0), "not_allowed");
        assert_eq!(self.units.systemd.property("other.service", "ActiveState"), "inactive");
        self.units.systemd.run("rm /run/systemd/system/worker.service; systemctl daemon-reload");

        let broken = self.units.special("broken", "Type=notify\nExecStart=/bin/false");
        failed(&restart(&broken, 0), "start_failed");
        let looping = "ExecStart=sleep 0.4\nRestart=always\nRestartSec=100ms";
        let looping = self.units.special("looping", looping);
        let action = restart(&looping, 3);
        failed(&action, "unstable");
        self.units.systemd.run(&format!("systemctl stop {looping}"));
        let short = self.units.special("short", "ExecStart=sleep 0.4");
        failed(&restart(&short, 3), "unstable");
        let oneshot = self.units.special("oneshot", "Type=oneshot\nExecStart=true");
        assert_eq!(restart(&oneshot, 1)["state"], "succeeded");

        // One that does not run is started.
        let unit = self.units.next();
        self.units.systemd.run(&format!("systemctl stop {unit}"));
        assert_eq!(restart(&unit, 1)["state"], "succeeded");
        let refused = (0..6).map(|_| restart(&unit, 0)).find(|action| action["state"] != "succeeded");
        failed(&refused.expect("a limit"), "start_limit");
        let action = ask(json!({ (key): unit, "settle_s": 0, "reset_failed": true }));
        assert_eq!(action["state"], "succeeded", "{action}");

        let paused = self.units.next();
        self.units.systemd.run(&format!("systemctl freeze {paused}"));
        for unit in [paused, self.units.stale()] {
            let action = restart(&unit, 0);
            assert_eq!(action["state"], "succeeded", "{action}");
            assert_eq!(action["finished_result"]["freezer_state"], "running", "{action}");
            assert!(!self.units.systemd.is_frozen(&unit), "{action}");
            assert_eq!(self.units.systemd.property(&unit, "FreezerState"), "running", "{action}");
        }
    }
}

/// `process_pause` and `process_resume`.
struct Turn<'a> {
    units: Units<'a>,
    action: &'static str,
    to_paused: bool,
}

impl Turn<'_> {
    /// It is paused or runs, and is still the same process.
    fn assert(&self, metadata: &Value, is_paused: bool, action: &Value) {
        let unit = metadata["process_name"].as_str().expect("a unit");
        assert_eq!(self.units.systemd.is_frozen(unit), is_paused, "{action}");
        let freezer = if is_paused { "frozen" } else { "running" };
        assert_eq!(self.units.systemd.property(unit, "FreezerState"), freezer, "{action}");
        assert_eq!(self.units.starts(unit).len(), 1, "{action}");
    }
}

impl Subject for Turn<'_> {
    fn name(&self) -> String {
        self.action.to_owned()
    }

    fn action(&self) -> &'static str {
        self.action
    }

    fn tables(&self) -> String {
        self.units.tables()
    }

    fn prepare(&self) -> Value {
        let unit = self.units.next();
        if !self.to_paused {
            self.units.systemd.run(&format!("systemctl freeze {unit}"));
        }
        json!({ "process_name": unit })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        self.assert(metadata, self.to_paused, action);
        let freezer = if self.to_paused { "frozen" } else { "running" };
        assert_eq!(action["finished_result"]["freezer_state"], freezer, "{action}");
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        self.assert(metadata, !self.to_paused, action);
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let mut refused = Units::refused("process_name", &json!({}));
        refused.push((json!({}), "process_name"));
        refused
    }

    fn take_down(&self) {
        self.units.systemd.take_down();
    }

    fn bring_up(&self) {
        self.units.systemd.bring_up();
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let failed = |unit: &str, code: &str| {
            let action = ask(json!({ "process_name": unit }));
            assert_eq!(action["state"], "failed", "{action}");
            assert_eq!(action["finished_result"]["error"]["code"], code, "{action}");
        };
        failed("worker.service", "not_found");
        let unit = self.units.next();
        self.units.systemd.run(&format!("systemctl stop {unit}"));
        failed(&unit, "not_running");

        // To systemd it is frozen, but it runs.
        let stale = self.units.stale();
        self.units.systemd.run(&format!("systemctl start {stale}"));
        let is_stale = self.units.systemd.property(&stale, "FreezerState") == "frozen";
        let action = ask(json!({ "process_name": stale }));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(action["finished_result"]["changed"], self.to_paused || is_stale, "{action}");
        assert_eq!(self.units.systemd.is_frozen(&stale), self.to_paused, "{action}");
        let freezer = if self.to_paused { "frozen" } else { "running" };
        assert_eq!(self.units.systemd.property(&stale, "FreezerState"), freezer, "{action}");

        if self.to_paused {
            let watched = self.units.special("watched", "ExecStart=sleep infinity\nWatchdogSec=1h");
            self.units.systemd.run(&format!("systemctl start {watched}"));
            failed(&watched, "watchdog");
            assert!(!self.units.systemd.is_frozen(&watched));
            let action = ask(json!({ "process_name": watched, "force": true }));
            assert_eq!(action["state"], "succeeded", "{action}");
            assert!(self.units.systemd.is_frozen(&watched));
        }
    }
}
