//! `maintenance_mode`: an nginx answers everybody with 503 and a page, or lets them through again.
//!
//! The state is a symbolic link, which nginx reads at a reload: see `nginx`. It is switched in one rename, the configuration
//! is tested, and if that fails the link is back before anything else is done: a broken configuration would take the site
//! down at the next restart of nginx, by whomever. What nginx then really answers is looked at over HTTP.

mod nginx;
mod page;
mod probe;
mod timer;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use self::nginx::Instance;
pub(super) use self::nginx::Nginx;
use self::page::Page as SitePage;
use super::Failure;
use super::kind::{Around, Done, Kind, Page};
use super::run::{Found, Run};
use crate::action::Timestamp;
use crate::clock;
use crate::handlers::targets::Choice;

const ENGINES: &[&str] = &["nginx"];
const SWITCH: &str = "switch";
const TIMER: &str = "timer";
const MESSAGE_CHARS_MAX: usize = 500;
const RETRY_AFTER_S_MAX: u32 = 7 * 86_400;
const ALLOW_IPS_MAX: usize = 100;

pub(super) struct MaintenanceMode;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// 1 turns it on, 0 off; a string of it does as well.
    value: Switch,
    /// On: when clients should come back, in seconds (`Retry-After`); else 120.
    #[schemars(range(min = 1, max = 604_800))]
    retry_after_s: Option<u32>,
    /// On: what the page says; plain text of at most 500 characters.
    message: Option<String>,
    /// On: addresses, or networks such as 10.0.0.0/8, that are let through.
    #[serde(default)]
    allow_ips: Vec<String>,
    /// On: when it is turned off again, by an action of its own that is submitted now (RFC 3339).
    until: Option<String>,
    /// Off: only if this action turned it on.
    set_by: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) if number.as_u64() == Some(1) => Ok(Self::On),
            Value::Number(number) if number.as_u64() == Some(0) => Ok(Self::Off),
            Value::String(word) if word == "1" => Ok(Self::On),
            Value::String(word) if word == "0" => Ok(Self::Off),
            other => Err(serde::de::Error::custom(format!("value must be 0 or 1, not {other}"))),
        }
    }
}

impl JsonSchema for Switch {
    fn schema_name() -> Cow<'static, str> {
        "Switch".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": [0, 1, "0", "1"] })
    }
}

/// Where the link leads before and after; nowhere is off.
#[derive(Serialize, Deserialize)]
struct Before {
    link: Option<String>,
    wanted: Option<String>,
}

#[derive(Serialize)]
struct Mode {
    enabled: bool,
    config_path: Option<String>,
    verified_status: u16,
    off_action: Option<u64>,
}

impl Kind for MaintenanceMode {
    const ACTION: &'static str = "maintenance_mode";
    const PAGE: Page = Page {
        does: "Has nginx answer with 503, Retry-After and a page, or lets requests through again, and sees that it does.",
        engines: ENGINES,
        result: &[
            ("enabled", "whether it is on now"),
            ("config_path", "the directory with what nginx reads, if it is on"),
            ("verified_status", "what nginx answered afterwards"),
            ("off_action", "the action that turns it off, where metadata has until"),
        ],
        recovery: "Goes on. The link is switched, tested, and read by nginx once more.",
        undo: "Puts the link back to what it was, has nginx read it, and cancels the action that was to turn it off.",
        rights: "To write the target's directory, to send SIGHUP to nginx, and to read what nginx -t reads.",
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        let target = around.targets.choose(Choice {
            engines: ENGINES,
            name: around.common.target.as_deref(),
            server: None,
            resource_id: around.resource_id,
        })?;
        let settings: Nginx = target.settings()?;
        if params.value == Switch::Off {
            let is_for_on = [
                ("retry_after_s", params.retry_after_s.is_some()),
                ("message", params.message.is_some()),
                ("allow_ips", !params.allow_ips.is_empty()),
                ("until", params.until.is_some()),
            ];
            if let Some((key, _)) = is_for_on.iter().find(|(_, is_given)| *is_given) {
                return Err(format!("{key} is for value = 1"));
            }
        } else if params.set_by.is_some() {
            return Err("set_by is for value = 0".to_owned());
        }
        if params.retry_after_s.is_some_and(|seconds| !(1..=RETRY_AFTER_S_MAX).contains(&seconds)) {
            return Err(format!("retry_after_s must be 1 to {RETRY_AFTER_S_MAX}"));
        }
        let message = params.message.as_deref().unwrap_or_default();
        if message.chars().count() > MESSAGE_CHARS_MAX {
            return Err(format!("message has more than {MESSAGE_CHARS_MAX} characters"));
        }
        if message.chars().any(|letter| letter.is_control() && letter != '\n') {
            return Err("message has control characters".to_owned());
        }
        if params.allow_ips.len() > ALLOW_IPS_MAX {
            return Err(format!("allow_ips has more than {ALLOW_IPS_MAX} networks"));
        }
        for network in page::networks(&params.allow_ips)? {
            if settings.check.ip().is_some_and(|ip| network.has(ip)) {
                return Err(format!(
                    "allow_ips: {network} has the address over which the target {} is checked",
                    target.name
                ));
            }
        }
        if let Some(until) = params.until()?
            && until <= clock::now()
        {
            return Err("until is in the past".to_owned());
        }
        Ok(vec![format!("nginx:{}", target.name)])
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        let nginx = Instance::of(run.target(ENGINES, None)?)?;
        nginx.ask().await?;
        let before = params.before(run, &nginx)?;
        if before.link == before.wanted {
            return Ok(Vec::new());
        }
        Ok(vec![
            json!({ "step": SWITCH, "target": nginx.name, "link": nginx.link(), "from": before.link, "to": before.wanted }),
        ])
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        let nginx = Instance::of(run.target(ENGINES, None)?)?;
        // An nginx that is not there can be asked for nothing; then nothing is touched.
        let answered = nginx.ask().await?;
        let before = async || {
            // What is broken already is not to be blamed on this action.
            nginx.test().await?;
            params.before(run, &nginx)
        };
        let switch = async |before: &Before| {
            if before.wanted != before.link {
                params.write(&nginx, before)?;
                nginx.switch(before.link.as_deref(), before.wanted.as_deref()).await?;
            }
            Ok(before.wanted.clone())
        };
        let wanted = run.step(SWITCH, before, switch, async |_: &Before| Ok(Found::NotDone)).await?;
        let changed = run
            .trace::<Before, Option<String>>(SWITCH)?
            .is_some_and(|trace| trace.intent.link != trace.intent.wanted);
        let wanted = wanted.as_deref();
        let status = if changed || !nginx.shows(&answered, wanted) {
            run.repeatable("reload", async || {
                let old = nginx.reload()?;
                nginx.verified(run, &old, wanted).await
            })
            .await?
        } else {
            answered.status
        };
        let off_action = match (params.due()?, wanted.and_then(nginx::id_of)) {
            (Some(until), Some(set_by)) => Some(
                run.repeatable(TIMER, async || timer::submit(run, &nginx.name, set_by, until).await).await?,
            ),
            _ => None,
        };
        nginx.tidy(
            run,
            &[wanted, run.trace::<Before, Value>(SWITCH)?.and_then(|trace| trace.intent.link).as_deref()],
        );
        let message = match (wanted, changed) {
            (Some(_), true) => format!("maintenance mode of {} is on", nginx.name),
            (None, true) => format!("maintenance mode of {} is off", nginx.name),
            (Some(_), false) => format!("maintenance mode of {} stays on", nginx.name),
            (None, false) => format!("maintenance mode of {} was off already", nginx.name),
        };
        let config_path = wanted.map(|link| nginx.path(link).display().to_string());
        let mode = Mode { enabled: wanted.is_some(), config_path, verified_status: status, off_action };
        Ok(Done::new(message, changed, &mode))
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        let Some(switch) = run.trace::<Before, Value>(SWITCH)? else { return Ok(()) };
        let nginx = Instance::of(run.target(ENGINES, None)?)?;
        let before = switch.intent;
        if run.trace::<Value, Value>(TIMER)?.is_some()
            && let (Some(until), Some(set_by)) =
                (params.due()?, before.wanted.as_deref().and_then(nginx::id_of))
        {
            run.repeatable("undo.timer", async || timer::cancel(run, &nginx.name, set_by, until).await)
                .await?;
        }
        if before.link == before.wanted {
            return Ok(());
        }
        run.repeatable("undo.switch", async || {
            nginx.set_link(before.link.as_deref())?;
            if nginx.master()?.is_none() {
                run.warn("nginx does not run; the link is as it was, and nginx reads it when it starts");
                return Ok(());
            }
            nginx.test().await?;
            let old = nginx.reload()?;
            nginx.verified(run, &old, before.link.as_deref()).await.map(drop)
        })
        .await
    }
}

impl Params {
    fn until(&self) -> Result<Option<Timestamp>, String> {
        let read = |until: &String| {
            chrono::DateTime::parse_from_rfc3339(until)
                .map(|at| Timestamp(at.timestamp_millis()))
                .map_err(|error| format!("until: {until:?} is no time of RFC 3339: {error}"))
        };
        self.until.as_ref().map(read).transpose()
    }

    fn due(&self) -> Result<Option<Timestamp>, Failure> {
        self.until().map_err(|problem| Failure::permanent("metadata", problem))
    }

    /// What nginx is to read if that action turns it on.
    fn page(&self, nginx: &Instance, id: u64) -> Result<SitePage, Failure> {
        let networks =
            page::networks(&self.allow_ips).map_err(|problem| Failure::permanent("metadata", problem))?;
        Ok(SitePage {
            site: nginx.name.clone(),
            link: nginx::link_of(id),
            retry_after_s: self.retry_after_s.unwrap_or(page::RETRY_AFTER_S),
            message: self.message.clone(),
            networks,
            until: self.until.clone(),
        })
    }

    /// Where the link leads, and where it is to lead.
    fn before(&self, run: &Run, nginx: &Instance) -> Result<Before, Failure> {
        let link = nginx.read_link()?;
        let now_on = link.as_deref().and_then(nginx::id_of);
        let wanted = match self.value {
            Switch::Off if self.set_by.is_some() && self.set_by != now_on => link.clone(),
            Switch::Off => None,
            Switch::On => {
                let is_same = match now_on {
                    Some(id) => nginx.has(&self.page(nginx, id)?),
                    None => false,
                };
                if is_same { link.clone() } else { Some(nginx::link_of(run.id)) }
            }
        };
        Ok(Before { link, wanted })
    }

    /// Writes what the link is to lead to.
    fn write(&self, nginx: &Instance, before: &Before) -> Result<(), Failure> {
        match before.wanted.as_deref().and_then(nginx::id_of) {
            Some(id) => nginx.write(&self.page(nginx, id)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_zero_or_one() {
        for (text, expected) in
            [("0", Switch::Off), ("\"0\"", Switch::Off), ("1", Switch::On), ("\"1\"", Switch::On)]
        {
            assert_eq!(serde_json::from_str::<Switch>(text).unwrap(), expected);
        }
        for text in ["2", "-1", "0.5", "\"on\"", "true", "null", "[]"] {
            assert!(serde_json::from_str::<Switch>(text).is_err(), "{text}");
        }
    }
}
