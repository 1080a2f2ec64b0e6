//! `actiond actions`: the types that are built in, each with its parameters, from the types that read them.

use std::fmt::Write as _;

use serde_json::Value;

use super::exit::Exit;
use super::output::{Failure, Out};
use crate::handlers::builtin::{page, pages};

/// Prints all types, or the page of one.
pub fn actions(out: Out, action: Option<&str>) -> Exit {
    print(out, action).unwrap_or_else(|failure| {
        out.fail(&failure);
        failure.exit
    })
}

fn print(out: Out, action: Option<&str>) -> Result<Exit, Failure> {
    let Some(action) = action else {
        if out.json {
            out.json(&pages().collect::<Vec<_>>())?;
            return Ok(Exit::Done);
        }
        for page in pages() {
            out.text(format!("{:30} {}", text(&page, "action"), text(&page, "does")))?;
        }
        return Ok(Exit::Done);
    };
    let Some(page) = page(action) else {
        let known: Vec<String> = pages().map(|page| text(&page, "action").to_owned()).collect();
        let told =
            format!("{} is not built in; built in are {}", super::output::escape(action), known.join(", "));
        return Err(Failure::new(Exit::Failed, told));
    };
    if out.json {
        out.json(&page)?;
    } else {
        out.text(markdown(&page).trim_end())?;
    }
    Ok(Exit::Done)
}

fn text<'a>(page: &'a Value, key: &str) -> &'a str {
    page.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The page of a type, as README has it too.
fn markdown(page: &Value) -> String {
    let mut said = format!("### {}\n\n{}\n\n", text(page, "action"), text(page, "does"));
    let engines =
        page.get("engines").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let engines: Vec<&str> = engines.collect();
    if !engines.is_empty() {
        let _ = writeln!(said, "Targets: `[targets.*]` with `engine` = {}.\n", engines.join(" or "));
    }
    let schema = page.get("metadata").unwrap_or(&Value::Null);
    said.push_str("| metadata | type | |\n| --- | --- | --- |\n");
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|it| it == name));
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let need = match property.get("default") {
            _ if is_required(name) => "needed".to_owned(),
            None | Some(Value::Null) => String::new(),
            Some(default) => format!("default {default}"),
        };
        let kind = [kind(property, schema), need].join(", ");
        let _ = writeln!(
            said,
            "| `{name}` | {} | {} |",
            kind.trim_end_matches(", "),
            cell(text(property, "description"))
        );
    }
    said.push_str("\n| result | |\n| --- | --- |\n");
    for (name, means) in page.get("result").and_then(Value::as_object).into_iter().flatten() {
        let _ = writeln!(said, "| `{name}` | {} |", means.as_str().unwrap_or_default());
    }
    for (title, key) in [("After an interruption", "recovery"), ("Taken back", "undo"), ("Rights", "rights")]
    {
        let _ = writeln!(said, "\n{title}: {}", text(page, key));
    }
    said
}

/// Lines of a comment as one cell.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

/// The type of a property, in a few words.
fn kind(property: &Value, schema: &Value) -> String {
    if let Some(name) = property.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next())
    {
        return schema
            .get("$defs")
            .and_then(|all| all.get(name))
            .map(|it| kind(it, schema))
            .unwrap_or_default();
    }
    let words = |values: &Value| {
        values.as_array().map(|all| all.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "))
    };
    if let Some(words) = property.get("enum").and_then(words) {
        return words;
    }
    if let Some(word) = property.get("const") {
        return word.to_string();
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(all) = property.get(key).and_then(Value::as_array) {
            let all: Vec<String> =
                all.iter().map(|it| kind(it, schema)).filter(|kind| kind != "null").collect();
            return all.join(" or ");
        }
    }
    match property.get("type") {
        Some(Value::String(of)) if of == "array" => {
            format!("list of {}", property.get("items").map(|it| kind(it, schema)).unwrap_or_default())
        }
        Some(Value::String(of)) => of.clone(),
        Some(Value::Array(all)) => {
            let all: Vec<&str> =
                all.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect();
            all.join(" or ")
        }
        _ => String::new(),
    }
}
