//! `database_delete` on MariaDB.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::targets;
use crate::cases::Stage;
use crate::common::{Daemon, with};
use crate::servers::mariadb::Mariadb;
use crate::servers::output;
use crate::subject::Subject;

pub struct Delete<'a> {
    pub mariadb: &'a Mariadb,
    pub count: AtomicU32,
}

/// What a database has beside tables, and what they must still be able to do.
const REST: &str = "CREATE TABLE kinds (id INT DEFAULT NEXTVAL(numbers), goods INT, bits BIT(4), raw BLOB,
        FOREIGN KEY (goods) REFERENCES goods (id));
    INSERT INTO kinds (goods, bits, raw) VALUES (1, b'101', x'00FF27');
    CREATE TABLE old_engine (id INT) ENGINE=MyISAM;
    CREATE VIEW fruit AS SELECT name FROM goods; CREATE VIEW a_fruit AS SELECT * FROM fruit;
    CREATE DEFINER = somebody@localhost TRIGGER upper BEFORE INSERT ON goods FOR EACH ROW SET NEW.name = UPPER(NEW.name);
    CREATE FUNCTION one() RETURNS INT DETERMINISTIC RETURN 1;
    CREATE PROCEDURE nothing() BEGIN END;
    CREATE EVENT seldom ON SCHEDULE EVERY 1 YEAR DO DELETE FROM goods";

impl Delete<'_> {
    /// Whether it is there.
    fn look(&self, name: &str) -> String {
        self.mariadb
            .query(&format!("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = '{name}'"))
    }

    /// Databases that are out of reach.
    fn aside(&self) -> String {
        self.mariadb.query(
            "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'actiond%delete%'",
        )
    }

    /// The files of dumps of that database, and whatever else an action left there.
    fn dumps(&self, name: &str) -> Vec<String> {
        let files = std::fs::read_dir(self.mariadb.backups()).expect("the dumps").flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names
            .filter(|file| file.starts_with(&format!("{name}-")) || file.starts_with(&format!("{name}_")))
            .collect()
    }

    /// All of it is there and works.
    fn assert_whole(&self, name: &str) {
        let ask = |statement: &str| self.mariadb.query(&format!("USE {name}; {statement}"));
        assert_eq!(ask("SELECT * FROM goods ORDER BY id"), "1\tapple\n2\tpear");
        assert_eq!(ask("SELECT id, goods, HEX(bits), HEX(raw) FROM kinds"), "1\t1\t5\t00FF27");
        assert_eq!(ask("SELECT * FROM a_fruit ORDER BY name"), "apple\npear");
        assert_eq!(ask("SELECT one()"), "1");
        assert_eq!(ask("SELECT COUNT(*) FROM old_engine"), "0");
        assert_eq!(ask("CALL nothing()"), "");
        let inserted =
            "BEGIN; INSERT INTO goods VALUES (3, 'fig'); SELECT name FROM goods WHERE id = 3; ROLLBACK";
        // By the trigger of somebody who does not exist.
        let definer = "SELECT definer FROM information_schema.triggers WHERE trigger_schema = DATABASE()";
        assert_eq!(ask(definer), "somebody@localhost");
        self.mariadb
            .query("CREATE USER IF NOT EXISTS somebody@localhost; GRANT ALL ON *.* TO somebody@localhost");
        let made = ask(inserted);
        self.mariadb.query("DROP USER somebody@localhost");
        assert_eq!(made, "FIG");
        let event =
            "SELECT event_name, status FROM information_schema.events WHERE event_schema = DATABASE()";
        assert_eq!(ask(event), "seldom\tENABLED");
    }

    /// The dump is there, alone and whole: a database that is made of it is the same.
    fn assert_dumped(&self, name: &str, path: &str) {
        assert_eq!(self.dumps(name).len(), 1, "{name}: {:?}", self.dumps(name));
        self.mariadb.query(&format!("CREATE DATABASE {name}"));
        self.mariadb.load(name, Path::new(path));
        self.assert_whole(name);
        self.mariadb.query(&format!("DROP DATABASE {name}"));
    }

    /// What goes on in a database decides whether it is deleted.
    fn try_sessions(&self, stage: &Stage<'_>) {
        let daemon = Daemon::start(&stage.home);
        let metadata = self.prepare();
        let name = name_of(&metadata);
        let mut inside = self.mariadb.session(name);
        let action = daemon.finished(daemon.accepted(&stage.spec(&metadata)));
        assert_eq!(action["finished_result"]["error"]["code"], "in_use", "{action}");
        self.assert_undone(&metadata, &action);
        let action = daemon.finished(daemon.accepted(&stage.spec(&with(metadata.clone(), "force", true))));
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!(action["finished_result"]["terminated_sessions"], 1, "{action}");
        self.assert_done(&metadata, &action);
        let _ = inside.wait();
    }

    /// What is made in it while it is dumped is not dropped.
    fn try_new_table(&self, stage: &Stage<'_>) {
        let daemon = Daemon::start(&stage.home);
        let metadata = self.prepare();
        let name = name_of(&metadata);
        stage.breakpoint("backup", "acted", "wait");
        let id = daemon.accepted(&stage.spec(&metadata));
        stage.await_reached(&daemon, id, "backup", "acted");
        self.mariadb.query(&format!("CREATE TABLE {name}.late AS SELECT 1 AS one"));
        stage.release("backup", "acted");
        let action = daemon.finished(id);
        assert_eq!(action["finished_result"]["error"]["code"], "in_use", "{action}");
        assert_eq!(self.mariadb.query(&format!("SELECT * FROM {name}.late")), "1");
        self.assert_undone(&metadata, &action);
    }
}

fn name_of(metadata: &Value) -> &str {
    metadata["database"].as_str().expect("a name")
}

impl Subject for Delete<'_> {
    fn name(&self) -> String {
        "database_delete (mariadb)".to_owned()
    }

    fn action(&self) -> &'static str {
        "database_delete"
    }

    fn tables(&self) -> String {
        targets(self.mariadb, false)
    }

    fn prepare(&self) -> Value {
        let name = format!("old_{}", self.count.fetch_add(1, Ordering::SeqCst));
        self.mariadb.query(&format!(
            "CREATE DATABASE {name}; USE {name}; CREATE SEQUENCE numbers;
             CREATE TABLE goods (id INT PRIMARY KEY, name TEXT); INSERT INTO goods VALUES (1, 'apple'), (2, 'pear');
             {REST}"
        ));
        json!({ "database": name, "engine": "mysql" })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let name = name_of(metadata);
        assert_eq!((self.look(name).as_str(), self.aside()), ("0", String::new()), "{action}");
        let result = &action["finished_result"];
        assert_eq!((&result["database"], &result["dropped"]), (&metadata["database"], &json!(true)));
        let path = result["backup_path"].as_str().expect("a dump");
        self.assert_dumped(name, path);
        let file = std::fs::metadata(path).expect("the dump");
        assert_eq!(result["backup_bytes"], file.len());
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.permissions());
        assert_eq!(mode & 0o777, 0o600);
        let sum = output(std::process::Command::new("sha256sum").arg(path));
        assert!(sum.starts_with(result["backup_sha256"].as_str().expect("a sum")), "{sum}: {result}");
    }

    /// A database that was dropped does not come back; its dump stays, and a warning says so.
    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let name = name_of(metadata);
        assert_eq!(self.aside(), "", "{action}");
        let result = &action["finished_result"];
        let has_dropped = result["steps"].as_array().is_some_and(|s| s.iter().any(|s| s["name"] == "drop"));
        if has_dropped && self.look(name) == "0" {
            let warning = result["warnings"][0].as_str().unwrap_or_else(|| panic!("no warning: {action}"));
            let (_, path) = warning.split_once("its data are in ").expect("the dump");
            self.assert_dumped(name, path);
            return;
        }
        assert_eq!(self.look(name), "1", "{action}");
        self.assert_whole(name);
        assert_eq!(self.dumps(name), Vec::<String>::new(), "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({}), "database"),
            (json!({ "database": "", "engine": "mariadb" }), "empty"),
            (json!({ "database": "mysql", "engine": "mariadb" }), "reserved"),
            (json!({ "database": "a", "engine": "postgresql" }), "postgresql"),
            (json!({ "database": "a", "confirm": "b" }), "confirm"),
            (json!({ "database": "a", "backup": { "required": false } }), "confirm"),
            (json!({ "database": "a", "backup": { "to": "/tmp/x" } }), "to"),
        ]
    }

    fn take_down(&self) {
        self.mariadb.take_down();
    }

    fn bring_up(&self) {
        self.mariadb.bring_up();
    }

    fn special(&self, stage: &Stage<'_>) {
        self.try_sessions(stage);
        self.try_new_table(stage);
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        let metadata = self.prepare();
        let name = name_of(&metadata);
        self.mariadb.query(&format!(
            "CREATE DATABASE other; CREATE TABLE other.goods (id INT, FOREIGN KEY (id) REFERENCES {name}.goods (id))"
        ));
        let action = ask(metadata.clone());
        self.mariadb.query("DROP DATABASE other");
        assert_eq!(action["finished_result"]["error"]["code"], "in_use", "{action}");
        self.assert_undone(&metadata, &action);
        let without = with(with(metadata.clone(), "confirm", name), "backup", json!({ "required": false }));
        let action = ask(without);
        assert_eq!(action["state"], "succeeded", "{action}");
        assert_eq!((self.look(name).as_str(), self.dumps(name).len()), ("0", 0), "{action}");
        let empty = json!({ "database": "old_empty", "engine": "mariadb" });
        self.mariadb.query("CREATE DATABASE old_empty");
        let action = ask(empty);
        assert_eq!(
            (&action["state"], self.look("old_empty").as_str()),
            (&json!("succeeded"), "0"),
            "{action}"
        );
    }
}
