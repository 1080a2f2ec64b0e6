//! The user document's own example: what is sent comes back, field by field, in its order and with its types.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::common::home::exec;
use crate::common::{Daemon, Home};

const FIELDS: [&str; 12] = [
    "id",
    "user",
    "resource_type",
    "action",
    "resource_id",
    "started_via",
    "started_at",
    "finished_at",
    "finished_success",
    "finished_message",
    "finished_result",
    "metadata",
];

/// An object's members in the order of the text.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        source.deserialize_map(InOrder)
    }
}

fn members(body: &[u8]) -> Vec<(String, Value)> {
    let members: Members = serde_json::from_slice(body).expect("an object");
    members.0
}

fn names(members: &[(String, Value)]) -> Vec<&str> {
    members.iter().take(12).map(|(name, _)| name.as_str()).collect()
}

#[test]
fn example_of_the_document_comes_back_with_all_twelve_fields() {
    let home = Home::new();
    let deploy = home.script(
        "deploy",
        r#"
cat > "$HOME_DIR/stdin"
printf '%s\n' '{"progress": 40, "message": "pushing the image"}' >&3
printf '%s\n' '{"result": {"deploy_session": "deploy-session-123", "git_hash": "a1b2c3d4e5f6", "servers_deployed": 3}}' >&3
printf '%s\n' '{"message": "Deployment completed successfully"}' >&3
echo '{"result": "what is printed is only ever log"}'
"#,
    );
    let home = home.with_tables(&exec("deploy", &deploy, "resource_type = \"Stack\""));
    let daemon = Daemon::start(&home);

    let sent = json!({
        "user": "john@example.com", "resource_type": "Stack", "action": "deploy", "resource_id": 12345,
        "started_via": "api", "metadata": {"git_ref": "main", "deployment_strategy": "rolling"},
    });
    let answer = daemon.submit(&sent);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let accepted = members(&answer.body);
    assert_eq!(names(&accepted), FIELDS);
    for (name, value) in accepted.iter().take(12).filter(|(name, _)| name.starts_with("finished_")) {
        assert_eq!(*value, Value::Null, "{name} before the end");
    }

    daemon.finished(1);
    let got = members(&daemon.ask("GET", "/v1/actions/1", None).body);
    assert_eq!(names(&got), FIELDS);
    let value = |name: &str| got.iter().find(|(known, _)| known == name).expect("a field").1.clone();
    let expected = json!({
        "id": 1,
        "user": "john@example.com",
        "resource_type": "Stack",
        "action": "deploy",
        "resource_id": 12345,
        "started_via": "api",
        "started_at": value("started_at"),
        "finished_at": value("finished_at"),
        "finished_success": true,
        "finished_message": "Deployment completed successfully",
        "finished_result": {
            "deploy_session": "deploy-session-123", "git_hash": "a1b2c3d4e5f6", "servers_deployed": 3,
        },
        "metadata": {"git_ref": "main", "deployment_strategy": "rolling"},
    });
    for name in FIELDS {
        assert_eq!(value(name), expected[name], "{name}");
    }
    let times = ["started_at", "finished_at"].map(|name| {
        let text = value(name).as_str().expect("a time").to_owned();
        assert!(text.ends_with('Z'), "{name} is in UTC: {text}");
        chrono::DateTime::parse_from_rfc3339(&text).expect("ISO 8601")
    });
    assert!(times[0] <= times[1]);
}

#[test]
fn program_gets_the_action_on_stdin_and_its_number_in_a_clear_environment() {
    let home = Home::new();
    let script = home.script(
        "restart",
        r#"
cat > "$HOME_DIR/stdin"
echo "$ACTIOND_ID $ACTIOND_ATTEMPT ${NOTIFY_SOCKET:-none} ${CARGO_MANIFEST_DIR:-none}" > "$HOME_DIR/environment"
printf '%s\n' '{"message": "through the path"}' > "$ACTIOND_REPORT"
"#,
    );
    let home = home.with_tables(&exec("restart", &script, ""));
    let daemon = Daemon::start(&home);
    let spec = json!({
        "user": "søren@example.dk", "resource_type": "Server", "action": "restart", "resource_id": 7,
        "started_via": "hook", "metadata": {"deep": [1, {"a": null}], "big": 9_007_199_254_740_993_u64},
    });
    let id = daemon.accepted(&spec);
    let action = daemon.finished(id);
    assert_eq!(action["finished_message"], "through the path", "{action}");
    assert_eq!(home.lines("environment"), ["1 1 none none"]);
    let stdin: Value = serde_json::from_str(&home.lines("stdin").join("\n")).expect("one JSON object");
    assert_eq!(stdin["id"], 1);
    for name in ["user", "resource_type", "action", "resource_id", "started_via", "metadata"] {
        assert_eq!(stdin[name], spec[name], "{name}");
        assert_eq!(action[name], spec[name], "{name}");
    }
}
