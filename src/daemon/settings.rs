//! What the configuration says to each part, in the part's own terms.
//!
//! The only place that knows both sides, so that neither the configuration nor the parts know each other.
//! Pure. Called at the start and at each reload.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use crate::api;
use crate::config::Config;
use crate::engine;
use crate::handlers::builtin;
use crate::handlers::registry::{Registry, RouteSettings, Surroundings};
use crate::handlers::targets::Targets;
use crate::runner::backend::{Backend, Sessions};
use crate::store;

/// Where the logs of actions are.
pub(super) fn logs_dir(config: &Config) -> PathBuf {
    config.store.dir.join("logs")
}

pub(super) fn store(config: &Config) -> store::Options {
    store::Options {
        dir: config.store.dir.clone(),
        segment_bytes: config.store.segment_bytes,
        memory_bytes_max: config.store.memory_bytes_max,
        cache_bytes: config.store.cache_bytes,
        snapshot_after_bytes: config.store.snapshot_after_bytes,
        disk_reserve_bytes: config.store.disk_reserve_bytes,
        retention_age_ms: config.retention.age_ms,
        retention_count: config.retention.count,
        key_age_ms: config.retention.idempotency_keys_ms,
    }
}

pub(super) fn engine(config: &Config) -> engine::Settings {
    let queue = |queue: &crate::config::Queue| engine::QueueSettings {
        name: queue.name.clone(),
        concurrency: narrow(queue.concurrency),
        length_max: queue.length_max,
    };
    engine::Settings {
        queues: config.queues.iter().map(queue).collect(),
        running_max: narrow(config.limits.running_max),
        waiting_max: config.limits.waiting_max,
        result_bytes_max: size(config.limits.result_bytes_max),
        reboot_wait_ms: config.reboot.wait_ms,
        operator_uids: config.access.operator_uids.clone(),
        operator_gids: config.access.operator_gids.clone(),
        config_file: match config.file.to_string_lossy() {
            none if none.is_empty() => "the configuration".to_owned(),
            file => file.into_owned(),
        },
    }
}

pub(super) fn api(config: &Config) -> api::Settings {
    api::Settings {
        body_bytes_max: size(config.limits.body_bytes_max),
        metadata_bytes_max: size(config.limits.metadata_bytes_max),
        metadata_depth_max: size(config.limits.metadata_depth_max),
        connections_max: size(config.limits.connections_max),
        header_timeout_ms: config.limits.header_timeout_ms,
        write_timeout_ms: config.limits.write_timeout_ms,
        wait_max_ms: config.limits.wait_max_ms,
        details: config.status.details,
        hosts: config.status.hosts.clone(),
    }
}

pub(super) fn routes(config: &Config) -> Vec<RouteSettings> {
    let route = |handler: &crate::config::Handler| RouteSettings {
        action: handler.action.clone(),
        resource_type: handler.resource_type.clone(),
        handler: handler.handler.clone(),
        queue: handler.queue.clone(),
        recovery: handler.recovery,
        timeout_ms: handler.timeout_ms,
        retry: handler.retry,
        exclusive: handler.exclusive,
        own: handler.own.clone(),
    };
    config.handlers.iter().map(route).collect()
}

/// Descriptors that the configured limits can take together: two doors, for each attempt its pipes, log and process,
/// and the store with room to spare.
pub(super) fn open_files_needed(config: &Config) -> u64 {
    2 * config.limits.connections_max + 8 * config.limits.running_max + 256
}

/// What is wrong with the handlers' own settings, each with the line of its table.
pub fn handler_problems(config: &Config) -> Vec<String> {
    // Nothing is started here.
    let around = surroundings(config, Arc::new(Sessions::new(PathBuf::new())));
    let of_one = |(handler, route): (&crate::config::Handler, RouteSettings)| {
        // One by one: what two tables have to do with each other is judged with the file.
        let problems = Registry::build(&[route], &around).err().unwrap_or_default();
        problems.into_iter().map(|problem| format!("line {}: {problem}", handler.line.0)).collect::<Vec<_>>()
    };
    let of_handlers = config.handlers.iter().zip(routes(config)).flat_map(of_one);
    targets(config).err().unwrap_or_default().into_iter().chain(of_handlers).collect()
}

/// The directories that keepers write.
pub(super) fn written_by_keepers(config: &Config) -> Vec<PathBuf> {
    vec![attempts_dir(config), logs_dir(config), keepers_dir(config)]
}

fn attempts_dir(config: &Config) -> PathBuf {
    config.store.dir.join("attempts")
}

fn keepers_dir(config: &Config) -> PathBuf {
    let mut dir = config.socket.path.clone().into_os_string();
    dir.push(".keepers");
    dir.into()
}

/// What handlers need. The keepers' sockets lie beside the daemon's own, as programs of other users have to reach them.
pub(super) fn surroundings(config: &Config, backend: Arc<dyn Backend>) -> Surroundings {
    Surroundings {
        attempts_dir: attempts_dir(config),
        keepers_dir: keepers_dir(config),
        backend,
        kill_grace_ms: config.shutdown.kill_grace_ms,
        result_bytes_max: size(config.limits.result_bytes_max),
        socket: config.socket.path.clone(),
        binary: BINARY.clone(),
        targets: targets(config).unwrap_or_default(),
        secrets_dir: config.store.dir.join("secrets"),
    }
}

/// This binary by the path that it was started from, which leads to its successor after an upgrade.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| std::env::current_exe().unwrap_or_default());

fn targets(config: &Config) -> Result<Targets, Vec<String>> {
    Targets::read(&config.targets, builtin::judge_target)
}

/// A count whose bounds in the configuration lie far below.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Keys on which the two differ although only a restart takes them up.
pub(super) fn needing_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let checks = [
        ("[store]", old.store != new.store),
        ("[retention]", old.retention != new.retention),
        ("[socket]", old.socket != new.socket),
        ("[status] listen", old.status.listen != new.status.listen),
        ("[limits] log_bytes_max", old.limits.log_bytes_max != new.limits.log_bytes_max),
        ("[log]", old.log != new.log),
        ("[reboot] command", old.reboot.command != new.reboot.command),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// The new configuration as far as a reload can take it up: the keys above stay as they run.
pub(super) fn reloadable(old: &Config, new: Config) -> Config {
    let mut next = Config {
        store: old.store.clone(),
        retention: old.retention.clone(),
        socket: old.socket.clone(),
        log: old.log.clone(),
        ..new
    };
    next.status.listen.clone_from(&old.status.listen);
    next.limits.log_bytes_max = old.limits.log_bytes_max;
    next.reboot.command.clone_from(&old.reboot.command);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reload_keeps_what_only_a_restart_takes_up_and_names_it() {
        let old = Config::default();
        let mut new = Config::default();
        new.store.dir = PathBuf::from("/elsewhere");
        new.status.listen = String::new();
        new.status.details = true;
        assert_eq!(needing_restart(&old, &new), ["[store]", "[status] listen"]);
        let next = reloadable(&old, new);
        assert_eq!(next.store, old.store);
        assert_eq!(next.status.listen, old.status.listen);
        assert!(next.status.details);
        assert!(needing_restart(&old, &next).is_empty());
    }
}
