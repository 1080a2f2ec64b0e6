//! Programs that misbehave: none of them may hold up the daemon, another action or its own end.

use crate::common::daemon::{Daemon, Start};
use crate::common::home::{Home, NOOP, exec};
use crate::common::{is_alive, processes_of, spec, state, until};

/// Programs end quickly here, so that a test that fails does so for its own reason.
const BRISK: &str = "[shutdown]\ngrace = \"0s\"\nkill_grace = \"200ms\"\n";
/// Without gate and keeper.
const DIRECT: &str = "adopt = false\nrecovery = \"rerun\"";
/// Many at once.
const QUEUE: &str = "[[queue]]\nname = \"default\"\nconcurrency = 24\n";

#[test]
fn flood_of_reports_holds_up_neither_its_own_end_nor_others() {
    let home = Home::new();
    let flood = home.script("flood", "trap '' TERM; echo up >> $HOME_DIR/up; yes >&3 & yes >&3 & exec yes");
    let home = home.with_tables(&(BRISK.to_owned() + &exec("flood", &flood, "exclusive = false") + NOOP));
    let daemon = Daemon::start(&home);
    // More than the daemon has threads for tasks.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let ids: Vec<u64> = (0..=threads as u64).map(|at| daemon.accepted(&spec("flood", at))).collect();
    home.await_lines("up", ids.len());
    daemon.assert_healthy(&spec("noop", 99), "a flood of reports");
    for id in ids {
        daemon.commanded(id, "cancel");
        assert_eq!(state(&daemon.finished(id)), "cancelled");
    }
    assert_eq!(processes_of(&home, daemon.pid()), Vec::<String>::new());
}

#[test]
fn end_of_a_program_is_learnt_although_the_daemon_was_started_with_sigchld_ignored() {
    let home = Home::new();
    let three = home.script("three", "exit 3");
    let home = home.with_tables(&(BRISK.to_owned() + &exec("three", &three, "")));
    let start = Start { wrapper: &["env", "--ignore-signal=CHLD"], ..Start::default() };
    let daemon = Daemon::start_as(&home, &start).expect("a daemon");
    let action = daemon.finished(daemon.accepted(&spec("three", 1)));
    assert_eq!(action["finished_message"], "three failed: exit code 3", "{action}");
}

#[test]
fn programs_wait_for_descriptors_that_running_ones_give_back() {
    let home = Home::new();
    let program = home.script("program", "sleep 0.2; echo $ACTIOND_ID >> $HOME_DIR/ran");
    let handler = exec("program", &program, "exclusive = false");
    let direct = exec("direct", &program, &format!("exclusive = false\n{DIRECT}"));
    let home = home.with_tables(&(BRISK.to_owned() + QUEUE + &handler + &direct));
    // Far too few for as many programs as the queue may run at once.
    let start = Start { wrapper: &["prlimit", "--nofile=64:64"], ..Start::default() };
    let daemon = Daemon::start_as(&home, &start).expect("a daemon");
    for kind in ["program", "direct"] {
        let ids: Vec<u64> = (0..24).map(|at| daemon.accepted(&spec(kind, at))).collect();
        for id in ids {
            let action = daemon.finished(id);
            assert_eq!(state(&action), "succeeded", "{action}");
        }
    }
    assert_eq!(home.lines("ran").len(), 48, "each was started once");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid()));
    assert_eq!(children.unwrap_or_default(), "", "nothing is left unreaped");
}

#[test]
fn what_a_running_program_left_to_itself_does_not_stay_a_zombie() {
    let home = Home::new();
    let body = r"pid=$(sh -c 'sleep 0.1 >&- 2>&- & echo $!')
        echo $pid >> $HOME_DIR/orphans; while [ -d /proc/$pid ]; do sleep 0.02; done";
    let program = home.script("program", body);
    let home = home.with_tables(&(BRISK.to_owned() + &exec("program", &program, "")));
    let daemon = Daemon::start(&home);
    let action = daemon.finished(daemon.accepted(&spec("program", 1)));
    assert_eq!(state(&action), "succeeded", "{action}");
    assert_eq!(home.lines("orphans").len(), 1);
}

#[test]
fn programs_are_started_and_recovered_after_the_binary_was_removed_by_an_upgrade() {
    let home = Home::new();
    let program = home
        .script("program", "rest=$(cat $HOME_DIR/rest); echo $ACTIOND_ATTEMPT >> $HOME_DIR/ran; sleep $rest");
    std::fs::write(home.path("rest"), "1000").unwrap();
    let home = home.with_tables(&(BRISK.to_owned() + &exec("program", &program, "recovery = \"rerun\"")));
    let copy = home.path("actiond-of-before");
    let run_copy = format!("cp \"$0\" '{0}' && exec '{0}' \"$@\"", copy.display());
    let start = Start { wrapper: &["sh", "-c", &run_copy], ..Start::default() };
    let daemon = Daemon::start_as(&home, &start).expect("a daemon");
    std::fs::remove_file(&copy).unwrap();
    let id = daemon.accepted(&spec("program", 1));
    home.await_lines("ran", 1);
    std::fs::write(home.path("rest"), "0").unwrap();
    let daemon = daemon.crash_with_keepers();
    assert_eq!(state(&daemon.finished(id)), "succeeded");
    assert_eq!(home.lines("ran"), ["1", "2"]);
}

#[test]
fn checkpoint_beyond_the_limit_is_left_out_and_its_program_goes_on() {
    let home = Home::new();
    let body = r#"echo '{"checkpoint": {"step": 1}}' >&3
        printf '{"checkpoint": {"a": "%0500d"}}\n' 0 >&3
        echo up >> $HOME_DIR/up; until [ -e $HOME_DIR/end ]; do sleep 0.02; done"#;
    let big = home.script("big", body);
    let limits = "[limits]\nresult_bytes_max = \"256B\"\n";
    let home = home.with_tables(&(BRISK.to_owned() + limits + &exec("big", &big, "recovery = \"hold\"")));
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("big", 1));
    home.await_lines("up", 1);
    std::fs::write(home.path("end"), "").unwrap();
    let action = daemon.finished(id);
    assert_eq!(state(&action), "succeeded", "{action}");
    let log = daemon.ask("GET", &format!("/v1/actions/{id}/log"), None).text();
    assert!(log.contains("a checkpoint is left out"), "{log}");
}

#[test]
fn probe_that_hangs_is_ended_with_the_programs_of_a_killed_daemon() {
    let home = Home::new();
    let program = home.script("program", "echo up >> $HOME_DIR/up; sleep 1000");
    let probe = home.script("probe", "trap '' TERM; echo $$ >> $HOME_DIR/probes; while :; do sleep 1; done");
    let own = format!("recovery = \"probe\"\nprobe = [\"{}\"]", probe.display());
    let home = home.with_tables(&(BRISK.to_owned() + &exec("program", &program, &own)));
    let daemon = Daemon::start(&home);
    daemon.accepted(&spec("program", 1));
    home.await_lines("up", 1);
    let daemon = daemon.crash_with_keepers();
    let first: u32 = home.await_lines("probes", 1)[0].parse().expect("a pid");
    let daemon = daemon.crash();
    assert!(!is_alive(first), "a probe of the killed daemon lives on");
    let second: u32 = home.await_lines("probes", 2)[1].parse().expect("a pid");
    daemon.stop();
    until("the end of the probe of a stopped daemon", || (!is_alive(second)).then_some(()));
}

#[test]
fn directly_started_program_costs_two_changes_and_has_what_the_contract_says() {
    let home = Home::new();
    // Its limit on open files is set after its start: on a busy machine it may be there first.
    let body = r#"read -r action; echo "$ACTIOND_ID"; ls /proc/self/fd | tr '\n' ' '; echo
        pwd; n=0; while [ "$(ulimit -S -n)" != 256 ] && [ $n -lt 1000 ]; do n=$((n + 1)); sleep 0.01; done
        ulimit -S -n; echo '{"message": "done"}' >&3"#;
    let program = home.script("program", body);
    let settings = format!("{DIRECT}\ncwd = \"/usr\"");
    let home = home.with_tables(&(BRISK.to_owned() + &exec("direct", &program, &settings)));
    // A descriptor that the daemon inherits and does not know of, and a limit that it raises for itself.
    let shell = "ulimit -S -n 256; exec \"$0\" \"$@\" 9< /etc/passwd";
    let start = Start { wrapper: &["sh", "-c", shell], ..Start::default() };
    let daemon = Daemon::start_as(&home, &start).expect("a daemon");
    let id = daemon.accepted(&spec("direct", 1));
    let action = daemon.finished(id);
    assert_eq!((state(&action), &action["finished_message"]), ("succeeded", &"done".into()), "{action}");
    // Accepted, claimed, finished.
    assert_eq!(action["version"], 3, "{action}");
    let log = daemon.ask("GET", &format!("/v1/actions/{id}/log"), None).text();
    for line in [&id.to_string(), "0 1 2 3 4 ", "/usr", "256"] {
        assert!(log.contains(&format!("\"line\":\"{line}\"")), "{line} is not in {log}");
    }
    let files = std::fs::read_dir(home.store().join("attempts")).map_or(0, Iterator::count);
    assert_eq!(files, 0, "it needs no files");
}

#[test]
fn configuration_that_would_run_a_program_blindly_again_is_refused() {
    let home = Home::new();
    let program = home.script("program", "");
    let home = home.with_tables(&exec("direct", &program, "adopt = false\nrecovery = \"hold\""));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_actiond"))
        .args(["check-config", "--config"])
        .arg(home.config())
        .output()
        .expect("check-config");
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("adopt = false needs recovery = \"rerun\""), "{said}");
}
