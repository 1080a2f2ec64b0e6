//! actiond: a durable action queue for one host.
//!
//! Local agents submit long-running operations (a deploy, a restart, a new database) over a Unix socket. Each
//! is on disk before it is acknowledged, is carried out by a handler, is taken up again after a crash or a
//! reboot, and can be looked at over HTTP.
//!
//! # The promise
//!
//! Once a submission is answered with 202, the action survives `kill -9` and loss of power; its handler is
//! started at least once; its outcome is recorded exactly once. Between a crash and the next start nothing that
//! may have taken effect is run again blindly: the recovery policy of its type decides.
//!
//! # The life of one action
//!
//! ```text
//!            wire JSON            Submission             Submitted, Claimed, Changed
//!  client ──▶ api ───────────────▶ engine ─────────────▶ store ──▶ journal: one write, one sync
//!                                    │  ▲                  │                  │
//!                     claim, durable │  │ what it says     │ background       │ only then:
//!                                    ▼  │                  ▼                  ▼
//!                                  handlers ─▶ runner   bodies, sled    answers, starts
//! ```
//!
//! 1. [`api`] turns a request into an [`engine::Submission`] with the caller's identity from the kernel.
//! 2. [`engine`] decides: handler known, limits, idempotency key, conflicts. One thread takes all requests that
//!    wait, decides each, claims what may start, and commits all of it as one group.
//! 3. [`store`] writes the group to its journal and syncs it once. Only now is anything answered, shown or begun.
//! 4. [`handlers`] carry out the attempt, mostly as a program under a keeper of [`runner`]'s, which goes on without the
//!    daemon and is taken up by the next one.
//! 5. What the attempt says becomes a request like any other, and [`action::State::apply`] says what follows.
//!
//! # Who may know whom
//!
//! ```text
//!  main ─▶ cli ─▶ daemon ─▶ api ─▶ engine ─▶ { store, handlers ─▶ runner } ─▶ action
//!           ├───▶ client ─▶ api::wire
//!           └───▶ runner::say
//! ```
//!
//! | part | what it is | must not know |
//! | --- | --- | --- |
//! | [`action`] | the domain, pure: states, retry arithmetic, the 19 types | anything else |
//! | [`store`] | the disk: journal, memory table, body files, sled, snapshot | `api`, `engine`, `handlers` |
//! | [`engine`] | decides; its scheduler does no I/O | `api`, sled |
//! | [`handlers`] | effects on the world, one file per family | `api`, `store`, `engine` |
//! | [`runner`] | processes and their logs | `api`, `store` |
//! | [`api`] | the HTTP faces | sled, `handlers` |
//! | [`clock`] | the one place where the wall clock is read | anything but [`action`]'s `Timestamp` |
//! | [`config`] | one documented file; knows no single handler | the rest |
//! | [`daemon`] | puts the parts together; signals, systemd | |
//! | [`client`] | the Rust client over the socket | everything but the wire types |
//! | [`cli`] | the command line | `store`, `engine` internals |
//!
//! An action has three families of types on purpose: domain ([`action`]), wire ([`api::wire`], JSON) and record
//! (`store::record`, bincode, frozen). Conversions live in the outer one and name every field, so that a new field
//! does not compile until each family has decided about it.

pub mod action;
pub mod api;
#[cfg(test)]
mod bench;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
mod crash_point;
pub mod daemon;
pub mod engine;
pub mod handlers;
pub mod runner;
pub mod store;
