//! MariaDB from Debian's package, as its user `mysql`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Process, output};
use crate::common::until;

/// The rights that the example asks for.
const GRANTS: [&str; 3] = [
    "GRANT CREATE USER, CONNECTION ADMIN, PROCESS, SET USER ON *.* TO root@localhost",
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES,
     EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER ON *.* TO root@localhost
     WITH GRANT OPTION",
    "GRANT SELECT ON mysql.global_priv TO root@localhost",
];

/// A server. `root` of the operating system may log in as `root`, which has the rights that README asks for and no more;
/// `mysql` may do all.
pub struct Mariadb {
    dir: TempDir,
    options: Vec<String>,
    server: Mutex<Option<Process>>,
}

impl Mariadb {
    pub fn start() -> Self {
        Self::start_with(&["--skip-networking"], &[])
    }

    /// With those options, and with those rights more for `root`. It reads `my.cnf` of its directory, and all of `conf.d`.
    pub fn start_with(options: &[&str], grants: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-maria.").tempdir().expect("a directory");
        output(Command::new("chown").arg("mysql:mysql").arg(dir.path()));
        output(Command::new("chmod").arg("755").arg(dir.path()));
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mariadb = Self { server: Mutex::new(None), options, dir };
        let conf = mariadb.dir.path().join("conf.d");
        std::fs::create_dir(&conf).expect("a directory");
        std::fs::write(mariadb.dir.path().join("my.cnf"), format!("!includedir {}\n", conf.display()))
            .expect("my.cnf");
        let mut install = Command::new("mariadb-install-db");
        // A server that starts removes temporary tables there, whosever they are.
        install.env("TMPDIR", mariadb.dir());
        install.args(["--no-defaults", "--user=mysql", "--auth-root-authentication-method=socket"]);
        install.args(["--skip-test-db", "--skip-name-resolve"]).arg(mariadb.data());
        output(&mut install);
        std::fs::create_dir(mariadb.backups()).expect("a directory");
        mariadb.bring_up();
        mariadb.query("DROP USER root@localhost");
        mariadb.query("CREATE USER root@localhost IDENTIFIED VIA unix_socket");
        for grant in GRANTS.iter().chain(grants) {
            mariadb.query(grant);
        }
        mariadb
    }

    /// Where all that it writes is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The file that keeps `read_only`.
    pub fn read_only_file(&self) -> PathBuf {
        self.dir.path().join("conf.d/actiond.cnf")
    }

    /// Where dumps go.
    pub fn backups(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    /// `--datadir=` with its directory.
    fn data(&self) -> String {
        format!("--datadir={}", self.dir.path().join("data").display())
    }

    fn as_mysql(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=mysql", "--regid=mysql", "--init-groups", program, "--no-defaults"]);
        command.arg(format!("--socket={}", self.socket().display()));
        command
    }

    pub fn bring_up(&self) {
        let mut server = self.server.lock().expect("the server");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=mysql", "--regid=mysql", "--init-groups", "mariadbd"]);
        command.env("TMPDIR", self.dir());
        command.arg(format!("--defaults-file={}", self.dir.path().join("my.cnf").display()));
        command.arg(format!("--socket={}", self.socket().display())).args(&self.options);
        command.arg(self.data()).args(["--skip-name-resolve", "--log-bin=binlog"]);
        command.args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--pid-file=pid"]);
        // Who is not the superuser makes triggers.
        command.arg("--log-bin-trust-function-creators");
        // It has every statement.
        command.args(["--general-log", "--general-log-file=statements"]);
        *server = Some(Process::start(&mut command, &self.dir.path().join("log")));
        until("MariaDB", || {
            self.as_mysql("mariadb-admin")
                .arg("ping")
                .output()
                .expect("mariadb-admin")
                .status
                .success()
                .then_some(())
        });
    }

    /// As a crash: it is killed, and recovers at the next start.
    pub fn take_down(&self) {
        if let Some(mut server) = self.server.lock().expect("the server").take() {
            server.end(Signal::KILL);
        }
    }

    /// The answer of a statement as that user, who has no password, or what the client says.
    pub fn query_as(&self, user: &str, statement: &str) -> Result<String, String> {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--user", user, "--batch", "--skip-column-names"]);
        client.arg(format!("--socket={}", self.socket().display())).args(["--execute", statement]);
        let output = client.output().expect("mariadb");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.trim_end().to_owned()) } else { Err(err.into_owned()) }
    }

    /// A client that has that database as its own until its session is ended.
    pub fn session(&self, database: &str) -> std::process::Child {
        let mut client = self.as_mysql("mariadb");
        client.args([database, "--execute", "SELECT SLEEP(1000)"]).stderr(std::process::Stdio::null());
        let client = client.spawn().expect("a client");
        let inside = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{database}'");
        until("a session", || (self.query(&inside) == "1").then_some(()));
        client
    }

    /// A client that keeps everybody from writing to a table until it is killed.
    pub fn lock(&self, table: &str) -> std::process::Child {
        let mut client = self.as_mysql("mariadb");
        client.arg("--execute").arg(format!("LOCK TABLES {table} READ; SELECT SLEEP(1000)"));
        let client = client.stderr(std::process::Stdio::null()).spawn().expect("a client");
        let sleeps = "SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(1000)'";
        until("a lock", || (self.query(sleeps) == "1").then_some(()));
        client
    }

    /// Has a database carry out what is in a file.
    pub fn load(&self, database: &str, path: &Path) {
        let file = std::fs::File::open(path).expect("a dump");
        output(self.as_mysql("mariadb").arg(database).stdin(file));
    }

    /// The answer of a statement as the superuser: fields by tabs, rows by lines.
    pub fn query(&self, statement: &str) -> String {
        output(self.as_mysql("mariadb").args(["--batch", "--skip-column-names", "--execute", statement]))
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        self.take_down();
    }
}
