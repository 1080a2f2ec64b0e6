//! What a user other than root may do and cannot do, and who is a service. Some of it runs inside the container.

use std::io::ErrorKind::{InvalidInput, PermissionDenied};
use std::path::Path;
use std::process::Command;

use actiond::action::ActionId;
use actiond::runner::units::{UnitPlan, Units, unit_name};

use crate::container::{Container, said};
use crate::{line, plan, socket, start, wait};

/// systemd's manager, for busctl.
const MANAGER: [&str; 3] =
    ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];

#[test]
fn user_without_rights_starts_programs_as_another() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let script = "
            setpriv --reuid 65533 --regid 65533 --clear-groups --ambient-caps=-all --inh-caps=-all \\
                sh -c 'echo $(id -u) $(grep CapPrm /proc/self/status) >&0'
            read -r line";
        let mut plan = plan(24, script);
        plan.user = Some((65_534, 65_534));
        plan.switches_user = true;
        let (mut socket, _) = start(&units, &plan).await;
        assert_eq!(line(&mut socket), "65533 CapPrm: 0000000000000000");
        assert!(units.end(&plan.name).await.unwrap());
    });
}

#[test]
fn unprivileged_daemon_has_its_own_units_and_no_others() {
    let container = Container::start();
    let rule = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/50-actiond.rules");
    let as_user = ["--uid=actiond", "--gid=actiond"];
    container.runs_inside("rights::inside_without_the_rule", &as_user);
    container.push(&rule, "/etc/polkit-1/rules.d/50-actiond.rules", "0644");
    container.run(&["systemctl", "restart", "polkit"]);
    container.runs_inside("rights::inside_with_the_rule", &as_user);
    let sandbox: Vec<String> = sandbox_of_the_daemon();
    container
        .runs_inside("rights::inside_with_the_rule", &sandbox.iter().map(String::as_str).collect::<Vec<_>>());
}

/// What the shipped service takes away from the daemon, for systemd-run.
fn sandbox_of_the_daemon() -> Vec<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/actiond.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let service = unit.split("[Service]").nth(1).unwrap().split("[Install]").next().unwrap();
    let ours = ["Type", "NotifyAccess", "Exec", "Restart", "Timeout", "Watchdog", "State", "Runtime"];
    service
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
        .filter(|line| !ours.iter().any(|key| line.starts_with(key)))
        .map(|line| format!("--property={line}"))
        .collect()
}

#[test]
#[ignore = "runs in the container, by unprivileged_daemon_has_its_own_units_and_no_others"]
fn inside_without_the_rule() {
    wait(async {
        let units = Units::of_this_service().await.unwrap().expect("this is a service");
        let refused = units.start(&plan(60, "true"), socket().1).await.unwrap_err();
        assert_eq!(refused.kind(), PermissionDenied, "{refused}");
        assert!(refused.to_string().contains("50-actiond.rules"), "{refused}");
        assert_eq!(units.find(&unit_name(ActionId(60), 1, false)).await.unwrap(), None);
        units.list().await.unwrap();
    });
}

#[test]
#[ignore = "runs in the container, by unprivileged_daemon_has_its_own_units_and_no_others"]
fn inside_with_the_rule() {
    wait(async {
        let units = Units::of_this_service().await.unwrap().expect("this is a service");
        let mut plan = plan(61, "id -un >&0; while :; do sleep 98790; done");
        plan.user = Some((rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
        let (mut socket, _) = start(&units, &plan).await;
        assert_eq!(line(&mut socket), "actiond");
        assert!(units.end(&plan.name).await.unwrap());
        assert_eq!(units.find(&plan.name).await.unwrap(), None);
        let probe = UnitPlan { name: unit_name(ActionId(61), 1, true), ..plan };
        let _ = start(&units, &probe).await;
        assert!(units.end(&probe.name).await.unwrap());
        for other in ["dbus.service", "systemd-journald.service", "tmp.mount"] {
            assert_eq!(units.end(other).await.unwrap_err().kind(), InvalidInput);
            for asks in
                [["KillUnit", "ssi", other, "all", "9"].as_slice(), &["StopUnit", "ss", other, "replace"]]
            {
                let output = Command::new("busctl").arg("call").args(MANAGER).args(asks).output().unwrap();
                assert!(
                    said(&output).contains("nteractive authentication required"),
                    "{asks:?}: {}",
                    said(&output)
                );
            }
        }
    });
}

/// What the built-in handlers of services ask for, with the files of systemd/ that let them.
#[test]
fn unprivileged_daemon_restarts_and_pauses_the_listed_services_and_no_others() {
    let container = Container::boot();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let asks = |asks: &[&str]| {
        let as_user = ["run", "setpriv", "--reuid=actiond", "--regid=actiond", "--clear-groups"];
        let call = ["busctl", "call"];
        let output = container.command(&[&as_user[..], &call, &MANAGER, asks].concat()).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    };
    container.run(&["systemd-run", "--quiet", "--unit=web@1.service", "sleep", "infinity"]);
    let all = [
        ["FreezeUnit", "s", "web@1.service"].as_slice(),
        &["ThawUnit", "s", "web@1.service"],
        &["ResetFailedUnit", "s", "web@1.service"],
        &["RestartUnit", "ss", "web@1.service", "replace"],
    ];
    for words in all {
        let refused = asks(words).unwrap_err();
        let expected =
            if matches!(words[0], "FreezeUnit" | "ThawUnit") { "denied" } else { "nteractive auth" };
        assert!(refused.contains(expected), "{words:?}: {refused}");
    }
    container.push(
        &shipped.join("51-actiond-units.rules"),
        "/etc/polkit-1/rules.d/51-actiond-units.rules",
        "0644",
    );
    container.push(
        &shipped.join("actiond-units.conf"),
        "/usr/share/dbus-1/system.d/actiond-units.conf",
        "0644",
    );
    container.run(&["systemctl", "reload", "dbus"]);
    container.run(&["systemctl", "restart", "polkit"]);
    for words in all {
        asks(words).unwrap_or_else(|refused| panic!("{words:?}: {refused}"));
    }
    for other in ["systemd-logind.service", "dbus.service", "web@1.socket", "xweb@1.service"] {
        for words in [
            ["FreezeUnit", "s", other].as_slice(),
            &["ThawUnit", "s", other],
            &["RestartUnit", "ss", other, "replace"],
            &["ResetFailedUnit", "s", other],
        ] {
            let refused = asks(words).unwrap_err();
            let expected = ["nteractive authentication required", "not loaded", "not found"];
            assert!(expected.iter().any(|word| refused.contains(word)), "{words:?}: {refused}");
        }
    }
    let refused = asks(&["KillUnit", "ssi", "web@1.service", "all", "9"]).unwrap_err();
    assert!(refused.contains("nteractive authentication required"), "{refused}");
    assert_eq!(container.run(&["systemctl", "is-active", "web@1.service"]).trim(), "active");
}

#[test]
fn only_the_main_process_of_a_service_needs_units() {
    let container = Container::start();
    container.runs_inside("rights::inside_a_service", &[]);
    // Not its child, and not a process in no service.
    let test = Container::test_binary("rights::inside_a_service");
    let words = [test.as_str(), "--ignored", "--exact", "rights::inside_no_service"];
    let as_child = format!("{}; exit $?", words.join(" "));
    container.run(&["systemd-run", "--quiet", "--wait", "--collect", "sh", "-c", &as_child]);
    container.run(&words);
    wait(async { assert!(Units::of_this_service().await.unwrap().is_none(), "a test is no service") });
}

#[test]
#[ignore = "runs in the container, by only_the_main_process_of_a_service_needs_units"]
fn inside_a_service() {
    wait(async { assert!(Units::of_this_service().await.unwrap().is_some()) });
}

#[test]
#[ignore = "runs in the container, by only_the_main_process_of_a_service_needs_units"]
fn inside_no_service() {
    wait(async { assert!(Units::of_this_service().await.unwrap().is_none()) });
}
