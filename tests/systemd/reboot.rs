//! `stack_reboot` and `restart` of a server by the unit that is shipped: the host really goes down, and the daemon with it.

use serde_json::{Value, json};

use crate::host::{Host, package};

/// Units of a reboot's post check are those of the daemon; breakpoints are for the binary with crash points.
const TABLES: &str = r#"
[targets.this-host]
engine = "host"
post_checks = ["actiond.service"]

[[handler]]
action = "stack_reboot"
use = "builtin"
env = { STEP_BREAKPOINTS = "/var/lib/breakpoints" }

[[handler]]
action = "restart"
use = "builtin"
"#;

fn host() -> Host {
    let host = Host::start();
    host.install(&package(false));
    host.write("/var/tmp/tables", TABLES);
    host.run("cat /var/tmp/tables >> /etc/actiond/actiond.toml; systemctl reload actiond");
    host
}

fn asked(action: &str, resource_type: &str, metadata: &Value) -> Value {
    json!({
        "user": "a@example.com", "resource_type": resource_type, "action": action, "resource_id": 1,
        "started_via": "curl", "metadata": metadata,
    })
}

/// The action after a reboot from this boot, and its result.
fn rebooted(host: &Host, id: u64, old_boot: &str) -> Value {
    let new_boot = host.container(&["wait-reboot", old_boot]);
    host.until("systemctl is-active --quiet actiond.service");
    let action = host.finished(id);
    assert_eq!(action["state"], "succeeded", "{action}");
    let result = &action["finished_result"];
    assert_eq!(result["old_boot_id"], old_boot, "{action}");
    assert_eq!(result["new_boot_id"], new_boot.trim(), "{action}");
    assert_eq!(result["recovered"], true, "{action}");
    assert_eq!(host.container(&["boot-id"]), new_boot, "it was rebooted once more: {action}");
    action
}

#[test]
fn stack_reboot_and_restart_of_a_server_succeed_on_another_boot() {
    let host = host();
    for (kind, resource_type, metadata) in [
        ("stack_reboot", "Stack", json!({ "strategy": "serial" })),
        ("restart", "Server", json!({ "reason": "kernel update" })),
        ("stack_reboot", "Stack", json!({ "delay_s": 1 })),
    ] {
        let boot = host.container(&["boot-id"]);
        let id = host.submit_json(&asked(kind, resource_type, &metadata));
        let action = rebooted(&host, id, boot.trim());
        let outcomes = action["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]);
        let outcomes: Vec<&str> = outcomes.map(|outcome| outcome.as_str().unwrap()).collect();
        assert!(
            outcomes[0] == "succeeded" && outcomes[1..].iter().all(|word| *word == "interrupted"),
            "{action}"
        );
        let result = &action["finished_result"];
        assert_eq!(result["asked_again"], false, "{action}");
        assert_eq!(result["post_checks"], json!([{ "unit": "actiond.service", "active_state": "active" }]));
        assert_eq!(action["tries_used"], 1, "{action}");
    }
}

#[test]
fn lock_against_a_shutdown_is_heeded_and_cannot_be_ignored_without_the_right() {
    let host = host();
    host.run(
        "systemd-run --quiet --unit=backup systemd-inhibit --what=shutdown --mode=block --why='half done' sleep infinity
        until systemd-inhibit --list | grep -q 'half done'; do :; done",
    );
    let boot = host.container(&["boot-id"]);
    for (ignore, code) in [(false, "inhibited"), (true, "not_allowed")] {
        let id = host.submit_json(&asked("stack_reboot", "Stack", &json!({ "ignore_inhibitors": ignore })));
        let action = host.finished(id);
        let found = (&action["state"], &action["finished_result"]["error"]["code"]);
        assert_eq!(found, (&json!("failed"), &json!(code)), "{action}");
    }
    assert_eq!(host.container(&["boot-id"]), boot);
}

/// Killed when the intent is durable and nothing is asked: the daemon alone, or with keeper and handler.
#[cfg(feature = "crash-points")]
#[test]
fn daemon_killed_between_intent_and_request_reboots_the_host_once() {
    let host = host();
    let binary = tempfile::NamedTempFile::new().unwrap();
    let strip = std::process::Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([binary.path(), std::path::Path::new(env!("CARGO_BIN_EXE_actiond"))])
        .status();
    assert!(strip.expect("strip").success());
    host.push(binary.path(), "/usr/bin/actiond.new");
    host.run(
        "chmod 755 /usr/bin/actiond.new; mv /usr/bin/actiond.new /usr/bin/actiond; systemctl restart actiond
        mkdir --mode=1777 /var/lib/breakpoints",
    );
    for (killed, is_asked_again) in
        [("actiond.service", false), ("actiond.service 'actiond-*.service'", true)]
    {
        let boot = host.container(&["boot-id"]);
        host.run("echo wait > /var/lib/breakpoints/reboot.intent; chown actiond: /var/lib/breakpoints/*");
        let id = host.submit_json(&asked("stack_reboot", "Stack", &json!({})));
        host.until("[ -e /var/lib/breakpoints/reboot.intent.reached ]");
        host.run(&format!("systemctl kill --signal=KILL {killed}; rm /var/lib/breakpoints/*"));
        let action = rebooted(&host, id, boot.trim());
        assert_eq!(action["finished_result"]["asked_again"], is_asked_again, "{killed}: {action}");
    }
}
