//! What is measured: a file for each part, each usable alone.

pub mod backlog;
pub mod churn;
pub mod dispatch;
pub mod exec;
pub mod flood;
pub mod limits;
pub mod lives;
pub mod submit;
pub mod waiting;

use super::results::Results;
use super::settings::Settings;

/// What a part needs.
pub struct Bench {
    pub settings: Settings,
    pub results: Results,
}

/// Says on stderr what is being measured; the tables alone go to stdout.
pub fn say(text: &str) {
    eprintln!("  {text}");
}
