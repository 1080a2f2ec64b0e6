//! Power cuts under the whole store: journal and snapshots on a disk that forgets what was not synced, sled
//! distrusted after each cut and rebuilt from them.

use std::collections::BTreeMap;

use super::super::disk::simulated::{Fault, SimulatedDisk};
use super::*;

type Actions = BTreeMap<u64, Action>;

/// Works until the power is cut: the actions after the last commit that said yes, and those of the one under way.
///
/// It waits for some of its checkpoints: on a busy machine the cut would else always come before them.
fn work(
    opened: &mut Opened,
    disk: &SimulatedDisk,
    actions: Actions,
    random: &mut fastrand::Rng,
) -> (Actions, Actions) {
    let (mut durable, mut staged) = (actions.clone(), actions);
    loop {
        for _ in 0..random.usize(1..6) {
            let id = opened.store.ledger.next_id;
            let len = random.usize(0..400);
            let submitted = opened.store.submit(
                ActionId(id),
                Arc::new(body(id, len)),
                Status::accepted(State::Queued, None),
            );
            if submitted.is_err() {
                return (durable, staged);
            }
            let status = Status::accepted(State::Queued, None);
            staged.insert(id, Action { id: ActionId(id), body: Arc::new(body(id, len)), status });
        }
        let waiting = staged.values_mut().filter(|action| !action.status.state.is_final());
        for action in waiting.filter(|_| random.u8(0..4) == 0) {
            let event = if action.status.state == State::Queued { Event::Claim } else { Event::Succeed };
            let status = after(&action.status, event, Timestamp(2_000));
            if opened.store.change(action.id, event, &status).is_err() {
                return (durable, staged);
            }
            action.status = status;
        }
        match opened.store.expire(Timestamp(3_000), 3) {
            Ok(gone) => staged.retain(|id, _| !gone.contains(&ActionId(*id))),
            Err(_) => return (durable, staged),
        }
        opened.store.checkpoint_now = random.u8(0..3) == 0;
        if opened.store.commit().is_err() {
            return (durable, staged);
        }
        durable.clone_from(&staged);
        if random.bool() {
            let begun = Instant::now();
            while opened.store.shared.memory().frozen.is_some() && !disk.power_is_cut() {
                assert!(begun.elapsed() < Duration::from_secs(30), "the checkpoint never ended");
                std::thread::yield_now();
            }
        }
    }
}

/// How often power was cut in a life, how often a snapshot was there to start from, and how many body files had gone.
fn live(seed: u64, segment_bytes: u64, operations: u64) -> (u32, u32, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new();
    bench.options.segment_bytes = segment_bytes;
    bench.options.snapshot_after_bytes = segment_bytes / 8;
    bench.options.retention_count = 20;
    let mut disk = SimulatedDisk::with_dir(&bench.options.dir);
    let (mut durable, mut staged) = (Actions::new(), Actions::new());
    let (mut cuts, mut from_snapshot, mut gone) = (0, 0, 0);
    for round in 0..6 {
        disk.set_fault(disk.operations() + random.u64(1..operations), Fault::PowerCut);
        // The cut may come during the start itself, or while sled is rebuilt beside.
        match bench.open_on(Arc::new(disk.clone())) {
            Ok((mut opened, _)) => match try_everything(&opened.reader) {
                Ok(found) => {
                    let found: Actions = found.into_iter().map(|action| (action.id.0, action)).collect();
                    assert!(found == durable || found == staged, "seed {seed} round {round}");
                    (durable, staged) = work(&mut opened, &disk, found, &mut random);
                }
                Err(error) => assert!(disk.power_is_cut(), "seed {seed} round {round}: reading: {error}"),
            },
            Err(error) => assert!(disk.power_is_cut(), "seed {seed} round {round}: opening: {error}"),
        }
        assert!(disk.power_is_cut());
        cuts += 1;
        disk = disk.after_power_cut(random.u64(..));
        bench.boot += 1;
        let names = disk::Disk::list(&disk, &bench.path("snapshot")).unwrap_or_default();
        from_snapshot += u32::from(names.iter().any(|name| name.strip_suffix(".snap").is_some()));
        let bodies = disk::Disk::list(&disk, &bench.path("bodies")).unwrap_or_default();
        let number = |name: &String| usize::from_str_radix(name.strip_suffix(".body")?, 16).ok();
        let highest = bodies.iter().filter_map(number).max();
        gone += highest.unwrap_or(0).saturating_sub(bodies.len());
    }
    let (opened, loaded) = bench.open_on(Arc::new(disk)).unwrap();
    let found: Actions = everything(&opened.reader).into_iter().map(|action| (action.id.0, action)).collect();
    assert!(found == durable || found == staged, "seed {seed}");
    assert_eq!(loaded, unfinished(&found.into_values().collect::<Vec<_>>()));
    (cuts, from_snapshot, gone)
}

#[test]
fn committed_action_survives_power_cuts() {
    let (mut cuts, mut from_snapshot) = (0, 0);
    for seed in 0..30 {
        let (more_cuts, more_snapshots, _) = live(seed, 64 << 10, 90);
        cuts += more_cuts;
        from_snapshot += more_snapshots;
    }
    assert!(cuts >= 100 && from_snapshot >= 30, "{cuts} cuts, {from_snapshot} with a snapshot");
}

#[test]
fn committed_action_survives_power_cuts_while_body_files_are_sealed_written_anew_and_removed() {
    let (mut cuts, mut gone) = (0, 0);
    // On a busy machine the cut comes before the files go more often than not: then it takes more lives.
    for seed in 100..300 {
        let (more_cuts, _, more_gone) = live(seed, 8 << 10, 600);
        cuts += more_cuts;
        gone += more_gone;
        if cuts >= 90 && gone >= 20 {
            return;
        }
    }
    panic!("{cuts} cuts, {gone} body files were gone");
}

#[test]
fn disk_that_lies_about_syncs_is_caught() {
    let caught = (0..40).any(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new();
        let disk = SimulatedDisk::with_dir(&bench.options.dir);
        let (mut opened, _) = bench.open_on(Arc::new(disk.clone())).unwrap();
        disk.lie_about_syncs();
        disk.set_fault(disk.operations() + 20, Fault::PowerCut);
        let (durable, staged) = work(&mut opened, &disk, Actions::new(), &mut random);
        drop(opened);
        bench.boot = 2;
        match bench.open_on(Arc::new(disk.after_power_cut(seed))) {
            Ok((opened, _)) => {
                let Ok(found) = try_everything(&opened.reader) else { return true };
                let found: Actions = found.into_iter().map(|action| (action.id.0, action)).collect();
                found != durable && found != staged
            }
            Err(_) => true,
        }
    });
    assert!(caught, "the power cuts of this file prove nothing");
}

#[test]
fn full_disk_refuses_submissions_while_what_runs_is_still_recorded() {
    let bench = Bench::new();
    let disk = SimulatedDisk::with_dir(&bench.options.dir);
    let (mut opened, _) = bench.open_on(Arc::new(disk.clone())).unwrap();
    let mut actions: Vec<_> = (1..=20).map(|id| submit(&mut opened.store, id, 100)).collect();
    opened.store.commit().unwrap();
    opened.store.journal.settle();
    // The next segment takes the spare, and no other can be made.
    opened.store.options.memory_bytes_max = u64::MAX;
    disk.set_full(true);
    let begun = Instant::now();
    while opened.store.pressure() == Pressure::None {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never happened");
        let id = opened.store.ledger.next_id;
        actions.push(submit(&mut opened.store, id, 50_000));
        opened.store.commit().unwrap();
        opened.store.journal.settle();
    }
    assert_eq!(opened.store.pressure(), Pressure::DiskLow);
    change(&mut opened.store, &mut actions[0], Event::Claim);
    opened.store.commit().unwrap();
    assert_eq!(opened.reader.get(ActionId(1)).unwrap().as_ref(), Some(&actions[0]));
}
