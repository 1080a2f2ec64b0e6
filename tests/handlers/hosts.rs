//! The reboot of a host: a container with a systemd of its own, rebooted each time. The daemon is outside and sees it all.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::cases::Stage;
use crate::common::{Daemon, until, with};
use crate::servers::systemd::{Boots, Systemd};
use crate::subject::Subject;

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let systemd = Systemd::start();
    let boots = systemd.boots();
    for action in ["restart", "stack_reboot"] {
        try_it(&Reboot {
            systemd: &systemd,
            boots: &boots,
            action,
            count: AtomicU32::new(0),
            known: Mutex::default(),
        });
    }
}

struct Reboot<'a> {
    systemd: &'a Systemd,
    boots: &'a Boots,
    action: &'static str,
    count: AtomicU32,
    /// By its reason, which boot an action found.
    known: Mutex<HashMap<String, Boot>>,
}

/// The number of the boot, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Boot(usize, String);

impl Boot {
    /// The present one, when it is over.
    fn of(systemd: &Systemd, boots: &Boots) -> Self {
        let id = systemd.booted();
        let seen = || (boots.boot_id().as_deref() == Some(&id)).then(|| boots.count());
        Self(until("the boot to be seen", seen), id)
    }
}

/// The host of the example is that container.
fn tables(boots: &Boots) -> String {
    let example = include_str!("../../config/examples/hosts.toml");
    let targets: &str = example.split("[[handler]]").next().expect("targets");
    let here = |path: &str| boots.outside(path).display().to_string();
    ["/run/dbus/system_bus_socket", "/proc/sys/kernel/random/boot_id"]
        .iter()
        .fold(targets.to_owned(), |targets, path| targets.replace(path, &here(path)))
}

fn is_scheduled(systemd: &Systemd) -> bool {
    let scheduled = systemd.run(SCHEDULED);
    scheduled.contains("reboot") && !scheduled.ends_with(" 0")
}

const SCHEDULED: &str = "busctl get-property org.freedesktop.login1 /org/freedesktop/login1 \
                         org.freedesktop.login1.Manager ScheduledShutdown";

impl Reboot<'_> {
    fn boot(&self) -> Boot {
        Boot::of(self.systemd, self.boots)
    }

    fn known(&self, metadata: &Value) -> Boot {
        let reason = metadata["reason"].as_str().expect("a reason");
        self.known.lock().expect("boots")[reason].clone()
    }

    fn note(&self, metadata: &Value, boot: Boot) {
        let reason = metadata["reason"].as_str().expect("a reason").to_owned();
        self.known.lock().expect("boots").insert(reason, boot);
    }

    /// What it means at least.
    fn asking(&self, more: &[(&str, Value)]) -> Value {
        let host = if self.action == "restart" { json!({ "kind": "host" }) } else { json!({}) };
        more.iter().fold(host, |metadata, (key, value)| with(metadata, key, value.clone()))
    }

    fn is_scheduled(&self) -> bool {
        is_scheduled(self.systemd)
    }

    /// A lock against a shutdown, by somebody who says why.
    fn lock(&self) {
        self.systemd.run(
            "systemd-run --quiet --unit=backup systemd-inhibit --what=shutdown --mode=block --who=backup \
             --why='half done' sleep infinity
             until systemd-inhibit --list | grep -q 'half done'; do :; done",
        );
    }
}

impl Subject for Reboot<'_> {
    fn name(&self) -> String {
        if self.action == "restart" { "restart host".to_owned() } else { self.action.to_owned() }
    }

    fn action(&self) -> &'static str {
        self.action
    }

    fn tables(&self) -> String {
        tables(self.boots)
    }

    fn prepare(&self) -> Value {
        let boot = self.boot();
        let reason = format!("test {}", self.count.fetch_add(1, Ordering::SeqCst));
        let mut metadata = self.asking(&[("reason", reason.into()), ("deadline_s", 60.into())]);
        if self.action == "stack_reboot" {
            metadata = with(metadata, "strategy", "serial");
        }
        self.note(&metadata, boot);
        metadata
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let Boot(before, old_id) = self.known(metadata);
        let boot = self.boot();
        let Boot(after, new_id) = boot.clone();
        assert_eq!(after, before + 1, "so often it was rebooted: {action}");
        let result = &action["finished_result"];
        assert_eq!(
            (&result["old_boot_id"], &result["new_boot_id"]),
            (&json!(old_id), &json!(new_id)),
            "{action}"
        );
        assert!(result["down_s"].as_f64().is_some_and(|down_s| down_s > 0.0 && down_s < 60.0), "{action}");
        let [requested_at, booted_at] = ["requested_at", "booted_at"].map(|key| result[key].as_str());
        assert!(requested_at.is_some() && requested_at < booted_at, "{action}");
        let checked = json!([{ "unit": "multi-user.target", "active_state": "active" }]);
        assert_eq!(result["post_checks"], checked, "{action}");
        self.note(metadata, boot);
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        assert_eq!(self.boot(), self.known(metadata), "{action}");
        assert!(!self.is_scheduled(), "{action}");
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
        let mut refused = vec![
            (self.asking(&[("deadline_s", json!(0))]), "deadline_s"),
            (self.asking(&[("delay_s", json!(86_401))]), "delay_s"),
            (self.asking(&[("reason", json!("a\u{7}b"))]), "control"),
            (self.asking(&[("reason", json!("x".repeat(201)))]), "200"),
            (self.asking(&[("post_checks", json!(["web"]))]), "post_checks"),
            (self.asking(&[("post_checks", json!(["a.service; reboot"]))]), "post_checks"),
        ];
        if self.action == "restart" {
            refused.push((self.asking(&[("unit", json!("web.service"))]), "unit"));
            refused.push((json!({ "kind": "unit", "delay_s": 1 }), "delay_s"));
            refused.push((json!({}), "systemd"));
        } else {
            refused.push((json!({ "strategy": "random" }), "random"));
        }
        refused
    }

    fn take_down(&self) {
        self.systemd.take_down();
    }

    fn bring_up(&self) {
        self.systemd.bring_up();
        // Unless the host goes down already.
        self.systemd.try_run("systemctl restart systemd-logind.service");
    }

    fn special(&self, stage: &Stage<'_>) {
        let mut daemon = Daemon::start(&stage.home);
        // Announced, found announced after a kill of everything, and taken back.
        let boot = self.boot();
        let id = daemon.accepted(&stage.spec(&self.asking(&[("delay_s", json!(900))])));
        until("a scheduled reboot", || self.is_scheduled().then_some(()));
        daemon.kill9();
        stage.home.kill_programs();
        daemon = Daemon::start(&stage.home);
        until("another attempt", || (daemon.action(id)["attempt"] == 2).then_some(()));
        assert!(self.is_scheduled());
        assert!(daemon.command(id, "cancel").status < 300);
        let action = daemon.finished(id);
        assert_eq!(action["state"], "cancelled", "{action}");
        assert!(!self.is_scheduled(), "{action}");
        assert_eq!(self.boot(), boot, "{action}");

        // As the document's clients ask for it.
        if self.action == "restart" {
            let spec = stage.spec(&json!({ "reason": "kernel update" }));
            let action = daemon.finished(daemon.accepted(&with(spec, "resource_type", "Server")));
            assert_eq!(action["state"], "succeeded", "{action}");
            assert_eq!(self.boot().0, boot.0 + 1, "{action}");
        }
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let failed = |action: &Value, code: &str, word: &str| {
            let error = &action["finished_result"]["error"];
            assert_eq!((&action["state"], &error["code"]), (&json!("failed"), &json!(code)), "{action}");
            assert!(error["message"].as_str().is_some_and(|told| told.contains(word)), "{action}");
        };
        let boot = self.boot();
        self.lock();
        failed(&ask(self.asking(&[])), "inhibited", "half done");
        failed(&ask(self.asking(&[("delay_s", json!(1))])), "inhibited", "half done");
        assert_eq!(self.boot(), boot);
        let action = ask(self.asking(&[("ignore_inhibitors", json!(true))]));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(self.boot().0, boot.0 + 1);

        // It says yes, and stays.
        let stays = "[Unit]\nDescription=Nothing\nDefaultDependencies=no\nAllowIsolate=yes\n";
        self.systemd.write("/run/systemd/system/reboot.target", stays);
        self.systemd.run("systemctl daemon-reload");
        let boot = self.boot();
        let action = ask(self.asking(&[("deadline_s", json!(2))]));
        failed(&action, "not_rebooted", "has not rebooted");
        assert_eq!(action["finished_result"]["error"]["boot_id"], json!(boot.1), "{action}");
        self.systemd.run("rm /run/systemd/system/reboot.target; systemctl daemon-reload");
        assert_eq!(self.boot(), boot);

        // In its time.
        let action = ask(self.asking(&[("delay_s", json!(2))]));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(self.boot().0, boot.0 + 1);
        assert!(action["finished_result"]["down_s"].as_f64().is_some_and(|down_s| down_s < 30.0), "{action}");

        // It comes up without a service.
        let broken = "[Service]\nType=oneshot\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n";
        self.systemd.write("/etc/systemd/system/broken.service", broken);
        self.systemd.run("systemctl enable broken.service");
        for (unit, word) in [("broken.service", "is failed"), ("missing.service", "is not-found")] {
            let boot = self.boot();
            let action = ask(self.asking(&[("post_checks", json!([unit]))]));
            failed(&action, "post_check_failed", &format!("{unit} {word}"));
            assert_eq!(action["finished_result"]["old_boot_id"], json!(boot.1), "{action}");
            assert_eq!(self.boot().0, boot.0 + 1);
        }
        self.systemd.run("systemctl disable broken.service; rm /etc/systemd/system/broken.service");
    }
}
