//! Damage done to the store's files while the daemon is down.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::daemon::{Start, code};
use crate::common::home::{NOOP, SMALL_STORE};
use crate::common::sender::stream;
use crate::common::{Daemon, Home, spec, until, with};

/// Files in a directory and below, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn submit_many(home: &Home, count: u64) {
    let padding = "p".repeat(600);
    let lines: Vec<String> = (0..count)
        .map(|number| {
            with(spec("restart", number), "metadata", serde_json::json!({"padding": padding})).to_string()
        })
        .collect();
    let mut answered = 0;
    stream(home, &lines, |answer| {
        assert_eq!(answer["status"], 202);
        answered += 1;
        true
    });
    assert_eq!(answered, count);
}

/// A stopped store with finished and waiting actions that went through checkpoints, and what it held.
fn filled(home: &Home, clean: bool) -> Vec<Value> {
    let daemon = Daemon::start(home);
    submit_many(home, 2_000);
    for id in 1..=2_000 {
        daemon.finished(id);
    }
    daemon.pause_queue("default", true);
    submit_many(home, 500);
    until("a checkpoint", || {
        (daemon.get("/v1/status")["store"]["checkpoints"].as_u64() > Some(0)).then_some(())
    });
    let all = daemon.all_actions();
    assert_eq!(all.len(), 2_500);
    if clean {
        assert_eq!(code(daemon.stop()), 0);
    } else {
        daemon.kill9();
    }
    all
}

/// Damages sled's directory by `damage`, starts, and demands that nothing is lost and that it is said.
fn sled_is_rebuilt_after(clean: bool, damage: impl Fn(&Path)) {
    let home = Home::new().configure(SMALL_STORE, NOOP);
    let before = filled(&home, clean);
    let table = home.store().join("table");
    assert!(!files(&table).is_empty(), "sled's directory is {}", table.display());
    damage(&table);
    let said = home.log().len();
    let daemon = Daemon::start(&home);
    // Old finished actions may answer 503 for a while; /readyz says for how long.
    until("the rebuild", || {
        let status = daemon.get("/v1/status");
        (status["store"]["rebuilding"].is_null()).then_some(status)
    });
    assert_eq!(daemon.all_actions(), before);
    let log = home.log()[said..].to_owned();
    assert!(log.contains("rebuil"), "the log says so: {log}");
    let ready = daemon.status_get("/readyz");
    assert!(ready.status == 200 && ready.text().contains("rebuil"), "{}", ready.text());
    let daemon = daemon.crash();
    assert_eq!(daemon.all_actions(), before, "also after another start");
    daemon.pause_queue("default", false);
    daemon.assert_healthy(&spec("restart", 1), "the rebuild");
}

#[test]
fn deleted_sled_directory_is_rebuilt_and_nothing_is_lost() {
    sled_is_rebuilt_after(true, |table| fs::remove_dir_all(table).unwrap());
}

#[test]
fn truncated_sled_file_is_rebuilt_and_nothing_is_lost() {
    sled_is_rebuilt_after(true, |table| {
        for file in files(table) {
            let length = fs::metadata(&file).unwrap().len();
            OpenOptions::new().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
        }
    });
}

#[test]
fn overwritten_sled_file_is_rebuilt_and_nothing_is_lost() {
    sled_is_rebuilt_after(false, |table| {
        for file in files(table) {
            let length = fs::metadata(&file).unwrap().len();
            fs::write(&file, vec![0xA5; usize::try_from(length).unwrap()]).unwrap();
        }
    });
}

#[test]
fn sled_with_a_few_wrong_bytes_is_rebuilt_and_nothing_is_lost() {
    sled_is_rebuilt_after(false, |table| {
        let mut random = fastrand::Rng::with_seed(3);
        for file in files(table) {
            let length = fs::metadata(&file).unwrap().len();
            let opened = OpenOptions::new().read(true).write(true).open(&file).unwrap();
            for _ in 0..(length / 512).max(1) {
                let at = random.u64(0..length.max(1));
                opened.write_at(&[random.u8(..)], at).unwrap();
            }
        }
    });
}

#[test]
fn flipped_bit_in_the_middle_of_the_journal_stops_the_start_and_names_place_and_next_step() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    for number in 0..50 {
        daemon.accepted(&spec("restart", number));
    }
    for id in 1..=50 {
        daemon.finished(id);
    }
    daemon.kill9();
    let journal = home.store().join("journal");
    // The first segment that holds an action, at the first of them: many synced groups follow.
    let needle = b"john@example.com";
    let (segment, at) = files(&journal)
        .into_iter()
        .filter(|file| file.extension().is_some_and(|kind| kind == "seg"))
        .find_map(|file| {
            let bytes = fs::read(&file).unwrap();
            bytes.windows(needle.len()).position(|window| window == needle).map(|at| (file, at))
        })
        .expect("a segment with an action in it");
    let opened = OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    opened.read_exact_at(&mut byte, at as u64).unwrap();
    opened.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
    let before: Vec<(PathBuf, Vec<u8>)> =
        files(&journal).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();

    let said = home.log().len();
    let status = Daemon::start_as(&home, &Start::default()).err().expect("a start on a damaged journal");
    let log = home.log()[said..].to_owned();
    assert_eq!(code(status), 65, "{log}");
    assert!(log.contains(segment.file_name().unwrap().to_str().unwrap()), "names the file: {log}");
    let offset = log
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse::<usize>().ok())
        .any(|number| number > 0 && number <= at && at - number < 65_536);
    assert!(offset, "names the offset of the group that holds byte {at}: {log}");
    assert!(log.contains("next"), "names the next step: {log}");
    let after: Vec<(PathBuf, Vec<u8>)> =
        files(&journal).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
    assert!(before == after, "a refused start changes nothing");

    opened.write_all_at(&byte, at as u64).unwrap();
    let daemon = Daemon::start(&home);
    assert_eq!(daemon.all_actions().len(), 50, "with the bit flipped back all is there");
}

#[test]
fn torn_tail_of_the_journal_is_dropped_and_the_rest_is_there() {
    let home = Home::new().with_tables(NOOP);
    let daemon = Daemon::start(&home);
    daemon.pause_queue("default", true);
    let ids: Vec<u64> = (0..20).map(|number| daemon.accepted(&spec("restart", number))).collect();
    daemon.kill9();
    let needle = b"john@example.com";
    let mut last = None;
    for file in files(&home.store().join("journal")) {
        let bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(needle.len()).rposition(|window| window == needle) {
            last = Some((file, at));
        }
    }
    let (segment, at) = last.expect("the last action");
    // As a cut while the last group was written: its end never reached the disk.
    OpenOptions::new().write(true).open(segment).unwrap().write_all_at(&[0; 64], at as u64).unwrap();
    let daemon = Daemon::start(&home);
    let found: Vec<u64> = daemon.all_actions().iter().map(|action| action["id"].as_u64().unwrap()).collect();
    assert_eq!(found, ids[..19]);
    assert_eq!(daemon.accepted(&spec("restart", 99)), 20, "an id that was never acknowledged is free");
}

#[test]
fn missing_journal_beside_a_full_table_is_not_an_empty_start() {
    let home = Home::new().configure(SMALL_STORE, NOOP);
    filled(&home, true);
    fs::remove_dir_all(home.store().join("journal")).unwrap();
    let status = Daemon::start_as(&home, &Start::default()).err().expect("an empty start");
    assert_eq!(code(status), 65);
}
