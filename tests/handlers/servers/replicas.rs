//! Two servers of PostgreSQL, `db1` and `db2`, one of which is the other's streaming replica.
//!
//! What starts and stops them for a handler is a script that asks this process to do it, as systemctl asks systemd: a server
//! is nobody's child who would end it, and what was asked for is done although the asker is gone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Process, output};
use crate::common::until;

const HBA: &str = "local replication replicator peer map=actiond\n\
    local postgres replicator,postgres,actiond_admin peer map=actiond\n";
const MAP: &str = "actiond root actiond_admin\nactiond root postgres\nactiond postgres postgres\n\
    actiond postgres replicator\n";
/// The rights that the example asks for, and no more.
const RIGHTS: &[&str] = &[
    "create role actiond_admin login replication",
    "grant pg_monitor, pg_checkpoint, pg_signal_backend to actiond_admin",
    "grant execute on function pg_promote, pg_reload_conf, pg_wal_replay_pause, pg_wal_replay_resume
     to actiond_admin",
    "grant alter system on parameter primary_conninfo, default_transaction_read_only to actiond_admin",
    "create role replicator login replication",
    "grant execute on function pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
     pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) to replicator",
];

pub const NAMES: [&str; 2] = ["db1", "db2"];

/// What the servers are when they are made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// `db2` is the replica of `db1`.
    Replica,
    /// `db2` was promoted, and `db1` has gone on as a primary.
    Diverged,
}

pub struct Replicas {
    inner: Arc<Inner>,
    manager: Option<std::thread::JoinHandle<()>>,
}

struct Inner {
    dir: TempDir,
    servers: [Mutex<Option<Process>>; 2],
    ends: AtomicBool,
}

impl Replicas {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-pgs.").tempdir().expect("a directory");
        output(Command::new("chown").args(["postgres:postgres"]).arg(dir.path()));
        let inner = Arc::new(Inner { dir, servers: Default::default(), ends: AtomicBool::new(false) });
        fs::create_dir(inner.path("asked")).expect("a directory");
        let script = format!(
            "#!/bin/sh\nset -eu\nf='{}'/$1-$2.$$\n: > \"$f\"\nwhile [ -e \"$f\" ]; do sleep 0.01; done\n",
            inner.path("asked").display()
        );
        fs::write(inner.path("manager"), script).expect("a script");
        fs::set_permissions(inner.path("manager"), fs::Permissions::from_mode(0o755)).expect("its mode");
        let manager = Arc::clone(&inner);
        let manager = std::thread::spawn(move || {
            while !manager.ends.load(Ordering::SeqCst) {
                manager.do_what_is_asked();
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        let replicas = Self { inner, manager: Some(manager) };
        replicas.make();
        replicas
    }

    /// Both worlds, once; each is copied from then on.
    fn make(&self) {
        let inner = &self.inner;
        let data = inner.path("db1");
        let mut initdb = as_postgres("initdb");
        initdb.arg("-D").arg(&data).args(["--auth=peer", "-E", "UTF8", "--locale=C.UTF-8", "-N"]);
        output(initdb.args(["--data-checksums", "--wal-segsize=1"]));
        inner.configure("db1");
        inner.start("db1");
        for right in RIGHTS {
            self.query("db1", right);
        }
        // What is copied for every action is as small as it can be.
        self.query("db1", "update pg_database set datistemplate = false");
        for database in ["template0", "template1"] {
            self.query("db1", &format!("drop database {database}"));
        }
        self.query("db1", "create table goods (name text primary key); insert into goods values ('first')");
        self.query("db1", "select pg_create_physical_replication_slot('db2', true)");
        let mut copy = as_postgres("pg_basebackup");
        copy.args(["-U", "replicator", "--checkpoint=fast", "-D"]).arg(inner.path("db2"));
        output(copy.arg("-h").arg(inner.dir.path()).args(["-p", port("db1")]));
        inner.configure("db2");
        let follow = format!(
            "primary_conninfo = '{} application_name=db2'\nprimary_slot_name = 'db2'\n",
            inner.conninfo("db1")
        );
        fs::write(inner.path("db2/postgresql.auto.conf"), follow).expect("postgresql.auto.conf");
        fs::write(inner.path("db2/standby.signal"), "").expect("standby.signal");
        output(Command::new("chown").args(["-R", "postgres:postgres"]).arg(inner.path("db2")));
        inner.start("db2");
        self.await_streaming("db1", "db2");
        self.keep(World::Replica);
        self.make_ready(World::Replica);
        inner.stop("db1");
        self.query("db2", "select pg_promote()");
        self.query("db2", "insert into goods values ('of db2')");
        self.query("db2", "select pg_drop_replication_slot(slot_name) from pg_replication_slots");
        self.query("db2", "checkpoint");
        inner.start("db1");
        self.query("db1", "insert into goods values ('of db1 alone')");
        self.keep(World::Diverged);
    }

    /// Stops both, first the one that sends, and keeps what they are.
    fn keep(&self, world: World) {
        for name in NAMES {
            self.inner.stop(name);
            let kept = self.inner.path(&format!("{world:?}-{name}"));
            output(Command::new("cp").arg("-a").arg(self.inner.path(name)).arg(kept));
        }
    }

    /// Both servers as they were in that world, up; whatever was beside their data is gone.
    pub fn make_ready(&self, world: World) {
        for name in NAMES {
            self.inner.kill(name);
        }
        for entry in fs::read_dir(self.inner.dir.path()).expect("the directory").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if NAMES.iter().any(|server| name.starts_with(server)) {
                fs::remove_dir_all(entry.path()).expect("gone");
            }
        }
        for name in NAMES {
            let kept = self.inner.path(&format!("{world:?}-{name}"));
            output(Command::new("cp").arg("-a").arg(kept).arg(self.inner.path(name)));
        }
        std::thread::scope(|scope| {
            for name in NAMES {
                scope.spawn(|| self.inner.start(name));
            }
        });
        if world == World::Replica {
            self.await_streaming("db1", "db2");
        }
    }

    /// The replica gets everything from that primary.
    pub fn await_streaming(&self, primary: &str, replica: &str) {
        let sends = format!(
            "select count(*) from pg_stat_replication where application_name = '{replica}'
             and state = 'streaming' and replay_lsn = pg_current_wal_lsn()"
        );
        until("streaming", || (self.query(primary, &sends) == "1").then_some(()));
    }

    /// The targets of the example, as these servers are; `change` may change each of them.
    pub fn targets(&self, change: impl Fn(&str, &mut toml::Table)) -> String {
        let mut example: toml::Table =
            toml::from_str(include_str!("../../../config/examples/postgresql-replication.toml"))
                .expect("TOML");
        let mut targets = example.remove("targets").expect("targets");
        for name in NAMES {
            let target = targets[name].as_table_mut().expect("a table");
            target.insert("socket".to_owned(), self.inner.dir.path().display().to_string().into());
            target.insert("port".to_owned(), port(name).parse::<i64>().expect("a number").into());
            target.insert("user".to_owned(), "actiond_admin".into());
            target.insert("replication".to_owned(), self.inner.conninfo(name).into());
            let cluster = target["cluster"].as_table_mut().expect("a table");
            cluster.remove("config_file");
            cluster.insert("data_directory".to_owned(), self.data(name).display().to_string().into());
            cluster.insert("bin_directory".to_owned(), super::postgres::bin().display().to_string().into());
            cluster.insert("patience_s".to_owned(), 30.into());
            for word in ["start", "stop"] {
                let manager = self.inner.path("manager").display().to_string();
                cluster.insert(word.to_owned(), vec![manager, word.to_owned(), name.to_owned()].into());
            }
            change(name, target);
        }
        toml::Table::from_iter([("targets".to_owned(), targets)]).to_string()
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }

    /// What is beside the data of both servers: names.
    pub fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.inner.dir.path()).expect("the directory").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| NAMES.iter().any(|server| name.starts_with(&format!("{server}.")))).collect()
    }

    pub fn is_up(&self, name: &str) -> bool {
        self.inner.is_ready(name)
    }

    /// As a crash.
    pub fn take_down(&self, name: &str) {
        self.inner.kill(name);
    }

    pub fn bring_up(&self, name: &str) {
        self.inner.start(name);
    }

    /// The answer of a statement as the superuser: fields by `|`, rows by lines.
    pub fn query(&self, name: &str, statement: &str) -> String {
        output(&mut self.inner.psql(name, statement))
    }

    /// The same; what psql says if it fails.
    pub fn try_query(&self, name: &str, statement: &str) -> Result<String, String> {
        let output = self.inner.psql(name, statement).output().expect("psql");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.trim_end().to_owned()) } else { Err(err.into_owned()) }
    }
}

impl Inner {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn conninfo(&self, name: &str) -> String {
        format!("host={} port={} user=replicator", self.dir.path().display(), port(name))
    }

    /// Its own configuration is in its data directory, as `initdb` leaves it.
    fn configure(&self, name: &str) {
        let data = self.path(name);
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nport = {}\ncluster_name = '{name}'\n\
             shared_buffers = 16MB\nmax_connections = 30\nfsync = off\nwal_keep_size = 32MB\n\
             wal_retrieve_retry_interval = 100ms\nwal_receiver_status_interval = 1s\n",
            self.dir.path().display(),
            port(name)
        );
        for (file, text) in
            [("postgresql.conf", settings.as_str()), ("pg_hba.conf", HBA), ("pg_ident.conf", MAP)]
        {
            fs::write(data.join(file), text).expect("its configuration");
        }
    }

    fn psql(&self, name: &str, statement: &str) -> Command {
        let mut psql = as_postgres("psql");
        psql.args(["-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
        psql.arg(self.dir.path()).args(["-p", port(name), "-c", statement]);
        psql
    }

    fn server(&self, name: &str) -> &Mutex<Option<Process>> {
        &self.servers[usize::from(name != "db1")]
    }

    fn is_ready(&self, name: &str) -> bool {
        let mut ready = as_postgres("pg_isready");
        ready.arg("-q").arg("-h").arg(self.dir.path()).args(["-p", port(name)]);
        ready.status().expect("pg_isready").success()
    }

    fn has_pid_file(&self, name: &str) -> bool {
        self.path(name).join("postmaster.pid").exists()
    }

    /// Starts it unless it runs; returns when it takes somebody, or is gone again.
    fn start(&self, name: &str) {
        let mut server = self.server(name).lock().expect("the server");
        if self.is_ready(name) {
            return;
        }
        // What it says is in the directory of both: its own may be about to be replaced.
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(self.path(name));
        let process = server.insert(Process::start(&mut command, &self.path(&format!("log-{name}"))));
        until("PostgreSQL", || (self.is_ready(name) || process.has_ended()).then_some(()));
    }

    /// Stops it in good order, if it runs.
    fn stop(&self, name: &str) {
        if let Some(mut server) = self.server(name).lock().expect("the server").take() {
            server.end(Signal::INT);
        }
        assert!(!self.has_pid_file(name), "{name} is still there");
    }

    fn kill(&self, name: &str) {
        if let Some(mut server) = self.server(name).lock().expect("the server").take() {
            server.end(Signal::QUIT);
        }
    }

    fn do_what_is_asked(&self) {
        for entry in fs::read_dir(self.path("asked")).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let (what, name) = file.split_once('-').expect("what is asked");
            let name = name.split('.').next().expect("a name");
            if what == "start" {
                self.start(name);
            } else {
                self.stop(name);
            }
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.inner.ends.store(true, Ordering::SeqCst);
        if let Some(manager) = self.manager.take() {
            let _ = manager.join();
        }
        for name in NAMES {
            self.inner.kill(name);
        }
    }
}

/// A part of the socket's name.
fn port(name: &str) -> &'static str {
    if name == "db1" { "5431" } else { "5432" }
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    command.arg(super::postgres::bin().join(program)).current_dir("/");
    command
}

/// Where the standby's mark is.
pub fn standby(data: &Path) -> PathBuf {
    data.join("standby.signal")
}
