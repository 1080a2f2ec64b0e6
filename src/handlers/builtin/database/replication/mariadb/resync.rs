//! `resync_slave_db` on MariaDB.
//!
//! | method | step | does | after an interruption |
//! | --- | --- | --- | --- |
//! | gtid | `attach` | read only; CHANGE MASTER, START SLAVE; waits until it has what its primary has | once more |
//! | seed | `dump` | mariadb-dump of the primary to a file, with the position it belongs to | the file has its name, or once more |
//! | | `load` | read only, follows nobody; all databases are dropped, the file is loaded, the position is set | once more, from its beginning |
//! | | `follow` | as `attach` | once more |
//!
//! Nothing is dropped before all that replaces it is on the replica's disk. A server that is half loaded follows nobody,
//! so nothing takes it for a replica. What is loaded is not written to its binary log. Databases are copied, accounts are not:
//! to replace the tables that say who may log in is no matter for a moment in which a server may crash. Where they differ a
//! warning says so.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::super::Engine;
use super::super::super::dump::{Dump, DumpFile, Piece};
use super::super::super::names::quoted;
use super::super::Ends;
use super::super::resync::{Method, Params, Resynced};
use super::catch_up::reaches;
use super::{Connection, Follows, Mariadb, Server, literal, password};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child::Child;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};
use crate::handlers::targets::Target;

const ATTACH: &str = "attach";
const DUMP: &str = "dump";
const LOAD: &str = "load";
const FOLLOW: &str = "follow";

/// To catch up takes as long as it takes: the action has a timeout.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(30 * 86_400);
/// The position that a dump belongs to is before anything of a database.
const HEAD_BYTES: u64 = 65_536;
/// As many accounts are named.
const NAMED_MAX: usize = 5;

/// What there was before.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Before {
    read_only: bool,
    /// Its threads, if it followed the same primary.
    threads: Option<(bool, bool)>,
    follows: bool,
}

/// What came of `attach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Attached {
    Follows {
        seconds_behind: Option<u64>,
    },
    /// Its primary has no more what it lacks, or the two do not fit.
    Broken {
        why: String,
    },
}

/// A complete dump.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Dumped {
    dump: Dump,
    position: String,
}

pub(in super::super) fn check(params: &Params, ends: &Ends<'_>) -> Result<(), String> {
    let source = ends.primary()?;
    if source.settings::<Mariadb>()?.replication.is_none() {
        return Err(format!(
            "the target {} does not say how its replicas connect (replication)",
            source.name
        ));
    }
    if matches!(params.method, Method::Rewind | Method::Basebackup) {
        return Err("method: it is PostgreSQL's; MariaDB has gtid and seed".to_owned());
    }
    if params.max_rate_kib.is_some() {
        return Err("max_rate_kib: mariadb-dump has no such limit".to_owned());
    }
    if params.keep_old {
        return Err("keep_old: a seed takes the place of the old data".to_owned());
    }
    if params.method == Method::Seed {
        backup_dir(ends.replica)?;
    }
    Ok(())
}

fn backup_dir(replica: &Target) -> Result<PathBuf, String> {
    let dir = replica.settings::<Mariadb>()?.backup_dir;
    dir.ok_or_else(|| format!("method seed: the target {} has no backup_dir", replica.name))
}

pub(in super::super) async fn plan(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
) -> Result<Vec<Value>, Failure> {
    let resync = Resync::open(params, run, ends).await?;
    let steps: &[&str] = match resync.judge().await? {
        Judged::Follows(_) => return Ok(Vec::new()),
        Judged::Attach => &[ATTACH],
        Judged::Seed => &[DUMP, LOAD, FOLLOW],
    };
    let (replica, source) = (resync.replica.name(), resync.source.name());
    Ok(steps.iter().map(|step| json!({ "step": step, "target": replica, "source": source })).collect())
}

pub(in super::super) async fn execute(params: &Params, run: &Run, ends: &Ends<'_>) -> Result<Done, Failure> {
    let resync = Resync::open(params, run, ends).await?;
    let (replica, source) = (resync.replica.name(), resync.source.name());
    let mut resynced = Resynced {
        source: source.to_owned(),
        replication_state: "streaming".to_owned(),
        ..Resynced::default()
    };
    let judged = if run.is_begun(DUMP) {
        Judged::Seed
    } else if run.is_begun(ATTACH) {
        Judged::Attach
    } else {
        resync.judge().await?
    };
    let mut is_attached = false;
    match judged {
        Judged::Follows(seconds_behind) => {
            resynced.seconds_behind = seconds_behind;
            return Ok(Done::new(format!("{replica} follows {source} already"), false, &resynced));
        }
        Judged::Attach => {
            let attached = run
                .step(ATTACH, async || resync.before().await, async |_: &Before| resync.attach().await, again)
                .await?;
            match attached {
                Attached::Follows { seconds_behind } => {
                    resynced.method_used = Some(Method::Gtid);
                    resynced.seconds_behind = seconds_behind;
                    is_attached = true;
                }
                Attached::Broken { why } => run.warn(format!("it cannot go on from where it is: {why}")),
            }
        }
        Judged::Seed => {}
    }
    if !is_attached {
        let found = async |(): &()| resync.dumped().await;
        let dumped = run.step(DUMP, async || Ok(()), async |(): &()| resync.dump().await, found).await?;
        run.progress(50, "loading");
        let load = async |_: &Before| resync.load(&dumped).await;
        run.step(LOAD, async || resync.before().await, load, again).await?;
        resynced.seconds_behind = run.repeatable(FOLLOW, async || resync.follow(false).await).await?;
        resynced.method_used = Some(Method::Seed);
        resynced.bytes_copied = Some(dumped.dump.bytes);
        resync.file()?.remove()?;
        resync.warn_of_accounts().await?;
    }
    resync.replica.warn_of_restart(run);
    Ok(Done::new(format!("{replica} follows {source}"), true, &resynced))
}

/// Each step may be done again.
async fn again<I, R>(_: &I) -> Result<Found<R>, Failure> {
    Ok(Found::NotDone)
}

pub(in super::super) async fn undo(_params: &Params, run: &Run, ends: &Ends<'_>) -> Result<(), Failure> {
    let attach = run.trace::<Before, Attached>(ATTACH)?;
    if attach.is_none() && !run.is_begun(DUMP) {
        return Ok(());
    }
    let replica = Server::open(run, ends.replica).await?;
    let is_loading = run.is_begun(LOAD);
    if run.is_begun(DUMP) {
        let dir = backup_dir(ends.replica).map_err(|why| Failure::permanent("target", why))?;
        run.repeatable("undo.dump", async || DumpFile::new(&dir, "seed", run.id).remove()).await?;
    }
    let follows = replica.follows().await?;
    if follows.as_ref().is_some_and(|follows| follows.has_io() && follows.has_sql()) {
        if attach.is_none_or(|attach| attach.intent.threads != Some((true, true))) {
            run.warn(format!("{} follows its primary, and stays so", replica.name()));
        }
        return Ok(());
    }
    if is_loading {
        run.repeatable("undo.load", async || replica.execute("stop the replication of", "STOP SLAVE").await)
            .await?;
        run.warn(format!(
            "the data of {} were replaced, which cannot be taken back: they may be incomplete until it is resynced",
            replica.name()
        ));
        return Ok(());
    }
    let Some(attach) = attach else { return Ok(()) };
    let before = attach.intent;
    run.repeatable("undo.attach", async || match (before.threads, follows.is_some()) {
        (Some((io, sql)), true) => {
            replica.execute("stop the replication of", "STOP SLAVE").await?;
            for (thread, ran) in [("IO_THREAD", io), ("SQL_THREAD", sql)] {
                if ran {
                    replica.execute("start the replication of", &format!("START SLAVE {thread}")).await?;
                }
            }
            Ok(())
        }
        (None, true) if before.follows => {
            run.warn(format!("{} followed another server, which it has forgotten", replica.name()));
            replica.execute("stop the replication of", "STOP SLAVE").await
        }
        (None, true) => {
            replica.execute("stop the replication of", "STOP SLAVE").await?;
            replica.execute("end the replication of", "RESET SLAVE ALL").await
        }
        (_, false) => Ok(()),
    })
    .await?;
    if !before.read_only && replica.follows().await?.is_none() {
        run.repeatable("undo.read_only", async || replica.set_read_only(false).await).await?;
    }
    Ok(())
}

/// What there is to do.
enum Judged {
    /// Nothing: it follows, and is so far behind.
    Follows(Option<u64>),
    Attach,
    Seed,
}

/// One action with its sessions.
struct Resync<'a> {
    params: &'a Params,
    run: &'a Run,
    replica: Server<'a>,
    source: Server<'a>,
}

impl<'a> Resync<'a> {
    async fn open(params: &'a Params, run: &'a Run, ends: &Ends<'a>) -> Result<Self, Failure> {
        let source = ends.primary().map_err(|why| Failure::permanent("target", why))?;
        let resync = Self {
            params,
            run,
            replica: Server::open(run, ends.replica).await?,
            source: Server::open(run, source).await?,
        };
        if resync.source_id().await? == id(&resync.replica).await? {
            let told =
                format!("{} and {} have the same server_id", resync.replica.name(), resync.source.name());
            return Err(Failure::permanent("server_id", told));
        }
        Ok(resync)
    }

    async fn source_id(&self) -> Result<u64, Failure> {
        id(&self.source).await
    }

    async fn judge(&self) -> Result<Judged, Failure> {
        // Without a log nobody could follow it.
        self.source.written().await?;
        let follows = self.replica.follows().await?;
        let lost = self.lost().await?;
        let method = self.params.method;
        if let Some(follows) = &follows
            && method != Method::Seed
            && lost.is_empty()
            && self.is_of_source(follows).await?
            && follows.has_io()
            && follows.has_sql()
            && self.replica.is_read_only().await?
        {
            return Ok(Judged::Follows(follows.number("Seconds_Behind_Master")));
        }
        if !lost.is_empty() && method == Method::Gtid {
            return Err(self.would_lose(&lost).with("hint", "method = \"seed\" replaces its data"));
        }
        let is_new = self.replica.transactions().await?.is_empty();
        let seed = method == Method::Seed || method == Method::Auto && (!lost.is_empty() || is_new);
        if !seed {
            return Ok(Judged::Attach);
        }
        backup_dir(self.replica.target).map_err(|why| Failure::permanent("target", why))?;
        let is_unknown = is_new && !self.databases().await?.is_empty();
        if !self.params.confirm_data_loss && (!lost.is_empty() || is_unknown) {
            return Err(self.would_lose(&lost).with("hint", "confirm_data_loss = true agrees to that"));
        }
        Ok(Judged::Seed)
    }

    fn would_lose(&self, lost: &[String]) -> Failure {
        let (replica, source) = (self.replica.name(), self.source.name());
        let told = if lost.is_empty() {
            format!("{replica} has databases and no log of them: whether {source} has them cannot be known")
        } else {
            format!("{replica} has transactions that {source} lacks, up to {}", lost.join(", "))
        };
        Failure::permanent("data_loss", told)
    }

    /// What the replica has and its primary lacks.
    async fn lost(&self) -> Result<Vec<String>, Failure> {
        Ok(self.replica.transactions().await?.beyond(&self.source.transactions().await?))
    }

    async fn is_of_source(&self, follows: &Follows) -> Result<bool, Failure> {
        Ok(follows.number("Master_Server_Id") == Some(self.source_id().await?))
    }

    async fn before(&self) -> Result<Before, Failure> {
        let follows = self.replica.follows().await?;
        let threads = match &follows {
            Some(follows) if self.is_of_source(follows).await? => {
                Some((follows.wants_io(), follows.has_sql()))
            }
            _ => None,
        };
        Ok(Before { read_only: self.replica.is_read_only().await?, threads, follows: follows.is_some() })
    }

    async fn attach(&self) -> Result<Attached, Failure> {
        let was_primary = self.replica.follows().await?.is_none();
        // What was written until now counts.
        self.replica.set_read_only(true).await?;
        let lost = self.lost().await?;
        if !lost.is_empty() {
            return Err(self.would_lose(&lost));
        }
        match self.follow(was_primary).await {
            Ok(seconds_behind) => Ok(Attached::Follows { seconds_behind }),
            Err(why) if why.code() == "broken" && self.params.method == Method::Auto => {
                Ok(Attached::Broken { why: why.message().to_owned() })
            }
            Err(why) => Err(why),
        }
    }

    /// Has it follow the source; returns when it has what the source has: how many seconds it is behind.
    async fn follow(&self, was_primary: bool) -> Result<Option<u64>, Failure> {
        let unknown = || Failure::permanent("target", "the primary's target has no replication any more");
        let replication = self.source.settings.replication.as_ref().ok_or_else(unknown)?;
        let password =
            replication.password_file.as_deref().map(|path| password(self.run, path)).transpose()?;
        let connection =
            Connection { host: &replication.host, port: replication.port, user: &replication.user, password };
        let mut statement = connection.statement("slave_pos");
        if was_primary {
            // What it has written itself it has.
            statement.push_str(", MASTER_DEMOTE_TO_SLAVE = 1");
        }
        self.replica.execute("stop the replication of", "STOP SLAVE").await?;
        self.replica.execute("set up the replication of", &statement).await?;
        self.replica.execute("start the replication of", "START SLAVE").await?;
        let follows = self.replica.await_threads(self.run, true, true).await?;
        if !self.is_of_source(&follows).await? {
            let told = format!(
                "at {}:{} is another server than {}",
                replication.host,
                replication.port,
                self.source.name()
            );
            return Err(Failure::permanent("wrong_primary", told));
        }
        let position = self.source.written().await?;
        self.run.progress(80, "catching up");
        self.run
            .wait_for(CATCH_UP_PATIENCE, async || {
                let follows = self.replica.follows().await?;
                if let Some(broken) = follows.and_then(|follows| follows.broken(self.replica.name())) {
                    return Err(broken);
                }
                Ok(reaches(&self.replica, &position).await?.then_some(()))
            })
            .await?;
        let follows = self.replica.await_threads(self.run, true, true).await?;
        Ok(follows.number("Seconds_Behind_Master"))
    }

    fn file(&self) -> Result<DumpFile, Failure> {
        let dir = backup_dir(self.replica.target).map_err(|why| Failure::permanent("target", why))?;
        Ok(DumpFile::new(&dir, "seed", self.run.id))
    }

    async fn dump(&self) -> Result<Dumped, Failure> {
        const OTHERS: &str = "SELECT COUNT(*) FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB'
            AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";
        let others: Option<(i64,)> =
            self.source.session.first("cannot look at the tables of the primary", OTHERS, ()).await?;
        if let Some((count @ 1..,)) = others {
            self.run.warn(format!(
                "{count} tables of {} are not of InnoDB: what was written to them during the dump may differ",
                self.source.name()
            ));
        }
        let mut command = self.source.settings.program(&self.source.settings.dump);
        command.args(["--default-character-set=utf8mb4", "--single-transaction", "--master-data=2"]);
        command.args(["--all-databases", "--ignore-database=mysql", "--ignore-database=sys"]);
        command.args([
            "--routines",
            "--events",
            "--triggers",
            "--hex-blob",
            "--skip-add-locks",
            "--no-tablespaces",
        ]);
        let dump = self.file()?.fill(vec![Piece::Program(command)]).await?;
        match self.position().await? {
            Some(position) => Ok(Dumped { dump, position }),
            None => Err(Failure::transient("dump", "the position that the dump belongs to cannot be found")),
        }
    }

    async fn dumped(&self) -> Result<Found<Dumped>, Failure> {
        let Some(dump) = self.file()?.finished().await? else { return Ok(Found::NotDone) };
        let position = self.position().await?;
        Ok(position.map_or(Found::NotDone, |position| Found::Done(Dumped { dump, position })))
    }

    /// What the dump has of the primary's transactions.
    async fn position(&self) -> Result<Option<String>, Failure> {
        let path = self.file()?.path;
        let Some((file, offset)) = log_position(&path)? else { return Ok(None) };
        let what = "cannot find the position of the dump";
        let row: Option<(Option<String>,)> =
            self.source.session.first(what, "SELECT BINLOG_GTID_POS(?, ?)", (file, offset)).await?;
        Ok(row.and_then(|(position,)| position))
    }

    /// Databases that are not the server's own.
    async fn databases(&self) -> Result<Vec<String>, Failure> {
        const DATABASES: &str = "SELECT schema_name FROM information_schema.schemata
            WHERE schema_name NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";
        self.replica.session.all("cannot look at the databases of the replica", DATABASES, ()).await
    }

    async fn load(&self, dumped: &Dumped) -> Result<(), Failure> {
        let replica = &self.replica;
        replica.set_read_only(true).await?;
        let lost = self.lost().await?;
        if !lost.is_empty() && !self.params.confirm_data_loss {
            return Err(self.would_lose(&lost));
        }
        self.await_loader().await?;
        replica.execute("stop the replication of", "STOP SLAVE").await?;
        replica.execute("end the replication of", "RESET SLAVE ALL").await?;
        replica.execute("replace the data of", "SET SESSION sql_log_bin = 0, foreign_key_checks = 0").await?;
        for database in self.databases().await? {
            let drop = format!("DROP DATABASE IF EXISTS {}", quoted(&database, Engine::Mariadb));
            replica.execute("replace the data of", &drop).await?;
        }
        self.load_file().await?;
        replica.execute("forget the transactions of", "RESET MASTER").await?;
        let position = format!("SET GLOBAL gtid_slave_pos = {}", literal(&dumped.position));
        replica.execute("set the position of", &position).await
    }

    /// The lock that who loads holds.
    fn lock(&self) -> String {
        format!("actiond-{}-load", self.run.id)
    }

    /// Returns when nobody whom an earlier attempt has started loads any more.
    async fn await_loader(&self) -> Result<(), Failure> {
        let what = "cannot look whether somebody still loads";
        let free: Option<(Option<bool>,)> =
            self.replica.session.first(what, "SELECT GET_LOCK(?, 60)", (self.lock(),)).await?;
        if free != Some((Some(true),)) {
            return Err(Failure::transient("busy", "what an earlier attempt has started still loads"));
        }
        let _: Option<(Option<bool>,)> =
            self.replica.session.first(what, "SELECT RELEASE_LOCK(?)", (self.lock(),)).await?;
        Ok(())
    }

    async fn load_file(&self) -> Result<(), Failure> {
        let path = self.file()?.path;
        let what = format!("cannot load {}", path.display());
        let file =
            File::open(&path).map_err(|error| Failure::transient("load", format!("{what}: {error}")))?;
        let settings = &self.replica.settings;
        let mut command = settings.program(&settings.client);
        let init = format!("SET SESSION sql_log_bin = 0, @loads = GET_LOCK({}, 60)", literal(&self.lock()));
        command.args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]);
        command.arg(format!("--init-command={init}")).stdin(file);
        let ended = Child::start(&what, &mut command)?.end().await?;
        if ended.is_success() {
            return Ok(());
        }
        Err(Failure::transient("load", format!("{what}: {}", ended.told())))
    }

    async fn warn_of_accounts(&self) -> Result<(), Failure> {
        const ACCOUNTS: &str = "SELECT CONCAT(User, '@', Host, ' ', MD5(Priv)) FROM mysql.global_priv
            WHERE User NOT IN ('mariadb.sys', 'root', 'mysql')";
        let what = "cannot look at the accounts";
        let of = async |server: &Server<'_>| -> Result<Vec<String>, Failure> {
            server.session.all(what, ACCOUNTS, ()).await
        };
        let (here, there) = (of(&self.replica).await?, of(&self.source).await?);
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            let differ = these.iter().filter(|account| !those.contains(account));
            differ.filter_map(|account| Some(account.rsplit_once(' ')?.0.to_owned())).collect()
        };
        let mut differ = [only(&there, &here), only(&here, &there)].concat();
        differ.sort();
        differ.dedup();
        if !differ.is_empty() {
            differ.truncate(NAMED_MAX);
            self.run.warn(format!(
                "accounts are not copied, and these differ between {} and {}: {}",
                self.source.name(),
                self.replica.name(),
                differ.join(", ")
            ));
        }
        Ok(())
    }
}

async fn id(server: &Server<'_>) -> Result<u64, Failure> {
    let what = format!("cannot look who {} is", server.name());
    let row: Option<(u64,)> = server.session.first(&what, "SELECT @@GLOBAL.server_id", ()).await?;
    row.map(|(id,)| id).ok_or_else(|| Failure::permanent("server_id", what))
}

/// The position in the binary log that a dump begins with (`--master-data=2`).
fn log_position(path: &Path) -> Result<Option<(String, u64)>, Failure> {
    let unread = |error: std::io::Error| {
        Failure::transient("dump", format!("cannot read the dump {}: {error}", path.display()))
    };
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head)).map_err(unread)?;
    Ok(parse_position(&String::from_utf8_lossy(&head)))
}

fn parse_position(head: &str) -> Option<(String, u64)> {
    let line = head.lines().find_map(|line| line.strip_prefix("-- CHANGE MASTER TO MASTER_LOG_FILE='"))?;
    let (file, rest) = line.split_once("', MASTER_LOG_POS=")?;
    Some((file.to_owned(), rest.trim_end_matches(';').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_of_a_dump_is_read_from_its_head() {
        let head =
            "--\n-- CHANGE MASTER TO MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=7751;\n\nCREATE ...";
        assert_eq!(parse_position(head), Some(("binlog.000001".to_owned(), 7751)));
        assert_eq!(parse_position("-- CHANGE MASTER TO MASTER_USE_GTID=slave_pos;\n"), None);
    }
}
