//! Programs that do not want to end, run in units by the shipped service: see `nasty`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::host::{Host, package};
use crate::http::Connection;
use crate::nasty::{self, Stage};

/// The service of a host, asked from outside: what is started inside to ask it would have to get by beside the programs.
struct Service<'a> {
    host: &'a Host,
    socket: PathBuf,
}

impl<'a> Service<'a> {
    fn of(host: &'a Host) -> Self {
        let leader = host.container(&["leader"]);
        let socket = format!("/proc/{}/root/run/actiond/actiond.sock", leader.trim());
        Self { host, socket: socket.into() }
    }
}

impl Stage for Service<'_> {
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let text = body.map(Value::to_string);
        let body = text.as_deref().map(str::as_bytes);
        let answer = Connection::unix(&self.socket).and_then(|mut door| door.ask(method, path, body));
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.host.log()));
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
        answer.json()
    }

    fn has_units(&self) -> bool {
        true
    }
}

#[test]
fn nothing_of_a_nasty_program_is_alive_after_its_end_in_a_unit() {
    let host = Host::start_alone();
    host.install(&package(false));
    let dir = Path::new("/usr/local/lib/nasty");
    for (path, text) in nasty::scripts(dir) {
        host.write(&path.to_string_lossy(), &text);
    }
    host.write("/usr/local/lib/tables", &nasty::tables(dir));
    host.run(&format!(
        "chmod 755 {}/*; cat /usr/local/lib/tables >> /etc/actiond/actiond.toml; systemctl reload actiond.service",
        dir.display()
    ));
    nasty::play_all(&Service::of(&host));
}
