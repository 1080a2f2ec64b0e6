//! The states of an action and the one function that says which may follow which.
//!
//! Live changes and replay both go through [`State::apply`]: a record that asks for an illegal
//! transition is a damaged record, not a surprise.
//!
//! ```text
//!              due                claim                  succeed / fail / time out
//!  scheduled ──────▶  queued ───────────────▶ running ─────────────────────────▶ succeeded
//!      ▲                ▲ ▲                    │  │ │                            failed
//!      │           due  │ └── requeue ─────────┘  │ │                            timed_out
//!      │       retry_wait ◀────── retry ──────────┘ │
//!      │                                            ├─▶ cancelling ────────────▶ cancelled
//!    accept ──▶ queued    held ◀── hold (any but    └─▶ rebooting ─▶ queued
//!                          │        final)
//!                          ├─▶ resume: queued            waiting, deadline over ▶ expired
//!                          └─▶ resolve: succeeded, failed     replaced in queue ▶ superseded
//! ```

use std::fmt;

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Waits for its `run_at`.
    Scheduled = 1,
    /// Waits for its resource and for room in its queue.
    Queued = 2,
    /// Waits after a failed try, with its locks.
    RetryWait = 3,
    /// Waits for a person, with the locks it has.
    Held = 4,
    /// An attempt runs.
    Running = 5,
    /// An attempt is being stopped.
    Cancelling = 6,
    /// Waits, with its locks, until the host has rebooted.
    Rebooting = 7,
    Succeeded = 8,
    Failed = 9,
    Cancelled = 10,
    /// Stopped while it ran, because its timeout or deadline was over.
    TimedOut = 11,
    /// Never ran to an end: its deadline was over while it waited.
    Expired = 12,
    /// Replaced, before it began, by a later action with `on_conflict: replace_queued`.
    Superseded = 13,
}

/// What can happen to an action. Data that goes with an event is kept in the status, not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Event {
    /// `run_at` or the end of a backoff has come.
    Due = 1,
    /// An attempt was claimed for it.
    Claim = 2,
    /// Something beside the state changed: the running attempt's program, a checkpoint, a held action's locks, that a
    /// waiting one is cancelled whose attempts did something that is to be taken back.
    Note = 3,
    Succeed = 4,
    Fail = 5,
    /// The attempt failed, and another try follows.
    Retry = 6,
    TimeOut = 7,
    /// Somebody asked for its end.
    Cancel = 8,
    /// Nothing of the cancelled attempt is alive.
    CancelDone = 9,
    /// Recovery decided that the interrupted attempt is run again.
    Requeue = 10,
    Hold = 11,
    Resume = 12,
    Expire = 13,
    Supersede = 14,
    /// The attempt asked for a reboot of the host.
    Reboot = 15,
    /// The host has rebooted.
    Rebooted = 16,
}

/// An event that cannot happen in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an action that is {state} cannot {event:?}")]
pub struct IllegalTransition {
    pub state: State,
    pub event: Event,
}

impl State {
    pub const ALL: [Self; 13] = [
        Self::Scheduled,
        Self::Queued,
        Self::RetryWait,
        Self::Held,
        Self::Running,
        Self::Cancelling,
        Self::Rebooting,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Expired,
        Self::Superseded,
    ];

    /// The state that follows when `event` happens in this one.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if the event cannot happen here; nothing changes then.
    pub fn apply(self, event: Event) -> Result<Self, IllegalTransition> {
        use Event as E;
        use State as S;
        Ok(match (self, event) {
            (S::Scheduled | S::RetryWait, E::Due)
            | (S::Running, E::Requeue)
            | (S::Held, E::Resume)
            | (S::Rebooting, E::Rebooted) => S::Queued,
            (S::Queued, E::Claim) => S::Running,
            (S::Queued | S::Running | S::Cancelling | S::Rebooting | S::Held, E::Note) => self,
            (S::Running | S::Cancelling | S::Rebooting | S::Held, E::Succeed) => S::Succeeded,
            (S::Running | S::Rebooting | S::Held, E::Fail) => S::Failed,
            (S::Running, E::Retry) => S::RetryWait,
            (S::Running | S::Rebooting, E::TimeOut) => S::TimedOut,
            (S::Running, E::Cancel) => S::Cancelling,
            (S::Scheduled | S::Queued | S::RetryWait | S::Held | S::Rebooting, E::Cancel)
            | (S::Cancelling, E::CancelDone) => S::Cancelled,
            (
                S::Scheduled | S::Queued | S::RetryWait | S::Running | S::Cancelling | S::Rebooting,
                E::Hold,
            ) => S::Held,
            (S::Scheduled | S::Queued | S::RetryWait, E::Expire) => S::Expired,
            (S::Scheduled | S::Queued, E::Supersede) => S::Superseded,
            (S::Running, E::Reboot) => S::Rebooting,
            (state, event) => return Err(IllegalTransition { state, event }),
        })
    }

    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded
                | Self::Failed
                | Self::Cancelled
                | Self::TimedOut
                | Self::Expired
                | Self::Superseded
        )
    }

    /// Whether an attempt owns the action.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Cancelling | Self::Rebooting)
    }

    /// The word used on the wire and in the store's listings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::RetryWait => "retry_wait",
            Self::Held => "held",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Rebooting => "rebooting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
        }
    }

    /// The state named by a word on the wire, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The state with that stored number, if it is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Event {
    pub const ALL: [Self; 16] = [
        Self::Due,
        Self::Claim,
        Self::Note,
        Self::Succeed,
        Self::Fail,
        Self::Retry,
        Self::TimeOut,
        Self::Cancel,
        Self::CancelDone,
        Self::Requeue,
        Self::Hold,
        Self::Resume,
        Self::Expire,
        Self::Supersede,
        Self::Reboot,
        Self::Rebooted,
    ];

    /// The event with that stored number, if it is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|event| *event as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line a state: the letter of the state that follows each event, `.` where it is illegal.
    /// Letters: s q r h R c b for the unfinished states in their order; S F C T E U for the final ones.
    const TABLE: [(&str, &str); 13] = [
        //              events: Due Claim Note Succeed Fail Retry TimeOut Cancel CancelDone
        //                      Requeue Hold Resume Expire Supersede Reboot Rebooted
        ("scheduled", "q......C..h.EU.."),
        ("queued", ".Rq....C..h.EU.."),
        ("retry_wait", "q......C..h.E..."),
        ("held", "..hSF..C...q...."),
        ("running", "..RSFrTc.qh...b."),
        ("cancelling", "..cS....C.h....."),
        ("rebooting", "..bSF.TC..h....q"),
        ("succeeded", "................"),
        ("failed", "................"),
        ("cancelled", "................"),
        ("timed_out", "................"),
        ("expired", "................"),
        ("superseded", "................"),
    ];

    #[test]
    fn every_state_and_event_gives_what_the_table_says() {
        let letters: Vec<char> = "sqrhRcbSFCTEU".chars().collect();
        assert_eq!(TABLE.len(), State::ALL.len());
        for (state, (name, row)) in State::ALL.into_iter().zip(TABLE) {
            assert_eq!(state.as_str(), name);
            let told: String = Event::ALL
                .into_iter()
                .map(|event| match state.apply(event) {
                    Ok(next) => letters[next as usize - 1],
                    Err(error) => {
                        assert_eq!(error, IllegalTransition { state, event });
                        '.'
                    }
                })
                .collect();
            assert_eq!(told, row, "row of {state}");
        }
    }

    #[test]
    fn words_and_numbers_lead_back_to_their_state() {
        for state in State::ALL {
            assert_eq!(State::from_word(state.as_str()), Some(state));
            assert_eq!(State::from_number(state as u8), Some(state));
        }
        assert_eq!(State::from_word("done"), None);
        assert_eq!(State::from_number(0), None);
        for event in Event::ALL {
            assert_eq!(Event::from_number(event as u8), Some(event));
        }
    }
}
