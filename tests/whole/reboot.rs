//! Actions that ask for a reboot of the host, over boots that are none: the daemon is killed and started with another boot
//! id, which its own mount namespace shows it. The command that reboots only writes down that it was called.

use std::fs;

use crate::common::daemon::{Start, code};
use crate::common::home::NOOP;
use crate::common::{Daemon, Home, attempts, demand_root, spec, state};

/// A home in which deploys ask for so many reboots.
fn home_of(reboots: u32, command: &str) -> Home {
    demand_root("show the daemon another boot id");
    let home = Home::new();
    let command = home.script("reboot", command);
    let asks = format!(
        "[[handler]]\naction = \"deploy\"\nuse = \"noop\"\nrecovery = \"hold\"\nreboot = {reboots}\n\
         retry = {{ attempts = 1 }}\n{NOOP}[reboot]\ncommand = [\"{}\", \"now\"]\n",
        command.display()
    );
    home.with_tables(&asks)
}

const WRITES: &str = "echo \"$@\" >> \"$HOME_DIR/asked\"";

/// The environment beyond the usual, such as a crash point.
type Environment<'a> = &'a [(&'a str, &'a str)];

/// Starts the daemon on the boot with that number; how it ended, if it does before it is ready.
fn try_boot<'a>(
    home: &'a Home,
    number: u32,
    environment: Environment<'_>,
) -> Result<Daemon<'a>, std::process::ExitStatus> {
    let id = home.path(&format!("boot-{number}"));
    fs::write(&id, format!("00000000-0000-4000-8000-{number:012}\n")).expect("a boot id");
    let mount = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", id.display());
    let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    Daemon::start_as(home, &Start { wrapper: &wrapper, environment })
}

fn boot(home: &Home, number: u32) -> Daemon<'_> {
    try_boot(home, number, &[]).unwrap_or_else(|status| panic!("{status}: {}", home.log()))
}

#[test]
fn action_goes_on_after_each_reboot_and_uses_no_try() {
    let home = home_of(2, WRITES);
    let mut daemon = boot(&home, 1);
    let id = daemon.accepted(&spec("deploy", 1));
    for reboots in 1..=2 {
        assert_eq!(home.await_lines("asked", reboots), vec!["now"; reboots]);
        let action = daemon.action(id);
        assert_eq!(
            (state(&action), action["reboots"].as_u64()),
            ("rebooting", Some(reboots as u64)),
            "{action}"
        );
        assert_eq!(attempts(&action)[0], "running", "{action}");
        // What is submitted meanwhile waits for the next boot, as does what is behind it on its resource.
        let beside = daemon.accepted(&spec("restart", 10 + reboots as u64));
        let behind = daemon.accepted(&spec("restart", 1));
        let why = daemon.get(&format!("/v1/actions/{beside}/explain"));
        assert!(why.to_string().contains("reboot_due"), "{why}");
        assert_eq!(daemon.get("/v1/status")["reboot_due"], true);
        assert!(daemon.status_get("/").text().contains("asked for a reboot of the host"));
        daemon.kill9();
        daemon = boot(&home, u32::try_from(reboots).expect("few") + 1);
        if reboots == 2 {
            assert_eq!(state(&daemon.finished(beside)), "succeeded");
            assert_eq!(state(&daemon.finished(behind)), "succeeded");
        }
    }
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
    assert_eq!(attempts(&action), ["succeeded", "interrupted", "interrupted"]);
    assert_eq!(action["attempts"][1]["message"], "the host has rebooted", "{action}");
    assert_eq!((action["tries_used"].as_u64(), action["reboots"].as_u64()), (Some(1), Some(2)), "{action}");
    assert_eq!(home.lines("asked").len(), 2);
}

#[test]
fn daemon_that_dies_on_the_same_boot_asks_again() {
    let home = home_of(1, WRITES);
    let daemon = boot(&home, 1);
    let id = daemon.accepted(&spec("deploy", 1));
    home.await_lines("asked", 1);
    daemon.kill9();
    let daemon = boot(&home, 1);
    home.await_lines("asked", 2);
    assert_eq!(state(&daemon.action(id)), "rebooting");
    assert_eq!(code(daemon.stop()), 0, "a daemon with nothing but a reboot to wait for stops at once");
    let daemon = boot(&home, 2);
    assert_eq!(attempts(&daemon.finished(id)), ["succeeded", "interrupted"]);
    assert_eq!(home.lines("asked").len(), 2);
}

#[test]
fn command_that_fails_holds_the_action_with_what_it_said() {
    let home = home_of(1, "echo 'no: somebody is logged in' >&2; exit 7");
    let daemon = boot(&home, 1);
    let id = daemon.accepted(&spec("deploy", 1));
    let held = daemon.in_state(id, "held");
    let reason = held["reason"].as_str().expect("a reason");
    assert!(reason.contains("now ended with exit code 7: no: somebody is logged in"), "{reason}");
    let beside = daemon.accepted(&spec("restart", 2));
    assert_eq!(state(&daemon.finished(beside)), "succeeded");
    daemon.commanded(id, "resume");
    assert_eq!(attempts(&daemon.finished(id)), ["succeeded", "interrupted"]);
}

/// Before the host is asked and after it: the action is rebooting, and the next start asks (again).
#[cfg(feature = "crash-points")]
#[test]
fn daemon_killed_around_the_request_keeps_it() {
    for (point, asked) in [("reboot_recorded", 0), ("reboot_asked", 1)] {
        let home = home_of(1, WRITES);
        let daemon = try_boot(&home, 1, &[("ACTIOND_CRASH_AT", point)]).expect("it is reached later");
        let id = daemon.accepted(&spec("deploy", 1));
        assert_eq!(code(daemon.ended()), 137, "{point}");
        assert_eq!(home.lines("asked").len(), asked, "{point}");
        let daemon = boot(&home, 1);
        home.await_lines("asked", asked + 1);
        daemon.kill9();
        let daemon = boot(&home, 2);
        let action = daemon.finished(id);
        assert_eq!(attempts(&action), ["succeeded", "interrupted"], "{point}");
        assert_eq!(action["reboots"], 1, "{point}");
    }
}

#[test]
fn without_a_way_to_reboot_the_action_fails_at_once() {
    if std::path::Path::new("/run/systemd/system").exists() {
        return;
    }
    let deploy = "[[handler]]\naction = \"deploy\"\nuse = \"noop\"\nreboot = 1\n";
    let home = Home::new().with_tables(deploy);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("deploy", 1));
    let failed = daemon.finished(id);
    let message = failed["finished_message"].as_str().expect("a message");
    assert_eq!(state(&failed), "failed");
    assert!(message.contains("systemd does not run here") && message.contains("[reboot]"), "{message}");
}
