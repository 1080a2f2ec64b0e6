//! What a test knows of one action type on one engine.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cases::Stage;

/// One row of the table. Whatever fails panics.
pub trait Subject {
    /// The row's name: the action type, and the engine where there are several.
    fn name(&self) -> String;

    fn action(&self) -> &'static str;

    /// Tables of the configuration: the targets.
    fn tables(&self) -> String;

    /// What follows happens with a daemon of that home.
    fn enter(&self, _home: &Path) {}

    /// What carries it out, with its own keys, as lines of a `[[handler]]` table.
    fn handler(&self) -> String {
        "use = \"builtin\"".to_owned()
    }

    /// Whether only whoever carries it out knows what its metadata means.
    fn takes_any_metadata(&self) -> bool {
        false
    }

    /// Makes the world ready for one action, and gives its metadata. Each call has a world of its own: other names.
    fn prepare(&self) -> Value;

    /// The effect is there, exactly once, and the result says so.
    fn assert_done(&self, metadata: &Value, action: &Value);

    /// The world is as [`Self::prepare`] left it.
    fn assert_undone(&self, metadata: &Value, action: &Value);

    /// What comes of the same action once more: the code of its failure, or none if it succeeds without a change.
    fn again(&self) -> Option<&'static str>;

    /// Whether the same action once more has its effect once more, as a restart has.
    fn repeats(&self) -> bool {
        false
    }

    /// Metadata that is refused at submission, each with a word that the answer has to have.
    fn refused(&self) -> Vec<(Value, &'static str)>;

    /// Metadata that is accepted, and the code of the failure that comes of it. What [`Self::prepare`] made is left alone.
    fn fails(&self) -> Vec<(Value, &'static str)> {
        Vec::new()
    }

    /// Makes the component unreachable, as if it had crashed.
    fn take_down(&self);

    /// Makes it work again, and waits until it does.
    fn bring_up(&self);

    /// The code of a failure because the component is down.
    fn down_code(&self) -> &'static str {
        "unreachable"
    }

    /// What a failure or a cancel leaves done on purpose, so that [`Self::assert_undone`] does not hold.
    fn keeps_effect(&self) -> bool {
        false
    }

    /// What nobody may see of an action that has succeeded, each with the file in which it may be.
    fn secrets(&self, _action: &Value) -> Vec<(String, Option<PathBuf>)> {
        Vec::new()
    }

    /// As [`Self::own`], for what needs more than that.
    fn special(&self, _stage: &Stage<'_>) {}

    /// Why an action that was interrupted at that place of that step is held, if that is right.
    fn held_at(&self, _step: &str, _place: &str) -> Option<&'static str> {
        None
    }

    /// What only this type has to show. `ask` carries out an action with such metadata, to its end.
    fn own(&self, _ask: &dyn Fn(Value) -> Value) {}
}
