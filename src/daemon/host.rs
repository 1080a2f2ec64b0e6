//! Reboots the host when the engine says so: by the command of `[reboot]`, or else by systemd.
//!
//! The command is not one of an action's programs: it has no mark, nobody ends it, and it goes on if the daemon ends first,
//! as it does when systemd begins to shut down. Only started from the threads of attempts: those of the main thread would be
//! taken for orphans (`runner::orphans`).

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::engine::Host;
use crate::handlers::BoxFuture;
use crate::runner::last_line::LastLine;
use crate::runner::program::{PATH, describe_end};

/// There where systemd is PID 1: `sd_booted(3)`.
const SYSTEMD: &str = "/run/systemd/system";

/// The host this daemon runs on.
pub(super) struct ThisHost {
    /// Empty: whatever systemd does.
    command: Vec<String>,
}

impl ThisHost {
    pub(super) fn rebooted_by(command: Vec<String>) -> Self {
        Self { command }
    }
}

impl Host for ThisHost {
    fn cannot_reboot(&self) -> Option<String> {
        (self.command.is_empty() && !Path::new(SYSTEMD).exists()).then(|| {
            "systemd does not run here, and no other way is configured; next: set command in [reboot]"
                .to_owned()
        })
    }

    fn reboot(&self) -> BoxFuture<'static, Result<(), String>> {
        let command = match self.command.as_slice() {
            [] => vec!["systemctl".to_owned(), "reboot".to_owned()],
            command => command.to_vec(),
        };
        Box::pin(async move { run(&command).await })
    }
}

async fn run(argv: &[String]) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no command".to_owned()) };
    let line = argv.join(" ");
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| format!("cannot start {line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = LastLine::default();
    // On stderr, if there is one.
    for line in
        [&output.stdout, &output.stderr].into_iter().flat_map(|text| text.split(|byte| *byte == b'\n'))
    {
        said.note(line);
    }
    let said = said.quoted().map(|said| format!(": {said}")).unwrap_or_default();
    Err(format!("{line} ended with {}{said}", describe_end(output.status.code(), output.status.signal())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn command_that_fails_is_told_with_what_it_said() {
        assert_eq!(run(&words(&["/bin/sh", "-c", "exit 0"])).await, Ok(()));
        let failed = run(&words(&["/bin/sh", "-c", "echo no; echo 'not today' >&2; exit 3"])).await;
        let told = "/bin/sh -c echo no; echo 'not today' >&2; exit 3 ended with exit code 3: not today";
        assert_eq!(failed, Err(told.to_owned()));
        let failed = run(&words(&["/nonexistent/reboot"])).await.unwrap_err();
        assert!(failed.starts_with("cannot start /nonexistent/reboot: No such file"), "{failed}");
    }

    #[test]
    fn host_with_a_command_can_be_rebooted() {
        assert_eq!(ThisHost::rebooted_by(words(&["/sbin/reboot"])).cannot_reboot(), None);
        let refused = ThisHost::rebooted_by(Vec::new()).cannot_reboot();
        assert_eq!(refused.is_none(), Path::new(SYSTEMD).exists());
    }
}
