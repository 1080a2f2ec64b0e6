//! CONTRACT SKELETON: processes: starting them behind a gate, their logs, ending them with all descendants.
pub mod leftovers;
pub mod logs;
