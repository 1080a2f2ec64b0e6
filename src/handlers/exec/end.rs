//! What the end of a program means: the exit status, what it said and why it was stopped become an outcome.

use super::Exec;
use crate::action::{JsonText, Outcome, ProbeAnswer};
use crate::handlers::StopReason;
use crate::runner::keeper::place::Ended;
use crate::runner::keeper::words::StopWhy;
use crate::runner::program::describe_end;

/// The exit code of one of ours that has failed for good.
const FAILED: u8 = 1;
/// The exit code that asks for another try (EX_TEMPFAIL of sysexits(3)).
pub(in crate::handlers) const TRY_AGAIN: u8 = 75;
/// The exit code that asks for a reboot of the host, and to be run again after it.
const REBOOT: u8 = 194;
/// The exit code that gives the action to a person: its effect may be half there, and the program cannot tell.
pub(in crate::handlers) const HOLD: u8 = 195;

/// The outcome of an attempt.
pub(super) fn outcome(exec: &Exec, ended: Ended) -> Outcome {
    let name = exec.name();
    let Ended { version: _, code, signal, fault, was_short, message, result, printed, stopped, alive } =
        ended;
    if let Some(what) = alive {
        return Outcome::Unkillable { message: format!("could not be ended: {what}") };
    }
    let result = result.map(|result| JsonText::from_checked(result.get()));
    let has_code = |wanted: u8| code == Some(i32::from(wanted)) && fault.is_none();
    // One of ours that is told to end says how that went: it was done before, or cannot tell how far it came.
    let is_said = exec.ends_children && (has_code(0) || has_code(HOLD));
    match stopped.filter(|_| !is_said) {
        Some(StopWhy::Daemon) => return Outcome::Interrupted,
        Some(StopWhy::Signal) => {
            return Outcome::Lost { message: format!("{name} was ended with its keeper") };
        }
        Some(StopWhy::Cancel) => {
            return Outcome::Cancelled {
                message: message.unwrap_or_else(|| format!("{name} was stopped")),
                result,
            };
        }
        Some(StopWhy::TimeOut) => {
            let last = printed.map(|printed| format!("; last it said: {printed}")).unwrap_or_default();
            let message = message.unwrap_or_else(|| format!("{name} ran out of time and was stopped{last}"));
            return Outcome::TimedOut { message, result };
        }
        None => {}
    }
    if code == Some(0) && fault.is_none() {
        return Outcome::Succeeded {
            message: message.unwrap_or_else(|| format!("{name} succeeded")),
            result,
        };
    }
    if has_code(REBOOT) {
        return Outcome::Reboot { message: message.unwrap_or_else(|| format!("{name} asks for a reboot")) };
    }
    if has_code(HOLD) {
        let message = message.unwrap_or_else(|| format!("{name} cannot tell how far it came"));
        return Outcome::Undecided { message };
    }
    if exec.ends_children && fault.is_none() && !has_code(FAILED) && !has_code(TRY_AGAIN) {
        // Killed, or it panicked: another attempt goes on from its steps.
        return Outcome::Lost { message: format!("{name} was lost: {}", describe_end(code, signal)) };
    }
    let retryable = was_short || has_code(TRY_AGAIN);
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
