//! The shipped units are taken by systemd as they stand, but for the place of the binary, and shut the daemon in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "these are tests"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHIPPED: &str = "/usr/bin/actiond";
const EXPOSURE_MAX: f64 = 2.0;

/// The units as shipped, with the binary of this build in them.
fn units(dir: &Path) -> Vec<PathBuf> {
    let shipped = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")).unwrap();
    let mut units = Vec::new();
    for file in shipped.map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|kind| kind == "service" || kind == "socket") {
            let unit = dir.join(file.file_name().unwrap());
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&unit, text.replace(SHIPPED, env!("CARGO_BIN_EXE_actiond"))).unwrap();
            units.push(unit);
        }
    }
    assert!(units.len() >= 2, "{units:?}");
    units
}

fn systemd_analyze(verb: &str, options: &[&str], units: &[PathBuf]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.arg(verb).args(options).args(units).env("SYSTEMD_COLORS", "0");
    command.output().expect("systemd-analyze must be there: it is in the Debian package systemd")
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let verified = systemd_analyze("verify", &[], &units(dir.path()));
    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("actiond")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
    assert!(verified.status.success(), "{said}");
}

#[test]
fn daemon_has_hardly_any_rights() {
    let dir = tempfile::tempdir().unwrap();
    let service = units(dir.path()).into_iter().find(|unit| unit.ends_with("actiond.service")).unwrap();
    let judged = systemd_analyze("security", &["--offline=true", "--no-pager"], &[service]);
    let said = String::from_utf8_lossy(&judged.stdout);
    let level = said.lines().find_map(|line| line.split_once("exposure level for actiond.service: "));
    let level = level.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&judged.stderr))).1;
    println!("exposure {level}");
    let number: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(number <= EXPOSURE_MAX, "{said}");
}
