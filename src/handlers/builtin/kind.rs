//! What a built-in handler is: one action type, its parameters and how it is carried out.
//!
//! ```text
//!  the daemon:               check ──▶ accepted, with its locks
//!  the process of an attempt: plan (dry_run)   or   execute ──▶ Done
//!                                                     └─(fails, is cancelled, runs out of time)─▶ undo ──▶ Failure
//! ```
//!
//! There is no separate recovery: `execute` is run again from its beginning after an interruption, and each of its steps
//! ([`Run::step`]) is done, is found done in the world, or is done now. So what runs at three in the morning after a crash
//! is the code that runs every day.

use std::future::Future;
use std::pin::Pin;

use schemars::{JsonSchema, Schema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::Failure;
use super::run::Run;
use crate::handlers::Asked;
use crate::handlers::targets::{Targets, read_value};

/// An action type that this binary can carry out itself.
pub(crate) trait Kind: 'static {
    /// Its word on the wire.
    const ACTION: &'static str;
    /// For its page.
    const PAGE: Page;
    /// Its own keys of `metadata`; a type that denies unknown fields.
    type Params: DeserializeOwned + JsonSchema;
    /// Those of [`Common`]'s that it has.
    const COMMON_KEYS: &'static [&'static str] = &COMMON_KEYS;

    /// Judges what the types do not say, without looking at the world. Called at submission, in the daemon. Gives the names
    /// of what no other action may touch meanwhile, beside the resource itself: `unit:web.service`.
    ///
    /// # Errors
    ///
    /// What is wrong, with the key; the submission is refused.
    fn check(params: &Self::Params, around: &Around<'_>) -> Result<Vec<String>, String>;

    /// What [`Self::execute`] would do, found out without an effect.
    fn plan(params: &Self::Params, run: &Run) -> impl Future<Output = Result<Vec<Value>, Failure>>;

    /// Does it. Every effect is in a step.
    fn execute(params: &Self::Params, run: &Run) -> impl Future<Output = Result<Done, Failure>>;

    /// Takes back what the steps of [`Self::execute`] have done so far, as far as that is right. Every effect is in a step.
    fn undo(params: &Self::Params, run: &Run) -> impl Future<Output = Result<(), Failure>> {
        let _ = (params, run);
        async { Ok(()) }
    }
}

/// What a check may know.
pub(crate) struct Around<'a> {
    pub(crate) resource_type: &'a str,
    pub(crate) resource_id: u64,
    pub(crate) common: &'a Common,
    pub(crate) targets: &'a Targets,
}

/// What a handler says of its success.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) message: String,
    /// False: everything was already as asked.
    pub(crate) changed: bool,
    pub(crate) result: Map<String, Value>,
}

impl Done {
    /// With the fields of `result`, which serializes as an object.
    pub(crate) fn new(message: impl Into<String>, changed: bool, result: &impl Serialize) -> Self {
        let result = match serde_json::to_value(result) {
            Ok(Value::Object(result)) => result,
            _ => Map::new(),
        };
        Self { message: message.into(), changed, result }
    }
}

/// Keys of `metadata` that every type has.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Common {
    /// Longest time for the whole, in seconds; then it is stopped, undone, and fails with the code "timeout".
    #[schemars(range(min = 1, max = 86_400))]
    pub(crate) timeout_s: Option<u32>,
    /// Check and look only: nothing is changed, and the result has "plan".
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// The target of the configuration that is meant, by its name, where several fit.
    pub(crate) target: Option<String>,
}

const COMMON_KEYS: [&str; 3] = ["timeout_s", "dry_run", "target"];
const TIMEOUT_S_MAX: u32 = 86_400;

/// What the page of a type says beside its parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// What it does, in a sentence or two.
    pub(crate) does: &'static str,
    /// Engines of the targets that it acts on.
    pub(crate) engines: &'static [&'static str],
    /// Fields of its result, each with what it means.
    pub(crate) result: &'static [(&'static str, &'static str)],
    /// What happens after an interruption, and how that is known.
    pub(crate) recovery: &'static str,
    /// What is taken back at a cancel, a timeout and a failure.
    pub(crate) undo: &'static str,
    /// What the user that it runs as must be allowed.
    pub(crate) rights: &'static str,
}

/// A kind without its types: a line of the list.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) action: &'static str,
    pub(crate) page: Page,
    pub(crate) schema: fn() -> Value,
    pub(crate) check: fn(&Asked<'_>, &Targets) -> Result<Vec<String>, String>,
    pub(super) common_keys: &'static [&'static str],
    pub(super) plan: Stage<Vec<Value>>,
    pub(super) execute: Stage<Done>,
    pub(super) undo: Stage<()>,
}

/// One of the three things that a kind does in the process of an attempt.
type Stage<T> = for<'a> fn(Value, &'a Run) -> Pin<Box<dyn Future<Output = Result<T, Failure>> + 'a>>;

/// The line of the list for a kind.
pub(super) const fn entry<K: Kind>() -> Entry {
    Entry {
        action: K::ACTION,
        page: K::PAGE,
        schema: schema::<K>,
        check: check::<K>,
        common_keys: K::COMMON_KEYS,
        plan: |metadata, run| Box::pin(async move { K::plan(&of::<K>(metadata)?, run).await }),
        execute: |metadata, run| Box::pin(async move { K::execute(&of::<K>(metadata)?, run).await }),
        undo: |metadata, run| Box::pin(async move { K::undo(&of::<K>(metadata)?, run).await }),
    }
}

/// Metadata that was accepted is read; by an older daemon perhaps, so it may still be refused.
fn of<K: Kind>(metadata: Value) -> Result<K::Params, Failure> {
    read::<K>(metadata).map(|(_, params)| params).map_err(|problem| Failure::permanent("metadata", problem))
}

fn read<K: Kind>(metadata: Value) -> Result<(Common, K::Params), String> {
    let (common, own) = split(metadata, K::COMMON_KEYS)?;
    let params = read_value(Value::Object(own)).map_err(|problem| told(&problem))?;
    Ok((common, params))
}

/// The common keys, as far as they are among these, and the others.
pub(super) fn split(metadata: Value, keys: &[&str]) -> Result<(Common, Map<String, Value>), String> {
    let Value::Object(metadata) = metadata else { return Err("must be an object".to_owned()) };
    let (common, own) =
        metadata.into_iter().partition::<Map<_, _>, _>(|(key, _)| keys.contains(&key.as_str()));
    let common: Common = read_value(Value::Object(common)).map_err(|problem| told(&problem))?;
    if common.timeout_s.is_some_and(|seconds| !(1..=TIMEOUT_S_MAX).contains(&seconds)) {
        return Err(format!("timeout_s must be 1 to {TIMEOUT_S_MAX}"));
    }
    Ok((common, own))
}

/// What is wrong, with what people try who look for a place for a password.
fn told(told: &str) -> String {
    let is_secret = ["`password`", "`passwd`", "`secret`", "`token`"];
    if is_secret.iter().any(|key| told.starts_with(&format!("unknown field {key}"))) {
        return format!("{told}; an action never carries a secret: see password_ref and password_generate");
    }
    told.to_owned()
}

fn check<K: Kind>(asked: &Asked<'_>, targets: &Targets) -> Result<Vec<String>, String> {
    let metadata = serde_json::from_str(asked.metadata.as_str()).map_err(|error| error.to_string())?;
    let (common, params) = read::<K>(metadata)?;
    if let Some(name) = &common.target
        && targets.by_name(name).is_none()
    {
        return Err(format!("target: there is no [targets.{name}] for this action"));
    }
    let Asked { resource_type, resource_id, .. } = *asked;
    K::check(&params, &Around { resource_type, resource_id, common: &common, targets })
}

/// The common keys as JSON Schema.
pub(super) fn common_schema() -> Value {
    Schema::to_value(schema_for!(Common))
}

/// The whole of `metadata` as JSON Schema.
fn schema<K: Kind>() -> Value {
    let common = schema_for!(Common);
    let mut own = schema_for!(K::Params);
    let mut common = common.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    common.retain(|key, _| K::COMMON_KEYS.contains(&key.as_str()));
    let properties = own.ensure_object().entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(properties) = properties {
        properties.extend(common);
    }
    own.insert("title".to_owned(), K::ACTION.into());
    Schema::to_value(own)
}
