//! Puts the parts together and runs them until a signal says stop.
//!
//! ```text
//!  log ─▶ store's directory ─▶ handlers ─▶ last words ─▶ engine opens the store ─▶ leftover programs end
//!      ─▶ doors open ─▶ recovery decided, engine runs ─▶ READY ─▶ serve (running) ─▶ stop (drain)
//! ```
//!
//! # Guarantees
//!
//! - Nothing is claimed before every program of an earlier run has ended or is known to be alive.
//! - Doors open only with the store locked, so that two daemons never share a socket; what comes in before
//!   READY waits in the backlog.
//! - When the store fails the daemon leaves at once: going on could only make acknowledgements untrue.
//!
//! Called by `cli serve`.

mod doors;
mod drain;
mod exit;
mod host;
mod last_words;
mod lines;
mod logging;
mod running;
mod service;
mod settings;
mod signals;
mod state_dir;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use listenfd::ListenFd;
use tokio::runtime::{Builder, Runtime};

use crate::action::ActionId;
use crate::clock;
use crate::config::Config;
use crate::engine::{self, Started};
use crate::handlers::exec::Exec;
use crate::handlers::registry::Registry;
use crate::runner::adoption::Survey;
use crate::runner::backend::{Backend, Services, Sessions};
use crate::runner::logs::Logs;
use crate::runner::{adoption, leftovers, open_files};

use self::host::ThisHost;
use self::last_words::LastWords;
use self::running::Running;
use self::signals::Signals;

pub use self::settings::handler_problems;

/// Runs the daemon until it is told to stop. Returns the exit code (sysexits(3)): 0 stopped, 65 the store is
/// damaged or of a later release, 69 a socket or port cannot be had, 74 the store failed, 75 another daemon
/// has the store, 78 the configuration, or the store directory's owner or mode.
///
/// `config_file` is what a reload reads again.
#[must_use]
pub fn run(config: Config, config_file: Option<PathBuf>) -> u8 {
    // Before any thread: taking the passed sockets changes the environment.
    let passed = ListenFd::from_env();
    let _logging = logging::init(&config.log);
    match start(config, config_file, passed) {
        Ok((Runtimes { faces, attempts }, running)) => {
            let code = faces.block_on(running.serve());
            // What still blocks on the disk must not keep a daemon that has closed its store.
            attempts.shutdown_timeout(std::time::Duration::from_millis(200));
            faces.shutdown_background();
            code
        }
        Err(Stopped(code)) => code,
    }
}

/// Who carries what: everybody who talks to the daemon is served by its main thread, beside which the engine has
/// one of its own; a request is then handed over once to the engine and once back, and no worker is woken to look
/// for work. Attempts have threads apart, so that none can hold up an answer.
struct Runtimes {
    faces: Runtime,
    attempts: Runtime,
}

impl Runtimes {
    fn start() -> std::io::Result<Self> {
        // One for two processors, and more would only wake each other: an attempt mostly waits for its program, which needs
        // a processor itself, as do the engine and the faces.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        Ok(Self {
            faces: Builder::new_current_thread().enable_all().build()?,
            attempts: Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
        })
    }
}

/// The start ended, with this exit code; why is in the log.
struct Stopped(u8);

impl Stopped {
    fn because(code: u8, what: &'static str, error: &dyn std::error::Error) -> Self {
        tracing::error!(error = exit::chain(error), "{what}");
        Self(code)
    }

    fn store(error: &crate::store::StoreError) -> Self {
        Self::because(exit::of_store(error), "the store cannot be opened", error)
    }
}

fn start(
    config: Config,
    config_file: Option<PathBuf>,
    passed: ListenFd,
) -> Result<(Runtimes, Running), Stopped> {
    // Not an error either way, but who wonders about a missing handler looks here first.
    let file = config.file.display();
    if config.file.exists() {
        tracing::info!(%file, "configuration read");
    } else {
        tracing::info!(%file, "no configuration file there; the built-in defaults hold");
    }
    match open_files::raise() {
        Ok(most) if most < settings::open_files_needed(&config) => tracing::warn!(
            most,
            needed = settings::open_files_needed(&config),
            "too few open files are allowed for limits.connections_max; raise LimitNOFILE= or lower it"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
    // A signal during a long start waits until there is something to stop.
    let signals = Signals::listen()
        .map_err(|error| Stopped::because(exit::STORE, "signals cannot be listened to", &error))?;
    state_dir::prepare(&config.store.dir).map_err(|error| {
        let code = match error {
            state_dir::StateDirError::Create { .. } => exit::STORE,
            _ => exit::CONFIG,
        };
        Stopped::because(code, "the store's directory cannot be used", &error)
    })?;
    let io = |error: &std::io::Error| Stopped::because(exit::STORE, "the start failed", error);
    let runtimes = Runtimes::start().map_err(|error| io(&error))?;
    let backend = runtimes.attempts.block_on(backend(settings::written_by_keepers(&config)));
    let around = settings::surroundings(&config, Arc::clone(&backend));
    let registry = Registry::build(&settings::routes(&config), &around).map_err(|problems| {
        for problem in problems {
            tracing::error!(error = problem, "the configuration is wrong");
        }
        Stopped(exit::CONFIG)
    })?;

    let logs = Logs::new(settings::logs_dir(&config), config.limits.log_bytes_max);
    let (words, death) = LastWords::open(&config.store.dir).map_err(|error| io(&error))?;
    if let Some(death) = death {
        tracing::warn!(action_id = death.id.0, attempt = death.attempt, "an attempt took the daemon down");
    }
    let Started { engine, store_id, boot_id, claimed, begin } = {
        let _in_runtime = runtimes.attempts.enter();
        engine::start(engine::Start {
            store: settings::store(&config),
            settings: settings::engine(&config),
            registry: Arc::new(registry),
            adopter: Arc::new(Exec::only_adopting(&around)),
            logs: logs.clone(),
            runtime: runtimes.attempts.handle().clone(),
            faces: runtimes.faces.handle().clone(),
            clock: clock::now,
            own_uid: rustix::process::geteuid().as_raw(),
            host: Arc::new(ThisHost::rebooted_by(config.reboot.command.clone())),
            death,
        })
        .map_err(|error| Stopped::store(&error))?
    };
    let survey = adoption::survey(&around.attempts_dir, &claimed, &boot_id);
    let left = runtimes.attempts.block_on(end_left(&*backend, &survey));
    let mut survivors = leftovers::end_all(&store_id, &survey, config.shutdown.kill_grace_ms);
    survivors.extend(left);
    for (id, what) in &survivors {
        tracing::error!(action_id = id.0, what, "something of an interrupted attempt cannot be ended");
    }
    let claimed: HashSet<ActionId> = claimed.iter().map(|claimed| claimed.id).collect();
    state_dir::remove_stale_attempts(&around.attempts_dir, &claimed);

    let doors = doors::open(&config, passed)
        .map_err(|error| Stopped::because(exit::UNAVAILABLE, "the daemon cannot be reached", &error))?;
    // Beside the socket, whose directory is there by now.
    let written = settings::written_by_keepers(&config);
    let keepers = state_dir::prepare_for_keepers(&written, &around.keepers_dir, &survey.adoptable);
    keepers.map_err(|error| Stopped::because(exit::UNAVAILABLE, "keepers cannot be reached", &error))?;
    words.arm().map_err(|error| io(&error))?;
    let (thread, fatal) = {
        let _in_runtime = runtimes.attempts.enter();
        begin.run(&survey, &survivors).map_err(|error| Stopped::store(&error))?
    };
    // Recovery's decision is durable: those words have been heard.
    if let Err(error) = words.clear() {
        tracing::warn!(%error, "cannot clear the last words of the previous run");
    }
    // The thread's end is told through `fatal`.
    drop(thread);
    let running = Running { config, config_file, backend, engine, logs, doors, fatal, signals };
    Ok((runtimes, running))
}

/// Ends what the backend knows of keepers that are gone; gives what could not be ended.
async fn end_left(backend: &dyn Backend, survey: &Survey) -> HashMap<ActionId, String> {
    let mut left = HashMap::new();
    for (id, name) in &survey.gone {
        if let Err(error) = backend.end(name).await {
            left.insert(*id, error.to_string());
        }
    }
    left
}

/// Where keepers live. As the main process of a systemd service this one is ended together with its whole cgroup when the
/// service is restarted, so there they are in units of their own.
async fn backend(written: Vec<PathBuf>) -> Arc<dyn Backend> {
    match Services::of_this_service(written).await {
        Ok(Some(services)) => {
            tracing::info!("programs run in transient units of systemd");
            Arc::new(services)
        }
        Ok(None) => Arc::new(sessions()),
        Err(error) => {
            tracing::error!(%error, "systemd cannot be asked for units: programs are ended when this service is");
            Arc::new(sessions())
        }
    }
}

fn sessions() -> Sessions {
    // Never resolved to a path: in a child that has not executed anything yet this is the daemon's own binary,
    // also after an upgrade has replaced or removed the file.
    Sessions::new(PathBuf::from("/proc/self/exe"))
}
