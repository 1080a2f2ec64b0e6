//! What daemon, keeper and program say to each other: one JSON object a line, versioned.
//!
//! ```text
//!  daemon ── Order, input, Word::Go ─▶ keeper          over the stream that the keeper is started with
//!  daemon ◀── AtGate ── keeper
//!  daemon ── Word::Follow, Word::Stop ─▶ keeper        over its socket, after a restart of the daemon
//!  daemon ◀── a byte for each piece of news, EndedLine ── keeper
//!  daemon ── Word::Recorded ─▶ keeper
//!  program ── Word::* ─▶ keeper ── Answer ─▶ program   over its socket: `actiond step`, `actiond checkpoint`, ...
//! ```
//!
//! A keeper outlives the daemon that started it, and the binary of that daemon: an upgraded daemon has to understand
//! what older keepers say and write, and a keeper of a newer binary the orders of an older daemon. So names here are kept
//! for ever, further ones are optional, and [`VERSION`] changes only with a meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::place::with_end;
use crate::action::{Program, Step, Timestamp};

/// The version of orders and of all that a keeper writes.
pub(crate) const VERSION: u32 = 1;

/// Longest line of a word: a checkpoint or a result at its largest (1 MiB), escaped, with room for its name.
pub(crate) const WORD_BYTES_MAX: usize = 4 << 20;

/// The news for whoever follows a keeper: there are new statements.
pub(crate) const STATED: u8 = b's';
/// It has been told to end the attempt, and is at it.
pub(crate) const HEARD: u8 = b'h';
/// The log has grown.
pub(crate) const LOGGED: u8 = b'l';

/// All that a keeper needs to know. The program's input follows, `input_bytes` long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) version: u32,
    pub(crate) id: u64,
    pub(crate) attempt: u32,
    /// What the names of the attempt's files begin with: see `place`.
    pub(crate) place: PathBuf,
    /// Where the keeper listens, and what the name of the reports' FIFO begins with.
    pub(crate) socket: PathBuf,
    /// None logs nothing.
    pub(crate) log: Option<LogPlace>,
    /// Program and arguments; never seen by a shell.
    pub(crate) argv: Vec<String>,
    /// The whole environment, `NAME=value` each.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    /// Whom the program runs as; none is the keeper's own user.
    #[serde(default)]
    pub(crate) user: Option<UserIds>,
    /// The program's soft limit on open files.
    pub(crate) open_files: u64,
    /// Between SIGTERM and SIGKILL.
    pub(crate) kill_grace_ms: u64,
    pub(crate) mark: String,
    /// Longest checkpoint and longest result.
    pub(crate) result_bytes_max: usize,
    /// What earlier attempts left.
    pub(crate) checkpoint: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) steps: Vec<StepLine>,
    /// Whether it goes on when the daemon is gone; else all of it is ended then.
    pub(crate) outlives_daemon: bool,
    pub(crate) input_bytes: usize,
    /// The program hears SIGTERM alone: it ends by itself what it has started, and may have something to start yet.
    #[serde(default)]
    pub(crate) asks_program_only: bool,
}

impl Order {
    /// The FIFO of the program's reports.
    pub(crate) fn fifo(&self) -> PathBuf {
        with_end(&self.socket, ".report")
    }
}

/// A user, by numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserIds {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All of its groups.
    pub(crate) groups: Vec<u32>,
}

/// Where the lines of an attempt's log go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogPlace {
    pub(crate) dir: PathBuf,
    pub(crate) bytes_max: u64,
}

/// A step of a program: begun, and done if it says so. Times are milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepLine {
    pub(crate) name: String,
    pub(crate) begun_at: i64,
    pub(crate) done_at: Option<i64>,
}

impl From<&Step> for StepLine {
    fn from(step: &Step) -> Self {
        let Step { name, begun_at, done_at } = step;
        Self { name: name.clone(), begun_at: begun_at.0, done_at: done_at.map(|at| at.0) }
    }
}

impl From<StepLine> for Step {
    fn from(line: StepLine) -> Self {
        let StepLine { name, begun_at, done_at } = line;
        Self { name, begun_at: Timestamp(begun_at), done_at: done_at.map(Timestamp) }
    }
}

/// The keeper waits for its go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct AtGate {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
}

impl AtGate {
    pub(crate) fn program(self) -> Program {
        Program { pid: self.pid, start_ticks: self.start_ticks }
    }
}

/// Why there is no keeper, instead of [`AtGate`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cannot {
    pub(crate) cannot: String,
    /// The kernel's number, if it is its refusal.
    pub(crate) errno: Option<i32>,
}

/// Why an attempt was ended before its program had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopWhy {
    Cancel,
    TimeOut,
    /// The daemon is gone, and this keeper was not to outlive it.
    Daemon,
    /// Somebody else told the keeper to end (SIGTERM): a service manager, such as when the host goes down.
    Signal,
}

impl StopWhy {
    /// The word that stands for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::TimeOut => "time_out",
            Self::Daemon => "daemon",
            Self::Signal => "signal",
        }
    }
}

/// One line to a keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(crate) enum Word {
    /// The program's identity is on disk: start it.
    Go,
    /// Tell this connection the news.
    Follow,
    /// How the attempt ended is durable in the store: nothing needs to be left.
    Recorded,
    /// End all of the attempt: SIGTERM, after the grace SIGKILL.
    Stop {
        grace_ms: u64,
        why: StopWhy,
    },
    StepBegin {
        name: String,
    },
    StepDone {
        name: String,
    },
    /// Sets keys of the checkpoint: all of them or none.
    Checkpoint {
        values: BTreeMap<String, String>,
    },
    /// Asks for a key of the checkpoint.
    Recall {
        key: String,
    },
    Progress {
        percent: u8,
        message: String,
    },
    /// What the action says of its end.
    Message {
        text: String,
    },
    /// The result, as JSON text.
    Result {
        json: String,
    },
    /// Asks why the program is told to end; answered by the word of a [`StopWhy`], or none.
    WhyStopped,
    /// Keeps a value out of everything that is written from now on.
    Redact {
        value: String,
    },
}

/// What a keeper answers to a word of a program. Sent once what was said is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ok,
    /// The step is done already, by an earlier attempt perhaps.
    Done,
    /// The value of a key; none if it is not set.
    Value(Option<String>),
    /// Not taken, and why: it is not to be said again.
    Refused(String),
    /// Only the program of this action may say that, and who said it is not of it.
    NotAllowed,
    /// Too many talk at once: to be said again.
    Busy,
}

/// A value as its line, newline included. Only what serde_json can write is ever given to it.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_words_and_answers_stay_as_they_are() {
        let said = |word: &Word| String::from_utf8(line(word)).unwrap();
        let stop = Word::Stop { grace_ms: 5, why: StopWhy::TimeOut };
        assert_eq!(said(&Word::Go), "{\"word\":\"go\"}\n");
        assert_eq!(said(&stop), "{\"word\":\"stop\",\"grace_ms\":5,\"why\":\"time_out\"}\n");
        let begin = Word::StepBegin { name: "a".to_owned() };
        assert_eq!(said(&begin), "{\"word\":\"step_begin\",\"name\":\"a\"}\n");
        let values = [("k".to_owned(), "v".to_owned())].into();
        let checkpoint = Word::Checkpoint { values };
        assert_eq!(said(&checkpoint), "{\"word\":\"checkpoint\",\"values\":{\"k\":\"v\"}}\n");
        assert_eq!(line(&Answer::Ok), b"\"ok\"\n");
        assert_eq!(line(&Answer::NotAllowed), b"\"not_allowed\"\n");
        assert_eq!(line(&Answer::Value(None)), b"{\"value\":null}\n");
    }

    #[test]
    fn order_with_further_names_is_understood() {
        let text = r#"{"version":1,"id":7,"attempt":2,"place":"/p","socket":"/s","log":null,"argv":["/a"],"env":[],
            "cwd":"/","open_files":9,"kill_grace_ms":5,"mark":"m","result_bytes_max":3,"checkpoint":{"a":1},
            "outlives_daemon":true,"input_bytes":4,"of_a_later_version":[]}"#;
        let order: Order = serde_json::from_str(text).unwrap();
        assert_eq!(order.checkpoint.unwrap().get(), "{\"a\":1}");
        assert!(order.steps.is_empty());
    }
}
