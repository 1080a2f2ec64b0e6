//! One attempt as a built-in handler sees it: its action, its targets, what it can say, and its steps (`steps`).

mod steps;

use std::cell::RefCell;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

pub(crate) use self::steps::Found;
use self::steps::Step;
pub(super) use self::steps::{Earlier, Note};
use super::failure::Failure;
use super::kind::Common;
use crate::handlers::targets::{Choice, Target, Targets};
use crate::runner::keeper::words::{Answer, Word};

/// The step that takes back what the others did; its intent is why.
pub(super) const UNDO: &str = "undo";

/// How an attempt says something to its keeper.
pub(super) trait Mouth {
    /// Returns when what was said is durable, where that is promised.
    fn say(&self, word: &Word) -> Result<Answer, String>;
}

/// One attempt.
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) attempt: u32,
    pub(crate) resource_type: String,
    pub(crate) resource_id: u64,
    pub(crate) common: Common,
    pub(crate) targets: Targets,
    /// Where passwords that are made up are kept, mode 0700.
    pub(crate) secrets_dir: PathBuf,
    /// The daemon's systemd credentials, if it has any.
    pub(crate) credentials_dir: Option<PathBuf>,
    /// The action as every program gets it: one JSON object.
    pub(crate) input: String,
    /// Longest result, and longest checkpoint: that is all that its steps have left, and escaped.
    pub(crate) result_bytes_max: usize,
    /// The retry policy has a try left after this one.
    pub(crate) is_retried: bool,
    steps: RefCell<Vec<Step>>,
    warnings: RefCell<Vec<String>>,
    added: RefCell<Map<String, Value>>,
    mouth: Box<dyn Mouth>,
}

/// What an attempt is made of.
pub(super) struct Parts {
    pub(super) id: u64,
    pub(super) attempt: u32,
    pub(super) resource_type: String,
    pub(super) resource_id: u64,
    pub(super) common: Common,
    pub(super) targets: Targets,
    pub(super) secrets_dir: PathBuf,
    pub(super) credentials_dir: Option<PathBuf>,
    pub(super) input: String,
    pub(super) result_bytes_max: usize,
    pub(super) is_retried: bool,
    pub(super) steps: Vec<Earlier>,
    pub(super) mouth: Box<dyn Mouth>,
}

impl Run {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            id,
            attempt,
            resource_type,
            resource_id,
            common,
            targets,
            secrets_dir,
            credentials_dir,
            input,
            result_bytes_max,
            is_retried,
            steps,
            mouth,
        } = parts;
        Self {
            id,
            attempt,
            resource_type,
            resource_id,
            common,
            targets,
            secrets_dir,
            credentials_dir,
            input,
            result_bytes_max,
            is_retried,
            steps: RefCell::new(steps.into_iter().map(Step::from).collect()),
            warnings: RefCell::default(),
            added: RefCell::default(),
            mouth,
        }
    }
    fn tell(&self, word: &Word) -> Result<(), Failure> {
        // A word waits for a disk, as everything here would.
        match self.mouth.say(word) {
            Ok(_) => Ok(()),
            Err(why) => {
                Err(Failure::transient("not_recorded", format!("what it does cannot be recorded: {why}")))
            }
        }
    }

    /// Shows how far it is. Not durable.
    pub(crate) fn progress(&self, percent: u8, message: &str) {
        // What cannot be shown keeps nobody from his work.
        let _ = self.mouth.say(&Word::Progress { percent, message: message.to_owned() });
    }

    /// Keeps a value out of everything that is written of this action from now on.
    ///
    /// # Errors
    ///
    /// It cannot be kept out; then it must not be used.
    pub(crate) fn redact(&self, secret: &str) -> Result<(), Failure> {
        self.tell(&Word::Redact { value: secret.to_owned() })
    }

    /// Why it has to end early, as its keeper knows it: `cancel`, `time_out`, ...
    pub(super) fn why_stopped(&self) -> Option<String> {
        match self.mouth.say(&Word::WhyStopped) {
            Ok(Answer::Value(why)) => why,
            _ => None,
        }
    }

    /// Message and result of the action. A result that is too large is left out by the keeper, and the log says so.
    pub(super) fn conclude(&self, message: &str, result: &Map<String, Value>) {
        let json = Value::Object(result.clone()).to_string();
        for word in [Word::Message { text: message.to_owned() }, Word::Result { json }] {
            if let Err(why) = self.mouth.say(&word) {
                self.log(&format!("cannot be recorded: {why}"));
            }
        }
    }

    /// A line of the action's log.
    #[expect(clippy::unused_self, reason = "only an attempt has a log")]
    pub(crate) fn log(&self, text: &str) {
        // Who reads the log may be gone.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Something that whoever reads the result should know.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        self.log(&format!("warning: {text}"));
        self.warnings.borrow_mut().push(text);
    }

    /// What the result says beside what came of the action, so far: warnings and what was added.
    pub(super) fn remarks(&self) -> Value {
        json!({ "warnings": *self.warnings.borrow(), "added": *self.added.borrow() })
    }

    /// Has the result say what [`Self::remarks`] gave in an earlier attempt.
    pub(super) fn remark_again(&self, remarks: &Value) {
        let warnings = remarks.get("warnings").and_then(Value::as_array).into_iter().flatten();
        self.warnings.borrow_mut().extend(warnings.filter_map(Value::as_str).map(str::to_owned));
        let added = remarks.get("added").and_then(Value::as_object).cloned();
        self.added.borrow_mut().extend(added.unwrap_or_default());
    }

    /// Has the result say this, whether it is one of success or of failure.
    pub(crate) fn add_result(&self, key: &str, value: impl Into<Value>) {
        self.added.borrow_mut().insert(key.to_owned(), value.into());
    }

    /// The target that is meant.
    ///
    /// # Errors
    ///
    /// There is none any more, or there are several: the configuration has changed since the submission.
    pub(crate) fn target(&self, engines: &[&str], server: Option<&str>) -> Result<&Target, Failure> {
        let choice =
            Choice { engines, name: self.common.target.as_deref(), server, resource_id: self.resource_id };
        self.targets.choose(choice).map_err(|problem| Failure::permanent("target", problem))
    }

    /// Asks `condition` again and again until it gives something, for so long.
    ///
    /// # Errors
    ///
    /// Those of `condition`.
    pub(crate) async fn wait_for<T>(
        &self,
        limit: Duration,
        mut condition: impl AsyncFnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let until = tokio::time::Instant::now() + limit;
        let mut pause = Duration::from_millis(10);
        loop {
            if let Some(found) = condition().await? {
                return Ok(Some(found));
            }
            if tokio::time::Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// What every result has.
    pub(super) fn common_result(&self, changed: Option<bool>, duration: Duration) -> Map<String, Value> {
        let steps = self.steps.borrow();
        let of_step = |step: &Step| {
            let ms = step.done_at_ms.map(|done| done.saturating_sub(step.begun_at_ms));
            json!({ "name": step.name, "status": if ms.is_some() { "done" } else { "begun" }, "ms": ms })
        };
        let mut result = self.added.borrow().clone();
        if let Some(changed) = changed {
            result.insert("changed".to_owned(), changed.into());
        }
        result.insert("attempts".to_owned(), self.attempt.into());
        result.insert("recovered".to_owned(), (self.attempt > 1 && !steps.is_empty()).into());
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        result.insert("duration_ms".to_owned(), ms.into());
        result.insert("steps".to_owned(), steps.iter().map(of_step).collect());
        result.insert("warnings".to_owned(), self.warnings.borrow().clone().into());
        result
    }
}
