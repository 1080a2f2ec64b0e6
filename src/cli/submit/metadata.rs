//! `metadata` on the command line: one JSON object, single keys of it, and what to do about one that is refused.
//!
//! The pages of the built-in types say what type a key has and which are needed. They only help: the type may be carried
//! out by something else than the built-in handler, so it is the daemon alone that refuses, and it does so before
//! anything is stored.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::exit::Exit;
use super::super::output::{Failure, escape};
use crate::api::wire::Problem;
use crate::handlers::builtin::page;

/// The metadata that the flags describe: the object, and over it each `KEY=VALUE`.
///
/// # Errors
///
/// It is no JSON, or no such pair.
pub(super) fn of(action: &str, json: Option<&str>, set: &[String]) -> Result<Option<Box<RawValue>>, Failure> {
    let text = json.map(text_of).transpose()?;
    if set.is_empty() {
        let raw = |text: String| RawValue::from_string(text).map_err(|error| usage(&not_json(&error)));
        return text.map(raw).transpose();
    }
    let base: Map<String, Value> = text.map_or(Ok(Map::new()), |text| {
        serde_json::from_str(&text).map_err(|error| usage(&not_json(&error)))
    })?;
    let mut metadata = Value::Object(base);
    let page = page(action);
    for pair in set {
        let wrong = || Failure::new(Exit::Usage, format!("--set: {} is not KEY=VALUE", escape(pair)));
        let (key, text) = pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(wrong)?;
        let types = page.as_ref().map(|page| types_of(page, key)).unwrap_or_default();
        if let Value::Object(metadata) = &mut metadata {
            metadata.insert(key.to_owned(), value(text, &types));
        }
    }
    serde_json::value::to_raw_value(&metadata).map(Some).map_err(|error| usage(&error))
}

fn usage(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format!("--metadata: {error}"))
}

fn not_json(error: &serde_json::Error) -> String {
    format!("this is not JSON: {error}")
}

fn text_of(text: &str) -> Result<String, Failure> {
    let text = match text.strip_prefix('@') {
        Some("-") => std::io::read_to_string(std::io::stdin()).map_err(|error| usage(&error))?,
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| usage(&format_args!("cannot read {file}: {error}")))?,
        None => text.to_owned(),
    };
    Ok(text.trim().to_owned())
}

/// A value as the key's type has it. Of a key whose type is not known it is JSON if it can be, and else text.
fn value(text: &str, types: &[String]) -> Value {
    let json: Option<Value> = serde_json::from_str(text).ok();
    let is = |kind: &str| types.iter().any(|known| known == kind);
    let fits = |value: &Value| match value {
        _ if types.is_empty() => true,
        Value::Null => is("null"),
        Value::Bool(_) => is("boolean"),
        Value::Number(number) => is("number") || is("integer") && !number.is_f64(),
        Value::String(_) => false,
        Value::Array(_) => is("array"),
        Value::Object(_) => is("object"),
    };
    match json.filter(fits) {
        Some(value) => value,
        None if is("array") && !is("string") => {
            text.split(',').map(|word| Value::from(word.trim())).collect()
        }
        None => text.into(),
    }
}

/// The types that a key can have, as JSON Schema calls them; none: there is no such key.
fn types_of(page: &Value, key: &str) -> Vec<String> {
    let mut types = Vec::new();
    let schema = page.get("metadata").unwrap_or(&Value::Null);
    if let Some(property) = schema.get("properties").and_then(|all| all.get(key)) {
        collect(property, schema, &mut types, 0);
    }
    types
}

/// No schema of ours refers deeper.
const DEPTH_MAX: u32 = 8;

fn collect(of: &Value, schema: &Value, types: &mut Vec<String>, depth: u32) {
    if depth > DEPTH_MAX {
        return;
    }
    let mut add = |kind: &Value| types.extend(kind.as_str().map(str::to_owned));
    match of.get("type") {
        Some(Value::Array(all)) => all.iter().for_each(&mut add),
        Some(kind) => add(kind),
        None if of.get("enum").is_some() || of.get("const").is_some() => add(&"string".into()),
        None => {}
    }
    let path = of.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    if let Some(of) = path.and_then(|path| schema.pointer(path)) {
        collect(of, schema, types, depth + 1);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for of in of.get(key).and_then(Value::as_array).into_iter().flatten() {
            collect(of, schema, types, depth + 1);
        }
    }
}

/// What helps whoever got this problem, if it is one of metadata and the type is built in: the keys that are needed and not
/// there, or else all keys, each with what it is.
pub(super) fn help(problem: &Problem, action: &str, metadata: Option<&RawValue>) -> Option<String> {
    if problem.kind.rsplit(':').next() != Some("invalid-metadata") {
        return None;
    }
    let page = page(action)?;
    let schema = page.get("metadata")?;
    let given: Value = metadata.and_then(|given| serde_json::from_str(given.get()).ok()).unwrap_or_default();
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties")?.as_object()?;
    let told = |name: &str| {
        let description = properties.get(name)?.get("description")?.as_str()?;
        let line = description.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(format!("  {name}: {line}"))
    };
    let missing: Vec<String> =
        required.iter().filter(|name| given.get(**name).is_none()).filter_map(|name| told(name)).collect();
    let (what, keys) = if missing.is_empty() {
        ("has these keys", properties.keys().filter_map(|name| told(name)).collect())
    } else {
        ("needs", missing)
    };
    Some(format!("{action} {what}:\n{}\nsee `actiond actions {action}`", keys.join("\n")))
}

#[cfg(test)]
#[cfg(all(feature = "caches", feature = "databases"))]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(action: &str, json: Option<&str>, pairs: &[&str]) -> Value {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        serde_json::from_str(of(action, json, &pairs).unwrap().unwrap().get()).unwrap()
    }

    #[test]
    fn metadata_that_is_not_json_is_a_mistake_of_usage() {
        let refused = |json| of("deploy", Some(json), &[]).unwrap_err().exit;
        assert_eq!((refused("{no}"), refused("@/nonexistent/file")), (Exit::Usage, Exit::Usage));
        assert_eq!(of("deploy", Some(" {\"a\":1} "), &[]).unwrap().unwrap().get(), "{\"a\":1}");
        assert!(of("deploy", None, &[]).unwrap().is_none());
        for bad in ["git_ref", "=main", ""] {
            assert_eq!(of("deploy", None, &[bad.to_owned()]).unwrap_err().exit, Exit::Usage, "{bad}");
        }
        assert_eq!(of("deploy", Some("[]"), &["a=b".to_owned()]).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn value_of_a_key_has_its_type() {
        assert_eq!(
            set(
                "deploy",
                Some(r#"{"git_ref":"x","a":1}"#),
                &["git_ref=12345", "dry_run=true", "timeout_s=60"]
            ),
            json!({ "git_ref": "12345", "a": 1, "dry_run": true, "timeout_s": 60 }),
        );
        assert_eq!(set("clear_caches", None, &["only=redis, files"]), json!({ "only": ["redis", "files"] }));
        assert_eq!(set("clear_caches", None, &[r#"only=["redis"]"#]), json!({ "only": ["redis"] }));
        assert_eq!(
            set("deploy", None, &["timeout_s=soon"]),
            json!({ "timeout_s": "soon" }),
            "the daemon judges"
        );
        let unknown = set("mine", None, &["a=1", "b=x=y", "c=", "d={\"e\":null}"]);
        assert_eq!(unknown, json!({ "a": 1, "b": "x=y", "c": "", "d": { "e": null } }));
    }

    #[test]
    fn refused_metadata_comes_with_what_is_needed() {
        let problem = |kind: &str| Problem {
            kind: format!("urn:actiond:problem:{kind}"),
            title: String::new(),
            status: 422,
            detail: String::new(),
            action_id: None,
        };
        let given = RawValue::from_string("{\"engine\":\"postgresql\"}".to_owned()).unwrap();
        let told = help(&problem("invalid-metadata"), "database_create", Some(&given)).unwrap();
        assert!(told.starts_with("database_create needs:\n  database: "), "{told}");
        let given = RawValue::from_string("{\"database\":\"a\",\"x\":1}".to_owned()).unwrap();
        let told = help(&problem("invalid-metadata"), "database_create", Some(&given)).unwrap();
        assert!(told.contains("has these keys:\n  ") && told.contains("\n  owner: "), "{told}");
        assert_eq!(help(&problem("queue-full"), "database_create", None), None);
        assert_eq!(help(&problem("invalid-metadata"), "mine", None), None);
    }
}
