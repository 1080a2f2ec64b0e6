//! The shipped units are taken by systemd as they stand, but for the place of the binary.

use std::path::Path;
use std::process::Command;

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let shipped = "/usr/local/bin/actiond";
    let service = std::fs::read_to_string(units.join("actiond.service")).unwrap();
    assert!(service.contains(&format!("ExecStart={shipped} serve\n")));
    let service = service.replace(shipped, env!("CARGO_BIN_EXE_actiond"));
    std::fs::write(dir.path().join("actiond.service"), service).unwrap();
    std::fs::copy(units.join("actiond.socket"), dir.path().join("actiond.socket")).unwrap();
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .args(["actiond.service", "actiond.socket"].map(|unit| dir.path().join(unit)))
        .output()
        .expect("systemd-analyze must be there: it is in the Debian package systemd");
    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("actiond")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
    assert!(verified.status.success(), "{said}");
}
