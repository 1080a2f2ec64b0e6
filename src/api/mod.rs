//! CONTRACT SKELETON
pub mod wire;
