//! The README's five minutes, run as they are written.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::common::Home;
use crate::common::daemon::ACTIOND;

/// The text of all blocks that the README marks with this info string, in their order.
fn blocks(info: &str) -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let fence = format!("```{info}\n");
    let blocks: Vec<&str> =
        readme.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("a closed block")).collect();
    assert!(!blocks.is_empty(), "no block marked {info}");
    blocks.join("\n")
}

#[test]
fn five_minutes_of_the_readme_work_as_written() {
    let home = Home::new();
    let bin = home.path("bin");
    fs::create_dir(&bin).expect("a directory");
    symlink(ACTIOND, bin.join("actiond")).expect("a link");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    // The daemon that the text starts in the background is ended with the shell.
    let script = format!("set -eu\ntrap 'kill $(jobs -p) 2> /dev/null || :' EXIT\n{}", blocks("sh tested"));
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(home.path(""))
        .env("PATH", path)
        .env("HOME", home.path(""))
        .env_remove("ACTIOND_SOCKET")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}\n{log}");
    assert!(told.contains("hello, john@example.com"), "the handler's message is shown: {told}\n{log}");
    assert!(told.contains("succeeded"), "{told}");
}
