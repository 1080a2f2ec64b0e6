//! What a unit is started with: the plan, and the properties that systemd gets for it.
//!
//! The base is the same for all and cannot be configured, because adoption and ending rest on it; a handler's `unit`
//! table ([`UnitSettings`]) adds limits and sandboxing. An administrator's drop-ins in
//! `/etc/systemd/system/actiond-.service.d/` hold for every program (systemd.unit(5)).
//! Used by [`super::Units::start`].

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use zbus::zvariant::{Fd, Value};

use super::{PREFIX, UnitSettings};
use crate::action::ActionId;

/// systemd's own SIGTERM, as when the host goes down, is followed by its SIGKILL after this.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// `CAP_KILL`, `CAP_SETGID`, `CAP_SETUID` (linux/capability.h): to start a program as another user, and to end it.
const CAPS_TO_SWITCH_USER: u64 = 1 << 5 | 1 << 6 | 1 << 7;

/// One keeper's unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitPlan {
    /// See [`unit_name`].
    pub name: String,
    /// For people, in `systemctl` and the journal.
    pub description: String,
    /// Absolute path and arguments of what runs in it.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub settings: UnitSettings,
    /// Uid and gid that it runs as; None is root.
    pub user: Option<(u32, u32)>,
    /// Whether it starts its program as another user, which takes capabilities if it is not root. They outlive the change from
    /// one user to another where neither is root (capabilities(7)): who starts the program has to clear the ambient and
    /// inheritable sets before it executes it, or the program can become root.
    pub switches_user: bool,
    /// What it must be able to write whatever the settings take away. Each must exist.
    pub write_paths: Vec<PathBuf>,
    /// systemd ends it after this, should everybody else fail to.
    pub runtime_max: Option<Duration>,
}

/// The name of an attempt's unit; that of a probe for it differs.
pub fn unit_name(id: ActionId, attempt: u32, is_probe: bool) -> String {
    let probe = if is_probe { ".probe" } else { "" };
    format!("{PREFIX}{}.{attempt}{probe}.service", id.0)
}

impl UnitPlan {
    /// As `StartTransientUnit` takes them.
    pub(super) fn properties<'a>(&'a self, stdin: BorrowedFd<'a>) -> Vec<(&'a str, Value<'a>)> {
        // As they are: without the flag systemd would put the unit's variables in the place of their `$NAME`.
        let flags = vec!["no-env-expand"];
        let exec = vec![(self.argv.first().cloned().unwrap_or_default(), self.argv.clone(), flags)];
        let mut properties = vec![
            ("Description", Value::from(self.description.as_str())),
            // The job is done when the binary is executed, so a start that failed is known as such.
            ("Type", Value::from("exec")),
            ("ExecStartEx", Value::from(exec)),
            ("StandardInputFileDescriptor", Value::from(Fd::from(stdin))),
            ("StandardOutput", Value::from("journal")),
            ("StandardError", Value::from("journal")),
            ("CollectMode", Value::from("inactive-or-failed")),
            ("KillMode", Value::from("control-group")),
            ("TimeoutStopUSec", Value::from(micros(STOP_TIMEOUT))),
            // A program that takes too much memory is killed, and its keeper is there to say so.
            ("OOMPolicy", Value::from("continue")),
            // Its cgroup is its own to divide: with the program in a part of its own, one write to that part's
            // cgroup.kill ends the program with all that it started. No controllers: those would be turned on for
            // all the units beside it.
            ("DelegateControllers", Value::from(Vec::<String>::new())),
        ];
        if !self.env.is_empty() {
            let env: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            properties.push(("Environment", Value::from(env)));
        }
        if let Some((uid, gid)) = self.user {
            properties.push(("User", Value::from(uid.to_string())));
            properties.push(("Group", Value::from(gid.to_string())));
            if self.switches_user {
                properties.push(("AmbientCapabilities", Value::from(CAPS_TO_SWITCH_USER)));
            }
        }
        if let Some(runtime_max) = self.runtime_max {
            properties.push(("RuntimeMaxUSec", Value::from(micros(runtime_max))));
        }
        properties.extend(self.settings.properties());
        if self.settings.restricts_paths() {
            // Added to those of the settings: systemd joins lists.
            let paths: Vec<String> =
                self.write_paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            properties.push(("ReadWritePaths", Value::from(paths)));
        }
        properties
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
