//! One attempt as a built-in handler sees it: its action, its targets, and its steps.
//!
//! # Steps
//!
//! Every effect on the world is in a step. What is about to be done, and what was seen before, is durable before the effect
//! (the *intent*); what came of it is durable after it (the *result*). An attempt after an interruption runs the same code
//! from its beginning:
//!
//! | what is known of a step | what [`Run::step`] does |
//! | --- | --- |
//! | nothing | `intent`, durable; `act`; the result, durable |
//! | its intent | `found` asks the world: done, and its result is made durable; not done, and `act` does it; or it cannot be told, and the action is held |
//! | its result | gives it back |
//!
//! Both are kept where every program can keep something: steps by `step begin` and `step done`, intents and results as
//! keys of the checkpoint. A note is durable before its step begins or is done, so a step that has begun has an
//! intent, and one that is done has a result.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::breakpoint::breakpoint;
use super::failure::Failure;
use super::kind::Common;
use crate::clock;
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
#[allow(dead_code, reason = "as below")]
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
    steps: RefCell<Vec<Step>>,
    warnings: RefCell<Vec<String>>,
    added: RefCell<Map<String, Value>>,
    mouth: Box<dyn Mouth>,
}

/// A step that has begun.
struct Step {
    name: String,
    begun_at_ms: i64,
    done_at_ms: Option<i64>,
    note: Note,
}

/// What is remembered of a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Note {
    intent: Value,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

/// A result that is null is one.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A step of an earlier attempt, as it is handed over.
pub(super) struct Earlier {
    pub(super) name: String,
    pub(super) begun_at_ms: i64,
    pub(super) done_at_ms: Option<i64>,
    pub(super) note: Note,
}

/// What the world says of an effect whose result is not known.
#[allow(dead_code, reason = "as below")]
pub(crate) enum Found<R> {
    Done(R),
    /// It has not taken place, and nothing of it will.
    NotDone,
    /// It cannot be told, and why.
    Unknown(String),
}

/// What a step left, for who takes it back.
#[derive(Debug)]
pub(crate) struct Trace<I, R> {
    pub(crate) intent: I,
    /// None: it is not known whether it took place.
    pub(crate) result: Option<R>,
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
    pub(super) steps: Vec<Earlier>,
    pub(super) mouth: Box<dyn Mouth>,
}

#[allow(dead_code, reason = "handlers that are still to come need all of it")]
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
            steps,
            mouth,
        } = parts;
        let step =
            |Earlier { name, begun_at_ms, done_at_ms, note }| Step { name, begun_at_ms, done_at_ms, note };
        Self {
            id,
            attempt,
            resource_type,
            resource_id,
            common,
            targets,
            secrets_dir,
            credentials_dir,
            steps: RefCell::new(steps.into_iter().map(step).collect()),
            warnings: RefCell::default(),
            added: RefCell::default(),
            mouth,
        }
    }

    /// Does a step, unless it is done; see the table above. Its name is one word, and its alone in this action.
    ///
    /// # Errors
    ///
    /// Those of the three; or what was done or is to be done cannot be made durable.
    pub(crate) async fn step<I, R>(
        &self,
        name: &str,
        intent: impl AsyncFnOnce() -> Result<I, Failure>,
        act: impl AsyncFnOnce(&I) -> Result<R, Failure>,
        found: impl AsyncFnOnce(&I) -> Result<Found<R>, Failure>,
    ) -> Result<R, Failure>
    where
        I: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let intended = match self.trace::<I, R>(name)? {
            Some(Trace { result: Some(result), .. }) => return Ok(result),
            Some(Trace { intent, result: None }) => {
                match found(&intent).await? {
                    Found::Done(result) => {
                        self.log(&format!("{name}: found done"));
                        self.end(name, &intent, &result)?;
                        return Ok(result);
                    }
                    Found::NotDone => self.log(&format!("{name}: found not done; doing it")),
                    Found::Unknown(why) => {
                        let told = format!(
                            "the step {name:?} was interrupted, and it cannot be told whether it took effect: {why}"
                        );
                        return Err(Failure::unknown("unknown", told).with("step", name));
                    }
                }
                intent
            }
            None => {
                let intent = intent().await?;
                self.begin(name, &intent)?;
                intent
            }
        };
        breakpoint(name, "intent").await;
        let result = act(&intended).await?;
        breakpoint(name, "acted").await;
        self.end(name, &intended, &result)?;
        breakpoint(name, "done").await;
        Ok(result)
    }

    /// Does a step that may be done again without harm, unless it is known to be done.
    ///
    /// # Errors
    ///
    /// Those of `act`; or that it is done cannot be made durable.
    pub(crate) async fn repeatable<R>(
        &self,
        name: &str,
        act: impl AsyncFnOnce() -> Result<R, Failure>,
    ) -> Result<R, Failure>
    where
        R: Serialize + DeserializeOwned,
    {
        self.step(name, async || Ok(()), async |()| act().await, async |()| Ok(Found::NotDone)).await
    }

    /// What a step left, if it has begun.
    ///
    /// # Errors
    ///
    /// What it left cannot be read by this version.
    pub(crate) fn trace<I, R>(&self, name: &str) -> Result<Option<Trace<I, R>>, Failure>
    where
        I: DeserializeOwned,
        R: DeserializeOwned,
    {
        let steps = self.steps.borrow();
        let Some(step) = steps.iter().find(|step| step.name == name) else { return Ok(None) };
        let unreadable = |error: serde_json::Error| {
            Failure::unknown("unreadable", format!("what the step {name:?} left cannot be read: {error}"))
        };
        let intent = I::deserialize(&step.note.intent).map_err(unreadable)?;
        let result = match &step.note.result {
            Some(result) if step.done_at_ms.is_some() => Some(R::deserialize(result).map_err(unreadable)?),
            _ => None,
        };
        Ok(Some(Trace { intent, result }))
    }

    /// Whether a step has begun, in whatever attempt.
    pub(crate) fn is_begun(&self, name: &str) -> bool {
        self.steps.borrow().iter().any(|step| step.name == name)
    }

    /// Whether any step has begun, so that there may be something to take back.
    pub(super) fn has_begun(&self) -> bool {
        !self.steps.borrow().is_empty()
    }

    /// When its first step began, over all attempts; milliseconds since the epoch.
    pub(super) fn begun_at_ms(&self) -> Option<i64> {
        self.steps.borrow().iter().map(|step| step.begun_at_ms).min()
    }

    pub(super) fn begin(&self, name: &str, intent: &impl Serialize) -> Result<(), Failure> {
        let note = Note { intent: value(intent)?, result: None };
        self.keep(name, &note)?;
        self.tell(&Word::StepBegin { name: name.to_owned() })?;
        self.log(&format!("{name}: begins"));
        let mut steps = self.steps.borrow_mut();
        steps.retain(|step| step.name != name);
        steps.push(Step { name: name.to_owned(), begun_at_ms: clock::now().0, done_at_ms: None, note });
        Ok(())
    }

    pub(super) fn end(
        &self,
        name: &str,
        intent: &impl Serialize,
        result: &impl Serialize,
    ) -> Result<(), Failure> {
        let note = Note { intent: value(intent)?, result: Some(value(result)?) };
        self.keep(name, &note)?;
        self.tell(&Word::StepDone { name: name.to_owned() })?;
        let now = clock::now();
        if let Some(step) = self.steps.borrow_mut().iter_mut().find(|step| step.name == name) {
            step.done_at_ms = Some(now.0);
            step.note = note;
            let ms = now.ms_since(crate::action::Timestamp(step.begun_at_ms));
            self.log(&format!("{name}: done after {ms} ms"));
        }
        Ok(())
    }

    fn keep(&self, name: &str, note: &Note) -> Result<(), Failure> {
        let note =
            serde_json::to_string(note).map_err(|error| Failure::permanent("internal", error.to_string()))?;
        self.tell(&Word::Checkpoint { values: [(name.to_owned(), note)].into() })
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

fn value(of: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of).map_err(|error| Failure::permanent("internal", error.to_string()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::rc::Rc;

    use super::*;

    /// Remembers what was said, as a keeper does.
    #[derive(Clone, Default)]
    pub(crate) struct Ear(Rc<RefCell<Vec<Word>>>);

    impl Mouth for Ear {
        fn say(&self, word: &Word) -> Result<Answer, String> {
            self.0.borrow_mut().push(word.clone());
            Ok(Answer::Ok)
        }
    }

    impl Ear {
        /// What the next attempt gets of it.
        fn steps(&self) -> Vec<Earlier> {
            let mut steps: Vec<Earlier> = Vec::new();
            let mut notes = std::collections::BTreeMap::new();
            for word in self.0.borrow().iter() {
                match word.clone() {
                    Word::Checkpoint { values } => notes.extend(values),
                    Word::StepBegin { name } => {
                        steps.push(Earlier { name, begun_at_ms: 1, done_at_ms: None, note: Note::default() });
                    }
                    Word::StepDone { name } => {
                        steps.iter_mut().find(|step| step.name == name).unwrap().done_at_ms = Some(2);
                    }
                    _ => {}
                }
            }
            for step in &mut steps {
                step.note = serde_json::from_str(&notes[&step.name]).unwrap();
            }
            steps
        }

        /// The same, had it been interrupted after that many words.
        fn cut(&self, words: usize) -> Self {
            Self(Rc::new(RefCell::new(self.0.borrow()[..words].to_vec())))
        }
    }

    pub(crate) fn run(attempt: u32, ear: &Ear) -> Run {
        Run::new(Parts {
            id: 7,
            attempt,
            resource_type: "Stack".into(),
            resource_id: 1,
            common: Common::default(),
            targets: Targets::default(),
            secrets_dir: PathBuf::new(),
            credentials_dir: None,
            steps: ear.steps(),
            mouth: Box::new(ear.clone()),
        })
    }

    /// Makes `world` one more, however often it is interrupted.
    async fn one_more(run: &Run, world: &RefCell<u32>) -> Result<u32, Failure> {
        run.step(
            "add",
            async || Ok(*world.borrow()),
            async |before: &u32| {
                *world.borrow_mut() = before + 1;
                Ok(before + 1)
            },
            async |before: &u32| {
                Ok(match *world.borrow() {
                    now if now == *before => Found::NotDone,
                    now if now == before + 1 => Found::Done(now),
                    now => Found::Unknown(format!("it is {now}")),
                })
            },
        )
        .await
    }

    #[tokio::test]
    async fn step_takes_effect_once_wherever_it_is_interrupted() {
        let ear = Ear::default();
        let world = RefCell::new(5);
        assert_eq!(one_more(&run(1, &ear), &world).await, Ok(6));
        let words = ear.0.borrow().len();
        assert_eq!(words, 4, "a note, its begin, a note, its end");
        for cut in 0..=words {
            for has_acted in [false, true] {
                // Before its begin is durable nothing is done, and after its end it is.
                if has_acted && cut < 2 || !has_acted && cut == words {
                    continue;
                }
                *world.borrow_mut() = if has_acted { 6 } else { 5 };
                let second = run(2, &ear.cut(cut));
                assert_eq!(one_more(&second, &world).await, Ok(6), "{cut} {has_acted}");
                assert_eq!(*world.borrow(), 6);
                assert_eq!(one_more(&second, &world).await, Ok(6), "once more");
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_told_is_for_a_person() {
        let ear = Ear::default();
        let world = RefCell::new(5);
        one_more(&run(1, &ear), &world).await.unwrap();
        *world.borrow_mut() = 9;
        let failure = one_more(&run(2, &ear.cut(2)), &world).await.unwrap_err();
        assert_eq!(failure.code(), "unknown");
        assert!(failure.message().contains("it is 9"));
        assert_eq!(*world.borrow(), 9);
    }
}
