//! A start: whose directory this is, whether sled can be trusted, and what the journal adds to it.
//!
//! ```text
//!  lock ─▶ identity ─▶ marks ─┬─ trusted ───▶ open sled ─▶ replay behind its checkpoint ─▶ tickets ─▶ count ─┐
//!                             │                   └── anything does not match ──┐                            │
//!                             └─ not trusted ─▶ quarantine ◀────────────────────┘                            ▼
//!                                       └─▶ snapshot ─▶ replay ─▶ tickets ─▶ count ─▶ started, sled is filled beside
//! ```
//!
//! Trusted or not, every unfinished action goes to the engine in the order of ids, and all are counted: live
//! count and digest must be what checkpoint and journal say. Nothing per action stays in memory but what the
//! journal holds behind the checkpoint, and an entry an action that changed since its body was written while sled
//! is rebuilt ([`super::rebuild`]).
//!
//! # Guarantees
//!
//! - A store never starts empty, or with less, because something could not be read.
//! - The start's own record (its incarnation) is durable before it returns.
//!
//! A store is created journal first, identity last, under a mark that lets a start after a crash begin again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::bodies::Bodies;
use super::checkpoint::Checkpointer;
use super::crash_point::crash_point;
use super::disk::Disk;
use super::journal::{GroupNumber, Journal};
use super::machine::Machine;
use super::marks::{Marks, io_error, make_dir, random_id, sync_dir};
use super::memory::Generation;
use super::reader::Reader;
use super::record::Record;
use super::recover::{Recovered, Recovery};
use super::retention::Retention;
use super::shared::Shared;
use super::snapshot;
use super::writer::Store;
use super::{Health, Loader, Opened, Options, StoreError};
use crate::action::{ActionId, Timestamp};

/// What a test puts in the place of the machine.
pub(super) struct Environment {
    pub disk: Arc<dyn Disk>,
    /// None: this one.
    pub machine: Option<Machine>,
    /// Has a rebuild wait.
    #[cfg(test)]
    pub rebuild_held: bool,
}

pub(super) fn open(
    options: &Options,
    environment: Environment,
    now: Timestamp,
    loader: &mut dyn Loader,
) -> Result<Opened, StoreError> {
    let begun = Instant::now();
    #[cfg(test)]
    let rebuild_held = environment.rebuild_held;
    let Environment { disk, machine, .. } = environment;
    let dir = &options.dir;
    make_dir(dir)?;
    let marks = Marks::new(dir.clone());
    let lock = marks.lock()?;
    let machine = machine.map_or_else(|| Machine::current(dir), Ok)?;
    let (store_id, is_new) = found_or_find(options, &marks, &disk)?;
    let snapshots = dir.join("snapshot");
    disk.create_dir(&snapshots).map_err(io_error("create", &snapshots))?;
    snapshot::remove_unfinished(&*disk, &snapshots).map_err(io_error("clear", &snapshots))?;
    let (table, _) = marks.table_in()?;
    // Of the two directories the other is half a new table, or what is left of an old one.
    remove_tree(&dir.join(if table == "table" { "table.2" } else { "table" }))?;
    let table = dir.join(table);
    let mut recovery = Recovery { options, disk: Arc::clone(&disk), table, store_id, loader, reason: None };
    let distrust = if is_new { None } else { marks.distrust(&machine)? };
    if let Some(reason) = &distrust {
        recovery.quarantine(reason)?;
    }
    crash_point("open_running");
    marks.leave_running(&machine)?;
    crash_point("open_running_left");
    marks.remove_storage_error()?;
    let recovered = if is_new || distrust.is_some() { recovery.rebuild()? } else { recovery.run()? };
    // Before the first checkpoint there was nothing in sled to lose.
    let rebuilt = recovery.reason.filter(|_| recovered.had_checkpoint);
    let Recovered { base, mut journal, generation, mut ledger, finished, snapshot, has_meta, .. } = recovered;

    ledger.incarnation += 1;
    let boot_id = machine.boot_id;
    let started = Record::Started { incarnation: ledger.incarnation, boot_id: boot_id.clone() };
    journal.stage(&started.encode());
    journal.commit()?;
    crash_point("open_started");

    let (snapshot_group, snapshot_bytes) = snapshot.unwrap_or((0, 0));
    let health = Health {
        rebuilding: rebuilt.clone().filter(|_| base.is_rebuilding()),
        rebuilds: u64::from(rebuilt.is_some()),
        last_rebuild_reason: rebuilt,
        live_actions: ledger.live_count,
        journal_groups: journal.last_group().0,
        journal_bytes: journal.bytes_since(GroupNumber(snapshot_group)),
        ..Health::default()
    };
    tracing::info!(
        store = %dir.display(),
        incarnation = ledger.incarnation,
        live_actions = ledger.live_count,
        finished_actions = finished,
        duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "store opened"
    );
    let memory = super::memory::Memory { current: generation, frozen: None };
    remove_unnamed(&*disk, &snapshots, &base.bodies)?;
    let shared = Arc::new(Shared::new(marks.clone(), options, memory, base, ledger.next_id, health));
    #[cfg(test)]
    shared.rebuild_held.store(rebuild_held, std::sync::atomic::Ordering::Release);
    let checkpointer = Checkpointer::start(Arc::clone(&shared), disk, snapshots, options)?;
    let opened =
        (ledger.incarnation, ledger.store_id.clone(), ledger.paused_queues.iter().cloned().collect());
    let (incarnation, store_id, paused_queues) = opened;
    let next_id = ActionId(ledger.next_id);
    let store = Store {
        shared: Arc::clone(&shared),
        options: options.clone(),
        journal,
        checkpointer,
        ledger,
        staged: Generation::default(),
        is_staged: false,
        seen: std::cell::RefCell::default(),
        unsaved_since: Some(begun),
        // A rebuilt table is of use to the next start once it has a checkpoint.
        checkpoint_now: !has_meta && !is_new,
        closing: false,
        snapshot_group,
        snapshot_bytes,
        retention: Retention::new(finished),
        now,
        marks,
        lock,
    };
    Ok(Opened { store, reader: Reader { shared }, incarnation, boot_id, store_id, paused_queues, next_id })
}

/// Removes the body files that neither the start nor a snapshot names: what a crash left half done.
fn remove_unnamed(disk: &dyn Disk, snapshots: &Path, bodies: &Bodies) -> Result<(), StoreError> {
    let mut named: BTreeSet<u64> = bodies.describe().iter().map(|file| file.number).collect();
    for group in snapshot::list(disk, snapshots).map_err(io_error("list", snapshots))? {
        // What a damaged one names is not known: then everything stays until there is a new one.
        let Ok(meta) = snapshot::read_meta(disk, &snapshot::path(snapshots, group)) else { return Ok(()) };
        named.extend(meta.files.iter().map(|file| file.number));
    }
    bodies.remove_others(&|number| named.contains(&number))
}

/// The store's id, and whether the store was created just now.
fn found_or_find(
    options: &Options,
    marks: &Marks,
    disk: &Arc<dyn Disk>,
) -> Result<(String, bool), StoreError> {
    let journal = options.dir.join("journal");
    if let Some(id) = marks.identity()? {
        marks.remove_creating()?;
        if is_empty(&**disk, &journal)? {
            return Err(StoreError::Damaged {
                file: journal,
                offset: 0,
                detail: "the store has an identity but no journal".to_owned(),
                next_step: "restore the directory, or the whole store from a backup",
            });
        }
        return Ok((id, false));
    }
    if !marks.is_creating()? {
        for part in ["journal", "snapshot", "bodies", "table"] {
            let path = options.dir.join(part);
            if !is_empty(&**disk, &path)? {
                return Err(StoreError::Damaged {
                    file: options.dir.join("identity"),
                    offset: 0,
                    detail: format!("it is missing, but there is {}", path.display()),
                    next_step: "restore the file from a backup, or choose another directory",
                });
            }
        }
        marks.leave_creating()?;
    }
    // Nothing was ever acknowledged from here: the identity comes last.
    if !is_empty(&**disk, &journal)? {
        for name in disk.list(&journal).map_err(io_error("list", &journal))? {
            let path = journal.join(name);
            disk.remove(&path).map_err(io_error("remove", &path))?;
        }
    }
    remove_tree(&options.dir.join("table"))?;
    crash_point("create_journal");
    Journal::make(disk, &journal, options.segment_bytes)?;
    // Also the directories that lead here: they may have been made for this store.
    sync_dir(&options.dir)?;
    for path in options.dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).take(2) {
        if let Err(error) = sync_dir(path) {
            // A directory that only root may read was not made by us.
            tracing::debug!(%error, "cannot sync a directory above the store");
        }
    }
    crash_point("create_identity");
    let id = random_id()?;
    marks.leave_identity(&id)?;
    marks.remove_creating()?;
    tracing::info!(store_id = id, "store created");
    Ok((id, true))
}

fn is_empty(disk: &dyn Disk, path: &Path) -> Result<bool, StoreError> {
    match disk.list(path) {
        Ok(names) => Ok(names.is_empty()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("list", path)(error)),
    }
}

/// Removes a directory with everything in it, if it is there.
pub(super) fn remove_tree(path: &PathBuf) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}
