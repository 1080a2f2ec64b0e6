//! `restart`: of a service of systemd, or of the host.
//!
//! What is meant is what `kind` says; else a service if one is named; else the host, if the resource is a `Server` or a
//! `Host`; else the service that the target has as `restart`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use super::host::{self, Wish};
use super::kind::{Around, Done, Kind, Page};
use super::run::Run;
use super::units;

/// Resources whose restart is that of a host.
const HOSTS: [&str; 2] = ["Server", "Host"];

pub(super) struct Restart;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// What is restarted: "unit", a service, or "host". Else a service if one is named, the host if the resource is a Server,
    /// and for other resources the service that the target has as `restart`.
    kind: Option<What>,
    /// Name of the service, as "web.service".
    unit: Option<String>,
    /// Why; for the log, and at the reboot of a host for those who are logged in.
    reason: Option<String>,
    /// Of a service: how long it must stay up after its start, in seconds; 3 unless given.
    #[schemars(range(max = 3_600))]
    settle_s: Option<u32>,
    /// Of a service: as for process_restart.
    reset_failed: Option<bool>,
    /// Of a host: how long before it the reboot is announced, in seconds.
    #[schemars(range(max = 86_400))]
    delay_s: Option<u32>,
    /// Of a host: how long it may take until it has rebooted, in seconds; 900 unless given.
    #[schemars(range(min = 1, max = 86_400))]
    deadline_s: Option<u32>,
    /// Of a host: reboot it also while somebody holds a lock against that (systemd-inhibit(1)).
    ignore_inhibitors: Option<bool>,
    /// Of a host: units that have to be active after the reboot, as "web.service".
    post_checks: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum What {
    /// A service of systemd.
    Unit,
    /// The host.
    Host,
}

impl Params {
    fn what(&self, resource_type: &str) -> What {
        match self.kind {
            Some(what) => what,
            None if self.unit.is_none() && HOSTS.contains(&resource_type) => What::Host,
            None => What::Unit,
        }
    }

    /// The keys of the other kind are not there.
    fn fits(&self, what: What) -> Result<(), String> {
        let of_units = [
            ("unit", self.unit.is_some()),
            ("settle_s", self.settle_s.is_some()),
            ("reset_failed", self.reset_failed.is_some()),
        ];
        let of_hosts = [
            ("delay_s", self.delay_s.is_some()),
            ("deadline_s", self.deadline_s.is_some()),
            ("ignore_inhibitors", self.ignore_inhibitors.is_some()),
            ("post_checks", self.post_checks.is_some()),
        ];
        let (wrong, means) = match what {
            What::Unit => (&of_hosts[..], "a service: kind = \"host\" means the host"),
            What::Host => (&of_units[..], "the host: kind = \"unit\" means a service"),
        };
        match wrong.iter().find(|(_, is_given)| *is_given) {
            Some((key, _)) => Err(format!("{key} does not go with the restart of {means}")),
            None => Ok(()),
        }
    }

    fn reason(&self) -> Option<&str> {
        self.reason.as_deref().filter(|reason| !reason.is_empty())
    }

    fn settle_s(&self) -> u32 {
        self.settle_s.unwrap_or_else(units::settle_s)
    }

    fn wish(&self) -> Wish<'_> {
        Wish {
            delay_s: self.delay_s.unwrap_or_default(),
            deadline_s: self.deadline_s.unwrap_or(host::DEADLINE_S),
            reason: self.reason(),
            ignore_inhibitors: self.ignore_inhibitors.unwrap_or_default(),
            post_checks: self.post_checks.as_deref().unwrap_or_default(),
        }
    }
}

const RESULT: [(&str, &str); units::RESTART_RESULT.len() + host::RESULT.len()] =
    both(units::RESTART_RESULT, host::RESULT);

#[expect(clippy::indexing_slicing, reason = "out of bounds it does not compile")]
const fn both<const N: usize>(
    one: &[(&'static str, &'static str)],
    other: &[(&'static str, &'static str)],
) -> [(&'static str, &'static str); N] {
    let mut all = [("", ""); N];
    let mut at = 0;
    while at < N {
        all[at] = if at < one.len() { one[at] } else { other[at - one.len()] };
        at += 1;
    }
    all
}

impl Kind for Restart {
    const ACTION: &'static str = "restart";
    const PAGE: Page = Page {
        does: "Restarts a service of systemd, as process_restart does; or reboots the host, as stack_reboot does.",
        engines: &[units::ENGINE, host::ENGINE],
        result: &RESULT,
        recovery: "As for process_restart and for stack_reboot: goes on.",
        undo: "As for process_restart and for stack_reboot: a reboot that is scheduled is cancelled, nothing else.",
        rights: "As for process_restart and for stack_reboot: polkit.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let what = params.what(around.resource_type);
        params.fits(what)?;
        match what {
            What::Unit => {
                units::check_settle(params.settle_s())?;
                units::check_restart(around, params.unit.as_deref())
            }
            What::Host => host::check(&params.wish(), around),
        }
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        match params.what(&run.resource_type) {
            What::Unit => units::plan(run, &units::chosen(run, params.unit.as_deref())?).await,
            What::Host => host::plan(run, params.wish()).await,
        }
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        match params.what(&run.resource_type) {
            What::Unit => {
                let unit = units::chosen(run, params.unit.as_deref())?;
                if let Some(reason) = params.reason() {
                    run.log(&format!("reason: {}", reason.escape_debug()));
                }
                units::restart(run, &unit, params.settle_s(), params.reset_failed.unwrap_or_default()).await
            }
            What::Host => host::reboot(run, params.wish()).await,
        }
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        match params.what(&run.resource_type) {
            What::Unit => Ok(()),
            What::Host => host::undo(run, params.wish()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(metadata: &str, resource_type: &str) -> Result<What, String> {
        let params: Params = serde_json::from_str(metadata).unwrap();
        let what = params.what(resource_type);
        params.fits(what).map(|()| what)
    }

    #[test]
    fn restart_of_a_server_means_the_host_unless_a_service_is_named() {
        assert_eq!(what(r#"{"reason": "kernel update"}"#, "Server"), Ok(What::Host));
        assert_eq!(what(r#"{"kind": "host"}"#, "Stack"), Ok(What::Host));
        assert_eq!(what(r#"{"reason": ""}"#, "Stack"), Ok(What::Unit));
        assert_eq!(what(r#"{"unit": "web.service", "settle_s": 0}"#, "Server"), Ok(What::Unit));
        assert_eq!(what(r#"{"kind": "unit"}"#, "Server"), Ok(What::Unit));
        for (metadata, key) in [
            (r#"{"kind": "host", "unit": "web.service"}"#, "unit"),
            (r#"{"settle_s": 1}"#, "settle_s"),
            (r#"{"unit": "web.service", "delay_s": 1}"#, "delay_s"),
        ] {
            assert!(what(metadata, "Server").unwrap_err().starts_with(key), "{metadata}");
        }
    }
}
