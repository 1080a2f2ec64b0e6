//! Databases and their users.

mod delete;

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::servers::postgres::Postgres;
use crate::subject::Subject;

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let postgres = Postgres::start();
    try_it(&Create { postgres: &postgres, count: AtomicU32::new(0) });
    try_it(&delete::Delete { postgres: &postgres, count: AtomicU32::new(0) });
}

/// `database_create` on PostgreSQL.
struct Create<'a> {
    postgres: &'a Postgres,
    count: AtomicU32,
}

impl Create<'_> {
    /// Its owner, or nothing.
    fn look(&self, metadata: &Value) -> String {
        let name = metadata["database"].as_str().expect("a name");
        let statement = format!(
            "select pg_get_userbyid(datdba), shobj_description(oid, 'pg_database') from pg_database where datname = '{name}'"
        );
        self.postgres.query("postgres", &statement)
    }
}

impl Subject for Create<'_> {
    fn name(&self) -> String {
        "database_create (postgresql)".to_owned()
    }

    fn action(&self) -> &'static str {
        "database_create"
    }

    fn tables(&self) -> String {
        self.postgres.target("")
    }

    fn prepare(&self) -> Value {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        json!({ "database": format!("shop_{count}"), "engine": "postgresql" })
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
        vec![
            (json!({}), "database"),
            (named(""), "empty"),
            (named("a\"b"), "database"),
            (named("\"; DROP DATABASE postgres; --"), "database"),
            (named("-a"), "database"),
            (named(&"x".repeat(64)), "63"),
            (named("postgres"), "reserved"),
            (json!({ "database": "a", "engine": "oracle" }), "oracle"),
            (json!({ "database": "a", "engine": "mysql" }), "mariadb"),
            (json!({ "database": "a", "extensions": ["plpython3u"] }), "plpython3u"),
        ]
    }

    fn take_down(&self) {
        self.postgres.take_down();
    }

    fn bring_up(&self) {
        self.postgres.bring_up();
    }
}
