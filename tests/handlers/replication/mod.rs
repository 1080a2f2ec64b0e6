//! Replicas that are promoted, made anew and detached: a family for each engine.

pub mod mariadb;
pub mod postgres;
