//! `stack_reboot`: the host is rebooted.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{DEADLINE_S, ENGINE, RECOVERY, RESULT, RIGHTS, UNDO, Wish};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::{Around, Done, Kind, Page};
use crate::handlers::builtin::run::Run;

pub(in super::super) struct StackReboot;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Params {
    /// "rolling" (or "serial") or "parallel"; of one host it is the same.
    #[expect(dead_code, reason = "one host is both")]
    #[serde(default)]
    strategy: Strategy,
    /// Why; for the log, and for those who are logged in.
    reason: Option<String>,
    /// How long before it the reboot is announced, in seconds.
    #[serde(default)]
    #[schemars(range(max = 86_400))]
    delay_s: u32,
    /// How long the host may take until it has rebooted, in seconds.
    #[serde(default = "deadline_s")]
    #[schemars(range(min = 1, max = 86_400))]
    deadline_s: u32,
    /// Reboot also while somebody holds a lock against it (systemd-inhibit(1)).
    #[serde(default)]
    ignore_inhibitors: bool,
    /// Units that have to be active after the reboot, as "web.service".
    #[serde(default)]
    post_checks: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    #[default]
    #[serde(alias = "serial")]
    Rolling,
    Parallel,
}

fn deadline_s() -> u32 {
    DEADLINE_S
}

impl Params {
    fn wish(&self) -> Wish<'_> {
        Wish {
            delay_s: self.delay_s,
            deadline_s: self.deadline_s,
            reason: self.reason.as_deref().filter(|reason| !reason.is_empty()),
            ignore_inhibitors: self.ignore_inhibitors,
            post_checks: &self.post_checks,
        }
    }
}

impl Kind for StackReboot {
    const ACTION: &'static str = "stack_reboot";
    const PAGE: Page = Page {
        does: "Reboots the host, and waits until it and its services are up again.",
        engines: &[ENGINE],
        result: RESULT,
        recovery: RECOVERY,
        undo: UNDO,
        rights: RIGHTS,
    };
    type Params = Params;

    fn check(params: &Params, around: &Around<'_>) -> Result<Vec<String>, String> {
        super::check(&params.wish(), around)
    }

    async fn plan(params: &Params, run: &Run) -> Result<Vec<Value>, Failure> {
        super::plan(run, params.wish()).await
    }

    async fn execute(params: &Params, run: &Run) -> Result<Done, Failure> {
        super::reboot(run, params.wish()).await
    }

    async fn undo(params: &Params, run: &Run) -> Result<(), Failure> {
        super::undo(run, params.wish()).await
    }
}
