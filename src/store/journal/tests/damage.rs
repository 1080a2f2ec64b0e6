//! What a journal that somebody or something changed is refused for, and what counts as torn.

use proptest::prelude::*;

use super::*;
use crate::store::journal::format::SegmentHeader;

fn damage(disk: &SimulatedDisk, after: u64) -> (PathBuf, u64) {
    let before = disk.operations();
    match open_after(disk, after) {
        Err(StoreError::Damaged { file, offset, next_step, .. }) => {
            assert!(next_step.contains("actiond doctor") && next_step.contains("copy"));
            assert_eq!(disk.operations(), before, "a damaged journal must not be changed");
            (file, offset)
        }
        Err(error) => panic!("another error: {error}"),
        Ok((_, seen)) => panic!("opened with {} records", seen.len()),
    }
}

/// Groups 1 to 40 of two blocks each: seven to a segment, in segments 1 to 6.
fn filled() -> SimulatedDisk {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    commit_groups(&mut journal, 1..=40, 5000);
    drop(journal);
    assert_eq!(segments(&disk), [1, 2, 3, 4, 5, 6]);
    disk
}

#[test]
fn a_flipped_bit_in_what_was_synced_is_refused_with_its_offset() {
    let disk = filled();
    // Group 10 is the third of segment 2.
    let at = 4096 + 2 * 8192;
    for inside in [0, 30, 50, 63, 64, 70, 4000, 5000] {
        let copy = disk.after_process_death();
        copy.flip_bit(&segment_path(&dir(), 2), at + inside);
        assert_eq!(damage(&copy, 0), (segment_path(&dir(), 2), at as u64), "byte {inside}");
        assert_eq!(open_after(&copy, 10).unwrap().1, expected(11..=40, 5000), "not needed behind group 10");
    }
}

#[test]
fn the_last_group_of_a_segment_and_the_first_are_missed_too() {
    let disk = filled();
    for (segment, at) in [(2, 4096), (2, 4096 + 6 * 8192), (6, 4096), (1, 4096)] {
        let copy = disk.after_process_death();
        copy.flip_bit(&segment_path(&dir(), segment), at);
        assert_eq!(damage(&copy, 0), (segment_path(&dir(), segment), at as u64), "{segment} {at}");
    }
}

#[test]
fn a_flipped_bit_in_a_segment_header_is_refused() {
    let disk = filled();
    for segment in [1, 3, 6] {
        let copy = disk.after_process_death();
        copy.flip_bit(&segment_path(&dir(), segment), 20);
        assert_eq!(damage(&copy, 0), (segment_path(&dir(), segment), 0), "segment {segment}");
    }
}

#[test]
fn a_flipped_bit_in_the_last_group_drops_it_as_torn() {
    let disk = filled();
    // 35 groups in five segments, then five.
    disk.flip_bit(&segment_path(&dir(), 6), 4096 + 4 * 8192 + 100);
    let (mut journal, seen) = open(&disk).unwrap();
    assert_eq!(seen, expected(1..=39, 5000));
    commit_groups(&mut journal, 40..=41, 700);
    drop(journal);
    let mut all = expected(1..=39, 5000);
    all.extend(expected(40..=41, 700));
    assert_eq!(open(&disk).unwrap().1, all);
}

#[test]
fn a_missing_or_shortened_segment_is_refused() {
    let disk = filled();
    for segment in 1..=5 {
        let copy = disk.after_process_death();
        copy.remove(&segment_path(&dir(), segment)).unwrap();
        let (file, _) = damage(&copy, 0);
        let named = if segment == 1 { 2 } else { segment };
        assert_eq!(file, segment_path(&dir(), named), "without segment {segment}");
    }
    for (segment, len) in [(3, 30_000), (6, 20_000), (6, 4096)] {
        let copy = disk.after_process_death();
        let path = segment_path(&dir(), segment);
        let bytes = copy.contents(&path).unwrap();
        copy.put(&path, bytes[..len].to_vec());
        assert_eq!(damage(&copy, 0), (path, len as u64));
    }
}

#[test]
fn a_journal_that_is_absent_empty_or_too_short_is_refused() {
    assert_eq!(damage(&disk(), 0).0, dir());
    let disk = filled();
    assert!(matches!(open_after(&disk, 41), Err(StoreError::Damaged { .. })));
    for segment in segments(&disk) {
        disk.remove(&segment_path(&dir(), segment)).unwrap();
    }
    assert_eq!(damage(&disk, 0).0, dir());
}

#[test]
fn a_journal_must_reach_back_to_the_snapshot() {
    let disk = filled();
    let (mut journal, _) = open(&disk).unwrap();
    journal.release(GroupNumber(20)).unwrap();
    journal.settle();
    drop(journal);
    assert_eq!(open_after(&disk, 20).unwrap().1, expected(21..=40, 5000));
    assert!(matches!(open_after(&disk, 13), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_later_format_is_named() {
    let disk = filled();
    let path = segment_path(&dir(), 4);
    let mut bytes = disk.contents(&path).unwrap();
    bytes[8] = 9;
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    disk.put(&path, bytes);
    assert!(matches!(open(&disk), Err(StoreError::FromTheFuture { found: 9, known: 1, .. })));
}

#[test]
fn a_segment_of_another_journal_is_refused() {
    let disk = filled();
    let path = segment_path(&dir(), 4);
    let mut bytes = disk.contents(&path).unwrap();
    let foreign = SegmentHeader { segment: 4, salt: 1, bytes: SEGMENT, first_group: 22, synced: 21 };
    bytes[..64].copy_from_slice(&foreign.encode());
    disk.put(&path, bytes);
    assert_eq!(damage(&disk, 0).0, path);
}

#[test]
fn a_record_that_poses_as_a_group_is_not_taken_for_one() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    commit_groups(&mut journal, 1..=3, 10);
    // A whole group for the right segment, at a block boundary inside the record, but without the salt.
    let site = Site { segment: 1, segment_bytes: SEGMENT, offset: 5 * BLOCK, begins_segment: false };
    let mut fake = GroupBuffer::new(site);
    fake.push(b"never submitted");
    let mut body = vec![0; 4096 - 64 - 8];
    body.extend_from_slice(fake.finish(0, 9, 8));
    let place = journal.stage(&body);
    assert_eq!(u64::from(place.offset) + 4096 - 72, 5 * BLOCK);
    journal.commit().unwrap();
    drop(journal);
    assert_eq!(open(&disk.after_process_death()).unwrap().1.len(), 4);
    disk.flip_bit(&segment_path(&dir(), 1), 4 * 4096 + 1);
    assert_eq!(open(&disk).unwrap().1, expected(1..=3, 10));
}

#[test]
fn a_read_error_is_an_error_and_not_a_tear() {
    let disk = filled();
    disk.set_reads_fail(true);
    assert!(matches!(open(&disk), Err(StoreError::Io { .. })));
    disk.set_reads_fail(false);
    assert_eq!(open(&disk).unwrap().1, expected(1..=40, 5000));
}

#[test]
fn a_place_that_never_was_is_an_error() {
    let disk = filled();
    let (journal, _) = open(&disk).unwrap();
    for (offset, len) in [(0, 5), (4096, u32::MAX), (u32::MAX, u32::MAX), (4096 + 72, 4999), (9000, 100)] {
        let place = Place { segment: 2, offset, len };
        assert!(matches!(journal.reader().read(place), Err(StoreError::Damaged { .. })), "{place:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_in_a_segment_end_in_an_answer(
        changes in proptest::collection::vec((0usize..16384, any::<u8>()), 1..20),
        noise in proptest::collection::vec(any::<u8>(), 0..9000),
    ) {
        let disk = disk();
        let mut journal = create(&disk).unwrap();
        commit_groups(&mut journal, 1..=3, 50);
        drop(journal);
        let path = segment_path(&dir(), 1);
        let mut bytes = disk.contents(&path).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        disk.put(&path, bytes);
        disk.put(&segment_path(&dir(), 2), noise);
        if let Ok((_, seen)) = open(&disk) {
            let all = expected(1..=3, 50);
            prop_assert_eq!(&all[..seen.len()], seen);
        }
    }
}
