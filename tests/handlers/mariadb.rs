//! Databases and their users on MariaDB.

mod delete;
mod users;

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::cases::Stage;
use crate::identifiers::{self, Server};
use crate::servers::mariadb::Mariadb;
use crate::subject::Subject;

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let mariadb = Mariadb::start();
    for any_names in [false, true] {
        try_it(&Create { mariadb: &mariadb, any_names, count: AtomicU32::new(0) });
    }
    try_it(&delete::Delete { mariadb: &mariadb, count: AtomicU32::new(0) });
    try_it(&users::Create { mariadb: &mariadb, count: AtomicU32::new(0), home: std::sync::Mutex::default() });
    try_it(&users::Delete { mariadb: &mariadb, count: AtomicU32::new(0) });
}

/// The targets of the example, with this server's socket and user.
fn targets(mariadb: &Mariadb, any_names: bool) -> String {
    let mut example: toml::Table =
        toml::from_str(include_str!("../../config/examples/mariadb.toml")).expect("TOML");
    let targets = example.remove("targets").expect("targets");
    let mut targets = targets.as_table().cloned().expect("a table");
    for (_, target) in &mut targets {
        let target = target.as_table_mut().expect("a table");
        target.insert("socket".to_owned(), mariadb.socket().display().to_string().into());
        target.insert("user".to_owned(), "root".into());
        target.insert("backup_dir".to_owned(), mariadb.backups().display().to_string().into());
        target.insert("any_names".to_owned(), any_names.into());
    }
    toml::Table::from_iter([("targets".to_owned(), targets.into())]).to_string()
}

/// Names that are created exactly as they are, or not at all.
const ODD: [&str; 6] = [
    "`; DROP DATABASE keep; -- ",
    "a`b\"c'd\\e",
    "-e DROP",
    "Grüße 日本 ",
    "../up/",
    "0123456789012345678901234567890123456789012345678901234567-",
];

/// `database_create` on MariaDB.
struct Create<'a> {
    mariadb: &'a Mariadb,
    any_names: bool,
    count: AtomicU32,
}

impl Create<'_> {
    /// Its mark and character set, or nothing.
    fn look(&self, metadata: &Value) -> String {
        let name = metadata["database"].as_str().expect("a name");
        self.mariadb.query(&format!(
            "SELECT schema_comment, default_character_set_name FROM information_schema.schemata
             WHERE BINARY schema_name = '{}'",
            name.replace('\\', "\\\\").replace('\'', "''")
        ))
    }
}

impl Subject for Create<'_> {
    fn name(&self) -> String {
        format!("database_create (mariadb{})", if self.any_names { ", any names" } else { "" })
    }

    fn action(&self) -> &'static str {
        "database_create"
    }

    fn tables(&self) -> String {
        targets(self.mariadb, self.any_names)
    }

    fn prepare(&self) -> Value {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let name = if self.any_names { ODD[count as usize % ODD.len()] } else { "shop_" };
        json!({ "database": format!("{name}{count}"), "engine": "mysql" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        assert_eq!(self.look(metadata), format!("actiond:{}\tutf8mb4", action["id"]));
        let result = &action["finished_result"];
        assert_eq!((&result["database"], &result["engine"]), (&metadata["database"], &json!("mariadb")));
        assert_eq!((&result["encoding"], &result["size_bytes"]), (&json!("utf8mb4"), &json!(0)));
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        assert_eq!(self.look(metadata), "", "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        Some("exists")
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let named = |name: &str| json!({ "database": name, "engine": "mariadb" });
        let odd = ODD.iter().filter(|_| !self.any_names).map(|name| (named(name), "database"));
        odd.chain([
            (json!({}), "database"),
            (named(""), "empty"),
            (named("a\u{1}"), "control"),
            (named("a "), "database"),
            (named("\u{1F600}"), "U+FFFF"),
            (named(&"x".repeat(65)), "64"),
            (named("mysql"), "reserved"),
            (named("SYS"), "reserved"),
            (json!({ "database": "a", "engine": "postgresql" }), "postgresql"),
            (json!({ "database": "a", "owner": "root" }), "owner"),
            (json!({ "database": "a", "extensions": ["citext"] }), "extensions"),
            (json!({ "database": "a", "encoding": "utf8' COMMENT '" }), "encoding"),
            (json!({ "database": "a", "collation": "utf8_bin COMMENT" }), "collation"),
        ])
        .collect()
    }

    fn special(&self, _stage: &Stage<'_>) {
        if self.any_names {
            identifiers::assert_taken_as_they_are(&Server {
                engine: "mariadb",
                tables: targets(self.mariadb, true),
                databases: &|| self.mariadb.query("SELECT HEX(schema_name) FROM information_schema.schemata"),
                users: &|| self.mariadb.query("SELECT HEX(User) FROM mysql.global_priv"),
            });
        }
    }

    fn take_down(&self) {
        self.mariadb.take_down();
    }

    fn bring_up(&self) {
        self.mariadb.bring_up();
    }
}
