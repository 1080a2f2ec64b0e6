//! The host itself: its reboot, as `stack_reboot` and as `restart` where that means a host.
//!
//! logind is asked over D-Bus, as the user that the handler runs as: polkit decides whether it may.

mod logind;
mod reboot;
mod stack;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::reboot::Rebooting;
pub(super) use self::stack::StackReboot;
use super::Failure;
use super::kind::{Around, Done};
use super::run::Run;
use crate::action::Timestamp;
use crate::handlers::targets::{Choice, Target, read_settings};

/// The engine of these targets.
pub(super) const ENGINE: &str = "host";

/// Of a unit's name (systemd.unit(5)).
const NAME_BYTES_MAX: usize = 255;
const UNITS_MAX: usize = 32;
const REASON_CHARS_MAX: usize = 200;
const SECONDS_MAX: u32 = 86_400;

/// `[targets.NAME]` with `engine = "host"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    /// Units that have to be active after each reboot, beside those that the action names.
    #[serde(default)]
    post_checks: Vec<String>,
    /// Address of its bus, as `unix:path=/run/dbus/system_bus_socket`; else the system's.
    bus: Option<String>,
    /// The file with the id of its present boot.
    #[serde(default = "boot_id")]
    boot_id: PathBuf,
}

fn boot_id() -> PathBuf {
    PathBuf::from("/proc/sys/kernel/random/boot_id")
}

/// Judges the settings of such a target.
pub(super) fn judge(settings: &serde_json::Map<String, serde_json::Value>) -> Result<(), String> {
    let host: Host = read_settings(settings)?;
    check_units(&host.post_checks)
}

/// What an action asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) delay_s: u32,
    pub(super) deadline_s: u32,
    pub(super) reason: Option<&'a str>,
    pub(super) ignore_inhibitors: bool,
    pub(super) post_checks: &'a [String],
}

pub(super) const DEADLINE_S: u32 = 900;

pub(super) const RESULT: &[(&str, &str)] = &[
    ("old_boot_id", "the id of the boot before"),
    ("new_boot_id", "the id of the boot after"),
    ("requested_at", "when the host was first asked to reboot"),
    ("booted_at", "when its systemd came up again"),
    ("down_s", "seconds from the request, or from the time it was scheduled for, to booted_at"),
    (
        "asked_again",
        "whether the host was asked a second time, because an interruption left open whether it had been",
    ),
    ("post_checks", "the units that were looked at afterwards, each with its active_state"),
];
pub(super) const RECOVERY: &str = "Goes on. The boot id is durable before the host is asked: another one after an interruption \
                                   says that it has rebooted; the same one, that it is waited for if the host goes down, and \
                                   asked once more, at most, if not. On the same boot after the deadline it fails as \
                                   not_rebooted.";
pub(super) const UNDO: &str = "Cancels a reboot that is scheduled (delay_s) and has not begun. One that was to be at once \
                               cannot be called back.";
pub(super) const RIGHTS: &str = "polkit: org.freedesktop.login1.reboot and reboot-multiple-sessions; for ignore_inhibitors also \
                                 reboot-ignore-inhibit, which the shipped rule does not give.";

impl Wish<'_> {
    /// Judges it without looking at the world.
    fn check(&self) -> Result<(), String> {
        if self.delay_s > SECONDS_MAX {
            return Err(format!("delay_s must be at most {SECONDS_MAX}"));
        }
        if !(1..=SECONDS_MAX).contains(&self.deadline_s) {
            return Err(format!("deadline_s must be 1 to {SECONDS_MAX}"));
        }
        if let Some(reason) = self.reason {
            if reason.chars().count() > REASON_CHARS_MAX {
                return Err(format!("reason has more than {REASON_CHARS_MAX} characters"));
            }
            if reason.chars().any(char::is_control) {
                return Err("reason has control characters".to_owned());
            }
        }
        check_units(self.post_checks)
    }
}

/// Judges the reboot of this host without looking at the world. Gives its lock.
pub(super) fn check(wish: &Wish<'_>, around: &Around<'_>) -> Result<Vec<String>, String> {
    wish.check()?;
    let target = around.targets.choose(Choice {
        engines: &[ENGINE],
        name: around.common.target.as_deref(),
        server: None,
        resource_id: around.resource_id,
    })?;
    Ok(vec![lock(target)])
}

/// What no two reboots have at a time.
fn lock(target: &Target) -> String {
    format!("host:{}", target.name)
}

fn check_units(units: &[String]) -> Result<(), String> {
    if units.len() > UNITS_MAX {
        return Err(format!("post_checks has more than {UNITS_MAX} units"));
    }
    let is_name = |unit: &&String| {
        let is_of_these = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        unit.len() <= NAME_BYTES_MAX
            && unit.split_once('.').is_some_and(|(stem, kind)| !stem.is_empty() && !kind.is_empty())
            && unit.bytes().all(is_of_these)
    };
    match units.iter().find(|unit| !is_name(unit)) {
        Some(unit) => Err(format!("post_checks: {unit:?} is no name of a unit, as \"web.service\"")),
        None => Ok(()),
    }
}

/// What would be done to this host.
pub(super) async fn plan(run: &Run, wish: Wish<'_>) -> Result<Vec<serde_json::Value>, Failure> {
    this_host(run, wish)?.plan().await
}

/// Reboots this host.
pub(super) async fn reboot(run: &Run, wish: Wish<'_>) -> Result<Done, Failure> {
    this_host(run, wish)?.execute().await
}

/// Takes back what can be.
pub(super) async fn undo(run: &Run, wish: Wish<'_>) -> Result<(), Failure> {
    this_host(run, wish)?.undo().await
}

fn this_host<'a>(run: &'a Run, wish: Wish<'a>) -> Result<Rebooting<'a>, Failure> {
    Rebooting::new(run, run.target(&[ENGINE], None)?, wish)
}

/// A time as it stands in results.
fn rfc3339(at: Timestamp) -> String {
    let at = chrono::DateTime::from_timestamp_millis(at.0).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_units_can_be_looked_at_afterwards() {
        let check = |units: &[&str]| check_units(&units.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(check(&["web@1.service", "multi-user.target", "srv-data\\x2d1.mount"]), Ok(()));
        for bad in ["", "web", ".service", "web.", "a b.service", "web.service;reboot", "../x.service"] {
            assert!(check(&[bad]).is_err(), "{bad}");
        }
        assert!(check(&["a.service"; UNITS_MAX + 1]).is_err());
    }
}
