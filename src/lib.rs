//! actiond: a durable action queue for one host.
pub mod action;
pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod handlers;
pub mod runner;
pub mod store;
