//! PostgreSQL from Debian's package, as its user `postgres`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Process, output};
use crate::common::until;

/// Who is made by an action logs in with the password that was made up for it.
const HBA: &str = "local all postgres,actiond_admin peer map=actiond\nlocal all all scram-sha-256\n";

/// A cluster that logs every statement. `root` of the operating system may log in as `actiond_admin`, which owns nothing of the server.
pub struct Postgres {
    dir: TempDir,
    bin: PathBuf,
    server: Mutex<Option<Process>>,
}

impl Postgres {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-pg.").tempdir().expect("a directory");
        let own = output(Command::new("chown").args(["postgres:postgres"]).arg(dir.path()));
        assert_eq!(own, "");
        let postgres = Self { bin: bin(), server: Mutex::new(None), dir };
        let data = postgres.data();
        output(postgres.as_postgres("initdb").arg("-D").arg(&data).args([
            "--auth=peer",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        ]));
        std::fs::write(data.join("pg_hba.conf"), HBA).expect("pg_hba.conf");
        let map = "actiond root actiond_admin\nactiond root postgres\nactiond postgres postgres\n";
        std::fs::write(data.join("pg_ident.conf"), map).expect("pg_ident.conf");
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nshared_buffers = 16MB\nfsync = off\n\
             log_statement = all\n",
            postgres.socket().display()
        );
        std::fs::write(data.join("postgresql.auto.conf"), settings).expect("postgresql.auto.conf");
        std::fs::create_dir(postgres.backups()).expect("a directory");
        postgres.bring_up();
        // The rights that README asks for, and no more.
        postgres.query("postgres", "create role actiond_admin login createdb createrole");
        postgres.query("postgres", "grant pg_monitor, pg_signal_backend, pg_read_all_data to actiond_admin");
        postgres
    }

    /// The targets of the example, with this server's socket and role, and with those keys.
    pub fn target(&self, keys: &[(&str, toml::Value)]) -> String {
        let mut example: toml::Table =
            toml::from_str(include_str!("../../../config/examples/postgresql.toml")).expect("TOML");
        let mut targets = example.remove("targets").expect("targets");
        let target = targets["postgresql"].as_table_mut().expect("a table");
        target.insert("socket".to_owned(), self.socket().display().to_string().into());
        target.insert("user".to_owned(), "actiond_admin".into());
        target.insert("backup_dir".to_owned(), self.backups().display().to_string().into());
        target.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        toml::Table::from_iter([("targets".to_owned(), targets)]).to_string()
    }

    /// Where dumps go.
    pub fn backups(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    /// Everything the server said.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.dir.path().join("log")).expect("the server's log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A statement as that role with that password: the answer, or what psql says.
    pub fn query_as(
        &self,
        role: &str,
        password: &str,
        database: &str,
        statement: &str,
    ) -> Result<String, String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", role, "-h"]).arg(self.socket());
        psql.args(["-d", database, "-c", statement]).env("PGPASSWORD", password);
        let output = psql.output().expect("psql");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.trim_end().to_owned()) } else { Err(err.into_owned()) }
    }

    /// What a dump has of that table.
    pub fn dumped(&self, dump: &str, table: &str) -> String {
        output(Command::new(self.bin.join("pg_restore")).args(["--data-only", "-f", "-", "-t", table, dump]))
    }

    /// Directory of its socket.
    pub fn socket(&self) -> &Path {
        self.dir.path()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn as_postgres(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(self.bin.join(program));
        command.current_dir("/");
        command
    }

    pub fn bring_up(&self) {
        let mut server = self.server.lock().expect("the server");
        let mut command = self.as_postgres("postgres");
        command.arg("-D").arg(self.data());
        *server = Some(Process::start(&mut command, &self.dir.path().join("log")));
        until("PostgreSQL", || {
            let is_ready = self.as_postgres("pg_isready").args(["-q", "-h"]).arg(self.socket()).status();
            is_ready.expect("pg_isready").success().then_some(())
        });
    }

    /// As a crash: its processes are killed, and it recovers at the next start.
    pub fn take_down(&self) {
        if let Some(mut server) = self.server.lock().expect("the server").take() {
            server.end(Signal::QUIT);
        }
    }

    /// The answer of a statement as the superuser: fields by `|`, rows by lines.
    pub fn query(&self, database: &str, statement: &str) -> String {
        let mut psql = self.as_postgres("psql");
        psql.args(["-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(self.socket());
        output(psql.args(["-d", database, "-c", statement]))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// Where the newest version is.
pub fn bin() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL: tests/run installs it").flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.expect("a version of PostgreSQL")))
}
