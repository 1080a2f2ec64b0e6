//! What built-in handlers act on: the `[targets.NAME]` tables of the configuration.
//!
//! An action's metadata never says where something is or how to get in: no address, no path, no password. It names an
//! engine, a server or a target of the configuration at most, and [`Targets::choose`] finds the one that is meant. What a
//! target consists of is for the family of handlers that acts on it to say (`builtin::ENGINES`).
//!
//! Read by the registry at a start and at each reload, and handed to the process of each attempt as JSON.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// All targets, by their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Targets(BTreeMap<String, Target>);

/// One `[targets.NAME]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its name in the configuration.
    pub name: String,
    /// What kind of thing it is: `postgresql`, `redis`, `nginx`, ...
    pub engine: String,
    /// The word by which metadata means it (`"server": "db1"`); its name does as well.
    pub server: Option<String>,
    /// The resources whose actions it is for; none: all.
    pub resource_ids: Vec<u64>,
    /// Every other key, as its engine has it.
    pub settings: Map<String, Value>,
}

/// Which target an action means.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// Any of these engines.
    pub engines: &'a [&'a str],
    /// Metadata's `target`.
    pub name: Option<&'a str>,
    /// Metadata's `server`.
    pub server: Option<&'a str>,
    pub resource_id: u64,
}

impl Targets {
    /// Reads the tables as configured. What is common to all engines is judged here, the rest by `judge`, which gets the
    /// engine and its settings.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each with the target and the key.
    pub fn read(
        tables: &BTreeMap<String, toml::Table>,
        judge: impl Fn(&str, &Map<String, Value>) -> Result<(), String>,
    ) -> Result<Self, Vec<String>> {
        let mut targets = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, table) in tables {
            let read = Target::read(name, table)
                .and_then(|target| judge(&target.engine, &target.settings).map(|()| target));
            match read {
                Ok(target) => drop(targets.insert(name.clone(), target)),
                Err(problem) => problems.push(format!("targets.{name}: {problem}")),
            }
        }
        if problems.is_empty() { Ok(Self(targets)) } else { Err(problems) }
    }

    /// Nothing but this one, which is in no table of its own.
    #[cfg(feature = "webhooks")]
    pub(crate) fn of_one(name: &str, engine: &str, settings: Map<String, Value>) -> Self {
        let (name, engine) = (name.to_owned(), engine.to_owned());
        let target = Target { name: name.clone(), engine, server: None, resource_ids: Vec::new(), settings };
        Self(BTreeMap::from([(name, target)]))
    }

    /// Only those with these names.
    ///
    /// # Errors
    ///
    /// The names that are no target's.
    pub fn only(&self, names: &[String]) -> Result<Self, String> {
        let missing: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !self.0.contains_key(*name)).collect();
        if !missing.is_empty() {
            return Err(format!("there is no [targets.{}]", missing.join("], [targets.")));
        }
        Ok(Self(
            self.0
                .iter()
                .filter(|(name, _)| names.contains(name))
                .map(|(n, t)| (n.clone(), t.clone()))
                .collect(),
        ))
    }

    pub fn by_name(&self, name: &str) -> Option<&Target> {
        self.0.get(name)
    }

    pub fn all(&self) -> impl Iterator<Item = &Target> {
        self.0.values()
    }

    /// All targets that may be meant. Those that are configured for this very resource go before those for all.
    pub fn fitting(&self, choice: Choice<'_>) -> Vec<&Target> {
        let fits = |target: &&Target| {
            choice.engines.contains(&target.engine.as_str())
                && choice.name.is_none_or(|name| target.name == name)
                && choice
                    .server
                    .is_none_or(|server| target.server.as_deref().unwrap_or(&target.name) == server)
                && (target.resource_ids.is_empty() || target.resource_ids.contains(&choice.resource_id))
        };
        let mut fitting: Vec<&Target> = self.0.values().filter(fits).collect();
        if fitting.iter().any(|target| !target.resource_ids.is_empty()) {
            fitting.retain(|target| !target.resource_ids.is_empty());
        }
        fitting
    }

    /// The one target that is meant. One that is configured for this very resource goes before one for all.
    ///
    /// # Errors
    ///
    /// There is none, or there are several: in words that say what to do.
    pub fn choose(&self, choice: Choice<'_>) -> Result<&Target, String> {
        let fitting = self.fitting(choice);
        match fitting.as_slice() {
            [target] => Ok(target),
            [] => Err(format!("no target is configured for it: {}", choice.told())),
            several => {
                let names: Vec<&str> = several.iter().map(|target| target.name.as_str()).collect();
                Err(format!(
                    "several targets are configured for it ({}): say which with \"target\"",
                    names.join(", ")
                ))
            }
        }
    }
}

impl Choice<'_> {
    fn told(&self) -> String {
        let mut told = format!("a [targets.*] table with engine = \"{}\"", self.engines.join("\" or \""));
        if let Some(name) = self.name {
            told = format!("{told} and the name {name:?}");
        }
        if let Some(server) = self.server {
            told = format!("{told} and server = {server:?}");
        }
        format!("{told}, for resource {}", self.resource_id)
    }
}

impl Target {
    fn read(name: &str, table: &toml::Table) -> Result<Self, String> {
        let Ok(Value::Object(mut settings)) = serde_json::to_value(table) else {
            return Err("cannot be read".to_owned());
        };
        let mut word = |key: &str| match settings.remove(key) {
            None => Ok(None),
            Some(Value::String(word)) => Ok(Some(word)),
            Some(_) => Err(format!("{key} must be a string")),
        };
        let engine = word("engine")?.ok_or("needs the key engine")?;
        let server = word("server")?;
        let resource_ids = match settings.remove("resource_ids") {
            None => Vec::new(),
            Some(ids) => serde_json::from_value(ids)
                .map_err(|_| "resource_ids must be a list of resource ids".to_owned())?,
        };
        Ok(Self { name: name.to_owned(), engine, server, resource_ids, settings })
    }

    /// Its settings as its engine has them.
    ///
    /// # Errors
    ///
    /// What is wrong with them, which was told when the configuration was read.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, String> {
        read_settings(&self.settings).map_err(|problem| format!("targets.{}: {problem}", self.name))
    }
}

/// Settings of a target as their type.
///
/// # Errors
///
/// What is wrong, with the key.
pub fn read_settings<T: DeserializeOwned>(settings: &Map<String, Value>) -> Result<T, String> {
    read_value(Value::Object(settings.clone()))
}

/// A value as its type.
///
/// # Errors
///
/// What is wrong, with the key: serde's words alone name one that is unknown or missing, but not one whose type is wrong.
pub(crate) fn read_value<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, told) = (error.path().to_string(), error.inner().to_string());
        let key = path.rsplit('.').next().unwrap_or_default();
        if path == "." || told.contains(&format!("`{key}`")) { told } else { format!("{path}: {told}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> Result<Targets, Vec<String>> {
        let tables: BTreeMap<String, toml::Table> = toml::from_str(text).unwrap();
        Targets::read(&tables, |engine, settings| {
            if engine != "pg" {
                return Err(format!("{engine:?} is no engine"));
            }
            settings.get("socket").map(drop).ok_or("needs the key socket".to_owned())
        })
    }

    #[test]
    fn one_target_is_meant_or_the_answer_says_why_not() {
        let targets = targets(
            "[a]\nengine='pg'\nsocket='/a'\nserver='db1'\n[b]\nengine='pg'\nsocket='/b'\n\
             [c]\nengine='pg'\nsocket='/c'\nresource_ids=[7]\n",
        )
        .unwrap();
        let any = Choice { engines: &["pg"], resource_id: 1, ..Choice::default() };
        let name = |choice| targets.choose(choice).map(|target| target.name.as_str());
        assert_eq!(name(Choice { server: Some("db1"), ..any }), Ok("a"));
        assert_eq!(name(Choice { server: Some("b"), ..any }), Ok("b"));
        assert_eq!(name(Choice { name: Some("b"), ..any }), Ok("b"));
        assert_eq!(name(Choice { resource_id: 7, ..any }), Ok("c"));
        assert!(name(any).unwrap_err().contains("(a, b)"));
        assert!(name(Choice { server: Some("db9"), ..any }).unwrap_err().contains("db9"));
        assert!(name(Choice { engines: &["mariadb"], ..any }).unwrap_err().contains("mariadb"));
        assert_eq!(targets.only(&["b".into()]).unwrap().all().count(), 1);
        assert!(targets.only(&["z".into()]).unwrap_err().contains("[targets.z]"));
    }

    #[test]
    fn what_cannot_be_read_names_its_key() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only whether it can be read matters")]
        struct Outer {
            count: u32,
            inner: Option<Inner>,
            #[serde(default)]
            list: Vec<bool>,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "as above")]
        struct Inner {
            word: String,
        }
        for (json, beginning) in [
            (r#"{"count":"3"}"#, "count: invalid type"),
            (r#"{"count":-1}"#, "count: invalid value"),
            (r#"{"count":1,"inner":{"word":1}}"#, "inner.word: invalid type"),
            (r#"{"count":1,"inner":{"word":"a","more":1}}"#, "unknown field `more`"),
            (r#"{"count":1,"inner":{}}"#, "inner: missing field `word`"),
            (r#"{"count":1,"list":[true,1]}"#, "list[1]: invalid type"),
            (r#"{"count":1,"more":1}"#, "unknown field `more`"),
            ("{}", "missing field `count`"),
            ("[]", "invalid length"),
        ] {
            let told = read_value::<Outer>(serde_json::from_str(json).unwrap()).unwrap_err();
            assert!(told.starts_with(beginning), "{json}: {told}");
        }
    }

    #[test]
    fn all_problems_of_targets_are_told() {
        let problems =
            targets("[a]\nsocket='/a'\n[b]\nengine='x'\n[c]\nengine='pg'\n[d]\nengine='pg'\nserver=1\n")
                .unwrap_err();
        let beginnings =
            ["targets.a: needs the key engine", "targets.b: \"x\"", "targets.c: needs", "targets.d: server"];
        assert_eq!(problems.len(), beginnings.len(), "{problems:?}");
        for (problem, beginning) in problems.iter().zip(beginnings) {
            assert!(problem.starts_with(beginning), "{problem}");
        }
    }
}
