//! Users of MariaDB.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::targets;
use crate::servers::mariadb::Mariadb;
use crate::servers::output;
use crate::subject::Subject;

fn name_of(metadata: &Value) -> &str {
    metadata["username"].as_str().expect("a name")
}

/// Whether it is locked; nothing, if it is not there.
fn look(mariadb: &Mariadb, name: &str) -> String {
    mariadb.query(&format!(
        "SELECT JSON_VALUE(Priv, '$.account_locked') <=> 1 FROM mysql.global_priv WHERE User = '{name}'"
    ))
}

fn refused(more: Vec<(Value, &'static str)>) -> Vec<(Value, &'static str)> {
    let named = |name: &str| json!({ "username": name, "engine": "mariadb" });
    let mut refused = vec![
        (json!({}), "username"),
        (named(""), "empty"),
        (named("a'@'%"), "username"),
        (named("-a"), "username"),
        (named(&"x".repeat(33)), "32"),
        (named("mariadb.sys"), "reserved"),
        (named("root"), "username"),
        (json!({ "username": "a", "host": "%" }), "host"),
    ];
    refused.extend(more);
    refused
}

/// `database_user_create` on MariaDB.
pub struct Create<'a> {
    pub mariadb: &'a Mariadb,
    pub count: AtomicU32,
    /// Of the daemon that is being tried.
    pub home: Mutex<PathBuf>,
}

impl Create<'_> {
    /// Nothing that anybody writes has the password but its own file.
    fn assert_secret(&self, password: &str, secret: &Path, action: &Value) {
        assert!(!action.to_string().contains(password), "the password is in {action}");
        let home = self.home.lock().expect("a home");
        assert!(secret.starts_with(&*home), "{}", secret.display());
        for dir in [self.mariadb.dir(), &home] {
            let found = Command::new("grep").args(["-rlaF", password]).arg(dir).output().expect("grep");
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            let others: Vec<&str> = found.lines().filter(|file| Path::new(file) != secret).collect();
            assert_eq!(others, Vec::<&str>::new(), "the password is in them");
        }
    }
}

impl Subject for Create<'_> {
    fn name(&self) -> String {
        "database_user_create (mariadb)".to_owned()
    }

    fn action(&self) -> &'static str {
        "database_user_create"
    }

    fn tables(&self) -> String {
        targets(self.mariadb, false)
    }

    fn enter(&self, home: &Path) {
        home.clone_into(&mut self.home.lock().expect("a home"));
    }

    fn prepare(&self) -> Value {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let database = format!("for_{count}");
        self.mariadb.query(&format!("CREATE DATABASE {database}; CREATE TABLE {database}.goods (id INT)"));
        json!({ "username": format!("app_{count}"), "database": database, "engine": "mysql", "privileges": "read_write" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let (name, result) = (name_of(metadata), &action["finished_result"]);
        assert_eq!(look(self.mariadb, name), "0", "{action}");
        let database = metadata["database"].as_str().expect("a database");
        let right = format!("`{}`.*", database.replace('_', "\\\\_"));
        let grants = self.mariadb.query(&format!("SHOW GRANTS FOR {name}@localhost"));
        assert!(grants.contains(&right), "{right} is not in {grants}");
        assert_eq!(
            (&result["username"], &result["privileges"]),
            (&metadata["username"], &json!("read_write"))
        );
        let secret = result["secret_ref"].as_str().and_then(|secret| secret.strip_prefix("file:"));
        let secret = PathBuf::from(secret.expect("a file"));
        assert_eq!(std::fs::metadata(&secret).expect("the file").permissions().mode() & 0o777, 0o600);
        let password = std::fs::read_to_string(&secret).expect("the password");
        let password = password.trim_end();
        assert_eq!(password.len(), 32);
        let mut login = Command::new("mariadb");
        login.args(["--no-defaults", "--user", name, "--batch", "--skip-column-names"]);
        login.arg(format!("--socket={}", self.mariadb.socket().display())).env("MYSQL_PWD", password);
        let insert =
            format!("INSERT INTO {database}.goods VALUES (1); SELECT COUNT(*) FROM {database}.goods");
        assert_eq!(output(login.args(["--execute", &insert])), "1");
        self.assert_secret(password, &secret, action);
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        assert_eq!(look(self.mariadb, name_of(metadata)), "", "{action}");
        let note = action["checkpoint"]["secret"].as_str().unwrap_or("{}");
        let note: Value = serde_json::from_str(note).expect("a note");
        let secret = note["result"].as_str().and_then(|secret| secret.strip_prefix("file:"));
        assert!(secret.is_none_or(|secret| !Path::new(secret).exists()), "the password is left: {action}");
    }

    fn secrets(&self, action: &Value) -> Vec<(String, Option<PathBuf>)> {
        let secret = action["finished_result"]["secret_ref"].as_str().and_then(|at| at.strip_prefix("file:"));
        let file = PathBuf::from(secret.expect("a file"));
        let password = std::fs::read_to_string(&file).expect("the password").trim_end().to_owned();
        vec![(password, Some(file))]
    }

    fn again(&self) -> Option<&'static str> {
        Some("exists")
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        refused(vec![
            (json!({ "username": "a", "database": "b`c" }), "database"),
            (json!({ "username": "a", "database": "_".repeat(33) }), "grant"),
            (json!({ "username": "a", "privileges": "read_only" }), "privileges"),
            (json!({ "username": "a", "password_ref": "file:/etc/shadow" }), "password_ref"),
            (json!({ "username": "a", "password_ref": "hunter2" }), "password_ref"),
            (json!({ "username": "a", "valid_until": "2030-01-01T00:00:00Z" }), "valid_until"),
        ])
    }

    fn take_down(&self) {
        self.mariadb.take_down();
    }

    fn bring_up(&self) {
        self.mariadb.bring_up();
    }
}

/// `database_user_delete` on MariaDB.
pub struct Delete<'a> {
    pub mariadb: &'a Mariadb,
    pub count: AtomicU32,
}

impl Subject for Delete<'_> {
    fn name(&self) -> String {
        "database_user_delete (mariadb)".to_owned()
    }

    fn action(&self) -> &'static str {
        "database_user_delete"
    }

    fn tables(&self) -> String {
        targets(self.mariadb, false)
    }

    fn prepare(&self) -> Value {
        let name = format!("gone_{}", self.count.fetch_add(1, Ordering::SeqCst));
        self.mariadb.query(&format!(
            "CREATE USER {name}@localhost IDENTIFIED BY 'hunter2'; GRANT SELECT ON shop.* TO {name}@localhost"
        ));
        // As the user's document has it.
        json!({ "username": name, "database": "shop", "engine": "mysql", "privileges": "read_only" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let name = name_of(metadata);
        assert_eq!(look(self.mariadb, name), "", "{action}");
        assert_eq!(self.mariadb.query(&format!("SELECT COUNT(*) FROM mysql.db WHERE User = '{name}'")), "0");
        let result = &action["finished_result"];
        assert_eq!((&result["username"], &result["dropped"]), (&metadata["username"], &json!(true)));
    }

    /// A user that was dropped does not come back, and a warning says so.
    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let result = &action["finished_result"];
        let has_dropped = result["steps"].as_array().is_some_and(|s| s.iter().any(|s| s["name"] == "drop"));
        let now = look(self.mariadb, name_of(metadata));
        if has_dropped && now.is_empty() {
            assert!(result["warnings"].to_string().contains("cannot be taken back"), "{action}");
            return;
        }
        assert_eq!(now, "0", "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        refused(vec![
            (json!({ "username": "a", "reassign_to": "b" }), "reassign_to"),
            (json!({ "username": "a", "privileges": "all" }), "all"),
        ])
    }

    fn take_down(&self) {
        self.mariadb.take_down();
    }

    fn bring_up(&self) {
        self.mariadb.bring_up();
    }
}
