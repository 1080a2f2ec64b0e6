//! `actiond actions`: the types that are built in, each with its parameters, from the types that read them.
//!
//! README has the same pages, and a test here sees to it that they are those of the code.

use std::fmt::Write as _;

use serde_json::Value;

use super::exit::Exit;
use super::output::{Failure, Out};
use crate::handlers::builtin::{common_page, page, pages};

/// Prints all types, or the page of one, or all pages.
pub fn actions(out: Out, action: Option<&str>, is_markdown: bool) -> Exit {
    if is_markdown {
        return out.text(all_pages().trim_end()).map_or_else(|failure| failure.exit, |()| Exit::Done);
    }
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

/// All pages, as the README has them: what types have in common is said once.
fn all_pages() -> String {
    let common = common_page();
    let mut said = "Every type has these.\n\n".to_owned();
    tables(&mut said, &common, &Value::Null);
    for page in pages().chain(page("webhook")) {
        let kind =
            if text(&page, "action") == "webhook" { " (a handler for actions of any type)" } else { "" };
        let _ = write!(
            said,
            "\n<details><summary><code>{}</code>{kind}</summary>\n\n{}\n\n",
            text(&page, "action"),
            text(&page, "does")
        );
        rest(&mut said, &page, &common);
        said.push_str("\n</details>\n");
    }
    said
}

/// The page of a type.
fn markdown(page: &Value) -> String {
    let mut said = format!("### {}\n\n{}\n\n", text(page, "action"), text(page, "does"));
    rest(&mut said, page, &Value::Null);
    said
}

/// All of a page but its beginning, without what is in `but`.
fn rest(said: &mut String, page: &Value, but: &Value) {
    let engines =
        page.get("engines").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let engines: Vec<&str> = engines.collect();
    if !engines.is_empty() {
        let _ = writeln!(said, "Targets: `[targets.*]` with `engine` = {}.\n", engines.join(" or "));
    }
    tables(said, page, but);
    for (title, key) in [("After an interruption", "recovery"), ("Taken back", "undo"), ("Rights", "rights")]
    {
        let _ = writeln!(said, "\n{title}: {}", text(page, key));
    }
}

fn tables(said: &mut String, page: &Value, but: &Value) {
    let schema = page.get("metadata").unwrap_or(&Value::Null);
    let is_in = |table: &str, name: &str| but.pointer(&format!("/{table}/{name}")).is_some();
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|it| it == name));
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut heading = "| metadata | type | |\n| --- | --- | --- |\n";
    for (name, property) in properties.filter(|(name, _)| !is_in("metadata/properties", name)) {
        said.push_str(std::mem::take(&mut heading));
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
    let results = page.get("result").and_then(Value::as_object).into_iter().flatten();
    let mut heading = "\n| result | |\n| --- | --- |\n";
    for (name, means) in results.filter(|(name, _)| !is_in("result", name)) {
        said.push_str(std::mem::take(&mut heading));
        let _ = writeln!(said, "| `{name}` | {} |", cell(means.as_str().unwrap_or_default()));
    }
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
    let one = |of: &str| match of {
        "array" => {
            format!("list of {}", property.get("items").map(|it| kind(it, schema)).unwrap_or_default())
        }
        of => of.to_owned(),
    };
    match property.get("type") {
        Some(Value::String(of)) => one(of),
        Some(Value::Array(all)) => {
            let all: Vec<String> =
                all.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").map(one).collect();
            all.join(" or ")
        }
        _ => String::new(),
    }
}

// Of all pages.
#[cfg(test)]
#[cfg(all(feature = "caches", feature = "containers", feature = "databases", feature = "webhooks"))]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- made by `actiond actions --markdown` -->\n";
    const END: &str = "<!-- end of what is made -->\n";

    /// With `UPDATE_README=1` in the environment it is put right.
    #[test]
    fn readme_has_the_pages_of_this_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let (before, rest) = readme.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let expected = format!("{before}{BEGIN}\n{}\n{END}{after}", all_pages());
        if std::env::var_os("UPDATE_README").is_some() {
            return std::fs::write(path, expected).unwrap();
        }
        assert!(
            readme == expected,
            "README.md has other pages than the code; next: UPDATE_README=1 cargo test --lib readme_has"
        );
    }

    #[test]
    fn pages_say_what_is_common_once() {
        let all = all_pages();
        assert_eq!(all.matches("| `timeout_s` |").count(), 1);
        assert_eq!(all.matches("| `duration_ms` |").count(), 1);
        assert!(markdown(&page("deploy").unwrap()).contains("| `timeout_s` | integer"));
        assert_eq!(all.matches("<details>").count(), pages().count() + 1);
    }
}
