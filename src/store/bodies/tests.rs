//! Body files on a disk that forgets what was not synced, and their bytes.

use std::collections::HashSet;

use super::block::Builder;
use super::*;
use crate::action::{
    Actor, Body, Claim, JsonText, LockKey, OnConflict, Recovery, RetryPolicy, State, Status, Timestamp,
    Unfinished,
};
use crate::store::disk::simulated::SimulatedDisk;
use crate::store::record::{encode_body, encode_status, version_hash};
use crate::store::shared::action;

const SEGMENT: u64 = 64 << 10;

fn body(id: u64, len: usize) -> Body {
    Body {
        user: "ada@example.org".to_owned(),
        resource_type: "Stack".to_owned(),
        action: ["deploy", "restart"][usize::from(id.is_multiple_of(2))].to_owned(),
        resource_id: id,
        started_via: "web".to_owned(),
        metadata: JsonText::from_checked(format!("{{\"x\":\"{}\"}}", "y".repeat(len))),
        accepted_at: Timestamp(1_000),
        submitter: Actor { uid: 1000, gid: 1000, pid: 1 },
        queue: format!("queue {}", id % 3),
        priority: 5,
        run_at: None,
        deadline: (id.is_multiple_of(5)).then_some(Timestamp(-7)),
        timeout_ms: 1,
        on_conflict: OnConflict::Queue,
        idempotency_key: None,
        request_digest: [3; 16],
        retry: RetryPolicy::default(),
        recovery: Recovery::Rerun,
        locks: (0..id % 3).map(LockKey).collect(),
        retry_of: None,
    }
}

fn status(id: u64) -> Status {
    let mut status = Status::accepted(State::Queued, (id.is_multiple_of(4)).then_some(Timestamp(99)));
    if id.is_multiple_of(7) {
        status.state = State::Running;
        let boot_id = "boot".to_owned();
        status.claim = Some(Claim {
            incarnation: 1,
            boot_id,
            began_at: Timestamp(5),
            fence: 1,
            is_gated: false,
            program: None,
        });
    }
    status.locks_freed = id.is_multiple_of(11);
    status
}

fn stored(id: u64, len: usize) -> Stored {
    Stored { id, body: encode_body(&body(id, len)), status: encode_status(&status(id)) }
}

fn add(bodies: &Bodies, ids: std::ops::Range<u64>, len: usize) {
    let mut appender = bodies.appender();
    for id in ids {
        let Stored { id, body, status } = stored(id, len);
        appender.add(id, &body, &status).unwrap();
    }
    let added = appender.finish().unwrap();
    bodies.publish(added);
}

fn open(disk: &SimulatedDisk, files: &[FileMeta]) -> Result<Bodies, StoreError> {
    let dir = Path::new("/store/bodies");
    Bodies::open(Arc::new(disk.clone()), dir, "store", SEGMENT, files, &mut |_| Ok(())).map_err(|error| {
        match error {
            ReadError::Store(error) => error,
            ReadError::Table(error) => panic!("{error}"),
        }
    })
}

fn disk() -> SimulatedDisk {
    SimulatedDisk::with_dir(Path::new("/store"))
}

fn get(bodies: &Bodies, id: u64) -> Option<Stored> {
    let (ticket, block) = bodies.ticket(id).unwrap()?;
    Some(block.stored(&ticket).unwrap())
}

#[test]
fn actions_of_many_files_are_found_by_id_and_in_order() {
    let disk = disk();
    let bodies = open(&disk, &[]).unwrap();
    add(&bodies, 1..400, 500);
    add(&bodies, 420..421, 200_000);
    add(&bodies, 421..600, 100);
    assert!(bodies.files().len() >= 3, "{}", bodies.files().len());
    let again = open(&disk, &bodies.describe()).unwrap();
    for bodies in [&bodies, &again] {
        let mut cursor = bodies.ticket_cursor();
        for id in 0..610 {
            let found = cursor.find(id).unwrap().map(|(ticket, _)| ticket);
            assert_eq!(found, bodies.ticket(id).unwrap().map(|(ticket, _)| ticket), "{id}");
            let len = if id < 400 {
                500
            } else if id == 420 {
                200_000
            } else {
                100
            };
            let there = (1..400).contains(&id) || (420..600).contains(&id);
            assert_eq!(get(bodies, id), there.then(|| stored(id, len)), "{id}");
            let from = bodies.block_from(id).unwrap().map(|block| block.tickets().unwrap());
            let next =
                from.and_then(|tickets| tickets.into_iter().map(|ticket| ticket.id).find(|next| *next >= id));
            assert_eq!(next, (id..600).find(|id| (1..400).contains(id) || *id >= 420), "{id}");
            let before = bodies.block_before(id).unwrap().map(|block| block.tickets().unwrap());
            let last = before
                .and_then(|tickets| tickets.into_iter().map(|ticket| ticket.id).rfind(|last| *last < id));
            let expected = (0..id).rfind(|id| (1..400).contains(id) || (420..600).contains(id));
            assert_eq!(last, expected, "{id}");
        }
    }
}

#[test]
fn ticket_says_what_the_action_says() {
    let bodies = open(&disk(), &[]).unwrap();
    add(&bodies, 1..300, 50);
    for file in bodies.files().iter() {
        let walked = file.fronts(&mut |front| {
            let mut tickets = front.tickets();
            while let Some(ticket) = tickets.next().unwrap() {
                let (body, status) = front.parts(&ticket).unwrap();
                let action = action(ticket.id, &body, &status).unwrap();
                let whole = ticket.flags & (CLAIMED | MORE_LOCKS) != 0;
                assert_eq!(whole, action.status.claim.is_some() || action.body.locks.len() > 1);
                if !whole {
                    let mut lock = [LockKey(0)];
                    assert_eq!(ticket.unfinished(front.names(), &mut lock).unwrap(), Unfinished::of(&action));
                }
            }
            Ok(())
        });
        assert!(walked.is_ok());
    }
}

#[test]
fn block_is_byte_for_byte_that_of_the_golden_file() {
    let mut builder = Builder::default();
    for id in [1, 2, 5, 7] {
        let Stored { body, status, .. } = stored(id, 3);
        builder.add(id, &body, &status).unwrap();
    }
    let mut bytes = file::file_header(9, "store");
    bytes.extend(builder.finish(9, bytes.len() as u64).unwrap().1);
    let text = bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bodies-v1-status-v2.hex");
    if std::env::var_os("ACTIOND_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{text}\n")).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).unwrap().trim(),
        "a stored form changed: add a version instead"
    );
}

#[test]
fn block_with_statuses_of_version_1_is_read() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bodies-v1.hex");
    let hex = std::fs::read_to_string(path).unwrap();
    let hex = hex.trim();
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let ids = [1, 2, 5, 7];
    let digest = ids.iter().fold(0, |digest: u64, id| digest.wrapping_add(version_hash(*id, 1)));
    let files = [FileMeta { number: 9, bytes: bytes.len() as u64, last_id: 7, count: 4, digest }];
    let disk = disk();
    disk.create_dir(Path::new("/store/bodies")).unwrap();
    let path = path_of(Path::new("/store/bodies"), 9);
    disk.create(&path).unwrap();
    disk.put(&path, bytes);
    let bodies = open(&disk, &files).unwrap();
    for id in ids {
        let mut status = status(id);
        if let Some(claim) = &mut status.claim {
            claim.fence = 0;
        }
        let found = get(&bodies, id).unwrap();
        let found = action(id, &found.body, &found.status).unwrap();
        assert_eq!((&*found.body, found.status), (&body(id, 3), status));
    }
}

#[test]
fn every_flipped_bit_is_damage_with_its_place() {
    let disk = disk();
    let bodies = open(&disk, &[]).unwrap();
    add(&bodies, 1..4, 30);
    let files = bodies.describe();
    let path = path_of(Path::new("/store/bodies"), files[0].number);
    for at in 0..usize::try_from(files[0].bytes).unwrap() {
        disk.flip_bit(&path, at);
        let found = open(&disk, &files).and_then(|bodies| {
            for id in 1..4 {
                let (ticket, block) = bodies.ticket(id)?.unwrap();
                block.parts(&ticket)?;
            }
            Ok(())
        });
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "byte {at}");
        disk.flip_bit(&path, at);
    }
    assert!(open(&disk, &files).is_ok());
    let short = FileMeta { bytes: files[0].bytes + 1, ..files[0] };
    assert!(matches!(open(&disk, &[short]), Err(StoreError::Damaged { .. })));
    let other = FileMeta { number: files[0].number + 1, ..files[0] };
    assert!(matches!(open(&disk, &[other]), Err(StoreError::Damaged { .. })));
}

#[test]
fn what_was_finished_survives_a_power_cut_and_what_lies_behind_it_is_not_there() {
    for seed in 0..40 {
        let disk = disk();
        let bodies = open(&disk, &[]).unwrap();
        add(&bodies, 1..200, 300);
        let files = bodies.describe();
        // Never finished.
        let mut appender = bodies.appender();
        for id in 200..900 {
            let Stored { id, body, status } = stored(id, 300);
            appender.add(id, &body, &status).unwrap();
        }
        let disk = disk.after_power_cut(seed);
        let bodies = open(&disk, &files).unwrap();
        assert_eq!((get(&bodies, 199), get(&bodies, 200)), (Some(stored(199, 300)), None));
        bodies.remove_others(&|number| bodies.holds(number)).unwrap();
        // Other actions have these numbers now.
        add(&bodies, 200..500, 20);
        let bodies = open(&disk, &bodies.describe()).unwrap();
        for id in [1, 199, 200, 201, 499] {
            assert_eq!(get(&bodies, id), Some(stored(id, if id < 200 { 300 } else { 20 })));
        }
        assert_eq!(get(&bodies, 500), None);
    }
}

#[test]
fn mostly_dead_files_are_chosen_and_replaced_with_their_small_neighbours() {
    let bodies = open(&disk(), &[]).unwrap();
    add(&bodies, 1..1_000, 500);
    assert!(bodies.victims(&HashSet::new()).is_none());
    let files = bodies.files();
    let kill = |file: &BodyFile, share: u64| {
        for id in file.first_id()..=file.meta.last_id {
            if id % 10 < share {
                file.fate.deleted(bodies.ticket(id).unwrap().unwrap().0.bytes(), false);
            }
        }
    };
    kill(&files[1], 10);
    let victims = bodies.victims(&HashSet::new()).unwrap();
    assert!(victims.are_dead());
    assert_eq!((victims.first_id(), victims.last_id()), (files[1].first_id(), files[1].meta.last_id));
    bodies.replace(&victims, Vec::new());
    assert_eq!(get(&bodies, files[1].first_id()), None);
    kill(&files[2], 9);
    let victims = bodies.victims(&HashSet::new()).unwrap();
    assert!(!victims.are_dead());
    let kept: Vec<u64> = (files[2].first_id()..=files[2].meta.last_id).filter(|id| id % 10 == 9).collect();
    let mut rewriter = bodies.rewriter();
    for id in &kept {
        let Stored { id, body, status } = stored(*id, 500);
        rewriter.add(id, &body, &status).unwrap();
    }
    let new = rewriter.finish().unwrap();
    bodies.replace(&victims, new);
    let first = files[2].first_id();
    for id in 1..1_000 {
        let there = !(files[1].first_id()..=files[2].meta.last_id).contains(&id) || kept.contains(&id);
        assert_eq!(get(&bodies, id).is_some(), there, "{id} of {first}");
    }
    kill(&files[0], 8);
    assert_eq!(bodies.victims(&HashSet::new()).unwrap().files.len(), 2, "the small one is taken along");
}
