//! Brings table, journal and memory together at a start: either sled as it lies there, or snapshot and journal
//! until a new one is made from them. See [`super::open`] for the order of things.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ballast::Ballast;
use super::base::{Base, Over, ReadError};
use super::bodies::{self, Bodies, Take};
use super::crash_point::crash_point;
use super::disk::Disk;
use super::journal::{GroupNumber, Journal, Replayed};
use super::ledger::Ledger;
use super::load::Merge;
use super::marks::{io_error, make_dir, sync_dir};
use super::memory::Generation;
use super::open::remove_tree;
use super::rebuild::{self, Gather, Gathered, Rebuild};
use super::record::{FileMeta, Meta};
use super::replay::Replay;
use super::snapshot::{self, Unreadable};
use super::table::{Table, TableError};
use super::{Loader, Options, StoreError};

/// Everything a store runs on.
pub(super) struct Recovered {
    pub base: Base,
    pub journal: Journal,
    pub generation: Generation,
    pub ledger: Ledger,
    /// Finished actions that are live.
    pub finished: u64,
    /// Group and size of the newest snapshot.
    pub snapshot: Option<(u64, u64)>,
    /// Whether the table holds a checkpoint.
    pub has_meta: bool,
    /// Whether the store ever had one.
    pub had_checkpoint: bool,
}

pub(super) struct Recovery<'a> {
    pub options: &'a Options,
    pub disk: Arc<dyn Disk>,
    /// sled's directory.
    pub table: PathBuf,
    pub store_id: String,
    pub loader: &'a mut dyn Loader,
    /// Why sled was rebuilt, if it was.
    pub reason: Option<String>,
}

/// The table cannot be used, with the reason; or nothing can.
enum Trouble {
    /// No checkpoint was ever finished in it, and no snapshot was ever made of it.
    Young,
    Distrust(String),
    Store(StoreError),
}

impl From<TableError> for Trouble {
    fn from(TableError(why): TableError) -> Self {
        Self::Distrust(why)
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Table(error) => error.into(),
            // What the last snapshot does not name is in the journal still: without the table it may do.
            ReadError::Store(error @ StoreError::Damaged { .. }) => Self::Distrust(error.to_string()),
            ReadError::Store(error) => Self::Store(error),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Recovery<'_> {
    /// Takes sled as it is if it is what the journal says, else rebuilds it.
    pub fn run(&mut self) -> Result<Recovered, StoreError> {
        match self.trust() {
            Ok(recovered) => Ok(recovered),
            Err(Trouble::Store(error)) => Err(error),
            Err(Trouble::Young) => {
                let recovered = self.rebuild()?;
                // If the journal knows of a checkpoint, sled has lost it, or was killed in its first one.
                if recovered.had_checkpoint {
                    let reason = "it holds no checkpoint";
                    tracing::warn!(reason, "table was not trusted and is rebuilt from the journal");
                    self.reason = Some(reason.to_owned());
                }
                Ok(recovered)
            }
            Err(Trouble::Distrust(reason)) => {
                self.quarantine(&reason)?;
                self.rebuild()
            }
        }
    }

    /// Moves sled's directory aside; only the last one is kept.
    pub fn quarantine(&mut self, reason: &str) -> Result<(), StoreError> {
        self.reason = Some(reason.to_owned());
        let (table, aside) = (self.table.clone(), self.options.dir.join("quarantine"));
        if table.exists() {
            tracing::warn!(reason, "table is not trusted and is rebuilt from snapshot and journal");
            // Setting it aside takes a directory, for which a full disk has no block.
            Ballast::new(&self.options.dir, self.options.segment_bytes, self.options.disk_reserve_bytes)
                .make_room();
            remove_tree(&aside)?;
            make_dir(&aside)?;
            let to = aside.join("table");
            std::fs::rename(&table, &to).map_err(io_error("move", &table))?;
            sync_dir(&aside)?;
            sync_dir(&self.options.dir)?;
        }
        crash_point("quarantined");
        Ok(())
    }

    fn trust(&mut self) -> Result<Recovered, Trouble> {
        let table = Table::open(&self.table, self.options.cache_bytes)?;
        let Some(meta) = table.meta()? else {
            let dir = self.options.dir.join("snapshot");
            let snapshots = snapshot::list(&*self.disk, &dir).map_err(io_error("list", &dir))?;
            return Err(if snapshots.is_empty() {
                Trouble::Young
            } else {
                Trouble::Distrust("it holds no checkpoint".to_owned())
            });
        };
        if meta.store_id != self.store_id {
            return Err(Trouble::Distrust("it belongs to another store".to_owned()));
        }
        let snapshot = self.newest_snapshot()?;
        let covered = snapshot.as_ref().map_or(0, |(meta, _)| meta.group);
        if covered > meta.group {
            return Err(Trouble::Distrust("it is older than the newest snapshot".to_owned()));
        }
        let told = snapshot.as_ref().filter(|_| covered == meta.group);
        let told = told.map(|(meta, _)| (meta.live_count, meta.digest));
        // The checkpoint's own group says what it holds; a snapshot says the same, and the group may be gone.
        let after = if told.is_some() { meta.group } else { meta.group.saturating_sub(1) };
        let (held, counted) = (meta.group, (meta.live_count, meta.digest));
        let files = meta.files.clone();
        let mut replay = Replay {
            firsts: BTreeMap::new(),
            generation: Generation::default(),
            ledger: Ledger::from_meta(meta),
            held,
            checkpointed: told,
            distrust: None,
            journal: self.options.dir.join("journal"),
        };
        let journal = self.open_journal(after, &mut |replayed| replay.take(&replayed));
        if let Some(why) = replay.distrust.take() {
            return Err(Trouble::Distrust(why));
        }
        let journal = journal?;
        if replay.checkpointed != Some(counted) {
            return Err(Trouble::Distrust("the journal knows another checkpoint".to_owned()));
        }
        let Replay { generation, ledger, firsts, .. } = replay;
        self.loader.begin();
        let (bodies, (load, stale)) = {
            let mut merge = Merge::new(&mut *self.loader, &table, &generation, &firsts);
            let loaded =
                open_bodies(self.options, &self.disk, &self.store_id, &files, &mut |front| merge.take(front));
            let loaded = loaded.and_then(|bodies| Ok((bodies, merge.end()?)));
            let named = snapshot.as_ref().map_or(&[][..], |(meta, _)| &meta.files);
            loaded.map_err(|error| unless_named(error, named))?
        };
        if load.counted() != (ledger.live_count, ledger.digest) {
            return Err(Trouble::Distrust(format!(
                "it holds {} actions where there should be {}, or other versions of them",
                load.counted().0,
                ledger.live_count
            )));
        }
        let finished = load.finished;
        if !stale.is_empty() {
            tracing::info!(
                count = stale.len(),
                "statuses of body files that were written anew are forgotten"
            );
            let mut writer = table.writer();
            writer.forget_these(&stale)?;
            writer.finish()?;
        }
        let snapshot = snapshot.map(|(meta, bytes)| (meta.group, bytes));
        Ok(Recovered {
            base: Base { bodies: Arc::new(bodies), over: Over::Table(Arc::new(table)) },
            journal,
            generation,
            ledger,
            finished,
            snapshot,
            has_meta: true,
            had_checkpoint: true,
        })
    }

    /// Takes up the newest snapshot that can be read and the journal behind it, for a new table to be made from.
    pub fn rebuild(&mut self) -> Result<Recovered, StoreError> {
        let dir = self.options.dir.join("snapshot");
        let groups = snapshot::list(&*self.disk, &dir).map_err(io_error("list", &dir))?;
        let mut unreadable = None;
        let mut damaged = Vec::new();
        for group in groups {
            match self.rebuild_from(Some(group))? {
                Ok(recovered) => return self.set_aside(&damaged).map(|()| recovered),
                Err(Unreadable { io: Some(error), .. }) => {
                    return Err(io_error("read", &snapshot::path(&dir, group))(error));
                }
                Err(Unreadable { offset, detail, .. }) => {
                    let path = snapshot::path(&dir, group);
                    tracing::error!(path = %path.display(), offset, error = detail, "snapshot is damaged");
                    damaged.push(path.clone());
                    unreadable.get_or_insert(StoreError::Damaged {
                        file: path,
                        offset,
                        detail,
                        next_step: "restore the snapshot from a backup of the store",
                    });
                }
            }
        }
        match self.rebuild_from(None) {
            Ok(Ok(recovered)) => self.set_aside(&damaged).map(|()| recovered),
            Ok(Err(Unreadable { detail, .. })) => Err(StoreError::Io {
                what: "rebuild",
                path: self.table.clone(),
                source: std::io::Error::other(detail),
            }),
            // The journal does not reach back to the first action: the snapshot is what is missing.
            Err(error @ StoreError::Damaged { .. }) => Err(unreadable.unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    /// Damaged snapshots are no longer taken for the one that is kept, once all is there without them.
    fn set_aside(&self, damaged: &[PathBuf]) -> Result<(), StoreError> {
        for path in damaged {
            let aside = path.with_extension("damaged");
            self.disk.rename(path, &aside).map_err(io_error("rename", path))?;
        }
        // One that came back under its name after a power cut would be taken for the one that is kept.
        match damaged.first().and_then(|path| path.parent()) {
            Some(dir) => self.disk.sync_dir(dir).map_err(io_error("sync", dir)),
            None => Ok(()),
        }
    }

    /// Everything but sled itself, which the checkpoint thread fills from what is found here.
    fn rebuild_from(&mut self, group: Option<u64>) -> Result<Result<Recovered, Unreadable>, StoreError> {
        let table = self.table.clone();
        let failed = |error: ReadError| match error {
            ReadError::Table(error) => {
                let source = std::io::Error::other(error);
                StoreError::Io { what: "rebuild", path: table.clone(), source }
            }
            ReadError::Store(error) => error,
        };
        let mut gather = Gather::new(self.store_id.clone(), self.options.dir.join("journal"));
        let (mut held, mut newest, mut files) = (0, None, Vec::new());
        if let Some(group) = group {
            let path = snapshot::path(&self.options.dir.join("snapshot"), group);
            match gather.snapshot(&*self.disk, &path) {
                Ok(meta) if meta.group == group => {
                    (held, newest) = (group, Some((group, self.len(&path))));
                    files = meta.files;
                }
                Ok(_) => return Ok(Err(Unreadable::new(0, "it has another name"))),
                Err(unreadable) => return Ok(Err(unreadable)),
            }
        }
        let bodies = open_bodies(self.options, &self.disk, &self.store_id, &files, &mut |_| Ok(()));
        let bodies = Arc::new(bodies.map_err(failed)?);
        gather.over(Arc::clone(&bodies));
        let journal = self.open_journal(held, &mut |replayed| gather.take(&replayed))?;
        let gathered = gather.end(Arc::clone(&self.disk), journal.reader());
        let Gathered { index, sources, ledger, saw_checkpoint } = gathered;
        self.loader.begin();
        let finished = rebuild::load(&bodies, &index, &sources, self.loader).map_err(failed)?;
        crash_point("rebuild_gathered");
        let (dir, cache_bytes) = (self.table.clone(), self.options.cache_bytes);
        let over = if index.is_empty() && newest.is_none() {
            remove_tree(&dir)?;
            Over::Table(Arc::new(Table::open(&dir, cache_bytes).map_err(|error| failed(error.into()))?))
        } else {
            let bodies = Arc::clone(&bodies);
            Over::Rebuild(Arc::new(Rebuild::new(bodies, index, sources, dir, cache_bytes)))
        };
        let base = Base { bodies, over };
        Ok(Ok(Recovered {
            base,
            journal,
            generation: Generation::default(),
            ledger,
            finished,
            snapshot: newest,
            has_meta: false,
            had_checkpoint: saw_checkpoint || newest.is_some(),
        }))
    }

    fn newest_snapshot(&self) -> Result<Option<(Meta, u64)>, StoreError> {
        let dir = self.options.dir.join("snapshot");
        let groups = snapshot::list(&*self.disk, &dir).map_err(io_error("list", &dir))?;
        for group in groups {
            let path = snapshot::path(&dir, group);
            match snapshot::read_meta(&*self.disk, &path) {
                Ok(meta) => {
                    return Ok(Some((meta, self.len(&path))));
                }
                Err(Unreadable { io: Some(error), .. }) => return Err(io_error("read", &path)(error)),
                Err(Unreadable { offset, detail, .. }) => {
                    tracing::error!(path = %path.display(), offset, error = detail, "snapshot is damaged");
                }
            }
        }
        Ok(None)
    }

    /// Only a measure of when to write the next one.
    fn len(&self, snapshot: &Path) -> u64 {
        self.disk.open(snapshot).and_then(|file| file.len()).unwrap_or(0)
    }

    fn open_journal(
        &self,
        after: u64,
        replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), StoreError>,
    ) -> Result<Journal, StoreError> {
        // Only now: sled would take the room first.
        let Options { dir, segment_bytes, disk_reserve_bytes, .. } = self.options;
        Ballast::new(dir, *segment_bytes, *disk_reserve_bytes).make_room();
        Journal::open(
            Arc::clone(&self.disk),
            self.options.dir.join("journal"),
            self.options.segment_bytes,
            GroupNumber(after),
            replay,
        )
    }
}

/// Without the table it would be no better if the snapshot names what is damaged too: then the table stays.
fn unless_named(error: ReadError, named: &[FileMeta]) -> Trouble {
    match error {
        ReadError::Store(StoreError::Damaged { ref file, offset, .. })
            if bodies::number_in(file).is_some_and(|number| {
                named.iter().any(|meta| meta.number == number && offset < meta.bytes)
            }) =>
        {
            let ReadError::Store(error) = error else { return error.into() };
            Trouble::Store(error)
        }
        error => error.into(),
    }
}

fn open_bodies(
    options: &Options,
    disk: &Arc<dyn Disk>,
    store_id: &str,
    files: &[FileMeta],
    take: &mut Take<'_>,
) -> Result<Bodies, ReadError> {
    let dir = options.dir.join("bodies");
    Bodies::open(Arc::clone(disk), &dir, store_id, options.segment_bytes, files, take)
}
