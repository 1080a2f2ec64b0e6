//! CONTRACT SKELETON: the command line.

/// Carries out the command line of this process and returns its exit code.
#[must_use]
pub fn main() -> std::process::ExitCode {
    todo!()
}
