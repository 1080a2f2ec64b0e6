//! Replication of MariaDB, by global transaction ids.
//!
//! A server is asked what it does (SHOW ALL SLAVES STATUS) and told what to do; nothing of it is in files of ours, but for
//! the one that keeps `read_only` beyond a restart (`read_only_file`).

mod catch_up;
pub(super) mod disable;
mod gtid;
pub(super) mod promote;
pub(super) mod resync;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use super::super::mariadb::{Mariadb, Session, literal};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::Target;

/// Whoever waits for the lock behind `read_only` keeps all writers waiting.
const LOCK_PATIENCE: &str = "SET SESSION lock_wait_timeout = 10";
/// Longest wait for the threads of a replica to do as they were told.
const THREADS_PATIENCE: Duration = Duration::from_secs(30);

/// A session with one end of a replication.
struct Server<'a> {
    target: &'a Target,
    settings: Mariadb,
    session: Session,
}

impl<'a> Server<'a> {
    async fn open(run: &Run, target: &'a Target) -> Result<Self, Failure> {
        let settings = target.settings().map_err(|why| Failure::permanent("target", why))?;
        let session = Session::open(run, target).await?;
        session.execute("cannot limit waits for locks", LOCK_PATIENCE).await?;
        Ok(Self { target, settings, session })
    }

    fn name(&self) -> &str {
        &self.target.name
    }

    async fn execute(&self, doing: &str, statement: &str) -> Result<(), Failure> {
        self.session.execute(&format!("cannot {doing} {}", self.name()), statement).await
    }

    /// What it follows; nothing, if it is no replica.
    ///
    /// # Errors
    ///
    /// It follows several, or one by a connection that has a name.
    async fn follows(&self) -> Result<Option<Follows>, Failure> {
        let what = format!("cannot look at the replication of {}", self.name());
        let mut rows = self.session.named(&what, "SHOW ALL SLAVES STATUS").await?;
        let follows = rows.pop().map(Follows);
        let is_plain = follows.as_ref().is_none_or(|follows| follows.text("Connection_name").is_empty());
        if rows.is_empty() && is_plain {
            return Ok(follows);
        }
        let told = format!("{} follows several servers, or one by a connection with a name", self.name());
        Err(Failure::permanent("multi_source", told))
    }

    async fn is_read_only(&self) -> Result<bool, Failure> {
        let what = format!("cannot look whether {} is read only", self.name());
        let row: Option<(bool,)> = self.session.first(&what, "SELECT @@GLOBAL.read_only <> 0", ()).await?;
        Ok(row == Some((true,)))
    }

    /// Whether it takes writes of anybody without READ_ONLY ADMIN. Returns when nobody else's transaction can commit any
    /// more, and a restart keeps it, if the target has a file for that.
    async fn set_read_only(&self, read_only: bool) -> Result<(), Failure> {
        let value = u8::from(read_only);
        if self.is_read_only().await? != read_only {
            self.execute("change read_only of", &format!("SET GLOBAL read_only = {value}")).await?;
        }
        if let Some(path) = &self.settings.read_only_file {
            let text = format!("# Written by actiond.\n[mariadbd]\nread_only = {value}\n");
            replace(path, &text).map_err(|error| {
                Failure::transient("read_only_file", format!("cannot write {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }

    /// What is to be said where no file keeps `read_only`.
    fn warn_of_restart(&self, run: &Run) {
        if self.settings.read_only_file.is_none() {
            run.warn(format!(
                "read_only of {} is as configured again after a restart: its target has no read_only_file",
                self.name()
            ));
        }
    }

    /// Where it is in what it has written to its binary log.
    async fn written(&self) -> Result<String, Failure> {
        let what = format!("cannot look at the position of {}", self.name());
        let row: Option<(bool, String)> =
            self.session.first(&what, "SELECT @@GLOBAL.log_bin, @@GLOBAL.gtid_binlog_pos", ()).await?;
        match row {
            Some((true, position)) => Ok(position),
            _ => Err(Failure::permanent("no_binlog", format!("{} has no binary log", self.name()))),
        }
    }

    /// What it has applied of others.
    async fn applied(&self) -> Result<String, Failure> {
        let what = format!("cannot look at the position of {}", self.name());
        let row: Option<(String,)> = self.session.first(&what, "SELECT @@GLOBAL.gtid_slave_pos", ()).await?;
        Ok(row.map(|(position,)| position).unwrap_or_default())
    }

    /// Returns when both threads are as they are to be, whatever they were.
    ///
    /// # Errors
    ///
    /// A thread stopped by itself: its number and its words; or they take too long.
    async fn await_threads(&self, run: &Run, io: bool, sql: bool) -> Result<Follows, Failure> {
        let mut said = String::new();
        let is_so = run
            .wait_for(THREADS_PATIENCE, async || {
                let Some(follows) = self.follows().await? else {
                    return Err(Failure::permanent("not_replica", format!("{} follows nobody", self.name())));
                };
                if let Some(broken) = follows.broken(self.name()).filter(|_| io || sql) {
                    return Err(broken);
                }
                follows.text("Last_IO_Error").clone_into(&mut said);
                Ok((follows.has_io() == io && follows.has_sql() == sql).then_some(follows))
            })
            .await?;
        is_so.ok_or_else(|| {
            let told = format!("the threads of {} do not do as they were told: {said}", self.name());
            Failure::transient("threads", told)
        })
    }
}

/// What a replica says of its replication.
struct Follows(BTreeMap<String, String>);

impl Follows {
    fn text(&self, column: &str) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    fn number(&self, column: &str) -> Option<u64> {
        self.text(column).parse().ok()
    }

    /// Whether it gets anything.
    fn has_io(&self) -> bool {
        self.text("Slave_IO_Running") == "Yes"
    }

    /// Whether its thread that gets something is there; it may be trying to connect.
    fn wants_io(&self) -> bool {
        self.text("Slave_IO_Running") != "No"
    }

    /// Whether it applies what it gets.
    fn has_sql(&self) -> bool {
        self.text("Slave_SQL_Running") == "Yes"
    }

    /// Why it does not go on by itself, if so. One thread may say Yes while the other has given up for good.
    fn broken(&self, name: &str) -> Option<Failure> {
        let threads = [
            ("Last_SQL_Errno", "Last_SQL_Error", self.has_sql()),
            ("Last_IO_Errno", "Last_IO_Error", self.wants_io()),
        ];
        let (errno, error, _) = threads
            .into_iter()
            .find(|(errno, _, goes_on)| !goes_on && self.number(errno).is_some_and(|errno| errno != 0))?;
        let (errno, error) = (self.number(errno).unwrap_or(0), self.text(error));
        let told = format!("the replication of {name} has stopped: {error}");
        Some(Failure::permanent("broken", told).with("errno", errno))
    }
}

/// How a replica connects: as it stands in CHANGE MASTER.
struct Connection<'a> {
    host: &'a str,
    port: u16,
    user: &'a str,
    password: Option<String>,
}

impl Connection<'_> {
    fn statement(&self, use_gtid: &str) -> String {
        let password = self
            .password
            .as_deref()
            .map_or_else(String::new, |password| format!(", MASTER_PASSWORD = {}", literal(password)));
        format!(
            "CHANGE MASTER TO MASTER_HOST = {}, MASTER_PORT = {}, MASTER_USER = {}{password}, MASTER_USE_GTID = {use_gtid}",
            literal(self.host),
            self.port,
            literal(self.user)
        )
    }
}

/// The password with which replicas connect, kept out of all that is written of the action.
fn password(run: &Run, path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::permanent("password", format!("cannot read {}: {error}", path.display()))
    })?;
    let password = text.trim_end_matches('\n');
    run.redact(password)?;
    Ok(password.to_owned())
}

/// Gives a file that text, durably, all of it or nothing.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let mut part = path.as_os_str().to_owned();
    // A server reads only files that end with .cnf.
    part.push(".part");
    let mut file = File::create(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follows(columns: &[(&str, &str)]) -> Follows {
        Follows(columns.iter().map(|(column, value)| ((*column).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn thread_that_has_given_up_is_seen_beside_one_that_says_yes() {
        let healthy = [("Slave_IO_Running", "Yes"), ("Slave_SQL_Running", "Yes"), ("Last_IO_Errno", "0")];
        assert_eq!(follows(&healthy).broken("b"), None);
        let gone = [("Slave_IO_Running", "No"), ("Slave_SQL_Running", "Yes"), ("Last_IO_Errno", "1236")];
        assert_eq!(
            follows(&gone).broken("b").map(|failure| failure.code().to_owned()),
            Some("broken".into())
        );
        // It tries again by itself.
        let trying =
            [("Slave_IO_Running", "Connecting"), ("Slave_SQL_Running", "Yes"), ("Last_IO_Errno", "2003")];
        assert_eq!(follows(&trying).broken("b"), None);
    }

    #[test]
    fn connection_is_quoted() {
        let connection = Connection { host: "a'b", port: 3306, user: "u", password: Some("p'q".to_owned()) };
        let statement = connection.statement("slave_pos");
        assert!(statement.contains("MASTER_HOST = 'a''b', MASTER_PORT = 3306"), "{statement}");
        assert!(statement.contains("MASTER_PASSWORD = 'p''q', MASTER_USE_GTID = slave_pos"), "{statement}");
    }
}
