//! Names of databases and users: which are accepted, and how they are written in a statement.
//!
//! A name that a server would shorten, fold or take for another is refused: what is created has to be what is later
//! deleted. PostgreSQL cuts a name after 63 bytes with no more than a notice (PostgreSQL 15, 4.1.1); MariaDB takes 64
//! characters for a database and 80 for a user, of which older versions take 32 (MariaDB, "Identifier Names").

use super::Engine;

/// Of either engine: belongs to the server, or to all.
const RESERVED: &[&str] = &[
    "postgres",
    "template0",
    "template1",
    "public",
    "none",
    "current_user",
    "current_role",
    "session_user",
    "root",
    "mysql",
    "sys",
    "information_schema",
    "performance_schema",
    "mariadb.sys",
    "mariadb",
];

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Database,
    User,
}

/// Whether a name may be used. `any` allows more than plain ones: see `any_names` of a target.
///
/// # Errors
///
/// Why not, without the key.
pub(super) fn check(name: &str, of: Of, engine: Engine, any: bool) -> Result<(), String> {
    let (count, max, unit) = match (engine, of) {
        (Engine::Postgresql, _) => (name.len(), 63, "bytes"),
        (Engine::Mariadb, Of::Database) => (name.chars().count(), 64, "characters"),
        (Engine::Mariadb, Of::User) => (name.chars().count(), 32, "characters"),
    };
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if count > max {
        return Err(format!("has {count} {unit}; {} takes at most {max}", engine.title()));
    }
    if name.chars().any(char::is_control) {
        return Err("has control characters".to_owned());
    }
    if engine == Engine::Mariadb && name.chars().any(|letter| letter > '\u{FFFF}') {
        return Err("has characters beyond U+FFFF, which MariaDB does not take".to_owned());
    }
    let lower = name.to_lowercase();
    if RESERVED.contains(&lower.as_str()) || lower.starts_with("pg_") {
        return Err(format!("{name:?} is reserved"));
    }
    if any {
        // MariaDB takes trailing spaces away.
        return if name.ends_with(' ') { Err("ends with a space".to_owned()) } else { Ok(()) };
    }
    let begins = |first: char| first.is_ascii_alphabetic() || first == '_';
    let goes_on = |letter: char| letter.is_ascii_alphanumeric() || "_$-".contains(letter);
    if name.starts_with(begins) && name.chars().all(goes_on) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not of A-Z a-z 0-9 _ $ - with a letter or _ first; a target with any_names = true takes others"
    ))
}

/// A name as it stands in a statement of that engine.
pub(super) fn quoted(name: &str, engine: Engine) -> String {
    match engine {
        Engine::Postgresql => format!("\"{}\"", name.replace('"', "\"\"")),
        Engine::Mariadb => format!("`{}`", name.replace('`', "``")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_taken_as_it_is_or_refused() {
        let plain = |name: &str| check(name, Of::Database, Engine::Postgresql, false);
        for name in ["a", "_x", "shop-2_$", &"x".repeat(63)] {
            assert_eq!(plain(name), Ok(()), "{name}");
        }
        for name in
            ["", "-a", "1a", "a b", "a\"b", "a`b", "x; DROP", "é", "a\0", "Postgres", "pg_x", &"x".repeat(64)]
        {
            assert!(plain(name).is_err(), "{name}");
        }
        let any = |name: &str, engine| check(name, Of::Database, engine, true);
        for name in ["-a", "a\"b", "a`b", "\"; DROP DATABASE x; --", "é", "a b"] {
            assert_eq!(any(name, Engine::Postgresql), Ok(()), "{name}");
            assert_eq!(any(name, Engine::Mariadb), Ok(()), "{name}");
        }
        assert!(any(&"é".repeat(32), Engine::Postgresql).is_err(), "64 bytes");
        assert_eq!(any(&"é".repeat(64), Engine::Mariadb), Ok(()));
        assert!(any(&"é".repeat(65), Engine::Mariadb).is_err());
        for name in ["", "a\n", "mysql", "a ", "\u{1F600}"] {
            assert!(any(name, Engine::Mariadb).is_err(), "{name}");
        }
        assert!(check(&"u".repeat(33), Of::User, Engine::Mariadb, false).is_err());
    }

    #[test]
    fn quotes_within_a_name_are_doubled() {
        assert_eq!(quoted("a\"b; drop", Engine::Postgresql), "\"a\"\"b; drop\"");
        assert_eq!(quoted("a`b; drop", Engine::Mariadb), "`a``b; drop`");
    }
}
