//! Programs that a built-in handler starts: git, dumps, hooks.
//!
//! Each leads a process group, and to drop it kills that group: what a cancelled step has started is gone before anything
//! is taken back. What gets away from its group is ended with the handler, by its keeper.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::Failure;

/// Kept of what a program says on standard error, for the message of its failure.
const TAIL_BYTES: usize = 2_048;

/// A running program with all of its group.
pub(super) struct Child {
    what: String,
    process: tokio::process::Child,
    group: Option<Pid>,
}

impl Child {
    /// Starts it. Standard error goes to the action's log, and its end into the message of a failure.
    pub(super) fn start(what: &str, command: &mut Command) -> Result<Self, Failure> {
        command.process_group(0).kill_on_drop(true).stderr(Stdio::piped());
        let process = command.spawn().map_err(|error| {
            let program = command.as_std().get_program().to_string_lossy().into_owned();
            Failure::permanent("program", format!("{what}: cannot start {program}: {error}"))
        })?;
        let group = process.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        Ok(Self { what: what.to_owned(), process, group })
    }

    /// Its standard output, as another program's input.
    pub(super) fn output(&mut self) -> Result<Stdio, Failure> {
        let output = self.process.stdout.take().map(TryInto::try_into);
        let none = || Failure::permanent("program", format!("{}: there is no output", self.what));
        output
            .ok_or_else(none)?
            .map_err(|error: std::io::Error| Failure::permanent("program", error.to_string()))
    }

    /// Waits for its end; its standard output, if that is a pipe, and what it said last on standard error. The exit code is
    /// none after a signal.
    pub(super) async fn end(mut self) -> Result<Ended, Failure> {
        let mut output = Vec::new();
        let mut said = Vec::new();
        let (stdout, stderr) = (self.process.stdout.take(), self.process.stderr.take());
        let read_output = async {
            match stdout {
                Some(mut stdout) => stdout.read_to_end(&mut output).await.map(drop),
                None => Ok(()),
            }
        };
        let read_said = async {
            let Some(mut stderr) = stderr else { return Ok(()) };
            let mut piece = vec![0; 4_096];
            loop {
                let length = stderr.read(&mut piece).await?;
                let piece = piece.get(..length).unwrap_or_default();
                if piece.is_empty() {
                    return Ok(());
                }
                let _ = std::io::Write::write_all(&mut std::io::stderr(), piece);
                said.extend_from_slice(piece);
                let surplus = said.len().saturating_sub(TAIL_BYTES);
                said.drain(..surplus);
            }
        };
        let broken = |error: std::io::Error| Failure::transient("program", format!("{}: {error}", self.what));
        let read: std::io::Result<((), ())> = async { tokio::try_join!(read_output, read_said) }.await;
        read.map_err(broken)?;
        let status = self.process.wait().await.map_err(broken)?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Ok(Ended { code: status.code(), output: String::from_utf8_lossy(&output).trim().to_owned(), said })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After its end too: what it left in its group is not to go on either.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// How a program ended.
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) output: String,
    /// Its last words on standard error.
    pub(super) said: String,
}

impl Ended {
    pub(super) fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// How it ended, in words.
    pub(super) fn told(&self) -> String {
        self.told_by(self.said.lines().last())
    }

    /// How it ended, with the line of what it said that tells why.
    pub(super) fn told_by(&self, line: Option<&str>) -> String {
        let end = self.code.map_or("ended by a signal".to_owned(), |code| format!("exit code {code}"));
        match line {
            Some(line) => format!("{end}: {line}"),
            None => end,
        }
    }
}

/// A program with these arguments and an environment of nothing but `PATH`, `LANG` and these.
pub(super) fn command(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    env: &[(&str, &str)],
    dir: &Path,
) -> Command {
    let mut command = Command::new(program);
    let kept = ["PATH", "LANG", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let kept: Vec<_> = kept.collect();
    command.args(args).env_clear().envs(kept).envs(env.iter().copied()).current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs it to its end.
///
/// # Errors
///
/// It cannot be started; not that it fails.
pub(super) async fn run(what: &str, command: &mut Command) -> Result<Ended, Failure> {
    Child::start(what, command)?.end().await
}

/// Runs one program into another, to the ends of both. Each comes with what it is for.
///
/// # Errors
///
/// One of them cannot be started; not that it fails.
pub(super) async fn piped(from: (&str, Command), into: (&str, Command)) -> Result<(Ended, Ended), Failure> {
    let (what, mut command) = from;
    command.stdout(Stdio::piped());
    let mut first = Child::start(what, &mut command)?;
    let (what, mut command) = into;
    command.stdin(first.output()?);
    let second = Child::start(what, &mut command)?;
    // It has the end of the pipe as well: who writes is to hear that nobody reads any more.
    drop(command);
    tokio::try_join!(first.end(), second.end())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_writes_to_a_program_that_is_gone_does_not_wait_for_ever() {
        let program = |name: &str, args: &[&str]| command(name, args, &[], Path::new("/"));
        let both = piped(("write", program("yes", &[])), ("read", program("false", &[])));
        let (wrote, read) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap().unwrap();
        assert!(!wrote.is_success());
        assert_eq!(read.code, Some(1));
    }
}
