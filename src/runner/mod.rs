//! CONTRACT SKELETON
pub mod logs;
