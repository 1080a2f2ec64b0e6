//! The table on a real sled in a real directory.

use super::*;

fn parts(id: u64, len: usize) -> (Vec<u8>, Vec<u8>) {
    let body = (0..len).map(|at| ((at as u64 * 31 + id) % 256).try_into().unwrap_or(0)).collect();
    (body, format!("status of {id}").into_bytes())
}

fn open() -> (tempfile::TempDir, Table) {
    let dir = tempfile::tempdir().unwrap();
    let table = Table::open(&dir.path().join("table"), 8 << 20).unwrap();
    (dir, table)
}

fn add(table: &Table, ids: std::ops::Range<u64>, len: usize) {
    let mut writer = table.writer();
    for id in ids {
        let (body, status) = parts(id, len);
        writer.add(id, &body, &status).unwrap();
    }
    writer.finish().unwrap();
}

fn all(table: &Table) -> Vec<u64> {
    let mut packs = table.packs(0).unwrap();
    let mut ids = Vec::new();
    while let Some(actions) = packs.next().unwrap() {
        ids.extend(actions.iter().map(|stored| stored.id));
    }
    ids
}

#[test]
fn small_and_large_bodies_come_back_and_no_value_is_above_its_bound() {
    let (_dir, table) = open();
    add(&table, 1..100, 300);
    add(&table, 100..110, 9_000);
    add(&table, 110..120, 0);
    for id in 1..120 {
        let len = if id < 100 {
            300
        } else if id < 110 {
            9_000
        } else {
            0
        };
        let (body, status) = parts(id, len);
        assert_eq!(table.get(id).unwrap(), Some(Stored { id, body, status }));
    }
    assert_eq!(table.get(0).unwrap(), None);
    assert_eq!(table.get(120).unwrap(), None);
    assert_eq!(all(&table), (1..120).collect::<Vec<_>>());
    for found in table.tree.iter() {
        assert!(found.unwrap().1.len() <= VALUE_BYTES_MAX);
    }
    assert!(table.tree.len() < 99 / 5 + 10 * 6 + 10, "bodies are packed: {}", table.tree.len());
}

#[test]
fn later_status_wins_and_its_chunks_go_when_it_shrinks() {
    let (_dir, table) = open();
    add(&table, 1..30, 100);
    let before = table.tree.len();
    for (status, keys) in [(vec![1; 7_000], 4), (vec![2; 10], 1), (vec![3; 5_000], 3)] {
        let mut writer = table.writer();
        writer.restate(7, &status).unwrap();
        writer.finish().unwrap();
        assert_eq!(table.get(7).unwrap().unwrap().status, status);
        assert_eq!(table.tree.len(), before + keys);
        let mut packs = table.packs(7).unwrap();
        let found = packs.next().unwrap().unwrap().into_iter().find(|stored| stored.id == 7);
        assert_eq!(found.unwrap().status, status);
    }
}

#[test]
fn deleted_actions_leave_nothing_behind() {
    let (_dir, table) = open();
    add(&table, 1..50, 200);
    add(&table, 50..52, 9_000);
    let mut writer = table.writer();
    writer.restate(3, &[9; 4_000]).unwrap();
    writer.finish().unwrap();
    let mut writer = table.writer();
    writer.delete(&[1, 3, 20, 21, 50, 77]).unwrap();
    writer.finish().unwrap();
    let left: Vec<u64> = (1..52).filter(|id| ![1, 3, 20, 21, 50].contains(id)).collect();
    assert_eq!(all(&table), left);
    assert_eq!(table.get(2).unwrap().map(|stored| stored.id), Some(2), "its pack lost its first action");
    let mut writer = table.writer();
    writer.delete(&left).unwrap();
    writer.finish().unwrap();
    assert_eq!(table.tree.len(), 0);
}

#[test]
fn walking_back_visits_each_pack_with_its_newest_statuses() {
    let (_dir, table) = open();
    add(&table, 1..40, 300);
    let mut writer = table.writer();
    writer.restate(11, b"newer").unwrap();
    writer.finish().unwrap();
    let (mut before, mut ids) = (35, Vec::new());
    loop {
        let pack = table.pack_before(before).unwrap();
        let Some(first) = pack.first() else { break };
        before = first.id;
        for stored in pack.iter().rev() {
            ids.push(stored.id);
            assert_eq!(stored.id == 11, stored.status == b"newer");
        }
    }
    assert_eq!(ids, (1..35).rev().collect::<Vec<_>>());
}

#[test]
fn what_an_unfinished_checkpoint_added_is_forgotten() {
    let (_dir, table) = open();
    add(&table, 1..10, 100);
    add(&table, 10..60, 700);
    add(&table, 60..62, 9_000);
    table.forget_from(10).unwrap();
    assert_eq!(all(&table), (1..10).collect::<Vec<_>>());
    assert!(table.tree.len() < 3);
    add(&table, 10..40, 50);
    assert_eq!(all(&table), (1..40).collect::<Vec<_>>());
}

#[test]
fn damaged_value_is_an_error_and_never_an_action() {
    let (_dir, table) = open();
    add(&table, 1..2, 5_000);
    let keys: Vec<_> = table.tree.iter().keys().map(Result::unwrap).collect();
    for key in keys {
        let good = table.tree.get(&key).unwrap().unwrap();
        for at in [0, 4, 5, good.len() / 2, good.len() - 1] {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            table.tree.insert(&key, bad).unwrap();
            assert!(table.get(1).is_err(), "byte {at} of {key:?}");
        }
        table.tree.insert(&key, good).unwrap();
        assert!(table.get(1).is_ok());
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
    add(&table, 1..100, 100);
    table.close().unwrap();
    let path = dir.path().join("table");
    let table = Table::open(&path, 8 << 20).unwrap();
    assert_eq!(all(&table).len(), 99);
    table.close().unwrap();
    let db = path.join("db");
    let mut bytes = std::fs::read(&db).unwrap();
    bytes.iter_mut().step_by(7).for_each(|byte| *byte ^= 0xA5);
    std::fs::write(&db, bytes).unwrap();
    let readable = Table::open(&path, 8 << 20).is_ok_and(|table| {
        table.packs(0).is_ok_and(|mut packs| packs.next().is_ok_and(|first| first.is_some()))
    });
    assert!(!readable);
}
