//! Takes a resync back: the old data get their place again, and the server is started if it ran.
//!
//! Not once the replica follows and its old data are being removed, and not once it was rewound: what `pg_rewind` has
//! changed only a new copy mends. Then a warning says what there is.

use std::fs;
use std::io;

use super::super::super::super::postgres::Session;
use super::super::super::Ends;
use super::super::super::resync::Params;
use super::super::Slot;
use super::super::server::{disk, sync_beside};
use super::copy::{NEW, OLD, SWAP, SwapBefore, remove, remove_copies};
use super::rewind::{KEPT, REWIND, Reached, reached};
use super::{CLEAN, Resync, SLOT, STOP, STOP_AGAIN, SlotBefore, StopBefore};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;

pub(in super::super::super) async fn undo(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
) -> Result<(), Failure> {
    let resync = Resync::new(params, run, ends)?;
    if run.is_begun(CLEAN) {
        run.warn(format!("{} follows {} already and stays so", resync.name(), resync.source_name()));
        return Ok(());
    }
    if run.is_begun(REWIND) && reached(&resync) != Reached::Nothing {
        return leave(&resync).await;
    }
    put_back(&resync).await
}

/// The old data are no more.
async fn leave(resync: &Resync<'_>) -> Result<(), Failure> {
    let run = resync.run;
    let is_replaced = run.trace::<SwapBefore, ()>(SWAP)?.is_some();
    let state = match reached(resync) {
        _ if is_replaced => "is replaced by a new copy, and may have to be started",
        Reached::Rewound => "was rewound, and follows its source when it is started",
        _ => "was rewound in part and cannot be started: resync it with method = basebackup",
    };
    run.warn(format!("{} {state}; this cannot be taken back", resync.name()));
    if !is_replaced {
        run.repeatable("undo.copy", async || remove_copies(resync).await).await?;
    }
    if is_replaced || reached(resync) == Reached::Rewound {
        let start = async || resync.server.start(run).await;
        run.repeatable("undo.start", start).await?;
    }
    Ok(())
}

async fn put_back(resync: &Resync<'_>) -> Result<(), Failure> {
    let (run, server) = (resync.run, &resync.server);
    let stopped = match run.trace::<StopBefore, ()>(STOP)? {
        Some(stopped) => Some(stopped),
        None => run.trace::<StopBefore, ()>(STOP_AGAIN)?,
    };
    if let Some(before) = run.trace::<SwapBefore, ()>(SWAP)? {
        let (data, new, old) = (server.data(), server.beside(NEW, run), server.beside(OLD, run));
        // Also if it seems to be down: an earlier attempt may be about to start it.
        run.repeatable("undo.stop", async || server.stop(run).await).await?;
        let back = async || {
            let put = || -> io::Result<()> {
                let is_swapped = old.exists() || !before.intent.had_data;
                if is_swapped && data.exists() && !new.exists() {
                    fs::rename(data, &new)?;
                    sync_beside(data)?;
                }
                if old.exists() && !data.exists() {
                    fs::rename(&old, data)?;
                    sync_beside(data)?;
                }
                Ok(())
            };
            put().map_err(|error| disk("cannot put back", data, &error))
        };
        run.repeatable("undo.swap", back).await?;
    }
    if let Some(stopped) = stopped.filter(|stopped| stopped.intent.ran) {
        let start = async || {
            // One that is still going down is no server any more.
            if stopped.result.is_none() {
                server.stop(run).await?;
            }
            server.start(run).await
        };
        run.repeatable("undo.start", start).await?;
    }
    run.repeatable("undo.copy", async || {
        remove_copies(resync).await?;
        remove(&server.beside(KEPT, run)).await
    })
    .await?;
    if let Some(slot) = run.trace::<SlotBefore, ()>(SLOT)?.filter(|slot| !slot.intent.existed) {
        let primary = resync.ends.primary().map_err(|problem| Failure::permanent("target", problem))?;
        let source = Session::open(run, primary, None).await?;
        source.alone(run).await?;
        run.repeatable("undo.slot", async || Slot::remove(run, &source, &slot.intent.name).await).await?;
    }
    Ok(())
}
