//! `database_user_create` and `database_user_delete` on PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::servers::postgres::Postgres;
use crate::subject::Subject;

/// A password that is given.
const CANARY: &str = "Canary, with a \"quote\" and 'another'";

/// Gives each subject of users to `try_it`.
pub fn each(postgres: &Postgres, try_it: &mut dyn FnMut(&dyn Subject)) {
    for is_given in [false, true] {
        try_it(&Create { postgres, is_given, count: AtomicU32::new(0), home: Mutex::default() });
    }
    for databases in [1, 2] {
        try_it(&Delete { postgres, databases, count: AtomicU32::new(0), home: Mutex::default() });
    }
}

fn text<'a>(metadata: &'a Value, key: &str) -> &'a str {
    metadata[key].as_str().unwrap_or_else(|| panic!("no {key} in {metadata}"))
}

struct Create<'a> {
    postgres: &'a Postgres,
    /// The password is, or it is made up.
    is_given: bool,
    count: AtomicU32,
    home: Mutex<PathBuf>,
}

impl Create<'_> {
    fn home(&self) -> PathBuf {
        self.home.lock().expect("the home").clone()
    }

    fn passwords(&self) -> PathBuf {
        self.postgres.socket().join("passwords")
    }

    /// The server has not logged the password.
    fn assert_canary(&self, password: &str) {
        let escaped = serde_json::to_string(password).expect("JSON");
        for form in [password, escaped.trim_matches('"')] {
            assert!(!self.postgres.log().contains(form), "the server has logged the password");
        }
        assert!(self.postgres.log().contains("SCRAM-SHA-256$"), "the log has no statements");
    }

    /// It may do what was asked for, and no more; also with tables that are made later.
    fn assert_rights(&self, metadata: &Value, password: &str) {
        let (user, database) = (text(metadata, "username"), text(metadata, "database"));
        let try_it = |statement: &str| self.postgres.query_as(user, password, database, statement);
        self.postgres.query(database, "set role actiond_admin; create table if not exists later (id int)");
        let may = |statement: &str| {
            try_it(statement).map(drop).map_err(|said| assert!(said.contains("denied"), "{said}"))
        };
        let expected: &[(&str, bool)] = match text(metadata, "privileges") {
            "read_only" => &[("select * from goods, later", true), ("delete from goods", false)],
            "read_write" => &[
                (
                    "insert into goods select 7; insert into later select 7; delete from goods where id = 7",
                    true,
                ),
                ("create table own (id int)", false),
            ],
            "owner" => &[("create table own (id int); drop table own; create schema s; drop schema s", true)],
            other => panic!("{other}"),
        };
        for (statement, is_allowed) in expected {
            assert_eq!(
                may(statement).is_ok(),
                *is_allowed,
                "{statement}: {metadata}: {:?}",
                try_it(statement)
            );
        }
        assert!(self.postgres.query_as(user, "wrong", database, "select 1").is_err());
    }
}

impl Subject for Create<'_> {
    fn name(&self) -> String {
        format!("database_user_create (postgresql{})", if self.is_given { ", password_ref" } else { "" })
    }

    fn action(&self) -> &'static str {
        "database_user_create"
    }

    fn enter(&self, home: &Path) {
        home.clone_into(&mut self.home.lock().expect("the home"));
    }

    fn tables(&self) -> String {
        self.postgres.target(&[("password_dir", self.passwords().display().to_string().into())])
    }

    fn prepare(&self) -> Value {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let database = format!("app_{}{count}", u8::from(self.is_given));
        self.postgres.query("postgres", &format!("create database {database} owner actiond_admin"));
        self.postgres.query(&database, "set role actiond_admin; create table goods (id int)");
        let privileges = ["owner", "read_only", "read_write"][count as usize % 3];
        let metadata = json!({
            "engine": "postgresql", "database": database, "username": format!("{database}_rw"), "privileges": privileges,
        });
        if !self.is_given {
            return metadata;
        }
        let file = self.passwords().join("canary");
        fs::create_dir_all(self.passwords()).expect("a directory");
        fs::write(&file, format!("{CANARY}\n")).expect("a password");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
        crate::common::with(metadata, "password_ref", format!("file:{}", file.display()))
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let user = text(metadata, "username");
        let look = format!(
            "select rolcanlogin, shobj_description(oid, 'pg_authid'), rolpassword like 'SCRAM-SHA-256$%'
             from pg_authid where rolname = '{user}'"
        );
        assert_eq!(self.postgres.query("postgres", &look), format!("t|actiond:{}|t", action["id"]));
        let result = &action["finished_result"];
        for key in ["username", "database", "privileges"] {
            assert_eq!(result[key], metadata[key], "{action}");
        }
        let path = text(result, "secret_ref").strip_prefix("file:").expect("a file");
        let mode = fs::metadata(path).expect("the password").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let password = fs::read_to_string(path).expect("the password").trim_end().to_owned();
        assert!(password.len() >= 32, "{}", password.len());
        self.assert_canary(&password);
        self.assert_rights(metadata, &password);
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let (user, database) = (text(metadata, "username"), text(metadata, "database"));
        let roles = format!("select count(*) from pg_roles where rolname = '{user}'");
        assert_eq!(self.postgres.query("postgres", &roles), "0", "{action}");
        let owner = format!("select pg_get_userbyid(datdba) from pg_database where datname = '{database}'");
        assert_eq!(self.postgres.query("postgres", &owner), "actiond_admin", "{action}");
        let secret = self.home().join("store/secrets").join(action["id"].to_string());
        assert!(!secret.exists(), "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        Some("exists")
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let with = |key: &str, value: Value| {
            crate::common::with(
                json!({ "username": "a", "database": "b", "engine": "postgresql" }),
                key,
                value,
            )
        };
        vec![
            (json!({}), "username"),
            (with("username", "".into()), "empty"),
            (with("username", "root".into()), "reserved"),
            (with("username", "actiond_admin".into()), "logs in"),
            (with("username", "a'b".into()), "username"),
            (with("username", "x".repeat(64).into()), "63"),
            (with("database", "a\"b".into()), "database"),
            (with("engine", "mysql".into()), "mariadb"),
            (with("privileges", "superuser".into()), "superuser"),
            (with("password_ref", "hunter2".into()), "password_ref"),
            (with("password_ref", "file:/etc/shadow".into()), "password_ref"),
            (with("password_ref", "credential:other".into()), "password_ref"),
            (with("password_generate", json!({ "length": 8 })), "length"),
            (with("valid_until", "tomorrow".into()), "valid_until"),
            (json!({ "username": "a", "privileges": "owner" }), "privileges"),
        ]
    }

    fn secrets(&self, action: &Value) -> Vec<(String, Option<PathBuf>)> {
        let path = text(&action["finished_result"], "secret_ref").strip_prefix("file:").expect("a file");
        let password = fs::read_to_string(path).expect("the password").trim_end().to_owned();
        let own = self.home().join("store/secrets").join(action["id"].to_string());
        vec![(password, (!self.is_given).then_some(own))]
    }

    fn take_down(&self) {
        self.postgres.take_down();
    }

    fn bring_up(&self) {
        self.postgres.bring_up();
    }
}

struct Delete<'a> {
    postgres: &'a Postgres,
    /// In how many it owns something.
    databases: u32,
    count: AtomicU32,
    home: Mutex<PathBuf>,
}

impl Delete<'_> {
    fn databases(&self, user: &str) -> Vec<String> {
        (0..self.databases).map(|at| format!("{user}_{at}")).collect()
    }

    /// The file of the password that an action made up for a user.
    fn secret(&self, user: &str) -> PathBuf {
        let number = user.rsplit('_').next().expect("a number");
        self.home.lock().expect("the home").join("store/secrets").join(format!("9000{number}"))
    }

    /// Whether it can log in, and whether the target's user is a member of it; nothing, if it is not there.
    fn look(&self, user: &str) -> String {
        let look = format!(
            "select rolcanlogin, pg_has_role('actiond_admin', oid, 'MEMBER') from pg_roles where rolname = '{user}'"
        );
        self.postgres.query("postgres", &look)
    }

    fn owner(&self, database: &str) -> String {
        self.postgres.query(database, "select tableowner from pg_tables where tablename = 'goods'")
    }
}

impl Subject for Delete<'_> {
    fn name(&self) -> String {
        format!("database_user_delete (postgresql, {} databases)", self.databases)
    }

    fn action(&self) -> &'static str {
        "database_user_delete"
    }

    fn enter(&self, home: &Path) {
        home.clone_into(&mut self.home.lock().expect("the home"));
    }

    fn tables(&self) -> String {
        self.postgres.target(&[])
    }

    fn prepare(&self) -> Value {
        let user = format!("user_{}_{}", self.databases, self.count.fetch_add(1, Ordering::SeqCst));
        let secret = self.secret(&user);
        let mark = secret.file_name().expect("a name").to_string_lossy();
        let make = format!("create role {user} login; comment on role {user} is 'actiond:{mark}'");
        self.postgres.query("postgres", &make);
        fs::create_dir_all(secret.parent().expect("a directory")).expect("a directory");
        fs::write(&secret, "its password\n").expect("a password");
        for database in self.databases(&user) {
            self.postgres.query("postgres", &format!("create database {database} owner actiond_admin"));
            let goods = format!(
                "grant create on schema public to {user}; grant connect on database {database} to {user};
                 set role {user}; create table goods (id int); insert into goods select 1"
            );
            self.postgres.query(&database, &goods);
        }
        // As the user's document has it: with what it had.
        json!({ "engine": "postgresql", "database": "any", "username": user, "privileges": "read_only" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let user = text(metadata, "username");
        assert_eq!(self.look(user), "", "{action}");
        for database in self.databases(user) {
            assert_eq!(self.owner(&database), "actiond_admin");
            assert_eq!(self.postgres.query(&database, "select count(*) from goods"), "1");
        }
        let result = &action["finished_result"];
        let of = |database: String| json!({ "database": database, "objects": 1 });
        let reassigned: Vec<Value> = self.databases(user).into_iter().map(of).collect();
        assert_eq!(
            (&result["dropped"], &result["reassigned"]),
            (&json!(true), &json!(reassigned)),
            "{action}"
        );
        assert!(!self.secret(user).exists());
    }

    /// A role that was dropped does not come back, nor do rights that ended in all databases but one: a warning says so.
    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let user = text(metadata, "username");
        let result = &action["finished_result"];
        let steps: Vec<&str> = result["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|step| step["name"].as_str())
            .collect();
        let is_warned = |of: &str| result["warnings"].to_string().contains(of);
        if steps.contains(&"drop") && self.look(user).is_empty() {
            assert!(is_warned("dropped already"), "{action}");
            return;
        }
        assert_eq!(self.look(user), "t|f", "{action}");
        if steps.contains(&"release") {
            assert!(is_warned("may have gone"), "{action}");
            return;
        }
        for database in self.databases(user) {
            assert_eq!(self.owner(&database), user, "{action}");
        }
        assert!(self.secret(user).exists());
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({}), "username"),
            (json!({ "username": "postgres", "engine": "postgresql" }), "reserved"),
            (json!({ "username": "actiond_admin" }), "logs in"),
            (json!({ "username": "a", "engine": "mysql" }), "mariadb"),
            (json!({ "username": "a", "reassign_to": "a" }), "reassign_to"),
            (json!({ "username": "a", "drop_owned": true }), "drop_owned"),
        ]
    }

    fn take_down(&self) {
        self.postgres.take_down();
    }

    fn bring_up(&self) {
        self.postgres.bring_up();
    }
}
