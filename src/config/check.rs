//! What one key alone cannot say: relations between keys, names, paths and addresses.
//! Called after a file was read; adds to the same list of problems.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use super::Config;

/// `sun_path` has 108 bytes, the closing NUL included (`unix(7)`).
const SOCKET_PATH_BYTES_MAX: usize = 107;
const NAME_BYTES_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 128;
/// SIGTERM to exit, with room to close the store within the promised 30 s.
const SHUTDOWN_MS_MAX: u64 = 27_000;

pub(super) fn check(config: &Config, problems: &mut Vec<String>) {
    store(config, problems);
    doors(config, problems);
    queues(config, problems);
    handlers(config, problems);
    reboot(config, problems);
    let ending_ms = config.shutdown.grace_ms + config.shutdown.kill_grace_ms;
    if ending_ms > SHUTDOWN_MS_MAX {
        problems.push(format!(
            "[shutdown] grace and kill_grace are {} s together; at most {} s, so that the daemon ends within 30 s",
            ending_ms.div_ceil(1_000),
            SHUTDOWN_MS_MAX / 1_000
        ));
    }
}

fn reboot(config: &Config, problems: &mut Vec<String>) {
    let command = &config.reboot.command;
    if let Some(program) = command.first() {
        absolute("[reboot] command", Path::new(program), problems);
    }
    if command.iter().any(|word| word.contains('\0')) {
        problems.push("[reboot] command: holds a NUL character".to_owned());
    }
}

fn store(config: &Config, problems: &mut Vec<String>) {
    absolute("[store] dir", &config.store.dir, problems);
    if !config.store.segment_bytes.is_multiple_of(4_096) {
        problems.push("[store] segment_bytes: must be a multiple of 4KiB".to_owned());
    }
    if config.limits.metadata_bytes_max > config.limits.body_bytes_max {
        problems.push("[limits] metadata_bytes_max: is larger than body_bytes_max".to_owned());
    }
    if config.limits.body_bytes_max > config.store.memory_bytes_max / 4 {
        problems
            .push("[limits] body_bytes_max: is larger than a quarter of [store] memory_bytes_max".to_owned());
    }
}

fn doors(config: &Config, problems: &mut Vec<String>) {
    absolute("[socket] path", &config.socket.path, problems);
    let bytes = config.socket.path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        problems.push(format!(
            "[socket] path: {} has {bytes} bytes; the kernel takes at most {SOCKET_PATH_BYTES_MAX}",
            config.socket.path.display()
        ));
    }
    if config.socket.mode & 0o600 != 0o600 {
        problems.push("[socket] mode: its owner must be able to read and write (0600 at least)".to_owned());
    }
    let listen = &config.status.listen;
    if !listen.is_empty() && listen.parse::<SocketAddr>().is_err() {
        problems.push(format!(
            "[status] listen: {listen:?} is not an address and port such as \"127.0.0.1:7466\" or \"[::1]:7466\""
        ));
    }
    if config.status.hosts.iter().any(String::is_empty) {
        problems.push("[status] hosts: a host name is empty".to_owned());
    }
}

fn absolute(key: &str, path: &Path, problems: &mut Vec<String>) {
    if !path.is_absolute() {
        problems.push(format!("{key}: {:?} is not an absolute path", path.display().to_string()));
    }
}

fn queues(config: &Config, problems: &mut Vec<String>) {
    if config.queues.is_empty() {
        problems.push("there is no [[queue]]".to_owned());
    }
    let mut seen = HashSet::new();
    for queue in &config.queues {
        if !seen.insert(&queue.name) {
            problems.push(format!("[[queue]] name: {:?} is used twice", queue.name));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if queue.name.len() > NAME_BYTES_MAX || !queue.name.chars().all(fits) {
            problems.push(format!(
                "[[queue]] name: {:?} is not 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 _ - .",
                queue.name
            ));
        }
    }
}

fn handlers(config: &Config, problems: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for handler in &config.handlers {
        let at = format!("line {}: [[handler]] for action {:?}", handler.line.0, handler.action);
        if !config.queues.iter().any(|queue| queue.name == handler.queue) {
            problems.push(format!("{at}: there is no [[queue]] named {:?}", handler.queue));
        }
        if !seen.insert((&handler.action, &handler.resource_type)) {
            let of = handler.resource_type.as_ref().map(|kind| format!(" on {kind}")).unwrap_or_default();
            problems.push(format!("{at}: another [[handler]] is for the same action{of}"));
        }
        let words = [Some(&handler.action), handler.resource_type.as_ref(), Some(&handler.handler)];
        for word in words.into_iter().flatten() {
            if word.len() > WORD_BYTES_MAX || word.chars().any(char::is_control) {
                problems.push(format!(
                    "{at}: a name is longer than {WORD_BYTES_MAX} bytes or has control characters"
                ));
            }
        }
    }
}
