//! Streaming replication of PostgreSQL (PostgreSQL 15, 27.2).

pub(super) mod disable;
pub(super) mod promote;
pub(super) mod resync;
