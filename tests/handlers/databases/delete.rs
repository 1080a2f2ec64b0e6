//! `database_delete` on PostgreSQL.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::servers::postgres::Postgres;
use crate::subject::Subject;

pub struct Delete<'a> {
    pub postgres: &'a Postgres,
    pub count: AtomicU32,
}

impl Delete<'_> {
    /// Whether somebody may log in to it; nothing, if it is not there.
    fn look(&self, name: &str) -> String {
        let statement = format!("select datallowconn from pg_database where datname = '{name}'");
        self.postgres.query("postgres", &statement)
    }

    /// Databases that are out of reach.
    fn aside(&self) -> String {
        self.postgres
            .query("postgres", "select datname from pg_database where datname like 'actiond%delete%'")
    }

    /// The files of dumps of that database.
    fn dumps(&self, name: &str) -> Vec<String> {
        let files = std::fs::read_dir(self.postgres.backups()).expect("the dumps").flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|file| file.starts_with(&format!("{name}-"))).collect()
    }

    /// The dump is there, alone and whole.
    fn assert_dumped(&self, name: &str, path: &str) {
        assert_eq!(self.dumps(name).len(), 1, "{name}");
        let dumped = self.postgres.dumped(path, "goods");
        assert!(dumped.contains("\n1\tapple\n2\tpear\n"), "{dumped}");
    }
}

fn name_of(metadata: &Value) -> &str {
    metadata["database"].as_str().expect("a name")
}

impl Subject for Delete<'_> {
    fn name(&self) -> String {
        "database_delete (postgresql)".to_owned()
    }

    fn action(&self) -> &'static str {
        "database_delete"
    }

    fn tables(&self) -> String {
        self.postgres.target(&[])
    }

    fn prepare(&self) -> Value {
        let name = format!("old_{}", self.count.fetch_add(1, Ordering::SeqCst));
        self.postgres.query("postgres", &format!("create database {name} owner actiond_admin"));
        let goods = "create table goods (id int primary key, name text); insert into goods values (1, 'apple'), (2, 'pear')";
        self.postgres.query(&name, goods);
        json!({ "database": name, "engine": "postgresql" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let name = name_of(metadata);
        assert_eq!((self.look(name), self.aside()), (String::new(), String::new()), "{action}");
        let result = &action["finished_result"];
        assert_eq!((&result["database"], &result["dropped"]), (&metadata["database"], &json!(true)));
        let path = result["backup_path"].as_str().expect("a dump");
        self.assert_dumped(name, path);
        let file = std::fs::metadata(path).expect("the dump");
        assert_eq!(result["backup_bytes"], file.len());
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.permissions());
        assert_eq!(mode & 0o777, 0o600);
        let sum = crate::servers::output(std::process::Command::new("sha256sum").arg(path));
        assert!(sum.starts_with(result["backup_sha256"].as_str().expect("a sum")), "{sum}: {result}");
    }

    /// A database that was dropped does not come back; its dump stays, and a warning says so.
    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let name = name_of(metadata);
        assert_eq!(self.aside(), "", "{action}");
        let result = &action["finished_result"];
        let has_dropped = result["steps"].as_array().is_some_and(|s| s.iter().any(|s| s["name"] == "drop"));
        if has_dropped && self.look(name).is_empty() {
            let warning = result["warnings"][0].as_str().unwrap_or_else(|| panic!("no warning: {action}"));
            let (_, path) = warning.split_once("its data are in ").expect("the dump");
            self.assert_dumped(name, path);
            return;
        }
        assert_eq!(self.look(name), "t", "{action}");
        assert_eq!(self.postgres.query(name, "select count(*) from goods"), "2");
        assert_eq!(self.dumps(name), Vec::<String>::new(), "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({}), "database"),
            (json!({ "database": "", "engine": "postgresql" }), "empty"),
            (json!({ "database": "template1", "engine": "postgresql" }), "reserved"),
            (json!({ "database": "a", "engine": "mysql" }), "mariadb"),
            (json!({ "database": "a", "confirm": "b" }), "confirm"),
            (json!({ "database": "a", "backup": { "required": false } }), "confirm"),
            (json!({ "database": "a", "backup": { "to": "/tmp/x" } }), "to"),
        ]
    }

    fn take_down(&self) {
        self.postgres.take_down();
    }

    fn bring_up(&self) {
        self.postgres.bring_up();
    }
}
