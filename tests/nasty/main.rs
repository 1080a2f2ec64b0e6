//! Programs that do not want to end, run in plain sessions: see `nasty`.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use serde_json::Value;

use crate::common::{Daemon, Home, demand_root, spec, state};
use crate::nasty::{self, SETTLED_WITHIN, Stage};

impl Stage for Daemon<'_> {
    fn submit(&self, action: &str, more: &Value) -> u64 {
        let mut body = spec(action, 1);
        body["on_conflict"] = "parallel".into();
        for (key, value) in more.as_object().expect("members") {
            body[key] = value.clone();
        }
        self.accepted(&body)
    }

    fn cancel(&self, id: u64) {
        self.commanded(id, "cancel");
    }

    fn settled(&self, id: u64) -> Value {
        let since = Instant::now();
        loop {
            let action = self.get(&format!("/v1/actions/{id}?wait=10s"));
            if crate::common::is_final(&action)
                || state(&action) == "held"
                || since.elapsed() > SETTLED_WITHIN
            {
                return action;
            }
        }
    }

    fn has_units(&self) -> bool {
        false
    }
}

#[test]
fn nothing_of_a_nasty_program_is_alive_after_its_end_in_a_session() {
    demand_root("freeze cgroups and to run fork bombs as another user");
    let home = Home::new();
    let dir = home.path("");
    // Another user runs the scripts.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    for (path, text) in nasty::scripts(&dir) {
        std::fs::write(&path, text).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let home = home.with_tables(&nasty::tables(&dir));
    let daemon = Daemon::start(&home);
    nasty::play_all(&daemon);
}
