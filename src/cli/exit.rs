//! The exit codes of every verb: one table, in `--help` word for word, and what each failure maps to.
//!
//! Numbers follow sysexits(3) where it has one, and timeout(1) for 124.

use std::process::ExitCode;

use crate::action::State;
use crate::api::wire;
use crate::client::ClientError;

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; for waiting verbs: every action succeeded.
    Done = 0,
    /// An action failed, or the daemon could not do what was asked.
    Failed = 1,
    Cancelled = 3,
    TimedOut = 4,
    /// Expired or superseded: it never ran to an end.
    NeverRan = 5,
    Held = 6,
    Usage = 64,
    /// The daemon refused the input.
    Refused = 65,
    Unreachable = 69,
    NotAllowed = 77,
    Config = 78,
    /// The client's own wait ran out; the action goes on.
    WaitOver = 124,
}

/// Of `step begin`: the step is done already. In a shell that is just no, as any code but 0.
pub const STEP_IS_DONE: u8 = 3;

/// Shown at the end of `--help`.
pub const TABLE: &str = "\
Exit codes:
    0  done; with wait and --wait: every action succeeded
    1  the action failed, or the daemon could not do it; checkpoint KEY: it is not set
    3  the action was cancelled; step begin: the step is done already
    4  the action ran into its timeout or deadline
    5  the action expired or was superseded before it ran
    6  the action is held and waits for a person
   64  usage; step and the like: not within a program
   65  the daemon, or the program's keeper, refused the input
   69  the daemon, or the program's keeper, is unreachable
   77  not allowed
   78  the configuration has problems
  124  this client's own wait ran out; the action goes on

`step run` exits as its command, if that fails.
With several actions: the code of the first, in the order given, that did not succeed.
`serve` exits as the daemon: 0, 64, 65 (damaged journal), 69, 74 (store), 75 (another has the store), 78.";

impl Exit {
    /// The code for an action that stands in `state`; none while it is on its way.
    #[must_use]
    pub fn of_state(state: State) -> Option<Self> {
        Some(match state {
            State::Succeeded => Self::Done,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::TimedOut => Self::TimedOut,
            State::Expired | State::Superseded => Self::NeverRan,
            State::Held => Self::Held,
            State::Scheduled
            | State::Queued
            | State::RetryWait
            | State::Running
            | State::Cancelling
            | State::Rebooting => return None,
        })
    }

    #[must_use]
    pub fn of_error(error: &ClientError) -> Self {
        match error {
            ClientError::Unreachable { kind: std::io::ErrorKind::PermissionDenied, .. } => Self::NotAllowed,
            ClientError::Unreachable { .. } => Self::Unreachable,
            ClientError::Problem(problem) => Self::of_problem(problem),
            ClientError::Protocol(_) => Self::Failed,
        }
    }

    #[must_use]
    pub fn of_problem(problem: &wire::Problem) -> Self {
        match problem.status {
            401 | 403 => Self::NotAllowed,
            400 | 413 | 414 | 415 | 422 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_code_or_is_on_its_way() {
        let codes: Vec<_> =
            State::ALL.into_iter().map(|state| Exit::of_state(state).map(|exit| exit as u8)).collect();
        // scheduled queued retry_wait held running cancelling rebooting, then the final ones
        let told = [None, None, None, Some(6), None, None, None, Some(0), Some(1), Some(3), Some(4), Some(5)];
        assert_eq!(codes[..12], told);
        assert_eq!(codes[12], Some(5), "superseded");
        for state in State::ALL.into_iter().filter(|state| state.is_final()) {
            assert!(Exit::of_state(state).is_some(), "{state}");
        }
    }

    #[test]
    fn every_refusal_has_its_code() {
        let of = |status| {
            let (kind, text) = (String::new(), String::new());
            let title = text.clone();
            Exit::of_problem(&wire::Problem { kind, title, status, detail: text, action_id: None })
        };
        for (status, exit) in [
            (400, Exit::Refused),
            (403, Exit::NotAllowed),
            (404, Exit::Failed),
            (409, Exit::Failed),
            (413, Exit::Refused),
            (422, Exit::Refused),
            (503, Exit::Failed),
            (507, Exit::Failed),
        ] {
            assert_eq!(of(status), exit, "{status}");
        }
        let absent = |kind| ClientError::Unreachable { socket: "/s".into(), cause: String::new(), kind };
        assert_eq!(Exit::of_error(&absent(std::io::ErrorKind::NotFound)), Exit::Unreachable);
        assert_eq!(Exit::of_error(&absent(std::io::ErrorKind::PermissionDenied)), Exit::NotAllowed);
    }

    #[test]
    fn the_help_names_every_code() {
        use Exit as E;
        for exit in [
            E::Done,
            E::Failed,
            E::Cancelled,
            E::TimedOut,
            E::NeverRan,
            E::Held,
            E::Usage,
            E::Refused,
            E::Unreachable,
            E::NotAllowed,
            E::Config,
            E::WaitOver,
        ] {
            let line = format!("\n{:>5}  ", exit as u8);
            assert!(TABLE.contains(&line), "{exit:?}");
        }
    }
}
