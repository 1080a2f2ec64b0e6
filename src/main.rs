//! The one binary: daemon, client, and keeper of programs.

use std::process::ExitCode;

fn main() -> ExitCode {
    actiond::cli::main()
}
