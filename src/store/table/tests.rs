//! The table on a real sled in a real directory.

use super::*;
use crate::action::{State, Status};
use crate::store::record::{encode_status, version_hash};

fn open() -> (tempfile::TempDir, Table) {
    let dir = tempfile::tempdir().unwrap();
    let table = Table::open(&dir.path().join("table"), 8 << 20).unwrap();
    (dir, table)
}

fn status(id: u64, len: usize) -> Vec<u8> {
    let reason = "y".repeat(len);
    encode_status(&Status { reason, version: id + 1, ..Status::accepted(State::Queued, None) })
}

fn restate(table: &Table, ids: impl IntoIterator<Item = u64>, len: usize) {
    let mut writer = table.writer();
    for id in ids {
        writer.restate(id, 1, &status(id, len)).unwrap();
    }
    writer.finish().unwrap();
}

fn all(table: &Table) -> Vec<u64> {
    let (mut ids, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let (found, behind) = table.laters_from(from, 3, usize::MAX).unwrap();
        ids.extend(found.iter().map(|later| later.id));
        next = behind;
    }
    ids
}

#[test]
fn sixteen_neighbours_share_a_key_and_large_ones_are_cut() {
    let (_dir, table) = open();
    restate(&table, 1..160, 10);
    assert_eq!(all(&table), (1..160).collect::<Vec<_>>());
    assert_eq!(table.tree.len(), 10);
    restate(&table, 200..210, 9_000);
    for found in table.tree.iter() {
        assert!(found.unwrap().1.len() <= VALUE_BYTES_MAX);
    }
    for id in 1..210 {
        let len = if id < 160 { 10 } else { 9_000 };
        let expected = Later { id, written: 1, status: status(id, len) };
        let expected = Some(expected).filter(|_| !(160..200).contains(&id));
        assert_eq!(table.later(id).unwrap(), expected);
    }
    let ids = |first, last| -> Vec<u64> {
        table.laters(first, last).unwrap().iter().map(|later| later.id).collect()
    };
    assert_eq!(ids(150, 203), (150..160).chain(200..204).collect::<Vec<_>>());
    assert!(ids(160, 199).is_empty());
}

#[test]
fn later_status_wins_and_its_chunks_go_when_it_shrinks() {
    let (_dir, table) = open();
    restate(&table, [3, 9], 10);
    for (len, keys) in [(7_000, 4), (10, 1), (5_000, 3)] {
        restate(&table, [7], len);
        assert_eq!(table.later(7).unwrap().unwrap().status, status(7, len));
        assert_eq!(table.tree.len(), keys);
        assert_eq!(all(&table), [3, 7, 9]);
    }
    let mut writer = table.writer();
    let before = writer.restate(7, 1, &[]).unwrap();
    assert_eq!(before.map(|later| later.status), Some(status(7, 5_000)));
    assert!(writer.restate(7, 1, &[]).unwrap().is_some_and(|later| later.is_deleted()));
    writer.finish().unwrap();
    assert!(table.later(7).unwrap().unwrap().is_deleted());
}

#[test]
fn forgotten_statuses_leave_nothing_behind_and_their_neighbours_stay() {
    let (_dir, table) = open();
    restate(&table, 1..100, 3_000);
    let mut writer = table.writer();
    writer.forget(5, 90).unwrap();
    writer.finish().unwrap();
    assert_eq!(all(&table), (1..5).chain(91..100).collect::<Vec<_>>());
    let mut writer = table.writer();
    writer.forget(1, 200).unwrap();
    writer.finish().unwrap();
    assert_eq!(table.tree.len(), 0);
}

#[test]
fn statuses_are_handed_over_by_their_bytes_however_few_clusters_that_are() {
    let (_dir, table) = open();
    restate(&table, 0..128, 9_000);
    let (mut next, mut ids, mut parts) = (Some(0), Vec::new(), 0);
    while let Some(from) = next {
        let (found, behind) = table.laters_from(from, 1_000, 200_000).unwrap();
        assert!(found.len() <= 32, "{} statuses of 9,000 bytes at once", found.len());
        ids.extend(found.iter().map(|later| later.id));
        (next, parts) = (behind, parts + 1);
    }
    assert_eq!((ids, parts), ((0..128).collect(), 5));
}

#[test]
fn balance_turns_what_is_written_into_what_is_there() {
    let (_dir, table) = open();
    restate(&table, [4], 0);
    let mut balance = later::Balance::default();
    balance.add(table.later(4).unwrap().unwrap().balance().unwrap());
    let digest = version_hash(4, 1).wrapping_add(balance.digest);
    assert_eq!((balance.deleted, digest), (0, version_hash(4, 5)));
    balance.take(later::Balance::of(4, 1, &status(4, 0)).unwrap());
    balance.add(later::Balance::of(4, 1, &[]).unwrap());
    assert_eq!((balance.deleted, version_hash(4, 1).wrapping_add(balance.digest)), (1, 0));
}

#[test]
fn damaged_value_is_an_error_and_never_a_status() {
    let (_dir, table) = open();
    restate(&table, [1], 5_000);
    let keys: Vec<_> = table.tree.iter().keys().map(Result::unwrap).collect();
    for key in keys {
        let good = table.tree.get(&key).unwrap().unwrap();
        for at in [0, 4, 5, good.len() / 2, good.len() - 1] {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            table.tree.insert(&key, bad).unwrap();
            assert!(table.later(1).is_err(), "byte {at} of {key:?}");
        }
        table.tree.insert(&key, good).unwrap();
        assert!(table.later(1).is_ok());
    }
}

#[test]
fn keys_are_found_listed_and_forgotten() {
    let (_dir, table) = open();
    let used = |id: u8| StoredKeyUse { id: id.into(), digest: [id; 16], accepted_at: id.into() };
    let mut writer = table.writer();
    for id in 1..20 {
        writer.put_key(&key_hash(1000, &format!("key {id}")), &used(id)).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(table.key_use(&key_hash(1000, "key 7")).unwrap(), Some(used(7)));
    assert_eq!(table.key_use(&key_hash(1001, "key 7")).unwrap(), None, "keys are per uid");
    let listed = table.key_uses(&[0; 20], 100).unwrap();
    assert_eq!(listed.len(), 19);
    let mut writer = table.writer();
    writer.forget_key(&listed[3].0).unwrap();
    writer.finish().unwrap();
    assert_eq!(table.key_use(&listed[3].0).unwrap(), None);
}

#[test]
fn table_is_there_after_closing_and_gone_sled_files_are_an_error_not_a_panic() {
    let (dir, table) = open();
    restate(&table, 1..100, 100);
    table.close().unwrap();
    let path = dir.path().join("table");
    let table = Table::open(&path, 8 << 20).unwrap();
    assert_eq!(all(&table).len(), 99);
    table.close().unwrap();
    let db = path.join("db");
    let mut bytes = std::fs::read(&db).unwrap();
    bytes.iter_mut().step_by(7).for_each(|byte| *byte ^= 0xA5);
    std::fs::write(&db, bytes).unwrap();
    let readable = Table::open(&path, 8 << 20)
        .is_ok_and(|table| table.laters_from(0, 10, 1 << 20).is_ok_and(|(first, _)| !first.is_empty()));
    assert!(!readable);
}
