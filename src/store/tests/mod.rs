//! The whole store in real directories: with a clean stop, a dropped store, another boot, and damage in between.
//!
//! A store that is dropped without [`Store::close`] stands for a daemon that died: what was staged and not
//! committed is gone, there is no clean mark. What a kill *inside* a checkpoint leaves is tested at the crash
//! points.

mod damage;
mod kill;
mod model;
mod power;
mod rebuild;
mod scenarios;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::RealDisk;
use super::machine::Machine;
use super::open::{Environment, open};
use super::*;
use crate::action::{
    Action, Actor, Body, Event, Finish, JsonText, OnConflict, Recovery, RetryPolicy, State, Status,
};

/// What a start hands over of every unfinished action.
#[derive(Default)]
struct Loaded(Vec<(ActionId, String)>);

impl Loaded {
    /// The same actions, whole. What was told of each must be what is there.
    fn actions(&self, opened: &Opened) -> Result<Vec<Action>, StoreError> {
        let whole = |(id, told): &(ActionId, String)| {
            let action = opened.reader.get(*id)?.unwrap();
            assert_eq!(*told, said(&Unfinished::of(&action)));
            Ok(action)
        };
        self.0.iter().map(whole).collect()
    }
}

/// All that a start says of an action, in one value.
fn said(action: &Unfinished<'_>) -> String {
    format!("{action:?}")
}

impl Loader for Loaded {
    fn begin(&mut self) {
        self.0.clear();
    }

    fn load(&mut self, action: &Unfinished<'_>) {
        self.0.push((action.id, said(action)));
    }
}

/// A machine of which the boot can change, with the store's directory on it.
struct Bench {
    dir: tempfile::TempDir,
    options: Options,
    boot: u32,
    rebuild_held: bool,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            dir: dir.path().join("store"),
            segment_bytes: 1 << 20,
            memory_bytes_max: 1 << 20,
            cache_bytes: 8 << 20,
            snapshot_after_bytes: 1 << 30,
            disk_reserve_bytes: 0,
            retention_age_ms: 1_000_000,
            retention_count: 1_000_000,
            key_age_ms: 10_000_000,
        };
        Self { dir, options, boot: 1, rebuild_held: false }
    }

    fn open(&self) -> Result<(Opened, Vec<Action>), StoreError> {
        self.open_on(Arc::new(RealDisk))
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers read better")]
    fn open_on(&self, disk: Arc<dyn disk::Disk>) -> Result<(Opened, Vec<Action>), StoreError> {
        let begun = Instant::now();
        loop {
            let mut loaded = Loaded::default();
            let machine = Machine { boot_id: format!("boot {}", self.boot), mount: "here".to_owned() };
            let environment = Environment {
                disk: Arc::clone(&disk),
                machine: Some(machine),
                rebuild_held: self.rebuild_held,
            };
            match open(&self.options, environment, Timestamp(1_000), &mut loaded) {
                // A test beside this one may just be starting a process, which has our locks until it executes.
                Err(StoreError::Locked { .. }) if begun.elapsed() < Duration::from_secs(2) => {
                    std::thread::yield_now();
                }
                opened => {
                    let opened = opened?;
                    // A test may cut the power as soon as the store is open: it looks into nothing then.
                    let actions = loaded.actions(&opened).unwrap_or_default();
                    return Ok((opened, actions));
                }
            }
        }
    }

    fn start(&self) -> (Opened, Vec<Action>) {
        self.open().unwrap()
    }

    fn path(&self, part: &str) -> std::path::PathBuf {
        self.options.dir.join(part)
    }

    fn snapshots(&self) -> Vec<std::path::PathBuf> {
        let mut found: Vec<_> = files(&self.path("snapshot"));
        found.retain(|path| path.extension().is_some_and(|end| end == "snap"));
        found
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn body(id: u64, len: usize) -> Body {
    Body {
        user: "ada@example.org".to_owned(),
        resource_type: "Stack".to_owned(),
        action: "deploy".to_owned(),
        resource_id: id,
        started_via: "web".to_owned(),
        metadata: JsonText::from_checked(format!("{{\"x\":\"{}\"}}", "y".repeat(len))),
        accepted_at: Timestamp(1_000),
        submitter: Actor { uid: 1000, gid: 1000, pid: 1 },
        queue: "default".to_owned(),
        priority: 5,
        run_at: None,
        deadline: None,
        timeout_ms: 1,
        on_conflict: OnConflict::Queue,
        idempotency_key: None,
        request_digest: [3; 16],
        retry: RetryPolicy::default(),
        recovery: Recovery::Rerun,
        locks: Vec::new(),
        retry_of: None,
    }
}

fn submit(store: &mut Store, id: u64, len: usize) -> Action {
    let action = Action {
        id: ActionId(id),
        body: Arc::new(body(id, len)),
        status: Status::accepted(State::Queued, None),
    };
    store.submit(action.id, Arc::clone(&action.body), action.status.clone()).unwrap();
    action
}

/// What the engine does with an event.
fn after(status: &Status, event: Event, now: Timestamp) -> Status {
    let mut status = status.clone();
    status.state = status.state.apply(event).unwrap();
    status.version += 1;
    if status.state.is_final() {
        let (success, result) = (status.state == State::Succeeded, JsonText::empty());
        status.finish = Some(Finish { at: now, success, message: "over".to_owned(), result });
    }
    status
}

fn change(store: &mut Store, action: &mut Action, event: Event) {
    action.status = after(&action.status, event, Timestamp(2_000));
    store.change(action.id, event, &action.status).unwrap();
}

/// Claims the actions with much to say of each, and has them succeed and deleted: sled's file keeps the room.
fn churn(opened: &mut Opened, actions: &mut [&mut Action]) {
    for event in [Event::Claim, Event::Succeed] {
        for (at, action) in actions.iter_mut().enumerate() {
            let mut status = after(&action.status, event, Timestamp(2_000));
            status.reason = if event == Event::Claim { "y".repeat(3_000) } else { String::new() };
            action.status = status;
            opened.store.change(action.id, event, &action.status).unwrap();
            if at % 100 == 99 {
                opened.store.commit().unwrap();
                until(opened, |opened| opened.store.pressure() == Pressure::None);
            }
        }
        checkpoint(opened);
    }
    while !opened.store.expire(Timestamp(3_000), 500).unwrap().is_empty() {
        opened.store.commit().unwrap();
        until(opened, |opened| opened.store.pressure() == Pressure::None);
    }
}

/// Commits until the condition holds, with a bound.
fn until(opened: &mut Opened, holds: impl Fn(&Opened) -> bool) {
    let begun = Instant::now();
    while !holds(opened) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never happened");
        opened.store.commit().unwrap();
        std::thread::yield_now();
    }
}

/// Whether sled stands again; also of a store so young that nobody is told of its rebuild.
fn is_rebuilt(opened: &Opened) -> bool {
    !opened.store.shared.base().unwrap().is_rebuilding()
}

/// Has everything committed so far in sled.
fn checkpoint(opened: &mut Opened) {
    opened.store.commit().unwrap();
    until(opened, |opened| opened.store.shared.memory().frozen.is_none());
    let before = opened.reader.health().checkpoints;
    opened.store.checkpoint_now = true;
    opened.store.commit().unwrap();
    until(opened, |opened| opened.reader.health().checkpoints > before);
}

/// Checkpoints with a snapshot behind it.
fn snapshot(opened: &mut Opened) {
    let bytes = std::mem::replace(&mut opened.store.options.snapshot_after_bytes, 0);
    opened.store.snapshot_bytes = 0;
    let before = opened.reader.health().snapshots;
    let begun = Instant::now();
    while opened.reader.health().snapshots == before {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never happened");
        // A new table that is under way comes first.
        checkpoint(opened);
    }
    opened.store.options.snapshot_after_bytes = bytes;
}

fn everything(reader: &Reader) -> Vec<Action> {
    try_everything(reader).unwrap()
}

fn try_everything(reader: &Reader) -> Result<Vec<Action>, StoreError> {
    let mut found = Vec::new();
    reader.scan_back(None, &mut |action| {
        found.push(action);
        true
    })?;
    found.reverse();
    Ok(found)
}

fn unfinished(actions: &[Action]) -> Vec<Action> {
    actions.iter().filter(|action| !action.status.state.is_final()).cloned().collect()
}
