//! Prints a [`Config`] as TOML that reads back as the same configuration. Called by `Config::to_toml`.

use std::fmt::Write as _;

use toml::Value;

use super::schema::{Field, Keys, Retry, Section};
use super::{Config, units};

/// The whole configuration, every key said.
pub(super) fn print(config: &Config) -> String {
    let mut config = config.clone();
    let mut out = Printer::default();
    for (name, section) in config.sections() {
        out.head(&format!("[{name}]"));
        section.keys(&mut out);
    }
    for queue in &mut config.queues {
        out.head("[[queue]]");
        queue.keys(&mut out);
    }
    for handler in &mut config.handlers {
        out.head("[[handler]]");
        handler.keys(&mut out);
        for (key, value) in &handler.own {
            // As an inline value, so that a table of a handler's own cannot swallow the keys after it.
            out.pair(&quoted(key), value);
        }
    }
    for (name, target) in &config.targets {
        out.head(&format!("[targets.{}]", quoted(name)));
        for (key, value) in target {
            out.pair(&quoted(key), value);
        }
    }
    out.0
}

#[derive(Default)]
struct Printer(String);

impl Printer {
    fn head(&mut self, head: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(head);
        self.0.push('\n');
    }

    fn pair(&mut self, key: &str, value: &Value) {
        let _ = writeln!(self.0, "{key} = {value}");
    }
}

/// The key, quoted unless it is a bare one.
fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { Value::from(key).to_string() }
}

impl Keys for Printer {
    fn key(&mut self, name: &'static str, field: Field<'_>) {
        if let Some(value) = value(field) {
            self.pair(name, &value);
        }
    }
}

struct Pairs(toml::Table);

impl Keys for Pairs {
    fn key(&mut self, name: &'static str, field: Field<'_>) {
        if let Some(value) = value(field) {
            self.0.insert(name.to_owned(), value);
        }
    }
}

/// The field as TOML; none if it is not set.
fn value(field: Field<'_>) -> Option<Value> {
    Some(match field {
        Field::Text(text) | Field::Word(text, _) => Value::from(text.as_str()),
        Field::OptionalText(text) => Value::from(text.as_deref()?),
        Field::Path(path) => Value::from(path.to_string_lossy().into_owned()),
        Field::Mode(mode) => Value::from(format!("{mode:04o}")),
        Field::Bytes(bytes, _) => Value::from(units::print_bytes(*bytes)),
        Field::Millis(ms, _) => Value::from(units::print_millis(*ms)),
        Field::Count(count, _) => Value::from(i64::try_from(*count).unwrap_or(i64::MAX)),
        Field::Flag(flag) => Value::from(*flag),
        Field::OptionalFlag(flag) => Value::from((*flag)?),
        Field::Texts(texts) => Value::from(texts.clone()),
        Field::Ids(ids) => Value::from(ids.clone()),
        Field::Recovery(recovery) => Value::from((*recovery)?.as_str()),
        Field::Retry(policy) => {
            let mut pairs = Pairs(toml::Table::new());
            Retry::new(*policy).keys(&mut pairs);
            Value::Table(pairs.0)
        }
    })
}
