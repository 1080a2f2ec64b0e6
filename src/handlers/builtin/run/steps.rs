//! The steps of an attempt: done once, however often it is interrupted.
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

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Run;
use crate::clock;
use crate::handlers::builtin::breakpoint::breakpoint;
use crate::handlers::builtin::failure::Failure;
use crate::runner::keeper::words::Word;

/// A step that has begun.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) begun_at_ms: i64,
    pub(super) done_at_ms: Option<i64>,
    note: Note,
}

/// What is remembered of a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct Note {
    intent: Value,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

/// A result that is null is one.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A step of an earlier attempt, as it is handed over.
pub(in super::super) struct Earlier {
    pub(in super::super) name: String,
    pub(in super::super) begun_at_ms: i64,
    pub(in super::super) done_at_ms: Option<i64>,
    pub(in super::super) note: Note,
}

impl From<Earlier> for Step {
    fn from(Earlier { name, begun_at_ms, done_at_ms, note }: Earlier) -> Self {
        Self { name, begun_at_ms, done_at_ms, note }
    }
}

/// What the world says of an effect whose result is not known.
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

impl Run {
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
    pub(in super::super) fn has_begun(&self) -> bool {
        !self.steps.borrow().is_empty()
    }

    /// When its first step began, over all attempts; milliseconds since the epoch.
    pub(in super::super) fn begun_at_ms(&self) -> Option<i64> {
        self.steps.borrow().iter().map(|step| step.begun_at_ms).min()
    }

    pub(in super::super) fn begin(&self, name: &str, intent: &impl Serialize) -> Result<(), Failure> {
        let note = Note { intent: value(intent)?, result: None };
        self.keep(name, &note)?;
        self.tell(&Word::StepBegin { name: name.to_owned() })?;
        self.log(&format!("{name}: begins"));
        let mut steps = self.steps.borrow_mut();
        steps.retain(|step| step.name != name);
        steps.push(Step { name: name.to_owned(), begun_at_ms: clock::now().0, done_at_ms: None, note });
        Ok(())
    }

    pub(in super::super) fn end(
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

    /// Replaces the intent of a step that has begun and is not done.
    ///
    /// # Errors
    ///
    /// It cannot be made durable, and the one before stands.
    pub(crate) fn revise(&self, name: &str, intent: &impl Serialize) -> Result<(), Failure> {
        let note = Note { intent: value(intent)?, result: None };
        self.keep(name, &note)?;
        if let Some(step) = self.steps.borrow_mut().iter_mut().find(|step| step.name == name) {
            step.note = note;
        }
        Ok(())
    }

    fn keep(&self, name: &str, note: &Note) -> Result<(), Failure> {
        let note =
            serde_json::to_string(note).map_err(|error| Failure::permanent("internal", error.to_string()))?;
        self.tell(&Word::Checkpoint { values: [(name.to_owned(), note)].into() })
    }
}

fn value(of: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of).map_err(|error| Failure::permanent("internal", error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;
    use std::rc::Rc;

    use super::super::{Mouth, Parts};
    use super::*;
    use crate::handlers::builtin::kind::Common;
    use crate::handlers::targets::Targets;
    use crate::runner::keeper::words::Answer;

    /// Remembers what was said, as a keeper does.
    #[derive(Clone, Default)]
    struct Ear(Rc<RefCell<Vec<Word>>>);

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

    fn run(attempt: u32, ear: &Ear) -> Run {
        Run::new(Parts {
            id: 7,
            attempt,
            resource_type: "Stack".into(),
            resource_id: 1,
            common: Common::default(),
            targets: Targets::default(),
            secrets_dir: PathBuf::new(),
            credentials_dir: None,
            input: String::new(),
            result_bytes_max: 1 << 16,
            is_retried: false,
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
