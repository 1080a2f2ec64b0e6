//! Programs under the unit that is shipped: they outlive the daemon, however it ends, and go on after the host.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::host::{Host, package};

/// A host with the package, and one handler: a script of bash.
fn host_with(script: &str, body: &str, tables: &str) -> Host {
    let host = Host::start();
    host.install(&package(false));
    host.write(&format!("/usr/local/bin/{script}"), body);
    host.write("/var/tmp/tables", tables);
    host.run(&format!(
        "chmod 755 /usr/local/bin/{script}; mkdir --mode=1777 /var/lib/effects
        cat /var/tmp/tables >> /etc/actiond/actiond.toml; systemctl reload actiond"
    ));
    host
}

/// Prints the numbers from 1 to 1,000, a part in each step, and takes 0 to 3 s.
const FIVE_STEPS: &str = r#"#!/bin/bash
set -eu
read -r action
for step in 1 2 3 4 5; do
    actiond step begin $step
    echo "$step by $$ in attempt $ACTIOND_ATTEMPT" >> /var/lib/effects/$ACTIOND_ID
    seq $((200 * step - 199)) $((200 * step))
    sleep 0.$(printf %03d $((RANDOM % 600)))
    actiond step done $step
done
actiond result '{"lines": 1000}'
"#;

/// What is taken for interrupted is held and does not end, whether or not its program has begun.
const STORM: &str = r#"
[[queue]]
name = "storm-0"
concurrency = 1

[[queue]]
name = "storm-1"
concurrency = 2

[[queue]]
name = "storm-2"
concurrency = 4

[[handler]]
action = "five_steps"
use = "exec"
program = ["/usr/local/bin/five-steps"]
recovery = "hold"
"#;

/// The unit waits a second before it starts the daemon again, 5 minutes in all: that pause alone is not as it is shipped.
const BRISK: &str = "[Service]\nRestartSec=50ms\n";

#[test]
fn programs_run_once_and_lose_nothing_through_300_kills_and_50_restarts() {
    let host = host_with("five-steps", FIVE_STEPS, STORM);
    host.write("/run/systemd/system/actiond.service.d/test.conf", BRISK);
    host.run("systemctl daemon-reload");
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/storm.py");
    host.push(&script, "/var/tmp/storm.py");
    let said = host.run("python3 /var/tmp/storm.py 200 300 50");
    println!("{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"));
    assert!(
        count("kills_amid") >= 250 && count("restarts_amid") >= 40,
        "too few while programs ran: {report}"
    );
    assert!(count("starting") < 200, "the daemon hardly ever came to work: {report}");
    let ids: Vec<u64> = report["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 200, "{report}");

    let lines: Vec<String> = (1..=1000).map(|number| number.to_string()).collect();
    let mut attempts = 0;
    for id in ids {
        let action = host.finished(id);
        attempts += action["attempt"].as_u64().unwrap();
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(action["finished_result"], json!({ "lines": 1000 }), "{action}");
        let steps = action["steps"].as_array().unwrap();
        let done = steps.iter().filter(|step| step["done_at"].is_string()).map(|step| &step["name"]);
        assert!(done.eq(["1", "2", "3", "4", "5"]), "{action}");
        let effects = host.run(&format!("cat /var/lib/effects/{id}"));
        let pid = effects.split(' ').nth(2).unwrap_or("nobody");
        // Attempts before it, if any, were claimed by a daemon that was killed before it let their programs go.
        let attempt = &action["attempt"];
        let once = (1..=5).map(|step| format!("{step} by {pid} in attempt {attempt}"));
        assert!(effects.lines().eq(once), "action {id} did:\n{effects}");
        let log = host.run(&format!("actiond logs {id} | cut -d ' ' -f 2-"));
        assert!(log.lines().eq(&lines), "the log of action {id}:\n{log}");
    }
    println!("{attempts} attempts");
    // None ran that nobody asked for, and nothing is left of them.
    assert_eq!(host.run("ls /var/lib/effects | wc -l").trim(), "200");
    host.until("[ -z \"$(systemctl list-units --quiet --plain 'actiond-*')\" ]");
}

/// Ends with the wish for a reboot at the end of its second and its fourth step.
const REBOOTS_TWICE: &str = r#"#!/bin/bash
set -eu
read -r action
for step in 1 2 3 4 5; do
    if actiond step begin $step; then
        boot=$(cut -d ' ' -f 22 /proc/1/stat) # when it began
        echo "$step in attempt $ACTIOND_ATTEMPT of boot $boot" >> /var/lib/effects/reboots
        echo "step $step"
        actiond step done $step
        case $step in 2 | 4) exit 194 ;; esac
    fi
done
"#;

const RESUMES: &str = r#"
[[handler]]
action = "reboots"
use = "exec"
program = ["/usr/local/bin/reboots-twice"]
recovery = "resume"
"#;

#[test]
fn script_that_reboots_the_host_twice_does_each_step_once() {
    let host = host_with("reboots-twice", REBOOTS_TWICE, RESUMES);
    let id = host.submit("reboots", 1);
    for reached in [3, 5] {
        let stuck = "actiond list --state failed,held | grep -q .";
        host.until(&format!("grep -q '^{reached} ' /var/lib/effects/reboots || {stuck}"));
    }
    host.until("systemctl is-active --quiet actiond.service");
    let action = host.finished(id);
    assert_eq!((&action["state"], &action["reboots"]), (&"succeeded".into(), &2.into()), "{action}");
    let attempts = action["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]);
    assert!(attempts.eq(["succeeded", "interrupted", "interrupted"]), "{action}");
    let effects = host.run("cat /var/lib/effects/reboots");
    let (steps, boots): (Vec<_>, Vec<_>) =
        effects.lines().map(|line| line.split_once(" of boot ").unwrap()).unzip();
    let expected = ["1 in attempt 1", "2 in attempt 1", "3 in attempt 2", "4 in attempt 2", "5 in attempt 3"];
    assert_eq!(steps, expected);
    assert_eq!(boots.iter().collect::<HashSet<_>>().len(), 3, "{effects}");
    assert!(boots[0] == boots[1] && boots[2] == boots[3], "{effects}");
    let log = |attempt: u32| host.run(&format!("actiond logs {id} --attempt {attempt} | cut -d ' ' -f 2-"));
    assert_eq!([1, 2, 3].map(log), ["step 1\nstep 2\n", "step 3\nstep 4\n", "step 5\n"]);
}
