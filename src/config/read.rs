//! Reads one file into a [`Config`] and reports everything that is wrong with it, with lines.
//!
//! The text is parsed with spans, then each section's keys are asked for one by one; whatever was not asked
//! for is unknown. A key with a bad value keeps its default, so that the checks after it still mean
//! something. Called by `Config::parse`.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::schema::{Field, Handler, Keys, Line, Queue, Retry, Section};
use super::{Config, units};
use crate::action::Recovery;

/// The configuration in `text`; every problem found goes to `problems`.
pub(super) fn read(text: &str, problems: &mut Vec<String>) -> Config {
    let (root, errors) = DeTable::parse_recoverable(text);
    let lines = Lines(text);
    for error in &errors {
        let line = error.span().map_or(1, |span| lines.of(span.start));
        problems.push(format!("line {line}: not TOML: {}", error.message()));
    }
    if !errors.is_empty() {
        // The rest of a broken file may mean anything.
        return Config::default();
    }
    let mut config = Config { handlers: Vec::new(), ..Config::default() };
    let known: Vec<&str> = config.sections().iter().map(|(name, _)| *name).collect();
    for (key, value) in root.get_ref() {
        let line = lines.of(key.span().start);
        let name: &str = key.get_ref();
        if let Some((_, section)) = config.sections().into_iter().find(|(known, _)| *known == name) {
            if let Some(table) = value.get_ref().as_table() {
                let mut reader = Reader::new(format!("[{name}]"), table, lines, problems);
                section.keys(&mut reader);
                reader.refuse_unknown();
            } else {
                problems.push(format!("line {line}: {name} must be a section [{name}]"));
            }
        } else if name == "queue" {
            config.queues = tables(name, value, lines, problems, read_queue);
        } else if name == "handler" {
            config.handlers = tables(name, value, lines, problems, read_handler);
        } else if name == "targets" {
            config.targets = read_targets(value, lines, problems);
        } else {
            let known = known.join("], [");
            problems.push(format!(
                "line {line}: there is no section or key {name:?}; the sections are [{known}], [[queue]], [[handler]], [targets.NAME]"
            ));
        }
    }
    config
}

fn tables<T>(
    name: &str,
    value: &Spanned<DeValue<'_>>,
    lines: Lines<'_>,
    problems: &mut Vec<String>,
    read: fn(&DeTable<'_>, usize, Lines<'_>, &mut Vec<String>) -> T,
) -> Vec<T> {
    let mut all = Vec::new();
    let Some(array) = value.get_ref().as_array() else {
        let line = lines.of(value.span().start);
        problems.push(format!("line {line}: {name} must be a list of tables: [[{name}]]"));
        return all;
    };
    for item in array {
        let line = lines.of(item.span().start);
        match item.get_ref().as_table() {
            Some(table) => all.push(read(table, line, lines, problems)),
            None => problems.push(format!("line {line}: {name} must be a list of tables: [[{name}]]")),
        }
    }
    all
}

fn read_targets(
    value: &Spanned<DeValue<'_>>,
    lines: Lines<'_>,
    problems: &mut Vec<String>,
) -> BTreeMap<String, toml::Table> {
    let mut all = BTreeMap::new();
    let Some(tables) = value.get_ref().as_table() else {
        let line = lines.of(value.span().start);
        problems.push(format!("line {line}: targets must be tables with names: [targets.NAME]"));
        return all;
    };
    for (name, value) in tables {
        if let Some(Value::Table(table)) = plain(value) {
            all.insert(name.get_ref().to_string(), table);
        } else {
            let line = lines.of(name.span().start);
            problems.push(format!("line {line}: targets.{} must be a table", name.get_ref()));
        }
    }
    all
}

fn read_queue(table: &DeTable<'_>, line: usize, lines: Lines<'_>, problems: &mut Vec<String>) -> Queue {
    let mut queue = Queue::default();
    let mut reader = Reader::new("[[queue]]".to_owned(), table, lines, problems);
    queue.keys(&mut reader);
    reader.refuse_unknown();
    if queue.name.is_empty() {
        problems.push(format!("line {line}: [[queue]] needs a name"));
    }
    queue
}

fn read_handler(table: &DeTable<'_>, line: usize, lines: Lines<'_>, problems: &mut Vec<String>) -> Handler {
    let mut handler = Handler { line: Line(line), ..Handler::default() };
    let mut reader = Reader::new("[[handler]]".to_owned(), table, lines, problems);
    handler.keys(&mut reader);
    handler.own = reader.rest();
    for (key, value) in [("action", &handler.action), ("use", &handler.handler)] {
        if value.is_empty() {
            problems.push(format!("line {line}: [[handler]] needs the key {key}"));
        }
    }
    handler
}

/// Finds the line of an offset.
#[derive(Clone, Copy)]
struct Lines<'t>(&'t str);

impl Lines<'_> {
    fn of(self, offset: usize) -> usize {
        1 + self.0.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}

/// One table being read.
struct Reader<'a, 't> {
    name: String,
    table: &'a DeTable<'t>,
    lines: Lines<'a>,
    problems: &'a mut Vec<String>,
    asked: HashSet<&'static str>,
}

impl<'a, 't> Reader<'a, 't> {
    fn new(name: String, table: &'a DeTable<'t>, lines: Lines<'a>, problems: &'a mut Vec<String>) -> Self {
        Self { name, table, lines, problems, asked: HashSet::new() }
    }

    /// Every key that was not asked for is a problem.
    fn refuse_unknown(self) {
        let mut known: Vec<_> = self.asked.iter().copied().collect();
        known.sort_unstable();
        for key in self.table.keys().filter(|key| !self.asked.contains(key.get_ref().as_ref())) {
            let line = self.lines.of(key.span().start);
            self.problems.push(format!(
                "line {line}: {} has no key {:?}; its keys are {}",
                self.name,
                key.get_ref(),
                known.join(", ")
            ));
        }
    }

    /// Every key that was not asked for, with its value.
    fn rest(&self) -> toml::Table {
        let others = self.table.iter().filter(|(key, _)| !self.asked.contains(key.get_ref().as_ref()));
        others.filter_map(|(key, value)| Some((key.get_ref().to_string(), plain(value)?))).collect()
    }

    fn problem(&mut self, line: usize, key: &str, what: impl Display) {
        self.problems.push(format!("line {line}: {} {key}: {what}", self.name));
    }
}

/// The value without its spans.
fn plain(value: &Spanned<DeValue<'_>>) -> Option<Value> {
    Value::deserialize(ValueDeserializer::from(value.clone())).ok()
}

impl Keys for Reader<'_, '_> {
    fn key(&mut self, name: &'static str, field: Field<'_>) {
        self.asked.insert(name);
        let Some((key, value)) = self.table.get_key_value(name) else { return };
        let line = self.lines.of(key.span().start);
        if let Field::Retry(policy) = field {
            let Some(table) = value.get_ref().as_table() else {
                return self.problem(
                    line,
                    name,
                    "must be a table such as { attempts = 3, backoff = \"1s\" }",
                );
            };
            let mut retry = Retry::new(*policy);
            let mut reader = Reader::new(format!("{} {name}", self.name), table, self.lines, self.problems);
            retry.keys(&mut reader);
            reader.refuse_unknown();
            *policy = retry.policy();
            if policy.backoff_ms > policy.backoff_max_ms {
                self.problem(line, name, "backoff is longer than backoff_max");
            }
            return;
        }
        let set = match plain(value) {
            Some(value) => set(field, &value),
            None => Err("cannot be read (an integer beyond 64 bits?)".to_owned()),
        };
        if let Err(what) = set {
            self.problem(line, name, what);
        }
    }
}

/// Puts the value into the field, or says what should have stood there.
fn set(field: Field<'_>, value: &Value) -> Result<(), String> {
    match field {
        Field::Text(to) => *to = string(value)?,
        Field::OptionalText(to) => *to = Some(string(value)?),
        Field::Path(to) => *to = string(value)?.into(),
        Field::Mode(to) => {
            let text = string(value)?;
            let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() <= 4);
            *to = mode.ok_or(format!("{text:?} is not an octal mode from \"0000\" to \"0777\""))?;
        }
        Field::Word(to, words) => {
            let text = string(value)?;
            if !words.contains(&text.as_str()) {
                return Err(format!("{text:?} is none of {}", words.join(", ")));
            }
            *to = text;
        }
        Field::Bytes(to, range) => {
            let bytes = match value {
                Value::String(text) => units::parse_bytes(text)?,
                Value::Integer(bytes) => u64::try_from(*bytes).map_err(|_| "is negative")?,
                other => return Err(wrong("a size such as \"16MiB\" or an integer of bytes", other)),
            };
            *to = within(bytes, &range, units::print_bytes)?;
        }
        Field::Millis(to, range) => {
            *to = within(units::parse_millis(&string(value)?)?, &range, units::print_millis)?;
        }
        Field::Count(to, range) => {
            let number = value.as_integer().ok_or_else(|| wrong("an integer", value))?;
            let number = u64::try_from(number)
                .map_err(|_| format!("is {number}; it must lie from {} to {}", range.start(), range.end()))?;
            *to = within(number, &range, |number| number.to_string())?;
        }
        Field::Flag(to) => *to = flag(value)?,
        Field::OptionalFlag(to) => *to = Some(flag(value)?),
        Field::Texts(to) => *to = list(value, "strings")?.iter().map(string).collect::<Result<_, _>>()?,
        Field::Ids(to) => {
            let id = |value: &Value| value.as_integer().and_then(|id| u32::try_from(id).ok());
            let ids: Option<_> = list(value, "numeric ids")?.iter().map(id).collect();
            *to = ids.ok_or("must be a list of numeric ids from 0 to 4294967295")?;
        }
        Field::Recovery(to) => {
            let text = string(value)?;
            let words = Recovery::ALL.map(Recovery::as_str).join(", ");
            *to = Some(Recovery::from_word(&text).ok_or(format!("{text:?} is none of {words}"))?);
        }
        // A table, which has lines of its own: read by the caller.
        Field::Retry(_) => {}
    }
    Ok(())
}

fn within(number: u64, range: &RangeInclusive<u64>, print: fn(u64) -> String) -> Result<u64, String> {
    if range.contains(&number) {
        return Ok(number);
    }
    Err(format!(
        "is {}; it must lie from {} to {}",
        print(number),
        print(*range.start()),
        print(*range.end())
    ))
}

fn string(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong("a string", value))
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| wrong("true or false", value))
}

fn list<'v>(value: &'v Value, of: &str) -> Result<&'v Vec<Value>, String> {
    value.as_array().ok_or_else(|| wrong(&format!("a list of {of}"), value))
}

fn wrong(expected: &str, found: &Value) -> String {
    format!("must be {expected}, not {} {}", article(found.type_str()), found.type_str())
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
