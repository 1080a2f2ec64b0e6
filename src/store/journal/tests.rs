//! The journal on a real and on a simulated disk. `damage` has what is refused, `power` what a power cut or a
//! failing operation may do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{BLOCK, segment_path};
use super::*;
use crate::store::disk::RealDisk;
use crate::store::disk::simulated::SimulatedDisk;

mod damage;
mod power;

/// 15 blocks for groups.
const SEGMENT: u64 = 65536;

fn dir() -> PathBuf {
    PathBuf::from("/store/journal")
}

fn disk() -> SimulatedDisk {
    SimulatedDisk::with_dir(Path::new("/store"))
}

fn create(disk: &SimulatedDisk) -> Result<Journal, StoreError> {
    Journal::create(Arc::new(disk.clone()), dir(), SEGMENT)
}

/// A record replayed: its group and what it says.
type Seen = (u64, Vec<u8>);

fn open_after(disk: &SimulatedDisk, after: u64) -> Result<(Journal, Vec<Seen>), StoreError> {
    let mut seen = Vec::new();
    let mut places = Vec::new();
    let journal = Journal::open(Arc::new(disk.clone()), dir(), SEGMENT, GroupNumber(after), &mut |record| {
        seen.push((record.group.0, record.bytes.to_vec()));
        places.push(record.place);
        Ok(())
    })?;
    let reader = journal.reader();
    for (place, (_, bytes)) in places.iter().zip(&seen) {
        assert_eq!(&reader.read(*place)?, bytes, "a replayed place must be where the record is");
    }
    Ok((journal, seen))
}

fn open(disk: &SimulatedDisk) -> Result<(Journal, Vec<Seen>), StoreError> {
    open_after(disk, 0)
}

fn record(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = format!("record {number} ").into_bytes();
    bytes.resize(len.max(bytes.len()), b'.');
    bytes
}

/// Commits groups `numbers`, one record of `len` bytes each.
fn commit_groups(journal: &mut Journal, numbers: std::ops::RangeInclusive<u64>, len: usize) {
    for number in numbers {
        journal.stage(&record(number, len));
        assert_eq!(journal.commit().unwrap(), GroupNumber(number));
        journal.settle();
    }
}

fn expected(numbers: std::ops::RangeInclusive<u64>, len: usize) -> Vec<Seen> {
    numbers.map(|number| (number, record(number, len))).collect()
}

fn segments(disk: &SimulatedDisk) -> Vec<u64> {
    segment::Names::list(disk, &dir()).unwrap().segments
}

#[test]
fn records_come_back_in_order_over_segments_and_starts() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    commit_groups(&mut journal, 1..=40, 5000);
    assert!(segments(&disk).len() >= 6, "{:?}", segments(&disk));
    drop(journal);
    let (mut journal, seen) = open(&disk).unwrap();
    assert_eq!(seen, expected(1..=40, 5000));
    assert_eq!(journal.last_group(), GroupNumber(40));
    commit_groups(&mut journal, 41..=50, 5000);
    drop(journal);
    let (_, seen) = open_after(&disk, 7).unwrap();
    assert_eq!(seen, expected(8..=50, 5000));
}

#[test]
fn records_come_back_from_the_real_disk() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("journal");
    let mut journal = Journal::create(Arc::new(RealDisk), dir.clone(), SEGMENT).unwrap();
    let mut places = Vec::new();
    let mut covered = GroupNumber(0);
    for number in 1..=60 {
        for part in 0..3 {
            places.push((journal.stage(&record(number * 10 + part, 1500)), number * 10 + part));
        }
        let group = journal.commit().unwrap();
        if number == 30 {
            covered = group;
        }
    }
    let reader = journal.reader();
    for (place, number) in &places {
        assert_eq!(reader.read(*place).unwrap(), record(*number, 1500));
    }
    journal.release(covered).unwrap();
    let last = journal.last_group();
    drop(journal);
    let mut seen = Vec::new();
    let journal = Journal::open(Arc::new(RealDisk), dir, SEGMENT, covered, &mut |record| {
        seen.push(record.bytes.to_vec());
        Ok(())
    });
    assert_eq!(journal.unwrap().last_group(), last);
    let all = (31..=60).flat_map(|number| (0..3).map(move |part| record(number * 10 + part, 1500)));
    assert_eq!(seen, all.collect::<Vec<_>>());
}

#[test]
fn one_commit_may_fill_several_segments_and_places_are_true() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    let places: Vec<_> = (0..100).map(|number| journal.stage(&record(number, 3000))).collect();
    let last = journal.commit().unwrap();
    assert!(last.0 > 4, "{last:?}");
    for (place, number) in places.iter().zip(0..) {
        assert_eq!(journal.reader().read(*place).unwrap(), record(number, 3000));
    }
    assert_eq!(journal.commit().unwrap(), last, "nothing staged, nothing done");
    drop(journal);
    let (_, seen) = open(&disk).unwrap();
    let bytes: Vec<_> = seen.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(bytes, (0..100).map(|number| record(number, 3000)).collect::<Vec<_>>());
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own_size() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    commit_groups(&mut journal, 1..=2, 10);
    let place = journal.stage(&record(3, 300_000));
    journal.stage(&record(4, 10));
    journal.commit().unwrap();
    journal.stage(&record(5, 10));
    journal.commit().unwrap();
    assert_eq!(journal.reader().read(place).unwrap(), record(3, 300_000));
    drop(journal);
    let (_, seen) = open(&disk).unwrap();
    let bytes: Vec<_> = seen.into_iter().map(|(_, bytes)| bytes).collect();
    let lens = [10, 10, 300_000, 10, 10];
    assert_eq!(bytes, (1..=5).zip(lens).map(|(number, len)| record(number, len)).collect::<Vec<_>>());
}

#[test]
fn empty_records_and_an_empty_journal_come_back() {
    let disk = disk();
    drop(create(&disk).unwrap());
    let (mut journal, seen) = open(&disk).unwrap();
    assert!(seen.is_empty());
    let place = journal.stage(b"");
    journal.commit().unwrap();
    assert_eq!(journal.reader().read(place).unwrap(), b"");
    drop(journal);
    let (_, seen) = open(&disk.after_power_cut(0)).unwrap();
    assert_eq!(seen, [(1, Vec::new())]);
}

#[test]
fn released_segments_are_used_again_and_their_old_groups_are_not_replayed() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    // Long groups first, short ones later: behind the short ones the recycled file still holds old ones.
    commit_groups(&mut journal, 1..=40, 5000);
    let before = segments(&disk);
    let place = Place { segment: before[0], offset: 4096 + 64 + 8, len: 5000 };
    assert_eq!(journal.reader().read(place).unwrap(), record(1, 5000));
    assert!(journal.bytes_since(GroupNumber(20)) == 20 * 2 * BLOCK);
    journal.release(GroupNumber(20)).unwrap();
    journal.settle();
    let after = segments(&disk);
    assert!(after.len() < before.len() && after.last() == before.last(), "{before:?} {after:?}");
    let gone = journal.reader().read(place);
    assert!(matches!(&gone, Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound));
    assert!(segment::Names::list(&disk, &dir()).unwrap().spares.len() <= 3);
    journal.stage(&record(41, 22_000));
    journal.commit().unwrap();
    journal.settle();
    commit_groups(&mut journal, 42..=43, 100);
    let newest = disk.contents(&segment_path(&dir(), *segments(&disk).last().unwrap())).unwrap();
    assert!(newest[4096 * 10..].iter().any(|byte| *byte != 0), "this test needs a recycled segment");
    drop(journal);
    let (as_disk, recycled): (Arc<dyn Disk>, u64) =
        (Arc::new(disk.clone()), *segments(&disk).last().unwrap());
    let survey = survey::Survey::take(&as_disk, &dir()).unwrap();
    let found = survey.segments.iter().find(|found| found.segment == recycled).unwrap();
    assert_eq!(found.groups, Some((41, 43)), "groups of the file's earlier use are not counted");
    let (_, seen) = open_after(&disk, 20).unwrap();
    let mut all = expected(21..=40, 5000);
    all.push((41, record(41, 22_000)));
    all.extend(expected(42..=43, 100));
    assert_eq!(seen, all);
}

#[test]
fn many_starts_do_not_leave_many_segments() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    for number in 1..=100 {
        commit_groups(&mut journal, number..=number, 100);
        drop(journal);
        let (next, seen) = open(&disk).unwrap();
        assert_eq!(seen.len() as u64, number);
        journal = next;
    }
    // 100 blocks of groups, a quarter of a segment at least in each.
    assert!(segments(&disk).len() <= 40, "{:?}", segments(&disk));
}

#[test]
fn records_are_read_from_other_threads_while_the_journal_is_written() {
    fn is_sent_to_the_engine<T: Send>(_: &T) {}
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    is_sent_to_the_engine(&journal);
    let place = journal.stage(&record(1, 3000));
    journal.commit().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let reader = journal.reader();
            scope.spawn(move || {
                for _ in 0..200 {
                    match reader.read(place) {
                        Ok(bytes) => assert_eq!(bytes, record(1, 3000)),
                        Err(StoreError::Io { source, .. }) => {
                            assert_eq!(source.kind(), io::ErrorKind::NotFound);
                        }
                        Err(error) => panic!("neither the record nor gone: {error}"),
                    }
                }
            });
        }
        for number in 2..=80 {
            journal.stage(&record(number, 5000));
            let last = journal.commit().unwrap();
            journal.release(GroupNumber(last.0 - 1)).unwrap();
        }
    });
}

#[test]
fn a_journal_with_groups_is_not_created_over() {
    let disk = disk();
    drop(create(&disk).unwrap());
    let mut journal = create(&disk).unwrap();
    commit_groups(&mut journal, 1..=1, 10);
    drop(journal);
    assert!(matches!(create(&disk), Err(StoreError::Io { .. })));
    assert_eq!(open(&disk).unwrap().1, expected(1..=1, 10));
}

#[test]
fn an_error_of_the_replay_ends_the_opening() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    commit_groups(&mut journal, 1..=3, 10);
    drop(journal);
    let opened = Journal::open(Arc::new(disk.clone()), dir(), SEGMENT, GroupNumber(0), &mut |record| {
        if record.group == GroupNumber(2) { Err(StoreError::Rebuilding) } else { Ok(()) }
    });
    assert!(matches!(opened, Err(StoreError::Rebuilding)));
    assert_eq!(open(&disk).unwrap().1, expected(1..=3, 10));
}

#[test]
fn the_bytes_of_version_1_are_these() {
    let golden = include_str!("../../../tests/golden/journal_v1.hex");
    let site = Site { segment: 5, segment_bytes: SEGMENT, offset: BLOCK, begins_segment: true };
    let mut group = GroupBuffer::new(site);
    group.push(b"first record");
    group.push(b"");
    group.push(b"third");
    let bytes = group.finish(0x0123_4567_89ab_cdef, 18, 17);
    assert_eq!(bytes.len(), 8192);
    let used = [&bytes[..64], &bytes[4096..4096 + 64 + 3 * 8 + 17]].concat();
    assert!(bytes[64..4096].iter().chain(&bytes[4096 + 105..]).all(|byte| *byte == 0));
    let lines: Vec<String> = used
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
        .collect();
    let wanted: Vec<&str> = golden.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, wanted, "\n{}", lines.join("\n"));
}
