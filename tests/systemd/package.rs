//! The life of the Debian package on a host.

use crate::host::{Host, package};

const PROGRAM: &str = r#"
[[handler]]
action = "work"
use = "exec"
program = ["/usr/local/bin/work"]
recovery = "hold"
"#;

/// Goes on until it is told that it is enough, or for two minutes. Its first step is of before the upgrade, its second of after it.
const WORK: &str = "#!/bin/sh
set -e
read -r action
actiond step run before -- echo began
for tenth in $(seq 1200); do [ -e /run/actiond/enough ] && break; sleep 0.1; done
actiond step run after -- echo ended
";

#[test]
fn package_is_installed_upgraded_while_a_program_runs_and_removed() {
    let host = Host::start();
    host.install(&package(true));
    let brought = host.run("dpkg-deb --contents /var/tmp/actiond.deb");
    for example in ["hosts.toml", "51-actiond-units.rules", "actiond-units.conf"] {
        assert!(brought.contains(&format!("/usr/share/doc/actiond/examples/{example}")), "{brought}");
    }
    for unit in ["actiond.service", "actiond.socket"] {
        assert_eq!(host.property(unit, "ActiveState"), "active", "{}", host.log());
        assert_eq!(host.property(unit, "UnitFileState"), "enabled");
    }
    let id = host.submit("noop", 1);
    assert_eq!(host.finished(id)["state"], "succeeded");
    assert_eq!(host.run("stat --format '%a %G' /run/actiond/actiond.sock").trim(), "660 actiond");
    assert_eq!(host.run("stat --format '%a %U' /var/lib/actiond").trim(), "700 actiond");

    // Upgraded: the configuration as it was changed stays, as do the sockets, and nobody notices the new daemon, neither
    // clients nor the program, for which nobody waits.
    host.write("/usr/local/bin/work", WORK);
    host.write("/var/tmp/table", PROGRAM);
    host.run("chmod 755 /usr/local/bin/work; cat /var/tmp/table >> /etc/actiond/actiond.toml; systemctl reload actiond");
    let sockets = host.property("actiond.socket", "ActiveEnterTimestampMonotonic");
    let daemon = host.property("actiond.service", "MainPID");
    let polls = ["fresh", "submit"].map(|way| host.poll(way));
    let running = host.submit("work", 1);
    host.until(&format!("actiond logs {running} | grep -q began"));
    let unit = format!("actiond-{running}.1.service");
    let keeper = ["MainPID", "InvocationID"].map(|name| host.property(&unit, name));
    assert_ne!(keeper[0], "0", "{unit} runs");
    host.install(&package(false));
    host.until("systemctl is-active --quiet actiond.service");
    for poll in polls {
        poll.end();
    }
    assert_ne!(host.property("actiond.service", "MainPID"), daemon, "the new daemon runs");
    assert_eq!(host.ask(&format!("/v1/actions/{running}"))["state"], "running");
    assert_eq!(["MainPID", "InvocationID"].map(|name| host.property(&unit, name)), keeper);
    assert_eq!(host.property("actiond.socket", "ActiveEnterTimestampMonotonic"), sockets);
    host.run("touch /run/actiond/enough");
    let action = host.finished(running);
    assert_eq!((&action["state"], &action["attempt"]), (&"succeeded".into(), &1.into()), "{action}");
    let log = host.run(&format!("actiond logs {running} | cut -d ' ' -f 2"));
    assert_eq!(log, "began\nended\n");
    assert_eq!(host.ask(&format!("/v1/actions/{id}"))["state"], "succeeded");

    // It comes up with the host.
    host.reboot();
    host.until("systemctl is-active --quiet actiond.service");
    assert_eq!(host.ask(&format!("/v1/actions/{running}"))["state"], "succeeded");

    // Removed and purged: no action is lost by it, and what is left is told.
    host.run("dpkg --remove actiond");
    host.run("! systemctl is-active --quiet actiond.service && ! systemctl is-active --quiet actiond.socket");
    host.run("! ls /usr/lib/systemd/system/actiond.* 2> /dev/null && [ -e /etc/actiond/actiond.toml ]");
    let said = host.run("dpkg --purge actiond 2>&1");
    assert!(said.contains("/var/lib/actiond are kept"), "{said}");
    host.run("[ ! -e /etc/actiond ] && [ -d /var/lib/actiond/journal ]");
    assert_eq!(host.run("find /etc/systemd/system -name 'actiond*'"), "");

    host.install(&package(false));
    assert_eq!(host.ask(&format!("/v1/actions/{running}"))["state"], "succeeded");
}
