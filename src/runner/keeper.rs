//! The keeper: what a program is before it gets its go.
//!
//! The daemon starts this very binary as `actiond keeper --report FIFO --cwd DIR --open-files N -- PROGRAM
//! ARGUMENT...`, with the environment and the session that the program will have. It waits at its *gate* for one byte;
//! meanwhile the daemon makes its pid durable. Then it becomes the program by execve(2): the pid stays, so what
//! is on disk is right before the program's first instruction. If the daemon dies first, the gate's other end
//! dies with it, and the keeper ends without having started anything.
//!
//! The gate is the first byte of standard input, on which the action's JSON follows: a pipe of its own would have
//! to be handed over by number, open for every program that is started at the same moment. Standard input is
//! handed over by the kernel's spawn alone. The byte is read unbuffered, so the program finds the JSON whole.
//!
//! What fails before the execve is reported over the FIFO as a line with the key `FAULT` and exit code
//! `CANNOT_START`, so that a program that itself exits 127 is not taken for a missing one.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// The byte that opens the gate.
pub(crate) const GO: u8 = b'g';

/// The key of the line that says why the program could not be started.
pub(crate) const FAULT: &str = "keeper_fault";

/// Exit code of a keeper that could not start its program (the shells' code for this).
pub(crate) const CANNOT_START: u8 = 127;

/// Exit code of a keeper that never got its go.
pub(crate) const NEVER_STARTED: u8 = 126;

/// The descriptor on which a program finds its reports' FIFO open, by contract.
const REPORT_FD: RawFd = 3;

struct Order {
    report: PathBuf,
    cwd: PathBuf,
    /// The program's soft limit on open files.
    open_files: u64,
    argv: Vec<OsString>,
}

/// Runs the keeper with the arguments that follow `keeper`. Returns only if the program was not started.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(order) = parse(args) else {
        let _ = writeln!(io::stderr(), "actiond keeper is started by the daemon only");
        return ExitCode::from(64);
    };
    if !gate_opens() {
        return ExitCode::from(NEVER_STARTED);
    }
    close_inherited();
    let report = match open_report(&order.report) {
        Ok(report) => report,
        // The attempt's directory is gone: a recovery decided that this attempt does not exist any more.
        Err(error) => {
            let _ = writeln!(io::stderr(), "actiond keeper: cannot open {}: {error}", order.report.display());
            return ExitCode::from(NEVER_STARTED);
        }
    };
    let Err(fault) = become_program(&order);
    let line = format!("{}\n", serde_json::json!({ FAULT: fault }));
    let _ = (&report).write_all(line.as_bytes());
    ExitCode::from(CANNOT_START)
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Order> {
    let mut args = args.into_iter();
    let mut value = |name: &str| (args.next()? == name).then(|| args.next()).flatten();
    let report = value("--report")?.into();
    let cwd = value("--cwd")?.into();
    let open_files = value("--open-files")?.to_str()?.parse().ok()?;
    (args.next()? == "--").then_some(())?;
    let words: Vec<OsString> = args.collect();
    (!words.is_empty()).then_some(Order { report, cwd, open_files, argv: words })
}

fn gate_opens() -> bool {
    let mut byte = [0];
    loop {
        match rustix::io::read(io::stdin().as_fd(), &mut byte) {
            Ok(1) => return byte == [GO],
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return false,
        }
    }
}

/// The daemon's own descriptors close themselves at its spawn; those that it inherited without that flag from
/// whoever started it do not.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= REPORT_FD)
        .collect();
    for fd in open {
        // The listing's own descriptor is among them and closed by now: an error means nothing.
        let _ = nix::unistd::close(fd);
    }
}

/// Open for reading too: so opening and writing never wait, and never fail, for want of a reader.
fn open_report(path: &Path) -> io::Result<File> {
    let report = OpenOptions::new().read(true).write(true).open(path)?;
    if report.as_raw_fd() != REPORT_FD {
        return Err(io::Error::other(format!("it became descriptor {}", report.as_raw_fd())));
    }
    fcntl_setfd(&report, FdFlags::empty())?;
    Ok(report)
}

/// Returns why the program could not be started.
fn become_program(order: &Order) -> Result<Infallible, String> {
    std::env::set_current_dir(&order.cwd)
        .map_err(|error| format!("cannot change into the directory {}: {error}", order.cwd.display()))?;
    let argv: Result<Vec<CString>, _> =
        order.argv.iter().map(|word| CString::new(word.as_encoded_bytes())).collect();
    let argv = argv.map_err(|_| "an argument holds a NUL character".to_owned())?;
    let program = argv.first().ok_or("no program is configured")?;
    super::open_files::set_soft(order.open_files)
        .map_err(|error| format!("cannot set the limit on open files: {error}"))?;
    reset_ignored_signal().map_err(|error| format!("cannot reset SIGPIPE: {error}"))?;
    // Not std's `exec`: like execvp(3) it would give a file without an interpreter to a shell.
    let Err(errno) = nix::unistd::execv(program, &argv);
    let error = io::Error::from(errno);
    Err(format!("cannot start {}: {error}", program.to_string_lossy()))
}

/// An ignored signal stays ignored over execve(2), a caught one becomes the default: so SIGPIPE, which Rust ignores, is
/// caught here for the last moment of the keeper. Those that somebody above the daemon had ignored (nohup, a shell) were
/// reset by the daemon's spawn, and the signal mask was cleared.
fn reset_ignored_signal() -> io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::new(AtomicBool::new(false))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(words: &[&str]) -> Option<Order> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn only_the_daemons_own_form_is_understood() {
        let form = ["--report", "/r", "--cwd", "/c", "--open-files", "9", "--", "/p", "--", "-x"];
        let order_ = order(&form).unwrap();
        assert_eq!((order_.report.to_str(), order_.cwd.to_str()), (Some("/r"), Some("/c")));
        assert_eq!(order_.open_files, 9);
        assert_eq!(order_.argv, ["/p", "--", "-x"]);
        assert!(order(&form[..7]).is_none(), "no program");
        for words in [&["--report", "/r"][..], &[], &["--report", "/r", "--cwd", "/c", "--"], &["/p"]] {
            assert!(order(words).is_none(), "{words:?}");
        }
    }
}
