//! Carries answers from the engine's thread to whoever waits for them, all of a turn with one wake.
//!
//! Waking a task of another thread's runtime is a system call each. So a turn's answers are handed over together to
//! one task of the runtime on which the faces live, and that wakes the others without leaving its thread.
//!
//! # Guarantees
//!
//! Answers leave in the order in which they were decided. What is handed over is durable; if the runtime ends
//! first, nobody is left who waits.

use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub(super) type Answer = Box<dyn FnOnce() + Send>;

/// The engine's end.
pub(super) struct Answers {
    turns: mpsc::UnboundedSender<Vec<Answer>>,
}

impl Answers {
    /// Answers whose receivers live on that runtime.
    pub fn on(faces: &Handle) -> Self {
        // Not bounded here: there are never more answers than requests that wait for one.
        let (turns, mut handed) = mpsc::unbounded_channel::<Vec<Answer>>();
        faces.spawn(async move {
            while let Some(turn) = handed.recv().await {
                for answer in turn {
                    answer();
                }
            }
        });
        Self { turns }
    }

    /// Gives the answers of a turn that has become durable.
    pub fn give(&self, turn: Vec<Answer>) {
        if !turn.is_empty() {
            let _ = self.turns.send(turn);
        }
    }
}
