//! What the binary with everything in it takes: on the disk, and in memory when the daemon has nothing to do.

use crate::host::{Host, package};

/// In bytes; of the stripped release binary, as it is installed.
const BINARY_MAX: u64 = 25_000_000;
/// Memory of the daemon's own process that is nobody else's and no file's, in KiB. How much of the binary is resident beside that
/// is the kernel's choice: it is shown, and differs by 10 MB from one host to the next.
const IDLE_KIB_MAX: u64 = 16 * 1_024;

const ALL_HANDLERS: &str = r#"
[[handler]]
action = "*"
use = "builtin"
"#;

#[test]
fn binary_with_all_handlers_is_small_and_so_is_its_idle_daemon() {
    let host = Host::start();
    host.install(&package(false));
    let number = |text: String| text.trim().parse::<u64>().expect("a number");
    let bytes = number(host.run("stat -c %s /usr/bin/actiond"));
    host.write("/var/tmp/table", ALL_HANDLERS);
    host.run(
        "cat /var/tmp/table >> /etc/actiond/actiond.toml; systemctl restart actiond.service; actiond status > /dev/null",
    );
    let pid = host.property("actiond.service", "MainPID");
    let of = |field: &str| number(host.run(&format!("awk '/^{field}:/ {{ print $2 }}' /proc/{pid}/status")));
    let (kib, resident) = (of("RssAnon"), of("VmRSS"));
    println!("the binary has {bytes} bytes; the idle daemon has {kib} KiB of its own, {resident} resident");
    assert!(bytes < BINARY_MAX, "{bytes}");
    assert!(kib < IDLE_KIB_MAX, "{kib}");
}
