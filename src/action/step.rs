//! The named steps of an action: what its program has begun and what is done, so that the attempt after an interruption
//! goes on where this one was.
//!
//! Bounded on purpose: a status is written whole with each change.

use super::Timestamp;

/// How many steps one action may have.
pub const STEPS_MAX: usize = 64;
/// Longest name of a step, in bytes.
pub const STEP_NAME_BYTES_MAX: usize = 64;

/// One step of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Told apart by it within one action; see [`Step::begun`].
    pub name: String,
    pub begun_at: Timestamp,
    /// None: begun, and nothing is known of its end.
    pub done_at: Option<Timestamp>,
}

/// A step that cannot have this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 1 to {STEP_NAME_BYTES_MAX} of A-Z a-z 0-9 _ . : -")]
pub struct InvalidStepName(pub String);

impl Step {
    /// A step that begins at `begun_at`. Its name is 1 to [`STEP_NAME_BYTES_MAX`] bytes of `A-Z a-z 0-9 _ . : -`, so
    /// that it is one word in every shell, log and file name.
    ///
    /// # Errors
    ///
    /// [`InvalidStepName`] with the name.
    pub fn begun(name: impl Into<String>, begun_at: Timestamp) -> Result<Self, InvalidStepName> {
        let name = name.into();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if name.is_empty() || name.len() > STEP_NAME_BYTES_MAX || !name.bytes().all(fits) {
            return Err(InvalidStepName(name));
        }
        Ok(Self { name, begun_at, done_at: None })
    }

    /// How far an action is that has these. It only grows: no step that has begun or is done goes back.
    #[must_use]
    pub fn extent(steps: &[Self]) -> usize {
        steps.len() + steps.iter().filter(|step| step.done_at.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_step_is_one_word_of_bounded_length() {
        for name in ["1", "build", "Push.image:v1_2-rc", &"x".repeat(64)] {
            assert_eq!(Step::begun(name, Timestamp(7)).unwrap().name, name);
        }
        for name in ["", "two words", "a/b", "a\n", "é", "a=b", &"x".repeat(65)] {
            assert_eq!(Step::begun(name, Timestamp(7)), Err(InvalidStepName(name.to_owned())));
        }
    }
}
