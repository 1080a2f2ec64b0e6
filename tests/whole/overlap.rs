//! One resource, one action at a time: 10,000 programs over 100 resources, with random kills.
//!
//! Each program writes "begin" with its pid and start time to its resource's log and then looks whether an earlier
//! one that has not written "end" is still alive. Of two that overlap, the later one to write sees the other.

use std::process::Command;

use serde_json::json;

use crate::common::home::{SMALL_STORE, exec};
use crate::common::sender::run_with_kills;
use crate::common::{Home, spec, state, until, with};

/// Only builtins, so that ten thousand of them take little. `start` is field 22 of proc_pid_stat(5).
const WITNESS: &str = r#"
facts() { # PID -> $alive (state letter) $start
    alive= start=
    read -r stat < "/proc/$1/stat" || return
    set -- ${stat##*) }
    alive=$1 start=${20}
} 2> /dev/null
IFS= read -r action || :
resource=${action#*\"resource_id\":}
resource=${resource%%[,\}]*}
resource=$((resource))
log="$HOME_DIR/log.$resource"
facts $$
own_start=$start
me="$$ $own_start $ACTIOND_ID $ACTIOND_ATTEMPT"
echo "begin $me" >> "$log"
open=
while read -r what pid began id attempt; do
    [ "$pid $began $id $attempt" = "$me" ] && continue
    if [ "$what" = begin ]; then open="$open $pid:$began:$id"; else
        rest=
        for one in $open; do [ "$one" = "$pid:$began:$id" ] || rest="$rest $one"; done
        open=$rest
    fi
done < "$log"
for one in $open; do
    pid=${one%%:*} rest=${one#*:}
    facts "$pid"
    case $alive in ''|Z|X) ;; *)
        [ "$start" = "${rest%%:*}" ] && echo "$me overlaps $one" >> "$HOME_DIR/violations" ;;
    esac
done
"#;

/// One in a hundred stays long enough to outlive a killed daemon and to meet what the next one starts.
const STAY: &str = r#"
case $ACTIOND_ID in *37)
    echo "$me" >> "$HOME_DIR/stayed"
    sleep 2
;; esac
"#;

const END: &str = "echo \"end $me\" >> \"$log\"\n";

#[test]
fn two_actions_on_one_resource_never_overlap_whatever_is_killed() {
    never_overlap("", 10_000, 20);
}

#[test]
fn two_actions_that_are_started_directly_never_overlap_either() {
    never_overlap("adopt = false", 5_000, 10);
}

fn never_overlap(settings: &str, count: usize, kills: usize) {
    let home = Home::new();
    let witness = home.script("witness", &format!("{WITNESS}{STAY}{END}"));
    let queue = "[[queue]]\nname = \"default\"\nconcurrency = 16\nlength_max = 20000\n";
    let settings = format!("recovery = \"rerun\"\nexclusive = true\n{settings}");
    let handler = exec("restart", &witness, &settings);
    let home = home.configure(SMALL_STORE, &format!("{queue}{handler}"));
    let mut random = fastrand::Rng::with_seed(7);
    let lines: Vec<String> = (0..count)
        .map(|number| {
            with(spec("restart", random.u64(1..=100)), "idempotency_key", format!("n{number}")).to_string()
        })
        .collect();
    let run = run_with_kills(&home, &lines, kills, 10, 11);

    assert_eq!(home.lines("violations"), [""; 0]);
    assert_eq!(run.kills.hits(), kills, "a kill that hits nothing shows nothing: {:?}", run.kills);
    let outlived = home.lines("stayed").len();
    println!("{outlived} programs stayed for a while, so as to outlive a killed daemon");
    assert!(run.kills.of_running >= kills * 3 / 4, "too few kills hit a running program: {:?}", run.kills);
    let all = run.all;
    assert_eq!(all.len(), count);
    let interrupted = all.iter().filter(|action| action["attempt"].as_u64() > Some(1)).count();
    assert!(interrupted > 0, "no kill hit a running action: the test shows nothing");
    for action in &all {
        assert_eq!(state(action), "succeeded", "{action}");
    }
    for resource in 1..=100 {
        let mut order: Vec<u64> = home
            .lines(&format!("log.{resource}"))
            .iter()
            .filter_map(|line| line.strip_prefix("begin ")?.split(' ').nth(2)?.parse().ok())
            .collect();
        order.dedup();
        let accepted: Vec<u64> = all
            .iter()
            .filter(|action| action["resource_id"] == resource)
            .map(|action| action["id"].as_u64().expect("an id"))
            .collect();
        assert_eq!(
            order, accepted,
            "resource {resource}: begun in order of acceptance, each before the next"
        );
    }
}

#[test]
fn witness_of_overlap_sees_two_at_once() {
    let home = Home::new();
    let witness =
        home.script("witness", &format!("{WITNESS}echo > \"$HOME_DIR/here.$ACTIOND_ID\"\nread -r forever\n"));
    let start = |id: &str| {
        let mut child = Command::new(&witness)
            .env("ACTIOND_ID", id)
            .env("ACTIOND_ATTEMPT", "1")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a witness");
        let action = json!({"id": 1, "resource_id": 5, "user": "x"}).to_string() + "\n";
        std::io::Write::write_all(child.stdin.as_mut().expect("stdin"), action.as_bytes())
            .expect("its action");
        until("the witness", || home.path(&format!("here.{id}")).exists().then_some(()));
        child
    };
    let mut first = start("1");
    let mut second = start("2");
    assert_eq!(home.lines("violations").len(), 1);
    first.kill().expect("killed");
    // The kernel ends it in its own time; nobody waits for it, so that it stays a zombie.
    let facts = format!("/proc/{}/stat", first.id());
    until("the zombie", || {
        std::fs::read_to_string(&facts).is_ok_and(|facts| facts.contains(") Z ")).then_some(())
    });
    let mut third = start("3");
    assert_eq!(
        home.lines("violations").len(),
        2,
        "a killed one, be it a zombie, does not overlap; the second does"
    );
    for child in [&mut first, &mut second, &mut third] {
        let _ = child.kill();
        let _ = child.wait();
    }
}
