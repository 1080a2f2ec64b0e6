//! PostgreSQL from Debian's package, as its user `postgres`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Process, output};
use crate::common::until;

/// A cluster. `root` of the operating system may log in as `actiond_admin`, which owns nothing of the server.
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
        std::fs::write(data.join("pg_hba.conf"), "local all all peer map=actiond\n").expect("pg_hba.conf");
        let map = "actiond root actiond_admin\nactiond root postgres\nactiond postgres postgres\n";
        std::fs::write(data.join("pg_ident.conf"), map).expect("pg_ident.conf");
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nshared_buffers = 16MB\nfsync = off\n",
            postgres.socket().display()
        );
        std::fs::write(data.join("postgresql.auto.conf"), settings).expect("postgresql.auto.conf");
        postgres.bring_up();
        // The rights that README asks for, and no more.
        postgres.query("postgres", "create role actiond_admin login createdb createrole");
        postgres.query("postgres", "grant pg_monitor, pg_signal_backend to actiond_admin");
        postgres
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
fn bin() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL: tests/run installs it").flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.expect("a version of PostgreSQL")))
}
