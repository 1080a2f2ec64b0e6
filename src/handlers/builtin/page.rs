//! What there is to know of each built-in type, from the types that read its metadata: for people, programs and README.

use serde_json::{Map, Value, json};

use super::kind::{Entry, common_schema};
use super::{ALL, RECOVERY};
use crate::action::action_type;

/// The page of that type, if it is built in, or of the handler of that name, if it is for actions of whatever type.
#[must_use]
pub fn page(action: &str) -> Option<Value> {
    super::find(action).or_else(|| super::of(Some(action), action)).map(of)
}

/// The pages of all that is built in.
pub fn pages() -> impl Iterator<Item = Value> {
    ALL.iter().map(of)
}

/// What all types have in common: keys of `metadata`, and fields of the result.
#[must_use]
pub fn common_page() -> Value {
    let result: Map<String, Value> =
        COMMON_RESULT.iter().map(|(key, means)| ((*key).to_owned(), (*means).into())).collect();
    json!({ "metadata": common_schema(), "result": result })
}

fn of(entry: &Entry) -> Value {
    let page = entry.page;
    let result: Map<String, Value> = page
        .result
        .iter()
        .chain(COMMON_RESULT)
        .map(|(key, means)| ((*key).to_owned(), (*means).into()))
        .collect();
    json!({
        "action": entry.action,
        "operation": action_type(entry.action).map(|kind| kind.operation),
        "does": page.does,
        "engines": page.engines,
        "metadata": (entry.schema)(),
        "result": result,
        "policy": RECOVERY.as_str(),
        "recovery": page.recovery,
        "undo": page.undo,
        "rights": page.rights,
    })
}

/// Fields of every result.
const COMMON_RESULT: &[(&str, &str)] = &[
    ("changed", "false if everything was already as asked"),
    ("attempts", "how many attempts it took"),
    ("recovered", "whether an attempt went on where an earlier one was"),
    ("duration_ms", "how long the last attempt took, in milliseconds"),
    ("steps", "its steps: name, status (done or begun), ms"),
    ("warnings", "what whoever asked should know"),
    ("error", "on failure: code (a word for programs), message, and what else is known"),
];

#[cfg(test)]
mod tests {
    use super::super::OF_ANY;
    use super::*;

    #[test]
    fn every_parameter_and_every_page_says_what_it_is() {
        for page in pages().chain(OF_ANY.iter().map(of)) {
            let action = page["action"].as_str().unwrap();
            let schema = &page["metadata"];
            let takes_any = OF_ANY.iter().any(|entry| entry.action == action);
            assert_eq!(schema["additionalProperties"] == false, !takes_any, "{action}");
            for (name, property) in schema["properties"].as_object().unwrap() {
                assert!(property["description"].is_string(), "{action} {name}: {property}");
            }
            for key in ["does", "recovery", "undo", "rights"] {
                assert!(page[key].as_str().is_some_and(|text| text.ends_with('.')), "{action} {key}");
            }
        }
    }
}
