//! Databases and their users.

mod delete;
mod users;

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::cases::Stage;
use crate::identifiers::{self, Server};
use crate::servers::postgres::Postgres;
use crate::subject::Subject;

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let postgres = Postgres::start();
    for any_names in [false, true] {
        try_it(&Create { postgres: &postgres, any_names, count: AtomicU32::new(0) });
    }
    try_it(&delete::Delete { postgres: &postgres, count: AtomicU32::new(0) });
    users::each(&postgres, try_it);
}

/// Names that are created exactly as they are, or not at all. With two digits the last has 63 bytes.
const ODD: [&str; 6] = [
    "\"; DROP DATABASE postgres; -- ",
    "a`b\"c'd\\e",
    "-e DROP",
    "Grüße 日本 ",
    "../up/",
    "0123456789012345678901234567890123456789012345678901234567é-",
];

/// `database_create` on PostgreSQL.
struct Create<'a> {
    postgres: &'a Postgres,
    any_names: bool,
    count: AtomicU32,
}

impl Create<'_> {
    /// Its owner, or nothing.
    fn look(&self, metadata: &Value) -> String {
        let name = metadata["database"].as_str().expect("a name");
        let statement = format!(
            "select pg_get_userbyid(datdba), shobj_description(oid, 'pg_database') from pg_database where datname = '{}'",
            name.replace('\'', "''")
        );
        self.postgres.query("postgres", &statement)
    }
}

impl Subject for Create<'_> {
    fn name(&self) -> String {
        format!("database_create (postgresql{})", if self.any_names { ", any names" } else { "" })
    }

    fn action(&self) -> &'static str {
        "database_create"
    }

    fn tables(&self) -> String {
        self.postgres.target(&[("any_names", self.any_names.into())])
    }

    fn prepare(&self) -> Value {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let name = if self.any_names { ODD[count as usize % ODD.len()] } else { "shop_" };
        json!({ "database": format!("{name}{count:02}"), "engine": "postgresql" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        assert_eq!(self.look(metadata), format!("actiond_admin|actiond:{}", action["id"]));
        let result = &action["finished_result"];
        assert_eq!((&result["database"], &result["owner"]), (&metadata["database"], &json!("actiond_admin")));
        assert!(result["size_bytes"].as_u64() > Some(0), "{result}");
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        assert_eq!(self.look(metadata), "", "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        Some("exists")
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let named = |name: &str| json!({ "database": name, "engine": "postgresql" });
        let odd = ODD.iter().filter(|_| !self.any_names).map(|name| (named(name), "database"));
        odd.chain([
            (json!({}), "database"),
            (named(""), "empty"),
            (named("a\u{1}"), "control"),
            (named("a "), "database"),
            (named(&"x".repeat(64)), "63"),
            (named(&"x".repeat(65)), "63"),
            (named(&"é".repeat(32)), "63"),
            (named("pg_x"), "reserved"),
            (named("postgres"), "reserved"),
            (json!({ "database": "a", "engine": "oracle" }), "oracle"),
            (json!({ "database": "a", "engine": "mysql" }), "mariadb"),
            (json!({ "database": "a", "extensions": ["plpython3u"] }), "plpython3u"),
        ])
        .collect()
    }

    fn special(&self, _stage: &Stage<'_>) {
        if self.any_names {
            let hex = |column: &str, table: &str| {
                let look = format!("select encode(convert_to({column}, 'UTF8'), 'hex') from {table}");
                self.postgres.query("postgres", &look)
            };
            let passwords = self.postgres.socket().join("passwords").display().to_string();
            identifiers::assert_taken_as_they_are(&Server {
                engine: "postgresql",
                tables: self
                    .postgres
                    .target(&[("any_names", true.into()), ("password_dir", passwords.into())]),
                databases: &|| hex("datname", "pg_database"),
                users: &|| hex("rolname", "pg_roles"),
            });
        }
    }

    fn take_down(&self) {
        self.postgres.take_down();
    }

    fn bring_up(&self) {
        self.postgres.bring_up();
    }
}
