//! What became of an action so far: everything that changes after acceptance.
//!
//! A status is stored whole with each change, so that the last record of an action tells all.

use super::{JsonText, State, Step, Timestamp};

/// How many ended attempts a status remembers; older ones are dropped, the count is kept in `attempt`.
pub const ATTEMPTS_KEPT: usize = 10;

/// How many reboots of the host one action may ask for.
pub const REBOOTS_MAX: u32 = 3;

/// The changing half of an action.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// 1 at acceptance, one more with each durable change.
    pub version: u64,
    pub state: State,
    /// Why it is in this state, for people; empty when the state says it all.
    pub reason: String,
    /// When a `scheduled` or `retry_wait` action becomes due.
    pub due_at: Option<Timestamp>,
    /// Counts every claim and never repeats.
    pub attempt: u32,
    /// Tries that ended by themselves: succeeded, failed or ran out of time. Counts against `retry.attempts`.
    /// One that was interrupted or cancelled does not.
    pub tries_used: u32,
    /// How often an attempt of this action took the daemon down.
    pub deaths: u32,
    /// A person freed its locks while it was held; it has them again from its next claim on.
    pub locks_freed: bool,
    pub progress: Option<Progress>,
    /// The last durable checkpoint of its handler, given back after an interruption.
    pub checkpoint: Option<JsonText>,
    /// Its steps in the order in which they began, at most `STEPS_MAX`; given back like the checkpoint.
    pub steps: Vec<Step>,
    /// Reboots of the host that it has asked for, at most [`REBOOTS_MAX`].
    pub reboots: u32,
    /// The attempt that owns the action now; none while it waits or after it ended.
    pub claim: Option<Claim>,
    /// The last [`ATTEMPTS_KEPT`] ended attempts, oldest first.
    pub attempts: Vec<AttemptRecord>,
    pub cancel: Option<CancelRequest>,
    /// It is to end so, once what its attempts have done is taken back: nothing goes forward any more.
    pub ending: Option<Ending>,
    /// Set once, together with a final state.
    pub finish: Option<Finish>,
}

impl Status {
    /// The status of an action that was just accepted.
    #[must_use]
    pub fn accepted(state: State, due_at: Option<Timestamp>) -> Self {
        Self {
            version: 1,
            state,
            reason: String::new(),
            due_at,
            attempt: 0,
            tries_used: 0,
            deaths: 0,
            locks_freed: false,
            progress: None,
            checkpoint: None,
            steps: Vec::new(),
            reboots: 0,
            claim: None,
            attempts: Vec::new(),
            cancel: None,
            ending: None,
            finish: None,
        }
    }
}

/// What a handler last said about how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    pub message: String,
    pub at: Timestamp,
}

/// The right of one run of the daemon to carry out one attempt; durable before any effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which start of the daemon claimed it, or heard it ask for a reboot: counts up by one with each start.
    pub incarnation: u64,
    /// Which boot it was claimed on: the kernel's boot id (`/proc/sys/kernel/random/boot_id`, random(4)), and in a container
    /// what tells its boots apart.
    pub boot_id: String,
    pub began_at: Timestamp,
    /// Larger than that of every earlier claim of this store, whatever its resource: see [`Claim::fence`].
    pub fence: u64,
    /// The attempt does nothing before `program` is durable: while it names none, it has not begun. Of a claim that says
    /// nothing of that, nothing is known.
    pub is_gated: bool,
    /// The program that carries the attempt; durable before the program gets its go.
    pub program: Option<Program>,
}

impl Claim {
    /// Claims that one incarnation can count.
    const PER_INCARNATION: u64 = 1 << 32;

    /// The fence of the `count`th claim of an incarnation, `count` from 1; none when it has counted to its end and the next
    /// incarnation must begin.
    ///
    /// A program shows it to what it changes, which then refuses one that is smaller than the largest it has seen: an attempt
    /// that was believed dead can do no harm beside its successor. It grows because an incarnation is durable before it
    /// claims anything and no two are the same; it says nothing beyond a store that was restored from a backup, which
    /// counts its incarnations on from there.
    ///
    /// Below 2^53, and so exact as a JSON number, for the first 2^21 incarnations: a daemon that starts every minute
    /// reaches them after four years. Beyond that it still grows, but has to be read as 64 bits.
    #[must_use]
    pub fn fence(incarnation: u64, count: u64) -> Option<u64> {
        (count < Self::PER_INCARNATION).then(|| incarnation.wrapping_mul(Self::PER_INCARNATION) | count)
    }
}

/// A process that can be told from every other on this host, also after its pid was reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot (`proc_pid_stat(5)`).
    pub start_ticks: u64,
}

/// How an action ends without success.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    pub how: Unsuccess,
    /// Empty if its cancel says it all.
    pub message: String,
    pub result: Option<JsonText>,
    /// Its attempt has come to an end, and counts as a try; otherwise it was interrupted.
    pub is_try: bool,
}

/// Which end without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Unsuccess {
    Failed = 1,
    Cancelled = 2,
    TimedOut = 3,
}

/// One attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    pub attempt: u32,
    pub began_at: Timestamp,
    pub ended_at: Timestamp,
    pub end: AttemptEnd,
    /// Bounded excerpt of the attempt's message.
    pub message: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    Succeeded,
    Failed,
    Cancelled,
    TimedOut,
    /// The daemon, or the host, went away under it.
    Interrupted,
}

impl AttemptEnd {
    /// The word used on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Who asked for the end of an action, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelRequest {
    pub uid: u32,
    pub at: Timestamp,
    pub reason: String,
}

/// The four `finished_*` fields of the user's document, which change together.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    pub at: Timestamp,
    pub success: bool,
    pub message: String,
    /// Structured result of the operation; the empty object if there is none.
    pub result: JsonText,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fence_grows_with_each_claim_and_each_incarnation() {
        let fences = [(1, 1), (1, 2), (1, u64::from(u32::MAX)), (2, 1), ((1 << 21) - 1, u64::from(u32::MAX))]
            .map(|(incarnation, count)| Claim::fence(incarnation, count).unwrap());
        assert!(fences.is_sorted_by(|earlier, later| earlier < later), "{fences:?}");
        assert!(fences.iter().all(|fence| *fence < 1 << 53));
        assert_eq!(Claim::fence(1, 1 << 32), None);
    }
}
