//! The one place where the wall clock is read.

use crate::action::Timestamp;

/// Now, by the wall clock.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp(chrono::Utc::now().timestamp_millis())
}
