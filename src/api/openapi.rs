//! `/v1/openapi.json`: the API described for machines (OpenAPI 3.1).
//!
//! Paths and methods come from the table of routes, so that none can be missing; what goes in and out of each is
//! said here, and the objects stand in `openapi_schemas.json`. Tests hold the schemas to what is really sent.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::problem::{Problem, Word};
use super::reply::{self, Reply};
use super::routes::{ROUTES, Route, Target};

const SCHEMAS: &str = include_str!("openapi_schemas.json");

pub(super) fn page() -> Result<Reply, Problem> {
    reply::json(StatusCode::OK, &document()?)
}

fn document() -> Result<Value, Problem> {
    let mut schemas: Map<String, Value> = serde_json::from_str(SCHEMAS)
        .map_err(|error| Problem::new(Word::Internal, format!("the schemas are not JSON: {error}")))?;
    schemas.insert("Problem".into(), problem_schema());
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.to_ascii_lowercase(), operation(route));
        }
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "actiond",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "GET is answered on the Unix socket and on the status endpoint, POST on the socket only. \
                Without `status.details` the status endpoint gives null or an empty string for metadata, messages, \
                results, checkpoints, reasons and keys, and no steps and logs. Times are RFC 3339 in UTC, with milliseconds unless \
                they are zero.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn problem_schema() -> Value {
    let types: Vec<String> =
        Word::ALL.iter().map(|word| format!("urn:actiond:problem:{}", word.as_str())).collect();
    json!({
        "type": "object",
        "description": "An RFC 9457 problem document.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "enum": types},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "action_id": {"type": "integer", "description": "The action that stands in the way."},
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = query(route.target)
        .iter()
        .map(|(name, kind, said)| {
            json!({"name": name, "in": "query", "description": said, "schema": {"type": kind}})
        })
        .collect();
    if route.path.contains("{id}") {
        parameters.push(json!({"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}}));
    } else if route.path.contains("{name}") {
        parameters
            .push(json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses(route.target),
    });
    if let (Some(body), Some(operation)) = (request_body(route.target), operation.as_object_mut()) {
        operation.insert("requestBody".into(), body);
    }
    operation
}

type Parameter = (&'static str, &'static str, &'static str);

fn query(target: Target) -> &'static [Parameter] {
    match target {
        Target::List => &[
            ("state", "string", "One or more states, separated by commas."),
            ("queue", "string", "Only of this queue."),
            ("action", "string", "Only of this type."),
            ("resource_type", "string", "Only on this type of resource."),
            ("resource_id", "integer", "Only on this resource."),
            ("user", "string", "Only of this user."),
            ("since", "string", "Started at or after this time."),
            ("until", "string", "Started before this time."),
            ("before", "integer", "Only ids below this: the `next` of the page before."),
            ("limit", "integer", "1 to 1000 actions; 50 if not given."),
        ],
        Target::Show => {
            &[("wait", "string", "Answer when it is final or becomes held, or after this time: `60s`.")]
        }
        Target::Log => &[
            ("attempt", "integer", "Which attempt; the newest if not given."),
            ("follow", "boolean", "Go on until the action is final."),
        ],
        _ => &[],
    }
}

fn request_body(target: Target) -> Option<Value> {
    let (schema, required) = match target {
        Target::Submit => {
            let schema = reference("SubmitRequest");
            return Some(json!({"required": true, "content": {
                "application/json": {"schema": schema},
                "application/x-ndjson": {"schema": schema},
            }}));
        }
        Target::Command("cancel" | "hold") => ("Reason", false),
        Target::Command("resolve") => ("Resolve", true),
        _ => return None,
    };
    Some(json!({"required": required, "content": {"application/json": {"schema": reference(schema)}}}))
}

fn responses(target: Target) -> Value {
    let one = |status: &str, said: &str, kind: &str, schema: Value| json!({status: {"description": said, "content": {kind: {"schema": schema}}}});
    let as_json = |said: &str, name: &str| one("200", said, "application/json", reference(name));
    let text = |kind: &str, said: &str| one("200", said, kind, json!({"type": "string"}));
    let mut responses = match target {
        Target::Submit => json!({
            "202": {"description": "Accepted, and durable.",
                "content": {"application/json": {"schema": reference("Action")}}},
            "200": {"description": "An action that exists (key repeated, or joined); for NDJSON, a line for each line.",
                "content": {
                    "application/json": {"schema": reference("Action")},
                    "application/x-ndjson": {"schema": reference("LineAnswer")},
                }},
        }),
        Target::Command("retry") => one("202", "The new action.", "application/json", reference("Action")),
        Target::Show | Target::Command(_) => as_json("The action.", "Action"),
        Target::List => as_json("A page of actions.", "Page"),
        Target::Log => {
            json!({"200": {"description": "Lines, or plain text if that is asked for.", "content": {
                "application/x-ndjson": {"schema": reference("LogLine")},
                "text/plain": {"schema": {"type": "string"}},
            }}})
        }
        Target::ActionEvents | Target::AllEvents => {
            text("text/event-stream", "Events `change` and `lagged`, each with JSON data.")
        }
        Target::Explain => as_json("Why it waits.", "Explanation"),
        Target::Queues => as_json("The queues.", "Queues"),
        Target::PauseQueue(_) => as_json("The queue.", "Queue"),
        Target::Status => as_json("The status.", "Status"),
        Target::Types => as_json("The types.", "Types"),
        Target::Readyz => json!({
            "200": {"description": "Ready.", "content": {"application/json": {"schema": reference("Ready")}}},
            "503": {"description": "Not ready.", "content": {"application/json": {"schema": reference("Ready")}}},
        }),
        Target::OpenApi => one("200", "This document.", "application/json", json!({"type": "object"})),
        Target::Livez => text("text/plain", "`ok`."),
        Target::Metrics => text("application/openmetrics-text", "The counts."),
        Target::Page => text("text/html", "The page."),
    };
    if let Some(responses) = responses.as_object_mut() {
        responses.insert(
            "default".into(),
            json!({"description": "A refusal.",
                "content": {"application/problem+json": {"schema": reference("Problem")}}}),
        );
    }
    responses
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::{self, Show};

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    found.push(target.rsplit('/').next().unwrap().to_owned());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_reference_leads_somewhere() {
        let document = document().ok().unwrap();
        for route in ROUTES {
            let described = &document["paths"][route.path][route.method.to_ascii_lowercase()];
            assert_eq!(described["summary"], route.summary);
        }
        let count: usize =
            document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(count, ROUTES.len());
        let mut found = Vec::new();
        references(&document, &mut found);
        for name in &found {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(name), "{name} is used nowhere");
        }
    }

    #[test]
    fn schema_of_an_action_names_exactly_its_fields() {
        let mut out = Vec::new();
        convert::write_action(&mut out, &convert::tests::example(), Show::All);
        let action: Map<String, Value> = serde_json::from_slice(&out).unwrap();
        let document = document().ok().unwrap();
        let described = document["components"]["schemas"]["Action"]["properties"].as_object().unwrap();
        assert_eq!(described.keys().collect::<Vec<_>>(), action.keys().collect::<Vec<_>>());
    }
}
