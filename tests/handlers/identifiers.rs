//! Names that are odd: created exactly as they are, or refused. By all four types that make or delete something by its name,
//! one after the other, on both engines.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::{Daemon, Home, spec, with};

/// A server whose target takes any names.
pub struct Server<'a> {
    pub engine: &'static str,
    /// Tables of the configuration: its target.
    pub tables: String,
    /// What databases it has, and what users: each name in hexadecimal, one a line.
    pub databases: &'a dyn Fn() -> String,
    pub users: &'a dyn Fn() -> String,
}

/// A name, and whether the engines take it: PostgreSQL for both, MariaDB for a database and for a user.
struct Name {
    text: String,
    postgresql: bool,
    mariadb: [bool; 2],
}

fn names() -> Vec<Name> {
    let name = |name: &str, postgresql, mariadb| Name { text: name.to_owned(), postgresql, mariadb };
    vec![
        name("plain", true, [true; 2]),
        name("a\"b", true, [true; 2]),
        name("a'b", true, [true; 2]),
        name("a`b", true, [true; 2]),
        name("a\\b\\'", true, [true; 2]),
        name("\"; DROP DATABASE keep; --", true, [true; 2]),
        name("'; DROP USER x; --", true, [true; 2]),
        name("`; DROP DATABASE keep; --", true, [true; 2]),
        name("-lead", true, [true; 2]),
        name("--all", true, [true; 2]),
        name("a_c%d", true, [true; 2]),
        name("../up", true, [true; 2]),
        name("$(id)", true, [true; 2]),
        name("Grüße 日本", true, [true; 2]),
        name(&"x".repeat(32), true, [true; 2]),
        name(&"x".repeat(63), true, [true, false]),
        name(&"x".repeat(64), false, [true, false]),
        name(&"x".repeat(65), false, [false; 2]),
        // 64 bytes of 32 letters, and 65.
        name(&"é".repeat(32), false, [true; 2]),
        name(&format!("{}-", "é".repeat(32)), false, [true, false]),
        name("\u{1F600}", true, [false; 2]),
        name("", false, [false; 2]),
        name("ends with a space ", false, [false; 2]),
        name("a\0b", false, [false; 2]),
        name("a\nb", false, [false; 2]),
        name("postgres", false, [false; 2]),
        name("Template1", false, [false; 2]),
        name("pg_mine", false, [false; 2]),
        name("root", false, [false; 2]),
        name("mysql", false, [false; 2]),
        name("information_schema", false, [false; 2]),
        name("public", false, [false; 2]),
    ]
}

/// Makes and deletes something of each name, and looks after each action at all that there is.
pub fn assert_taken_as_they_are(server: &Server<'_>) {
    let home = Home::new();
    let types = ["database_create", "database_user_create", "database_user_delete", "database_delete"];
    let handlers = types.map(|action| format!("[[handler]]\naction = \"{action}\"\nuse = \"builtin\"\n"));
    home.rewrite("", &format!("{}{}", handlers.concat(), server.tables));
    let daemon = Daemon::start(&home);
    let set = |listed: String| listed.lines().map(str::to_lowercase).collect::<BTreeSet<_>>();
    let look = || (set((server.databases)()), set((server.users)()));
    let ask = |action: &str, key: &str, name: &str, is_taken: bool, rest: &Value| {
        let mut metadata = with(json!({ "engine": server.engine }), key, name);
        if let (Value::Object(metadata), Value::Object(rest)) = (&mut metadata, rest) {
            metadata.extend(rest.clone());
        }
        let answer = daemon.submit(&with(spec(action, 7), "metadata", metadata));
        if !is_taken {
            assert!((400..500).contains(&answer.status), "{action} {name:?}: {}", answer.text());
            // A NUL is refused wherever it is.
            let word = if name.contains('\0') { "NUL" } else { key };
            assert!(answer.text().contains(word), "{action} {name:?}: {}", answer.text());
            return;
        }
        assert_eq!(answer.status, 202, "{action} {name:?}: {}", answer.text());
        let done = daemon.finished(answer.json()["id"].as_u64().expect("an id"));
        assert_eq!(done["state"], "succeeded", "{action} {name:?}: {done}");
        assert_eq!(done["finished_result"][key], name, "{action}: {done}");
    };
    let empty = json!({});
    for Name { text: name, postgresql, mariadb } in names() {
        let [database, user] = if server.engine == "postgresql" { [postgresql; 2] } else { mariadb };
        let hex = name.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let (databases, users) = look();
        let and = |set: &BTreeSet<String>, is_there: bool| {
            let more = is_there.then(|| hex.clone());
            set.iter().cloned().chain(more).collect::<BTreeSet<_>>()
        };
        ask("database_create", "database", &name, database, &empty);
        assert_eq!(look(), (and(&databases, database), users.clone()), "created {name:?}");
        let rights =
            if database { json!({ "database": name, "privileges": "read_write" }) } else { json!({}) };
        ask("database_user_create", "username", &name, user, &rights);
        assert_eq!(look(), (and(&databases, database), and(&users, user)), "created user {name:?}");
        ask("database_user_delete", "username", &name, user, &empty);
        assert_eq!(look(), (and(&databases, database), users.clone()), "deleted user {name:?}");
        ask("database_delete", "database", &name, database, &empty);
        assert_eq!(look(), (databases, users), "deleted {name:?}");
    }
    println!("identifiers ({}): {} names: ok", server.engine, names().len());
}
