//! Processes: starting programs, their logs, ending them with all their descendants.
//!
//! ```text
//!  kept::start ─▶ backend ─▶ keeper, at its gate ── go ─▶ its program ─▶ log, statements, outcome: files
//!       │            └─ Sessions: forked from a zygote                          │
//!       ▼                                                                       ▼
//!  Kept: news, stop ◀─────────────────── stream, or socket ───── keeper: ends all of it, then itself
//!       ▲
//!  adoption::survey: which keepers an earlier run of the daemon left
//!
//!  program::start ─▶ the program itself (`adopt = false`) ─▶ Started: leader, pipes, reports
//!       └─ ended: orphans knows of none ─▶ done; else tree::end: SIGTERM, patience, SIGKILL, until nothing
//!          of the attempt is alive
//! ```
//!
//! Every process of an attempt carries a mark in its environment ([`leftovers::MARK`]), belongs to the session
//! that its first process began, or descends from one that does; by this it is found again after any crash of the
//! daemon and of its keeper. A process that shakes off all three on purpose is not promised to be found then; while its
//! keeper lives, it is.
//!
//! Called by `handlers::exec` (programs), by the engine and the API (logs) and by the daemon's start
//! ([`adoption`], [`leftovers::end_all`]). Knows neither the API nor the store.

pub mod adoption;
pub mod backend;
mod freezer;
pub mod keeper;
pub(crate) mod kept;
pub(crate) mod last_line;
pub mod leftovers;
pub mod logs;
pub mod open_files;
pub mod orphans;
pub(crate) mod output;
pub(crate) mod proc;
pub(crate) mod program;
pub(crate) mod report;
pub(crate) mod say;
pub(crate) mod spawn;
pub(crate) mod tree;
pub mod units;
