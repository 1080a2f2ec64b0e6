//! What a program has said: its steps, checkpoint, message and result, and what must not be written.
//!
//! It says it as lines over descriptor 3 (`report`), or with `actiond step` and the like as words over the keeper's
//! socket. A word is answered once it is on disk; a line is on disk soon.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::pipes::Secrets;
use super::statements::{Statement, Statements};
use super::words::{Answer, Order, StepLine, Word};
use crate::action::{JsonText, STEP_NAME_BYTES_MAX, STEPS_MAX, Step, Timestamp};
use crate::clock;
use crate::runner::logs::{LogWriter, Stream};
use crate::runner::report::{MESSAGE_BYTES_MAX, Report, bounded, object};

/// What one attempt's program has said so far, on top of what earlier attempts left.
pub(super) struct Memory {
    pub(super) statements: Statements,
    pub(super) secrets: Secrets,
    pub(super) message: Option<String>,
    pub(super) result: Option<Box<RawValue>>,
    checkpoint: Option<Box<RawValue>>,
    steps: Vec<StepLine>,
    result_bytes_max: usize,
    /// Steps that could not begin, and why.
    refused: BTreeMap<String, String>,
    /// There is something new in the file.
    pub(super) has_news: bool,
}

impl Memory {
    pub(super) fn new(order: &Order, statements: Statements) -> Self {
        Self {
            statements,
            secrets: Secrets::default(),
            message: None,
            result: None,
            checkpoint: order.checkpoint.clone(),
            steps: order.steps.clone(),
            result_bytes_max: order.result_bytes_max,
            refused: BTreeMap::new(),
            has_news: false,
        }
    }

    /// Takes a line that was reported. What is wrong with it goes to the log.
    pub(super) fn hear(&mut self, report: Report, log: &LogWriter) {
        let heard = match report {
            Report::Progress { percent, message } => self.progress(percent, message),
            Report::Checkpoint(checkpoint) => self.replace_checkpoint(&checkpoint),
            Report::Result(result) => self.set_result(&result),
            Report::Message(message) => self.set_message(message),
            Report::Bad(why) => Err(why),
        };
        if let Err(why) = heard {
            log.line(Stream::Daemon, self.secrets.hide(why.as_bytes()).as_ref());
        }
    }

    /// Takes a word of the program, and makes it durable where that was promised.
    pub(super) fn take(&mut self, word: Word) -> Answer {
        let taken = match word {
            Word::StepBegin { name } => {
                let begun = self.begin_step(&name);
                match &begun {
                    Ok(_) => drop(self.refused.remove(&name)),
                    Err(why) if self.refused.len() < STEPS_MAX => {
                        self.refused.insert(bounded(&name, STEP_NAME_BYTES_MAX), why.clone());
                    }
                    Err(_) => {}
                }
                begun
            }
            Word::StepDone { name } => self.end_step(&name),
            Word::Checkpoint { values } => self.set_keys(values),
            Word::Recall { key } => Ok(Answer::Value(self.recall(&key))),
            Word::Progress { percent, message } => {
                self.progress(percent.min(100), bounded(&message, MESSAGE_BYTES_MAX)).map(|()| Answer::Ok)
            }
            Word::Message { text } => {
                self.set_message(bounded(&text, MESSAGE_BYTES_MAX)).map(|()| Answer::Ok)
            }
            Word::Result { json } => self.result_of(&json).map(|()| Answer::Ok),
            Word::Redact { value } => self.secrets.add(&value).map(|()| Answer::Ok),
            // Known to who hears it.
            Word::WhyStopped => Ok(Answer::Value(None)),
            Word::Go | Word::Follow | Word::Recorded | Word::Stop { .. } => {
                Err("is the daemon's to say".to_owned())
            }
        };
        taken.unwrap_or_else(Answer::Refused)
    }

    /// Why an attempt that seems to have succeeded has not: `if actiond step begin` takes a refusal for a step that is
    /// done, and goes on without it.
    pub(super) fn skipped(&self) -> Option<String> {
        let (name, why) = self.refused.first_key_value()?;
        Some(format!("the step {name:?} could not begin: {why}"))
    }

    fn begin_step(&mut self, name: &str) -> Result<Answer, String> {
        let mut steps = self.steps.clone();
        let step = step_of(&mut steps, name)?;
        if step.done_at.is_some() {
            return Ok(Answer::Done);
        }
        step.begun_at = clock::now().0;
        self.keep_steps(steps)
    }

    fn end_step(&mut self, name: &str) -> Result<Answer, String> {
        let mut steps = self.steps.clone();
        let step = step_of(&mut steps, name)?;
        step.done_at = step.done_at.or(Some(clock::now().0));
        self.keep_steps(steps)
    }

    /// A step that is not on disk has not begun and is not done.
    fn keep_steps(&mut self, steps: Vec<StepLine>) -> Result<Answer, String> {
        self.state(Statement::Steps(steps.clone()))?;
        let answer = self.sync()?;
        self.steps = steps;
        Ok(answer)
    }

    fn set_keys(&mut self, values: BTreeMap<String, String>) -> Result<Answer, String> {
        let mut keys = self.keys();
        for (key, value) in values {
            // A key is a word as the name of a step is.
            Step::begun(key.as_str(), Timestamp(0)).map_err(|error| error.to_string())?;
            let value = serde_json::value::to_raw_value(&value).map_err(|error| error.to_string())?;
            keys.insert(Cow::Owned(key), value);
        }
        let checkpoint = serde_json::to_string(&keys).map_err(|error| error.to_string())?;
        self.replace_checkpoint(&JsonText::from_checked(checkpoint))?;
        self.sync()
    }

    fn keys(&self) -> BTreeMap<Cow<'static, str>, Box<RawValue>> {
        let checkpoint = self.checkpoint.as_ref().map_or("{}", |checkpoint| checkpoint.get());
        serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(checkpoint)
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (Cow::Owned(key), value))
            .collect()
    }

    /// A text as it is, anything else as JSON.
    fn recall(&self, key: &str) -> Option<String> {
        let value = self.keys().remove(key)?;
        Some(serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned()))
    }

    fn replace_checkpoint(&mut self, checkpoint: &JsonText) -> Result<(), String> {
        let (bytes, limit) = (checkpoint.as_str().len(), self.result_bytes_max);
        if bytes > limit {
            return Err(format!(
                "a checkpoint is left out, the one before stands: {bytes} bytes are more than \
                 limits.result_bytes_max, {limit}"
            ));
        }
        let checkpoint = self.without_secrets(checkpoint)?;
        self.state(Statement::Checkpoint(checkpoint.clone()))?;
        self.checkpoint = Some(checkpoint);
        Ok(())
    }

    fn result_of(&mut self, json: &str) -> Result<(), String> {
        let text: &RawValue = serde_json::from_str(json).map_err(|error| format!("is not JSON: {error}"))?;
        let result = object(text).map_err(str::to_owned)?;
        let (bytes, limit) = (result.as_str().len(), self.result_bytes_max);
        if bytes > limit {
            return Err(format!("{bytes} bytes are more than limits.result_bytes_max, {limit}"));
        }
        self.set_result(&result)
    }

    /// One that is too large is told about when the action ends.
    fn set_result(&mut self, result: &JsonText) -> Result<(), String> {
        let result = self.without_secrets(result)?;
        self.result = Some(result.clone());
        self.state(Statement::Result(result))
    }

    fn set_message(&mut self, message: String) -> Result<(), String> {
        let message = self.secrets.hide_in(message);
        self.message = Some(message.clone());
        self.state(Statement::Message(message))
    }

    fn progress(&mut self, percent: u8, message: String) -> Result<(), String> {
        let message = self.secrets.hide_in(message);
        self.state(Statement::Progress { percent, message })
    }

    /// A secret within a text becomes another text; one that is a number or a piece of the syntax cannot be hidden.
    fn without_secrets(&self, json: &JsonText) -> Result<Box<RawValue>, String> {
        RawValue::from_string(self.secrets.hide_in(json.as_str().to_owned()))
            .map_err(|_| "holds a value that is to be redacted, and not within a text".to_owned())
    }

    fn state(&mut self, statement: Statement) -> Result<(), String> {
        let is_new = self.statements.state(statement);
        self.has_news |= is_new.map_err(|error| format!("a statement cannot be written: {error}"))?;
        Ok(())
    }

    fn sync(&mut self) -> Result<Answer, String> {
        let synced = self.statements.sync().map(|()| Answer::Ok);
        synced.map_err(|error| format!("a statement cannot be made durable: {error}"))
    }
}

/// The step of that name, which begins now if there is none yet.
fn step_of<'a>(steps: &'a mut Vec<StepLine>, name: &str) -> Result<&'a mut StepLine, String> {
    let at = steps.iter().position(|step| step.name == name);
    let at = at.map_or_else(
        || {
            let step = Step::begun(name, clock::now()).map_err(|error| error.to_string())?;
            if steps.len() >= STEPS_MAX {
                return Err(format!("an action has at most {STEPS_MAX} steps"));
            }
            steps.push(StepLine::from(&step));
            Ok(steps.len() - 1)
        },
        Ok,
    )?;
    steps.get_mut(at).ok_or_else(|| "there is no such step".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::statements::StatementReader;
    use super::*;

    fn memory(home: &tempfile::TempDir) -> Memory {
        let text = r#"{"version":1,"id":7,"attempt":2,"place":"/p","socket":"/s","log":null,"argv":[],"env":[],"cwd":"/",
            "open_files":9,"kill_grace_ms":5,"mark":"m","result_bytes_max":60,"checkpoint":{"n":12345678901234567890123},
            "steps":[{"name":"fetch","begun_at":1,"done_at":2},{"name":"build","begun_at":3,"done_at":null}],
            "outlives_daemon":true,"input_bytes":0}"#;
        Memory::new(&serde_json::from_str(text).unwrap(), Statements::at(home.path().join("statements")))
    }

    #[test]
    fn steps_of_earlier_attempts_are_known_and_new_ones_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let mut memory = memory(&home);
        let mut said = |word| memory.take(word);
        assert_eq!(said(Word::StepBegin { name: "fetch".into() }), Answer::Done);
        assert_eq!(said(Word::StepBegin { name: "build".into() }), Answer::Ok);
        assert_eq!(said(Word::StepDone { name: "build".into() }), Answer::Ok);
        assert_eq!(said(Word::StepBegin { name: "build".into() }), Answer::Done);
        assert_eq!(said(Word::StepDone { name: "never-begun".into() }), Answer::Ok);
        for name in ["", "two words"] {
            assert!(matches!(said(Word::StepDone { name: name.into() }), Answer::Refused(_)));
        }
        for at in 3..STEPS_MAX {
            assert_eq!(said(Word::StepDone { name: format!("s{at}") }), Answer::Ok);
        }
        assert!(memory.skipped().is_none());
        assert!(matches!(memory.take(Word::StepBegin { name: "more".into() }), Answer::Refused(_)));
        assert!(memory.skipped().unwrap().starts_with("the step \"more\" could not begin: "));
        let stated = StatementReader::new(&home.path().join("statements")).read().unwrap();
        let Some(Statement::Steps(steps)) = stated.last() else { panic!("{stated:?}") };
        assert_eq!((steps.len(), steps[1].name.as_str()), (STEPS_MAX, "build"));
        assert!(steps.iter().all(|step| step.done_at.is_some()));
    }

    #[test]
    fn keys_of_a_checkpoint_are_set_one_by_one_within_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let mut memory = memory(&home);
        let set = |key: &str, value: &str| Word::Checkpoint { values: [(key.into(), value.into())].into() };
        let recall = |key: &str| Word::Recall { key: key.into() };
        assert_eq!(memory.take(set("image", "a \"b\"")), Answer::Ok);
        assert_eq!(memory.take(recall("image")), Answer::Value(Some("a \"b\"".into())));
        assert_eq!(memory.take(recall("n")), Answer::Value(Some("12345678901234567890123".into())));
        assert_eq!(memory.take(recall("none")), Answer::Value(None));
        assert!(matches!(memory.take(set("big", &"x".repeat(60))), Answer::Refused(_)));
        let both = [("good".into(), "1".into()), ("no word".into(), "2".into())];
        assert!(matches!(memory.take(Word::Checkpoint { values: both.into() }), Answer::Refused(_)));
        assert_eq!(memory.take(recall("good")), Answer::Value(None), "all of them or none");
        assert_eq!(memory.take(recall("big")), Answer::Value(None));
        let stated = StatementReader::new(&home.path().join("statements")).read().unwrap();
        let Some(Statement::Checkpoint(last)) = stated.last() else { panic!("{stated:?}") };
        assert_eq!(last.get(), r#"{"image":"a \"b\"","n":12345678901234567890123}"#);
    }

    #[test]
    fn secrets_are_in_nothing_that_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let mut memory = memory(&home);
        assert_eq!(memory.take(Word::Redact { value: "hunter2".into() }), Answer::Ok);
        assert_eq!(memory.take(Word::Redact { value: "a\"bc".into() }), Answer::Ok);
        assert_eq!(memory.take(Word::Redact { value: "8151".into() }), Answer::Ok);
        memory.take(Word::Checkpoint { values: [("a".into(), "is hunter2 a\"bc".into())].into() });
        memory.take(Word::Progress { percent: 3, message: "hunter2".into() });
        memory.take(Word::Result { json: "{\"x\":\"hunter2 a\\\"bc\"}".into() });
        memory.hear(Report::Checkpoint(JsonText::from_checked("{\"b\":\"hunter2\"}")), &LogWriter::nowhere());
        memory.hear(Report::Message("hunter2".into()), &LogWriter::nowhere());
        let as_number = memory.take(Word::Result { json: "{\"x\":81510}".into() });
        assert!(matches!(as_number, Answer::Refused(why) if why.contains("redacted")));
        let kept = std::fs::read_to_string(home.path().join("statements")).unwrap();
        for secret in ["hunter2", "\"bc", "8151"] {
            assert!(kept.contains("[redacted]") && !kept.contains(secret), "{kept}");
        }
        assert_eq!(memory.message.as_deref(), Some("[redacted]"));
        assert_eq!(memory.result.unwrap().get(), "{\"x\":\"[redacted] [redacted]\"}");
    }
}
