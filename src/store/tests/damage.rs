//! sled, snapshots and marks are damaged or gone while the store is closed: nothing is lost, or nothing starts.

use super::*;

/// A closed store with waiting and finished actions, small and large, in sled and a snapshot.
fn filled(bench: &Bench) -> Vec<Action> {
    let (mut opened, _) = bench.start();
    let mut actions = Vec::new();
    for id in 1..=300 {
        actions.push(submit(&mut opened.store, id, if id % 50 == 0 { 20_000 } else { 100 }));
        if id % 100 == 0 {
            snapshot(&mut opened);
        }
    }
    for action in actions.iter_mut().step_by(3) {
        change(&mut opened.store, action, Event::Claim);
        change(&mut opened.store, action, Event::Succeed);
    }
    opened.store.commit().unwrap();
    opened.store.journal.settle();
    opened.store.close().unwrap();
    assert_eq!(bench.snapshots().len(), 1, "the older ones are gone once it is verified");
    actions
}

fn expect_rebuilt(bench: &Bench, actions: &[Action], why: &str) {
    let (mut opened, loaded) = bench.start();
    assert_eq!(loaded, unfinished(actions), "{why}");
    assert_eq!(everything(&opened.reader), actions, "{why}");
    let health = opened.reader.health();
    assert_eq!(health.rebuilds, 1, "{why}");
    assert!(health.last_rebuild_reason.is_some());
    checkpoint(&mut opened);
    opened.store.close().unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!(loaded, unfinished(actions));
    assert_eq!(opened.reader.health().rebuilds, 0, "{why}: it is trusted again");
}

#[test]
fn deleted_table_is_rebuilt() {
    let bench = Bench::new();
    let actions = filled(&bench);
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    expect_rebuilt(&bench, &actions, "deleted");
}

#[test]
fn truncated_table_is_rebuilt_and_the_old_one_kept_aside() {
    let bench = Bench::new();
    let actions = filled(&bench);
    let db = std::fs::OpenOptions::new().write(true).open(bench.path("table/db")).unwrap();
    db.set_len(512).unwrap();
    expect_rebuilt(&bench, &actions, "truncated");
    assert!(bench.path("quarantine/table/db").exists());
}

#[test]
fn overwritten_table_is_rebuilt() {
    let bench = Bench::new();
    let actions = filled(&bench);
    for path in files(&bench.path("table")).into_iter().filter(|path| path.is_file()) {
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::write(&path, vec![0xA5; usize::try_from(len).unwrap()]).unwrap();
    }
    expect_rebuilt(&bench, &actions, "overwritten");
}

#[test]
fn table_of_an_earlier_day_is_rebuilt() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    let mut actions = vec![submit(&mut opened.store, 1, 10)];
    opened.store.commit().unwrap();
    opened.store.close().unwrap();
    let old = bench.dir.path().join("old");
    std::fs::create_dir(&old).unwrap();
    for path in files(&bench.path("table")).into_iter().filter(|path| path.is_file()) {
        std::fs::copy(&path, old.join(path.file_name().unwrap())).unwrap();
    }
    let (mut opened, _) = bench.start();
    actions.push(submit(&mut opened.store, 2, 10));
    snapshot(&mut opened);
    opened.store.close().unwrap();
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    std::fs::rename(old, bench.path("table")).unwrap();
    expect_rebuilt(&bench, &actions, "old");
}

#[test]
fn another_boot_or_mount_without_a_clean_stop_has_the_table_rebuilt() {
    let mut bench = Bench::new();
    let mut actions = filled(&bench);
    let (mut opened, _) = bench.start();
    actions.push(submit(&mut opened.store, 301, 10));
    opened.store.commit().unwrap();
    drop(opened);
    bench.boot = 2;
    expect_rebuilt(&bench, &actions, "another boot");
    bench.boot = 3;
    let (mut opened, _) = bench.start();
    assert_eq!(opened.reader.health().rebuilds, 1, "the last start was not closed");
    until(&mut opened, is_rebuilt);
    opened.store.close().unwrap();
    bench.boot = 4;
    let (opened, loaded) = bench.start();
    assert_eq!(opened.reader.health().rebuilds, 0, "a clean stop outlives a boot");
    assert_eq!(loaded, unfinished(&actions));
}

#[test]
fn mark_of_a_storage_error_has_the_table_rebuilt_once() {
    let bench = Bench::new();
    let actions = filled(&bench);
    std::fs::write(bench.path("storage-error"), "EIO").unwrap();
    expect_rebuilt(&bench, &actions, "storage error");
    assert!(!bench.path("storage-error").exists());
}

#[test]
fn damaged_or_cut_snapshot_is_refused_by_name_and_nothing_is_changed() {
    let mut bench = Bench::new();
    // The journal does not reach back to the first action.
    bench.options.segment_bytes = 64 << 10;
    let actions = filled(&bench);
    let newest = bench.snapshots().pop().unwrap();
    let sound = std::fs::read(&newest).unwrap();
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    let flipped = [0usize, 3, 40, sound.len() / 2, sound.len() - 1].map(|at| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    });
    for damaged in flipped.into_iter().chain([sound[..sound.len() - 1].to_vec(), Vec::new()]) {
        std::fs::write(&newest, damaged).unwrap();
        match bench.open() {
            Err(StoreError::Damaged { file, .. }) => assert_eq!(file, newest),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("a store without its actions"),
        }
    }
    std::fs::write(&newest, sound).unwrap();
    expect_rebuilt(&bench, &actions, "the snapshot is whole again");
}

#[test]
fn damaged_snapshot_gives_way_to_an_older_one_to_which_the_journal_reaches_back() {
    let bench = Bench::new();
    let (mut opened, _) = bench.start();
    let mut actions: Vec<_> = (1..=50).map(|id| submit(&mut opened.store, id, 100)).collect();
    snapshot(&mut opened);
    let older = bench.snapshots().pop().unwrap();
    let kept = std::fs::read(&older).unwrap();
    actions.push(submit(&mut opened.store, 51, 100));
    snapshot(&mut opened);
    opened.store.close().unwrap();
    // As after a crash between the new snapshot and the removal of the old one.
    let newest = bench.snapshots().pop().unwrap();
    std::fs::write(&older, kept).unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    expect_rebuilt(&bench, &actions, "damaged snapshot");
    assert_eq!(bench.snapshots().len(), 1);
    assert!(newest.with_extension("damaged").exists());
}

#[test]
fn lost_identity_or_journal_is_refused_and_never_an_empty_start() {
    let bench = Bench::new();
    let actions = filled(&bench);
    let identity = std::fs::read(bench.path("identity")).unwrap();
    std::fs::remove_file(bench.path("identity")).unwrap();
    assert!(matches!(bench.open(), Err(StoreError::Damaged { .. })));
    std::fs::write(bench.path("identity"), identity).unwrap();
    let aside = bench.dir.path().join("journal");
    std::fs::rename(bench.path("journal"), &aside).unwrap();
    assert!(matches!(bench.open(), Err(StoreError::Damaged { .. })));
    std::fs::rename(&aside, bench.path("journal")).unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!(loaded, unfinished(&actions));
    assert_eq!(opened.reader.health().rebuilds, 0, "nothing was changed");
}

#[test]
fn creation_that_was_cut_short_begins_again() {
    let bench = Bench::new();
    drop(bench.start());
    std::fs::write(bench.path("creating"), "").unwrap();
    std::fs::remove_file(bench.path("identity")).unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!((opened.incarnation, loaded.len()), (1, 0));
    assert!(!bench.path("creating").exists());
}

#[test]
fn damaged_body_is_named_when_it_is_read_and_everything_else_goes_on() {
    let bench = Bench::new();
    let actions = filled(&bench);
    let file = files(&bench.path("bodies")).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    // In the long body of action 50.
    let at = bytes.windows(1_000).position(|window| window.iter().all(|byte| *byte == b'y')).unwrap() + 500;
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (mut opened, loaded) = {
        let mut told = Loaded::default();
        let machine = Machine { boot_id: "boot 1".to_owned(), mount: "here".to_owned() };
        let environment =
            Environment { disk: Arc::new(RealDisk), machine: Some(machine), rebuild_held: false };
        (open(&bench.options, environment, Timestamp(1_000), &mut told).unwrap(), told.0.len())
    };
    assert_eq!(loaded, unfinished(&actions).len(), "a start reads no bodies");
    for action in &actions {
        match opened.reader.get(action.id) {
            Ok(found) => assert_eq!(found.as_ref(), Some(action)),
            Err(StoreError::Damaged { file: named, offset, .. }) => {
                assert_eq!((action.id, &named), (ActionId(50), &file));
                assert!(offset > 0);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(opened.reader.get(ActionId(50)).is_err());
    submit(&mut opened.store, 301, 10);
    checkpoint(&mut opened);
}

#[test]
fn damaged_or_lost_body_file_that_the_snapshot_names_is_refused_by_name() {
    let bench = Bench::new();
    let actions = filled(&bench);
    let file = files(&bench.path("bodies")).remove(0);
    let sound = std::fs::read(&file).unwrap();
    let mut flipped = sound.clone();
    flipped[25] ^= 1;
    for damaged in [Some(flipped), Some(sound[..sound.len() / 2].to_vec()), None] {
        match damaged {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        match bench.open() {
            Err(StoreError::Damaged { file: named, .. }) => assert_eq!(named, file),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("a store without its actions"),
        }
    }
    std::fs::write(&file, sound).unwrap();
    assert!(!bench.path("quarantine").exists(), "the table is sound, and would be no better made anew");
    let (opened, loaded) = bench.start();
    assert_eq!(
        (loaded, opened.reader.health().rebuilds),
        (unfinished(&actions), 0),
        "the file is whole again"
    );
    assert_eq!(everything(&opened.reader), actions);
}

#[test]
fn bodies_that_no_snapshot_names_come_back_from_the_journal() {
    let bench = Bench::new();
    let mut actions = filled(&bench);
    let (mut opened, _) = bench.start();
    let file = files(&bench.path("bodies")).pop().unwrap();
    let len = usize::try_from(std::fs::metadata(&file).unwrap().len()).unwrap();
    actions.extend((301..=400).map(|id| submit(&mut opened.store, id, 100)));
    checkpoint(&mut opened);
    opened.store.close().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[len + 40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    expect_rebuilt(&bench, &actions, "damage behind the snapshot");
}

#[test]
fn room_of_deleted_actions_is_given_back_and_what_lives_beside_them_stays() {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 64 << 10;
    bench.options.retention_count = 0;
    let (mut opened, _) = bench.start();
    let mut actions: Vec<_> = (1..=2_000).map(|id| submit(&mut opened.store, id, 500)).collect();
    checkpoint(&mut opened);
    let bytes = |bench: &Bench| -> u64 {
        files(&bench.path("bodies")).iter().map(|file| std::fs::metadata(file).unwrap().len()).sum()
    };
    let before = bytes(&bench);
    for action in actions.iter_mut().filter(|action| action.id.0 % 20 != 0) {
        change(&mut opened.store, action, Event::Expire);
    }
    opened.store.commit().unwrap();
    while !opened.store.expire(Timestamp(3_000), 500).unwrap().is_empty() {
        opened.store.commit().unwrap();
    }
    actions.retain(|action| action.id.0 % 20 == 0);
    change(&mut opened.store, &mut actions[7], Event::Claim);
    let begun = Instant::now();
    while bytes(&bench) > before / 4 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} of {before} are left", bytes(&bench));
        snapshot(&mut opened);
        assert_eq!(everything(&opened.reader), actions);
    }
    let table = opened.store.shared.base().unwrap();
    let super::super::base::Over::Table(table) = table.over else { panic!("it stands") };
    assert!(table.laters(0, 2_000).unwrap().len() < 200, "the table forgets them too");
    drop(table);
    opened.store.close().unwrap();
    let (opened, loaded) = bench.start();
    assert_eq!((loaded, opened.reader.health().rebuilds), (actions.clone(), 0));
    drop(opened);
    let rebooted = Bench { boot: 2, ..bench };
    let (opened, loaded) = rebooted.start();
    assert_eq!((loaded, opened.reader.health().rebuilds), (actions.clone(), 1), "and so does a rebuild");
    assert_eq!(everything(&opened.reader), actions);
}

/// Flips a bit in the body of each of these actions, whose metadata is `len` bytes long and long enough to be found.
fn damage_bodies(bench: &Bench, resource_ids: &[u64]) {
    for file in files(&bench.path("bodies")) {
        let mut bytes = std::fs::read(&file).unwrap();
        for id in resource_ids {
            // A body has "Stack", "deploy", the resource's id, "web".
            let mut mark = b"deploy".to_vec();
            mark.extend_from_slice(&id.to_le_bytes());
            if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
                bytes[at + 1] ^= 1;
            }
        }
        std::fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn damaged_body_stops_neither_retention_nor_the_reclaim_of_other_files() {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 64 << 10;
    let (mut opened, _) = bench.start();
    let mut actions: Vec<_> = (1..=2_000).map(|id| submit(&mut opened.store, id, 500)).collect();
    checkpoint(&mut opened);
    opened.store.close().unwrap();
    let bodies = bench.path("bodies");
    let bytes = || -> u64 { files(&bodies).iter().map(|file| std::fs::metadata(file).unwrap().len()).sum() };
    let before = bytes();
    // One that goes on living, and one that ends.
    damage_bodies(&bench, &[20, 999]);
    bench.options.retention_count = 0;
    let (mut opened, _) = bench.start();
    for action in actions.iter_mut().filter(|action| action.id.0 % 20 != 0) {
        change(&mut opened.store, action, Event::Expire);
    }
    checkpoint(&mut opened);
    let mut gone = Vec::new();
    let begun = Instant::now();
    while gone.len() < 1_900 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} are gone", gone.len());
        gone.extend(opened.store.expire(Timestamp(3_000), 500).unwrap());
        opened.store.commit().unwrap();
    }
    while bytes() > before / 4 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} of {before} are left", bytes());
        snapshot(&mut opened);
    }
    assert!(matches!(try_everything(&opened.reader), Err(StoreError::Damaged { .. })), "no list without it");
    assert!(matches!(opened.reader.get(ActionId(20)), Err(StoreError::Damaged { .. })));
    let status = opened.store.status(ActionId(20)).unwrap().unwrap();
    assert_eq!(status, actions[19].status, "its status is there without its body");
    for action in actions.iter().filter(|action| action.id.0 % 20 == 0 && action.id.0 != 20) {
        assert_eq!(opened.reader.get(action.id).unwrap().as_ref(), Some(action));
    }
    assert_eq!(opened.reader.health().rebuilds, 0);
}

#[test]
fn read_error_in_a_body_is_told_and_is_not_the_end() {
    let bench = Bench::new();
    let disk = disk::simulated::SimulatedDisk::with_dir(&bench.options.dir);
    let (mut opened, _) = bench.open_on(Arc::new(disk.clone())).unwrap();
    let action = submit(&mut opened.store, 1, 100);
    checkpoint(&mut opened);
    disk.set_reads_fail(true);
    match opened.reader.get(action.id) {
        Err(StoreError::Damaged { file, .. }) => assert!(file.starts_with(bench.path("bodies"))),
        other => panic!("{other:?}"),
    }
    disk.set_reads_fail(false);
    assert_eq!(opened.reader.get(action.id).unwrap().as_ref(), Some(&action));
    submit(&mut opened.store, 2, 100);
    checkpoint(&mut opened);
}

#[test]
fn snapshot_that_the_disk_does_not_give_back_is_not_taken_for_a_damaged_one() {
    let bench = Bench::new();
    let disk = disk::simulated::SimulatedDisk::with_dir(&bench.options.dir);
    let (mut opened, _) = bench.open_on(Arc::new(disk.clone())).unwrap();
    // The journal reaches back to the first action: a start could do without the snapshot.
    let actions: Vec<_> = (1..=50).map(|id| submit(&mut opened.store, id, 100)).collect();
    snapshot(&mut opened);
    opened.store.close().unwrap();
    let names = || disk::Disk::list(&disk, &bench.path("snapshot")).unwrap();
    let before = names();
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    disk.set_unreadable(&bench.path("snapshot").join(&before[0]), true);
    assert!(matches!(bench.open_on(Arc::new(disk.clone())), Err(StoreError::Io { .. })));
    assert_eq!(names(), before);
    disk.set_unreadable(&bench.path("snapshot").join(&before[0]), false);
    let (opened, loaded) = bench.open_on(Arc::new(disk.clone())).unwrap();
    assert_eq!((&loaded, everything(&opened.reader)), (&actions, actions.clone()));
}

#[test]
fn damaged_snapshot_stays_aside_after_a_power_cut() {
    let bench = Bench::new();
    let disk = disk::simulated::SimulatedDisk::with_dir(&bench.options.dir);
    let (mut opened, _) = bench.open_on(Arc::new(disk.clone())).unwrap();
    let actions: Vec<_> = (1..=50).map(|id| submit(&mut opened.store, id, 100)).collect();
    snapshot(&mut opened);
    opened.store.close().unwrap();
    let dir = bench.path("snapshot");
    let name = disk::Disk::list(&disk, &dir).unwrap().remove(0);
    disk.flip_bit(&dir.join(&name), 40);
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    let (opened, loaded) = bench.open_on(Arc::new(disk.clone())).unwrap();
    assert_eq!(loaded, actions);
    for seed in 0..20 {
        let names = disk::Disk::list(&disk.after_power_cut(seed), &dir).unwrap();
        assert!(!names.contains(&name), "seed {seed}: {names:?}");
    }
    drop(opened);
}
