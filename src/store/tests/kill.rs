//! A real process killed at each crash point, and the store it leaves.
//!
//! The child is this test program itself, running [`child`]; it tells each commit on its standard output.
//! Only with the feature `crash-points`.
#![cfg(feature = "crash-points")]

use std::process::{Command, Stdio};

use super::*;

const POINTS: [&str; 34] = [
    "create_journal",
    "create_identity",
    "open_running",
    "open_running_left",
    "open_started",
    "journal_write:7",
    "journal_segment",
    "journal_unsynced:9",
    "journal_synced:8",
    "checkpoint_begin:2",
    "checkpoint_batch",
    "checkpoint_batch:3",
    "checkpoint_batch:4",
    "checkpoint_batch:5",
    "bodies_block:3",
    "bodies_block:40",
    "bodies_file",
    "bodies_synced",
    "bodies_synced:4",
    "bodies_removed:2",
    "checkpoint_meta:2",
    "checkpoint_meta:4",
    "checkpoint_flush:2",
    "checkpoint_flush:3",
    "checkpoint_flushed",
    "checkpoint_flushed:3",
    "snapshot_begun",
    "snapshot_slice:2",
    "snapshot_sync",
    "snapshot_rename:2",
    "snapshot_renamed",
    "snapshot_renamed:2",
    "journal_release:2",
    "close_clean",
];

fn bench_in(dir: &Path) -> Options {
    let mut options = Bench::new().options;
    options.dir = dir.join("store");
    options.memory_bytes_max = 400 << 10;
    options.snapshot_after_bytes = 100 << 10;
    if std::env::var_os("ACTIOND_TEST_GROW").is_some() || std::env::var_os("ACTIOND_TEST_CHURN").is_some() {
        options.retention_count = 0;
    }
    if std::env::var_os("ACTIOND_TEST_CHURN").is_some() {
        options.segment_bytes = 128 << 10;
    }
    options
}

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var("ACTIOND_TEST_DIR") else { return };
    let options = bench_in(Path::new(&dir));
    let mut loaded = Loaded::default();
    let mut opened = Store::open(&options, Timestamp(1_000), &mut loaded).unwrap();
    let mut running = loaded.actions(&opened).unwrap();
    if std::env::var_os("ACTIOND_TEST_GROW").is_some() {
        return grow(opened, running);
    }
    if std::env::var_os("ACTIOND_TEST_CHURN").is_some() {
        return live_and_die(opened, running);
    }
    for _ in 0..200 {
        for _ in 0..10 {
            let id = opened.store.ledger.next_id;
            running.push(submit(&mut opened.store, id, 500));
        }
        for action in running.iter_mut().rev().skip(7).step_by(11).take(5) {
            if action.status.state == State::Queued {
                change(&mut opened.store, action, Event::Claim);
            }
        }
        opened.store.commit().unwrap();
        let claimed = running.iter().filter(|action| action.status.state == State::Running).count();
        println!("committed {} {claimed}", running.len());
        // As many checkpoints as there are changes for.
        until(&mut opened, |opened| opened.store.shared.memory().frozen.is_none());
    }
    opened.store.close().unwrap();
    println!("closed");
}

/// Leaves most of sled's file dead, then works until a new one has taken its place.
fn grow(mut opened: Opened, mut waiting: Vec<Action>) {
    let submit_some = |opened: &mut Opened, waiting: &mut Vec<Action>, count| {
        for _ in 0..count {
            let id = opened.store.ledger.next_id;
            waiting.push(submit(&mut opened.store, id, 100));
        }
        opened.store.commit().unwrap();
        until(opened, |opened| opened.store.pressure() == Pressure::None);
    };
    if waiting.is_empty() {
        for _ in 0..100 {
            submit_some(&mut opened, &mut waiting, 100);
        }
        checkpoint(&mut opened);
        println!("committed {} 0", waiting.iter().filter(|action| action.id.0 % 100 == 0).count());
        let mut gone: Vec<_> = waiting.iter_mut().filter(|action| action.id.0 % 100 != 0).collect();
        churn(&mut opened, &mut gone);
        waiting.retain(|action| action.id.0 % 100 == 0);
        println!("committed {} 0", waiting.len());
        snapshot(&mut opened);
    }
    let rebuilds = opened.reader.health().rebuilds;
    while opened.reader.health().rebuilds == rebuilds {
        opened.store.checkpoint_now = true;
        submit_some(&mut opened, &mut waiting, 20);
        println!("committed {} 0", waiting.len());
    }
    opened.store.close().unwrap();
}

/// Has nine of ten actions end and be deleted, so that body files are written anew and removed.
fn live_and_die(mut opened: Opened, mut waiting: Vec<Action>) {
    for _ in 0..60 {
        let mut round: Vec<_> = (0..100)
            .map(|_| {
                let id = opened.store.ledger.next_id;
                submit(&mut opened.store, id, 500)
            })
            .collect();
        checkpoint(&mut opened);
        for action in round.iter_mut().filter(|action| action.id.0 % 10 != 0) {
            change(&mut opened.store, action, Event::Expire);
        }
        waiting.extend(round.into_iter().filter(|action| action.id.0 % 10 == 0));
        opened.store.commit().unwrap();
        while !opened.store.expire(Timestamp(3_000), 50).unwrap().is_empty() {
            opened.store.commit().unwrap();
        }
        println!("committed {} 0", waiting.len());
        checkpoint(&mut opened);
    }
    opened.store.close().unwrap();
}

fn run_child(dir: &Path, point: &str) -> (usize, usize, bool) {
    run_child_with(dir, point, &[])
}

fn run_child_with(dir: &Path, point: &str, environment: &[(&str, &str)]) -> (usize, usize, bool) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "store::tests::kill::child"])
        .env("ACTIOND_TEST_DIR", dir)
        .env("ACTIOND_CRASH_AT", point)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let last = told.lines().rev().find_map(|line| line.strip_prefix("committed "));
    let mut counts = last.unwrap_or("0 0").split(' ').map(|count| count.parse().unwrap());
    (counts.next().unwrap(), counts.next().unwrap(), output.status.success())
}

#[test]
fn nothing_committed_is_lost_by_a_kill_at_any_point() {
    for point in POINTS {
        let dir = tempfile::tempdir().unwrap();
        let (committed, claimed, ended) = run_child(dir.path(), point);
        assert!(!ended, "{point} was never passed");
        let mut loaded = Loaded::default();
        let opened = Store::open(&bench_in(dir.path()), Timestamp(1_000), &mut loaded).unwrap();
        let loaded = loaded.actions(&opened).unwrap();
        let health = opened.reader.health();
        // The first checkpoint begins with nothing that could be trusted.
        let first = ["checkpoint_batch", "bodies_block:3", "bodies_file", "bodies_synced"];
        let expected = u64::from(first.contains(&point));
        assert_eq!(health.rebuilds, expected, "{point}: {:?}", health.last_rebuild_reason);
        assert!(loaded.len() >= committed, "{point}: {} of {committed}", loaded.len());
        let running = loaded.iter().filter(|action| action.status.state == State::Running).count();
        assert!(running >= claimed, "{point}: {running} of {claimed} claims");
        assert_eq!(everything(&opened.reader), loaded);
        drop(opened);
        let (_, _, ended) = run_child(dir.path(), "nowhere");
        assert!(ended, "{point}: it does not go on");
    }
}

#[test]
fn nothing_is_lost_by_a_kill_in_the_middle_of_a_rebuild() {
    let points = ["rebuild_gathered", "rebuild_begun", "rebuild_keys", "rebuild_actions:2", "rebuild_filled"];
    for point in
        points.into_iter().chain(["rebuilt", "checkpoint_begin", "checkpoint_batch", "checkpoint_meta"])
    {
        let dir = tempfile::tempdir().unwrap();
        let (before, _, ended) = run_child(dir.path(), "nowhere");
        assert!(ended);
        std::fs::remove_dir_all(dir.path().join("store/table")).unwrap();
        let (committed, claimed, ended) = run_child(dir.path(), point);
        assert!(!ended, "{point} was never passed");
        let mut loaded = Loaded::default();
        let mut opened = Store::open(&bench_in(dir.path()), Timestamp(1_000), &mut loaded).unwrap();
        let loaded = loaded.actions(&opened).unwrap();
        assert!(loaded.len() >= committed.max(before), "{point}");
        let running = loaded.iter().filter(|action| action.status.state == State::Running).count();
        assert!(running >= claimed, "{point}: {running} of {claimed} claims");
        assert_eq!(opened.reader.health().rebuilds, 1, "{point}: it begins again");
        assert_eq!(everything(&opened.reader), loaded);
        until(&mut opened, is_rebuilt);
        assert_eq!(everything(&opened.reader), loaded, "{point}");
    }
}

#[test]
fn nothing_is_lost_by_a_kill_while_a_grown_table_is_made_anew() {
    for point in ["refill_begun", "refill_slice", "refill_whole", "refill_named", "refill_closed"] {
        let dir = tempfile::tempdir().unwrap();
        let (committed, _, ended) = run_child_with(dir.path(), point, &[("ACTIOND_TEST_GROW", "1")]);
        assert!(!ended, "{point} was never passed");
        assert!(committed > 0, "{point}");
        let mut loaded = Loaded::default();
        let opened = Store::open(&bench_in(dir.path()), Timestamp(1_000), &mut loaded).unwrap();
        let loaded = loaded.actions(&opened).unwrap();
        assert!(loaded.len() >= committed, "{point}: {} of {committed}", loaded.len());
        assert_eq!(unfinished(&everything(&opened.reader)), loaded, "{point}");
        assert_eq!(opened.reader.health().rebuilds, 0, "{point}: {:?}", opened.reader.health());
    }
}

#[test]
fn nothing_is_lost_by_a_kill_while_body_files_are_written_anew() {
    let points = ["reclaim_written", "reclaim_named", "reclaim_forgotten", "bodies_removed"];
    for point in points.into_iter().flat_map(|point| [point.to_owned(), format!("{point}:4")]) {
        let dir = tempfile::tempdir().unwrap();
        let churn = [("ACTIOND_TEST_CHURN", "1")];
        let (committed, _, ended) = run_child_with(dir.path(), &point, &churn);
        assert!(!ended, "{point} was never passed");
        let mut options = bench_in(dir.path());
        options.segment_bytes = 128 << 10;
        for boot in [1, 2] {
            let mut loaded = Loaded::default();
            let opened = Store::open(&options, Timestamp(1_000), &mut loaded).unwrap();
            let loaded = loaded.actions(&opened).unwrap();
            let kept = loaded.iter().filter(|action| action.id.0 % 10 == 0).count();
            assert!(kept >= committed, "{point} start {boot}: {kept} of {committed}");
            assert_eq!(unfinished(&everything(&opened.reader)), loaded, "{point}");
            assert_eq!(opened.reader.health().rebuilds, boot - 1, "{point}");
            drop(opened);
            // The second start must do without sled.
            std::fs::write(options.dir.join("storage-error"), "EIO").unwrap();
        }
        std::fs::remove_file(options.dir.join("storage-error")).unwrap();
        let (_, _, ended) = run_child_with(dir.path(), "nowhere", &churn);
        assert!(ended, "{point}: it does not go on");
    }
}

#[test]
fn statuses_that_a_killed_reclaim_left_behind_spoil_no_snapshot() {
    for point in ["reclaim_named", "reclaim_named:4"] {
        let dir = tempfile::tempdir().unwrap();
        let (committed, _, ended) = run_child_with(dir.path(), point, &[("ACTIOND_TEST_CHURN", "1")]);
        assert!(!ended, "{point} was never passed");
        let mut options = bench_in(dir.path());
        options.segment_bytes = 128 << 10;
        let mut loaded = Loaded::default();
        let mut opened = Store::open(&options, Timestamp(1_000), &mut loaded).unwrap();
        let loaded = loaded.actions(&opened).unwrap();
        assert!(loaded.iter().filter(|action| action.id.0 % 10 == 0).count() >= committed, "{point}");
        snapshot(&mut opened);
        assert_eq!(unfinished(&everything(&opened.reader)), loaded, "{point}");
        assert_eq!(opened.reader.health().rebuilds, 0, "{point}");
    }
}
