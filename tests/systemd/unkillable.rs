//! A program in a unit that no signal ends, held with its resource: see `unkillable` of the crate `nasty`.

use std::path::PathBuf;
use std::process::Command;

use crate::host::{Host, package};

/// A file system of the host that can be frozen: mounted in there only, and gone with it. Thawed when dropped, before that.
struct Disk {
    mount: PathBuf,
}

fn run(program: &str, words: &[&str]) -> String {
    let output =
        Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Disk {
    fn new(host: &Host) -> Self {
        let leader = host.container(&["leader"]).trim().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).unwrap();
        let image = image.to_str().unwrap();
        run("mkfs.ext4", &["-q", "-F", image]);
        let device = run("losetup", &["--find", "--show", image]);
        let minor = device.trim_start_matches("/dev/loop");
        let script = format!(
            "mkdir /mnt/disk; mknod /dev/disk-of-test b 7 {minor}; mount -t ext4 /dev/disk-of-test /mnt/disk;
             chmod 777 /mnt/disk"
        );
        let entered = ["--target", &leader, "--mount", "--root", "--wd", "--", "sh", "-ec", &script];
        let mounted = Command::new("nsenter").args(entered).output().unwrap();
        // From here on it is there as long as it is mounted.
        run("losetup", &["--detach", &device]);
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self { mount: format!("/proc/{leader}/root/mnt/disk").into() }
    }

    fn path(&self) -> &str {
        self.mount.to_str().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Refused if it is not frozen.
        let _ = Command::new("fsfreeze").args(["--unfreeze", self.path()]).output();
    }
}

const STUCK: &str = "#!/bin/sh
echo $$ > /tmp/pid; mv /tmp/pid /tmp/started
until [ -e /tmp/frozen ]; do sleep 0.02; done
: > /mnt/disk/file
exec sleep 1000
";

const TABLES: &str = r#"
[[handler]]
action = "stuck"
use = "exec"
program = ["/usr/local/bin/stuck"]
recovery = "fail"
kill_grace = "300ms"

[[handler]]
action = "next"
use = "exec"
program = ["/bin/true"]
recovery = "rerun"
"#;

#[test]
fn what_cannot_be_killed_in_a_unit_is_held_with_its_resource_until_a_person_says_otherwise() {
    let host = Host::start();
    host.install(&package(false));
    host.write("/usr/local/bin/stuck", STUCK);
    host.write("/usr/local/lib/tables", TABLES);
    host.run(
        "chmod 755 /usr/local/bin/stuck; cat /usr/local/lib/tables >> /etc/actiond/actiond.toml
         systemctl reload actiond.service",
    );
    let disk = Disk::new(&host);
    let id = host.submit("stuck", 1);
    host.until("[ -s /tmp/started ]");
    run("fsfreeze", &["--freeze", disk.path()]);
    host.run("touch /tmp/frozen");
    host.until("grep -q ') D ' /proc/$(cat /tmp/started)/stat");

    host.run(&format!("actiond cancel {id} > /dev/null"));
    host.until(&format!("actiond show --json {id} | jq -e '.state == \"held\"'"));
    let held = host.ask(&format!("/v1/actions/{id}"));
    let pid = host.run("cat /tmp/started").trim().to_owned();
    let reason = held["reason"].as_str().unwrap_or_else(|| panic!("{held}"));
    assert!(reason.contains(&format!("process {pid} (stuck, state D)")), "{reason}");
    let next = host.submit("next", 1);
    assert_eq!(host.finished(host.submit("next", 2))["state"], "succeeded");
    assert_eq!(host.ask(&format!("/v1/actions/{next}"))["state"], "queued");

    drop(disk);
    host.until(&format!("[ ! -e /proc/{pid} ]"));
    assert_eq!(host.ask(&format!("/v1/actions/{next}"))["state"], "queued");
    host.run(&format!("actiond unlock {id}"));
    assert_eq!(host.finished(next)["state"], "succeeded");
    host.run(&format!("actiond resolve {id} --failed --message 'the disk was frozen'"));
    assert_eq!(host.finished(id)["state"], "failed");
    host.until("[ -z \"$(systemctl list-units --quiet --plain 'actiond-*.*.service')\" ]");
}
