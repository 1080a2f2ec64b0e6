//! What the end of a program means: the exit status, what it said and why it was stopped become an outcome.

use super::Exec;
use crate::action::{JsonText, Outcome, ProbeAnswer};
use crate::handlers::StopReason;
use crate::runner::keeper::place::Ended;
use crate::runner::keeper::words::StopWhy;
use crate::runner::program::describe_end;

/// The exit code that asks for another try (EX_TEMPFAIL of sysexits(3)).
const TRY_AGAIN: i32 = 75;
/// The exit code that asks for a reboot of the host, and to be run again after it.
const REBOOT: i32 = 194;

/// The outcome of an attempt.
pub(super) fn outcome(exec: &Exec, ended: Ended) -> Outcome {
    let name = exec.name();
    let Ended { version: _, code, signal, fault, was_short, message, result, printed, stopped, alive } =
        ended;
    if let Some(what) = alive {
        return Outcome::Unkillable { message: format!("could not be ended: {what}") };
    }
    match stopped {
        Some(StopWhy::Daemon) => return Outcome::Interrupted,
        Some(StopWhy::Signal) => {
            return Outcome::Lost { message: format!("{name} was ended with its keeper") };
        }
        Some(StopWhy::Cancel) => return Outcome::Cancelled { message: format!("{name} was stopped") },
        Some(StopWhy::TimeOut) => {
            let last = printed.map(|printed| format!("; last it said: {printed}")).unwrap_or_default();
            return Outcome::TimedOut { message: format!("{name} ran out of time and was stopped{last}") };
        }
        None => {}
    }
    let result = result.map(|result| JsonText::from_checked(result.get()));
    if code == Some(0) && fault.is_none() {
        return Outcome::Succeeded {
            message: message.unwrap_or_else(|| format!("{name} succeeded")),
            result,
        };
    }
    if code == Some(REBOOT) && fault.is_none() {
        return Outcome::Reboot { message: message.unwrap_or_else(|| format!("{name} asks for a reboot")) };
    }
    let retryable = was_short || fault.is_none() && code == Some(TRY_AGAIN);
    // Its own words first: they are read by whoever is called at night.
    let message = fault.or(message).unwrap_or_else(|| {
        let end = describe_end(code, signal);
        let what = if retryable { "asked to be tried again" } else { "failed" };
        printed.map_or(format!("{name} {what}: {end}"), |printed| format!("{end}: {printed}"))
    });
    Outcome::Failed { message, result, retryable }
}

/// The answer of a probe.
pub(super) fn answer(ended: &Ended) -> ProbeAnswer {
    let is_whole = ended.fault.is_none() && ended.stopped.is_none() && ended.alive.is_none();
    match ended.code.filter(|_| is_whole) {
        Some(0) => ProbeAnswer::Committed,
        Some(1) => ProbeAnswer::NotCommitted,
        _ => ProbeAnswer::Unknown,
    }
}

/// Why a program is stopped, as its keeper is told.
pub(super) fn why(reason: StopReason) -> StopWhy {
    match reason {
        StopReason::Cancel => StopWhy::Cancel,
        StopReason::TimeOut => StopWhy::TimeOut,
        StopReason::Shutdown => StopWhy::Daemon,
    }
}
