//! Programs that do not want to end, run in units by the shipped service: see `nasty`.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::host::{CURL, Host, package};
use crate::nasty::{self, SETTLED_WITHIN, Stage};

impl Stage for Host {
    fn submit(&self, action: &str, more: &Value) -> u64 {
        let mut body = json!({
            "user": "a@example.com", "resource_type": "Host", "action": action, "resource_id": 1,
            "started_via": "curl", "on_conflict": "parallel",
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = self.run(&format!("{CURL} --json '{body}' http://localhost/v1/actions"));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    }

    fn cancel(&self, id: u64) {
        self.run(&format!("{CURL} --request POST http://localhost/v1/actions/{id}:cancel"));
    }

    fn settled(&self, id: u64) -> Value {
        let since = Instant::now();
        loop {
            let action = self.ask(&format!("/v1/actions/{id}?wait=10s"));
            let is_settled = !action["finished_at"].is_null() || action["state"] == "held";
            if is_settled || since.elapsed() > SETTLED_WITHIN {
                return action;
            }
        }
    }

    fn has_units(&self) -> bool {
        true
    }
}

#[test]
fn nothing_of_a_nasty_program_is_alive_after_its_end_in_a_unit() {
    let host = Host::start();
    host.install(&package(false));
    let dir = Path::new("/usr/local/lib/nasty");
    for (path, text) in nasty::scripts(dir) {
        host.write(&path.to_string_lossy(), &text);
    }
    host.write("/root/tables", &nasty::tables(dir));
    host.run(&format!(
        "chmod 755 {}/*; cat /root/tables >> /etc/actiond/actiond.toml; systemctl reload actiond.service",
        dir.display()
    ));
    nasty::play_all(&host);
}
