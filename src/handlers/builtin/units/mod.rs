//! Services of systemd: restarted, paused and resumed.
//!
//! systemd is asked over D-Bus, as the user that the handler runs as: polkit decides whether it may, and the target names the
//! units that may be meant at all. A job that systemd has taken it finishes, whatever becomes of who asked for it.
//!
//! Only services: a scope cannot be started again, and a slice is several things of which some may be the system's.

mod pause;
mod restart;
mod service;
mod session;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::pause::{ProcessPause, ProcessResume};
pub(super) use self::restart::{
    ProcessRestart, RESULT as RESTART_RESULT, check_settle, plan, restart, settle_s,
};
pub(super) use self::service::Service;
use super::Failure;
use super::kind::Around;
use super::run::Run;
use crate::handlers::targets::{Choice, Target};

/// The engine of these targets.
pub(super) const ENGINE: &str = "systemd";

/// Of a unit's name (systemd.unit(5)).
const NAME_BYTES_MAX: usize = 255;

/// `[targets.NAME]` with `engine = "systemd"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Systemd {
    /// The services that may be named. One `*` in a name stands for anything: `web@*.service`.
    units: Vec<String>,
    /// The service that the action `restart` means if it names none.
    restart: Option<String>,
    /// Address of the bus, as `unix:path=/run/dbus/system_bus_socket`; else the system's.
    bus: Option<String>,
    /// Where that systemd's cgroups are mounted.
    #[serde(default = "cgroups")]
    cgroups: PathBuf,
}

fn cgroups() -> PathBuf {
    PathBuf::from("/sys/fs/cgroup")
}

/// What a host cannot do without: meant only if the target has the whole name.
const PRECIOUS: &[&str] = &["dbus", "polkit", "ssh", "sshd", "systemd-", "user@", "getty@"];

impl Systemd {
    /// Whether actions may touch that service.
    ///
    /// # Errors
    ///
    /// Why not, without the key.
    fn allows(&self, unit: &str) -> Result<(), String> {
        if unit.len() > NAME_BYTES_MAX {
            return Err(format!("has more than {NAME_BYTES_MAX} bytes"));
        }
        let Some(stem) = unit.strip_suffix(".service").filter(|stem| !stem.is_empty()) else {
            return Err(format!("{unit:?} is no service: its name ends with .service"));
        };
        if !stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte)) {
            return Err(format!("{unit:?} is no name of a unit"));
        }
        if stem.ends_with('@') {
            return Err(format!("{unit:?} is a template: say which instance"));
        }
        if stem == "actiond" || stem.starts_with("actiond-") {
            return Err(format!("{unit:?} is the daemon's own"));
        }
        if self.units.iter().any(|listed| listed == unit) {
            return Ok(());
        }
        let is_precious = PRECIOUS.iter().any(|precious| {
            stem == *precious || (precious.ends_with(['-', '@']) && stem.starts_with(precious))
        });
        let fits = |pattern: &String| {
            pattern.split_once('*').is_some_and(|(before, after)| {
                unit.len() >= before.len() + after.len() && unit.starts_with(before) && unit.ends_with(after)
            })
        };
        if !is_precious && self.units.iter().any(fits) {
            return Ok(());
        }
        Err(format!("{unit:?} is none of the units that the target allows"))
    }
}

impl Systemd {
    /// That service, or the one that the target has as `restart`.
    fn unit_or_own<'a>(&'a self, unit: Option<&'a str>) -> Result<&'a str, String> {
        unit.or(self.restart.as_deref())
            .ok_or_else(|| "unit is missing, and the target has no restart = \"NAME.service\"".to_owned())
    }
}

/// The target that is meant, at submission.
fn target_of<'a>(around: &Around<'a>) -> Result<(&'a Target, Systemd), String> {
    let target = around.targets.choose(Choice {
        engines: &[ENGINE],
        name: around.common.target.as_deref(),
        server: None,
        resource_id: around.resource_id,
    })?;
    Ok((target, target.settings()?))
}

/// The lock of a service; the services that may be named are those that the target allows.
fn check(around: &Around<'_>, key: &str, unit: &str) -> Result<Vec<String>, String> {
    let (target, _) = target_of(around)?;
    Ok(vec![lock(target, unit).map_err(|problem| format!("{key} {problem}"))?])
}

/// The lock of a service.
///
/// # Errors
///
/// The target does not allow it.
pub(super) fn lock(target: &Target, unit: &str) -> Result<String, String> {
    target.settings::<Systemd>()?.allows(unit)?;
    Ok(format!("unit:{}:{unit}", target.name))
}

/// As [`check`], for `restart`, which need not name a service.
pub(super) fn check_restart(around: &Around<'_>, unit: Option<&str>) -> Result<Vec<String>, String> {
    let (_, settings) = target_of(around)?;
    check(around, "unit", settings.unit_or_own(unit)?)
}

/// The service that `restart` means, when it is carried out.
pub(super) fn chosen(run: &Run, unit: Option<&str>) -> Result<String, Failure> {
    let settings: Result<Systemd, String> = run.target(&[ENGINE], None)?.settings();
    let unit = settings.and_then(|settings| settings.unit_or_own(unit).map(str::to_owned));
    unit.map_err(|problem| Failure::permanent("target", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_services_that_the_target_has_may_be_meant() {
        let units = ["web.service", "worker@*.service", "s*.service", "systemd-resolved.service", "*"];
        let target = |units: &[&str]| Systemd {
            units: units.iter().map(|unit| (*unit).to_owned()).collect(),
            restart: None,
            bus: None,
            cgroups: cgroups(),
        };
        let wide = target(&units);
        for unit in ["web.service", "worker@1.service", "shop.service", "systemd-resolved.service"] {
            assert_eq!(wide.allows(unit), Ok(()), "{unit}");
        }
        for unit in [
            "",
            ".service",
            "web",
            "web.socket",
            "a b.service",
            "../web.service",
            "worker@.service",
            "actiond.service",
            "actiond-7.1.service",
            "ssh.service",
            "dbus.service",
            "systemd-logind.service",
            "user@0.service",
            &format!("{}.service", "x".repeat(248)),
        ] {
            assert!(wide.allows(unit).is_err(), "{unit}");
        }
        let narrow = target(&["web.service", "worker@*.service"]);
        for unit in ["webs.service", "web2.service", "worker.service", "worker@1.socket"] {
            assert!(narrow.allows(unit).is_err(), "{unit}");
        }
        assert!(
            target(&["a*a.service"]).allows("a.service").is_err(),
            "what stands before and after overlaps"
        );
    }
}
