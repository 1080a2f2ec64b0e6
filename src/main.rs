//! The one binary: daemon, client, and keeper of programs.

use std::process::ExitCode;

/// An action's strings are made on one thread, kept by another and freed by a third; the C library's allocator
/// spends a third of a submission's CPU time on that, this one little (`benches/run ndjson` shows it).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    // The daemon's own way of starting a program, never typed by a person: kept out of the command line's help.
    if args.next_if(|word| word == "keeper").is_some() {
        return actiond::runner::keeper::main(args);
    }
    // Nor that of built-in handlers.
    if args.next_if(|word| word == "handle").is_some() {
        return actiond::handlers::builtin::main();
    }
    actiond::cli::main()
}
