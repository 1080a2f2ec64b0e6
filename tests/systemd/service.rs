//! The daemon as a service: restarts that no client notices, reload, watchdog, log, and what its unit leaves it.

use crate::host::{Host, package};

fn installed() -> Host {
    let host = Host::start();
    host.install(&package(false));
    host
}

/// A program that is the daemon's own child, and so lives under its unit.
const QUICK: &str = r#"
[[handler]]
action = "quick"
use = "exec"
program = ["/usr/local/bin/quick"]
recovery = "rerun"
adopt = false
"#;

fn restarts_unnoticed(way: &str) {
    let host = installed();
    let poll = host.poll(way);
    // Between two restarts some requests are answered, so that all 50 interrupt something.
    host.run(
        "answered() { cat /run/answered; }
        for restart in $(seq 50); do
            enough=$(($(answered) + 5))
            until [ $(answered) -ge $enough ]; do sleep 0.01; done
            systemctl restart actiond.service
        done",
    );
    let asked = poll.end();
    assert!(asked >= 250, "{asked} requests are few for 50 restarts");
    assert_eq!(host.property("actiond.service", "NRestarts"), "0", "{}", host.log());
    assert_eq!(host.ask("/v1/status")["incarnation"], 51);
}

#[test]
fn client_that_connects_for_each_poll_sees_no_error_through_50_restarts() {
    restarts_unnoticed("fresh");
}

#[test]
fn client_that_keeps_its_connection_sees_no_error_through_50_restarts() {
    restarts_unnoticed("kept");
}

#[test]
fn submissions_during_50_restarts_are_all_accepted() {
    restarts_unnoticed("submit");
}

#[test]
fn program_of_the_daemon_runs_under_its_unit_and_reload_is_done_when_it_returns() {
    let host = installed();
    host.run("printf '#!/bin/sh\nread -r action\nid -un\nulimit -n\n' > /usr/local/bin/quick; chmod 755 /usr/local/bin/quick");
    host.run("cp /etc/actiond/actiond.toml /var/tmp/shipped");
    for round in 0..20 {
        let table = QUICK.replace("\"quick\"", &format!("\"quick_{round}\""));
        host.write("/var/tmp/table", &table);
        host.run(
            "cat /var/tmp/shipped /var/tmp/table > /etc/actiond/actiond.toml; systemctl reload actiond.service",
        );
        // An action without a handler would be refused.
        let id = host.submit(&format!("quick_{round}"), 1);
        let action = host.finished(id);
        assert_eq!(action["state"], "succeeded", "{action}");
        let log = host.run(&format!("actiond logs {id}"));
        assert!(log.contains(" actiond\n") && log.contains(" 1024\n"), "{log}");
    }
    // A file with an error is told by systemctl, and changes nothing.
    host.run("echo mistake >> /etc/actiond/actiond.toml; ! systemctl reload actiond.service");
    assert_eq!(host.property("actiond.service", "ActiveState"), "active");
    let id = host.submit("quick_19", 1);
    assert_eq!(host.finished(id)["state"], "succeeded");
}

#[test]
fn daemon_may_reboot_the_host() {
    let host = installed();
    host.write("/usr/local/bin/quick", "#!/bin/sh\nread -r action\nexec systemctl reboot\n");
    host.write("/var/tmp/table", QUICK);
    host.run("chmod 755 /usr/local/bin/quick; cat /var/tmp/table >> /etc/actiond/actiond.toml; systemctl reload actiond");
    let boot = host.container(&["boot-id"]);
    let id = host.submit("quick", 1);
    host.container(&["wait-reboot", boot.trim()]);
    host.until("systemctl is-active --quiet actiond.service");
    let action = host.finished(id);
    assert_eq!((&action["state"], &action["attempt"]), (&"succeeded".into(), &1.into()), "{action}");
}

#[test]
fn hung_daemon_is_killed_by_the_watchdog_and_started_again() {
    let host = installed();
    host.run("mkdir -p /run/systemd/system/actiond.service.d");
    host.write("/run/systemd/system/actiond.service.d/test.conf", "[Service]\nWatchdogSec=2\n");
    host.run("systemctl daemon-reload; systemctl restart actiond.service");
    let id = host.submit("noop", 1);
    host.finished(id);
    // Pinged in time while it works.
    let pinged = "systemctl show --value --property WatchdogTimestampMonotonic actiond.service";
    let first: u64 = host.run(pinged).trim().parse().unwrap();
    host.until(&format!("[ $({pinged}) -gt {} ]", first + 3_000_000));
    assert_eq!(host.property("actiond.service", "NRestarts"), "0", "{}", host.log());
    host.run("kill -STOP $(systemctl show --value --property MainPID actiond.service)");
    host.until("[ \"$(systemctl show --value --property NRestarts actiond.service)\" = 1 ]");
    host.until("systemctl is-active --quiet actiond.service");
    assert_eq!(host.ask(&format!("/v1/actions/{id}"))["state"], "succeeded");
}

#[test]
fn log_goes_to_the_journal_with_fields() {
    let host = installed();
    let id = host.submit("noop", 7);
    host.finished(id);
    host.until(&format!(
        "journalctl --quiet --unit actiond.service ACTION_ID={id} STATE=succeeded | grep -q ."
    ));
    let status = host.property("actiond.service", "StatusText");
    assert!(status.contains("waiting"), "{status}");
}

#[test]
fn damaged_store_is_not_started_again() {
    let host = installed();
    host.submit("noop", 1);
    host.run("systemctl stop actiond.socket; echo damaged > /var/lib/actiond/identity");
    host.run("! systemctl start actiond.service");
    assert_eq!(host.property("actiond.service", "ExecMainStatus"), "65", "{}", host.log());
    assert_eq!(host.property("actiond.service", "NRestarts"), "0");
}

/// Two programs that run on: one as it is, one of another user with limits of its own.
const LASTING: &str = r#"
[[handler]]
action = "lasting"
use = "exec"
program = ["/usr/local/bin/lasting"]
recovery = "hold"
[[handler]]
action = "of_nobody"
use = "exec"
program = ["/usr/local/bin/lasting"]
user = "nobody"
unit = { ProtectSystem = "strict", PrivateTmp = true, TasksMax = 50 }
recovery = "hold"
"#;

#[test]
fn programs_have_units_and_users_of_their_own_and_outlive_the_daemon() {
    let host = installed();
    host.write(
        "/usr/local/bin/lasting",
        "#!/bin/sh\nid -un\ngrep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d '\\t'\nsed -n 's/^0:://p' /proc/self/cgroup\n\
        touch /etc/written 2> /dev/null; actiond step run one -- true || exit 9\n\
        until [ -e /run/enough ]; do sleep 0.05; done\necho '{\"result\": {\"n\": 1}}' >&3\n",
    );
    host.run("chmod 755 /usr/local/bin/lasting");
    host.write("/var/tmp/table", LASTING);
    host.run("cat /var/tmp/table >> /etc/actiond/actiond.toml; systemctl reload actiond.service");
    let ids = [host.submit("lasting", 1), host.submit("of_nobody", 2)];
    for id in ids {
        host.until(&format!("actiond logs {id} | grep -q system.slice"));
        host.until(&format!("[ \"$(systemctl is-active actiond-{id}.1.service)\" = active ]"));
    }
    assert_eq!(host.property(&format!("actiond-{}.1.service", ids[1]), "TasksMax"), "50");
    host.run("systemctl restart actiond.service");
    host.run("systemctl kill --kill-whom=main --signal=KILL actiond.service; systemctl reset-failed; systemctl stop actiond.service");
    for id in ids {
        assert_eq!(host.run(&format!("systemctl is-active actiond-{id}.1.service")).trim(), "active");
    }
    host.run("touch /run/enough");
    for id in ids {
        host.until(&format!("! systemctl is-active -q actiond-{id}.1.service"));
    }
    // The sockets start it again.
    for (id, user) in ids.into_iter().zip(["actiond", "nobody"]) {
        let action = host.finished(id);
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(
            (action["attempt"].as_u64(), action["finished_result"]["n"].as_u64()),
            (Some(1), Some(1)),
            "{action}"
        );
        assert_eq!(action["steps"][0]["name"], "one", "{action}");
        let log = host.run(&format!("actiond logs {id}"));
        let cgroup = format!("/system.slice/actiond-{id}.1.service");
        for line in
            [user, "CapInh:0000000000000000", "CapPrm:0000000000000000", "CapEff:0000000000000000", &cgroup]
        {
            assert!(log.contains(line), "{line} is not in {log}");
        }
    }
    assert_eq!(
        host.run("ls /var/lib/actiond/attempts /run/actiond/actiond.sock.keepers | grep -c '^[0-9]' || true")
            .trim(),
        "0"
    );
}

/// Puts the store on a disk of its own, as hosts have and this container has not, and shows of sysfs what nspawn hides.
const OWN_DISK: &str = "
    systemctl stop actiond.service actiond.socket
    mknod /dev/loop-control c 10 237; for n in $(seq 0 63); do mknod /dev/loop$n b 7 $n; done
    truncate --size=4G /var/tmp/disk; mkfs.ext4 -q -F -J size=8 /var/tmp/disk; mount -o loop /var/tmp/disk /var/lib/actiond
    chown actiond:actiond /var/lib/actiond; chmod 700 /var/lib/actiond
    mkdir /run/sysfs; mount --types sysfs sysfs /run/sysfs
    mount --options remount,rw /sys; mkdir /sys/fs/ext4; mount --options remount,ro /sys
    mount --bind /run/sysfs/fs/ext4 /sys/fs/ext4
    systemctl start actiond.socket actiond.service";

/// Each start of a service has mounts of its own; what its mounts are called says nothing of the page cache.
#[test]
fn killed_daemon_trusts_its_table_in_the_mount_namespace_of_its_next_start() {
    let host = installed();
    host.run(OWN_DISK);
    let killed = || {
        let daemon = host.property("actiond.service", "MainPID");
        host.run(&format!("kill -KILL {daemon}"));
        host.until(&format!(
            "systemctl is-active --quiet actiond.service; [ $(systemctl show --value --property MainPID actiond.service) != {daemon} ]"
        ));
        host.ask("/v1/status")["store"].take()
    };
    // A stop leaves a checkpoint: before the first one there is nothing to be trusted.
    host.finished(host.submit("noop", 1));
    host.run("systemctl restart actiond.service");
    for resource in 2..5 {
        host.finished(host.submit("noop", resource));
        let store = killed();
        let mark = host.run("cat /var/lib/actiond/running");
        assert!(store["rebuilds"] == 0 && mark.contains(" superblock "), "{store} {mark}");
    }
    // Where sysfs is not to be seen there is only the mount.
    host.run("umount --lazy /sys/fs/ext4");
    for _ in 0..2 {
        let store = killed();
        let mark = host.run("cat /var/lib/actiond/running");
        assert!(store["rebuilds"] == 1 && mark.contains(" mount "), "{store} {mark}");
    }
}
