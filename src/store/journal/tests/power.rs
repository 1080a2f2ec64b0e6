//! Power cuts and failing operations at every operation of a workload.
//!
//! The promise checked each time: after a start every group whose commit said `Ok` is there, in order; besides it
//! at most the records of the one commit that got no answer; and a second power cut, right after the start or in
//! the middle of it, takes nothing away from what a start showed.

use super::*;
use crate::store::disk::simulated::{EIO, ENOSPC, Fault};

/// Nothing that was not synced persists, two random subsets, and now and then all of it; others each time.
fn seeds(at: u64) -> Vec<u64> {
    let seeds = [0, at * 4 + 2, at * 4 + 3, 1];
    seeds[..if at.is_multiple_of(4) { 4 } else { 3 }].to_vec()
}

/// What was promised when the workload ended or was interrupted.
#[derive(Default, Clone)]
struct Told {
    /// The journal exists for whoever asked for it.
    created: bool,
    /// Records in order; those of the last commit may not be acknowledged.
    staged: Vec<Vec<u8>>,
    acknowledged: usize,
    /// The last group that was released, and the records up to it.
    after: u64,
    records_before: usize,
}

/// Commits groups of different sizes over several segments, releases, and starts again in between.
fn workload(disk: &SimulatedDisk, told: &mut Told) -> Result<(), StoreError> {
    let mut journal = create(disk)?;
    journal.settle();
    told.created = true;
    let mut covered = (0, 0);
    for number in 0..40_u64 {
        if number == 15 || number == 30 {
            drop(journal);
            let (next, seen) = open_after(disk, told.after)?;
            check(told, &seen, told.staged.len());
            journal = next;
            journal.settle();
        }
        // Some groups with three records; number 20 needs more than a segment has left, 25 more than a segment.
        let len = match number {
            20 => 30_000,
            25 => 70_000,
            _ => 200 + usize::try_from(number % 5).unwrap() * 1200,
        };
        for part in 0..=number % 3 {
            let bytes = record(number * 10 + part, len);
            journal.stage(&bytes);
            told.staged.push(bytes);
        }
        let group = journal.commit()?;
        told.acknowledged = told.staged.len();
        if number == 12 {
            covered = (group.0, told.staged.len());
        }
        journal.settle();
        if number == 22 {
            // What a snapshot up to there would allow; from here on opening asks for what is behind it only.
            (told.after, told.records_before) = covered;
            journal.release(GroupNumber(told.after))?;
            journal.settle();
        }
    }
    Ok(())
}

/// `seen` is all that was acknowledged above `after`, and a beginning of what was staged.
fn check(told: &Told, seen: &[Seen], at_least: usize) {
    let skip = told.records_before;
    let records: Vec<_> = seen.iter().map(|(_, bytes)| bytes).collect();
    assert!(
        records.len() + skip >= at_least,
        "{} records of {at_least} acknowledged ones are there",
        records.len() + skip
    );
    let staged: Vec<_> = told.staged.iter().skip(skip).take(records.len()).collect();
    assert!(records == staged, "what is there is not what was staged, or not in order");
    assert!(seen.is_sorted_by_key(|(group, _)| *group));
    let numbers: std::collections::BTreeSet<u64> = seen.iter().map(|(group, _)| *group).collect();
    let row: Vec<u64> = (told.after + 1..).take(numbers.len()).collect();
    assert!(numbers.into_iter().eq(row), "groups are numbered without gaps");
}

/// Opens, or finds that the journal's creation was never answered.
fn reopen(disk: &SimulatedDisk, told: &Told) -> Option<(Journal, Vec<Seen>)> {
    match open_after(disk, told.after) {
        Ok(opened) => {
            check(told, &opened.1, told.acknowledged);
            Some(opened)
        }
        Err(_) if !told.created => {
            create(disk).expect("an interrupted creation can be repeated");
            None
        }
        Err(error) => panic!("acknowledged groups, and the journal does not open: {error}"),
    }
}

fn operations_of_the_workload() -> u64 {
    let disk = disk();
    let mut told = Told::default();
    workload(&disk, &mut told).unwrap();
    assert!(segments(&disk).first() > Some(&1), "the workload releases");
    disk.operations()
}

/// The workload, interrupted at its n-th operation.
fn interrupted(at: u64, fault: Fault) -> (SimulatedDisk, Told) {
    let disk = disk();
    let mut told = Told::default();
    disk.set_fault(at, fault);
    let _ = workload(&disk, &mut told);
    (disk, told)
}

#[test]
fn acknowledged_groups_survive_a_power_cut_at_every_operation() {
    for at in 1..=operations_of_the_workload() {
        let (cut, told) = interrupted(at, Fault::PowerCut);
        assert!(cut.power_is_cut(), "operation {at} is not reached");
        for seed in seeds(at) {
            let disk = cut.after_power_cut(seed);
            let Some((mut journal, seen)) = reopen(&disk, &told) else { continue };
            // What was shown stays, whatever of the start's own work persists.
            let shown = Told { acknowledged: told.acknowledged.max(seen.len()), ..told.clone() };
            let next = journal.last_group().0 + 1;
            let (_, again) = open_after(&disk.after_power_cut(seed + 1), shown.after).unwrap();
            assert_eq!(again, seen, "operation {at}, seed {seed}: a power cut after the start");
            commit_groups(&mut journal, next..=next, 300);
            drop(journal);
            let (_, again) = open_after(&disk.after_power_cut(seed), shown.after).unwrap();
            assert_eq!(again.last(), Some(&(next, record(next, 300))));
            assert_eq!(again[..again.len() - 1], seen);
        }
    }
}

#[test]
fn a_second_power_cut_at_every_operation_of_the_start_takes_nothing() {
    let all = operations_of_the_workload();
    for at in (1..=all).step_by(7) {
        let (cut, told) = interrupted(at, Fault::PowerCut);
        for seed in seeds(at) {
            let first = cut.after_power_cut(seed);
            for second_at in 1..40 {
                let disk = first.after_process_death();
                disk.set_fault(second_at, Fault::PowerCut);
                let opened = open_after(&disk, told.after).map(|(journal, seen)| {
                    journal.settle();
                    seen
                });
                if !disk.power_is_cut() {
                    break;
                }
                let again = disk.after_power_cut(seed + second_at);
                let Some((_, seen)) = reopen(&again, &told) else { continue };
                if let Ok(shown) = opened {
                    assert_eq!(seen, shown, "{at} {seed} {second_at}: shown and then gone");
                }
            }
        }
    }
}

#[test]
fn a_failed_operation_poisons_or_is_made_good_and_nothing_is_lost() {
    let all = operations_of_the_workload();
    let faults =
        [Fault::Once(EIO), Fault::Forever(ENOSPC), Fault::Once(ENOSPC), Fault::Short, Fault::Forever(EIO)];
    for at in 1..=all {
        // Two kinds at each operation; the next ones have the others.
        for fault in faults.iter().cycle().skip(usize::try_from(at * 2 % 5).unwrap()).take(2) {
            let (disk, told) = interrupted(at, *fault);
            reopen(&disk.after_process_death(), &told);
            reopen(&disk.after_power_cut(at), &told);
        }
    }
}

#[test]
fn a_failed_write_or_sync_poisons_for_ever() {
    for (operation, fault) in [(1, Fault::Once(EIO)), (2, Fault::Once(EIO)), (1, Fault::Short)] {
        let disk = disk();
        let mut journal = create(&disk).unwrap();
        journal.settle();
        commit_groups(&mut journal, 1..=2, 10);
        disk.set_fault(disk.operations() + operation, fault);
        journal.stage(b"x");
        assert!(matches!(journal.commit(), Err(StoreError::Io { .. })));
        let operations = disk.operations();
        journal.stage(b"y");
        assert!(matches!(journal.commit(), Err(StoreError::Poisoned)));
        assert!(matches!(journal.release(GroupNumber(1)), Err(StoreError::Poisoned)));
        assert_eq!(disk.operations(), operations, "a poisoned journal touches the disk no more");
        assert_eq!(journal.last_group(), GroupNumber(2));
        drop(journal);
        assert_eq!(open(&disk.after_power_cut(0)).unwrap().1, expected(1..=2, 10));
    }
}

#[test]
fn a_full_disk_is_announced_before_a_commit_fails() {
    let disk = disk();
    let mut journal = create(&disk).unwrap();
    journal.settle();
    assert!(journal.has_room());
    commit_groups(&mut journal, 1..=7, 5000);
    disk.set_full(true);
    // Takes the spare, and no other can be had.
    journal.stage(&record(8, 5000));
    journal.commit().unwrap();
    journal.settle();
    assert!(!journal.has_room());
    commit_groups(&mut journal, 9..=14, 5000);
    disk.set_full(false);
    // A segment that is needed is asked for once more.
    commit_groups(&mut journal, 15..=30, 5000);
    assert!(journal.has_room());
    drop(journal);
    assert_eq!(open(&disk).unwrap().1, expected(1..=30, 5000));
}

#[test]
fn a_disk_that_lies_about_syncs_is_seen_to_lose() {
    let disk = disk();
    disk.lie_about_syncs();
    let mut told = Told::default();
    workload(&disk, &mut told).unwrap();
    let lost = (0..8).filter(|seed| {
        let opened = open_after(&disk.after_power_cut(*seed), told.after);
        opened.map_or(true, |(_, seen)| seen.len() + told.records_before < told.acknowledged)
    });
    assert!(lost.count() >= 4, "the checks of this file would not notice a missing sync");
}
