//! The micro-benchmarks: what one append, one record, one decision and one body of JSON cost. `benches/run micro`.
//!
//! They stand beside the code that they measure, in files named `bench.rs`, and are compiled for tests only: so they reach
//! what is private, and nothing becomes public for their sake. This one test runs them all, in builds with optimisation only.

#[cfg(not(debug_assertions))]
#[test]
fn every_micro_benchmark() {
    divan::Divan::default().run_benches();
}
