//! The daemon between READY and the signal to stop: serves both doors, reloads, tells systemd how it stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::api::{self, Api};
use crate::clock;
use crate::config::Config;
use crate::engine::Engine;
use crate::handlers::registry::Registry;
use crate::runner::backend::Backend;
use crate::runner::logs::Logs;
use crate::runner::orphans;
use crate::store::StoreError;

use super::doors::Doors;
use super::signals::{Asked, Signals};
use super::{drain, exit, service, settings};

const STATUS_EVERY: Duration = Duration::from_secs(10);
/// How long what a running program left to itself may stay a zombie.
const REAP_EVERY: Duration = Duration::from_secs(1);

/// A daemon whose engine runs.
pub(super) struct Running {
    pub config: Config,
    pub config_file: Option<PathBuf>,
    pub backend: Arc<dyn Backend>,
    pub engine: Engine,
    pub logs: Logs,
    pub doors: Doors,
    /// The store's error, if the engine's thread ends by one.
    pub fatal: oneshot::Receiver<StoreError>,
    pub signals: Signals,
}

/// The serving tasks, and how to end that of each door.
pub(super) struct Serving {
    pub tasks: JoinSet<()>,
    pub socket: watch::Sender<bool>,
    pub status: watch::Sender<bool>,
    /// The socket's file, if this daemon made it and systemd did not.
    pub made: Option<PathBuf>,
}

impl Running {
    /// Serves until a signal says stop or the store fails; returns the exit code.
    pub(super) async fn serve(mut self) -> u8 {
        let (api_settings, settings) = watch::channel(Arc::new(settings::api(&self.config)));
        let (address, status_address) = watch::channel(None);
        let api = Arc::new(Api {
            engine: self.engine.clone(),
            logs: self.logs.clone(),
            settings,
            status_address,
            clock: clock::now,
        });
        let serving = match open(self.doors, &api, &address) {
            Ok(serving) => serving,
            Err(error) => {
                tracing::error!(%error, "the daemon cannot be reached");
                return exit::UNAVAILABLE;
            }
        };
        let watchdog = tokio::spawn(service::watchdog(self.engine.clone()));
        let mut said = service::line(&self.engine.status());
        service::ready(&said);
        tracing::info!(pid = std::process::id(), "ready");
        let mut tick = tokio::time::interval(STATUS_EVERY);
        let mut reap = tokio::time::interval(REAP_EVERY);
        loop {
            tokio::select! {
                asked = self.signals.next() => match asked {
                    Asked::Stop => break,
                    Asked::Reload => {
                        service::reloading();
                        let reload = Reload { file: &self.config_file, backend: &self.backend, engine: &self.engine };
                        if let Some(next) = reload.take_up(&self.config).await {
                            api_settings.send_replace(Arc::new(settings::api(&next)));
                            self.config = next;
                        }
                        service::ready(&said);
                    }
                },
                _ = reap.tick() => orphans::reap(),
                failed = &mut self.fatal => return store_failed(failed),
                _ = tick.tick() => {
                    let line = service::line(&self.engine.status());
                    if line != said {
                        service::status(&line);
                        said = line;
                    }
                }
            }
        }
        let code =
            drain::stop(&self.engine, &mut self.signals, &mut self.fatal, serving, &self.config.shutdown)
                .await;
        watchdog.abort();
        code
    }
}

/// Starts serving both doors, and says where the status endpoint listens.
fn open(doors: Doors, api: &Arc<Api>, address: &watch::Sender<Option<String>>) -> std::io::Result<Serving> {
    let (socket_stop, socket_stopped) = watch::channel(false);
    let (status_stop, status_stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    if let Some(status) = doors.status {
        let status = tokio::net::TcpListener::from_std(status)?;
        let bound = status.local_addr()?;
        if !bound.ip().is_loopback() {
            tracing::warn!(address = %bound, "the status endpoint can be read from outside this host");
        }
        address.send_replace(Some(bound.to_string()));
        tracing::info!(address = %bound, "status endpoint listens");
        tasks.spawn(api::serve_status(status, Arc::clone(api), status_stopped));
    }
    let socket = tokio::net::UnixListener::from_std(doors.socket)?;
    let path =
        doors.made.as_ref().map_or_else(|| "passed by systemd".to_owned(), |path| path.display().to_string());
    tracing::info!(path, "socket listens");
    tasks.spawn(api::serve_socket(socket, Arc::clone(api), socket_stopped));
    Ok(Serving { tasks, socket: socket_stop, status: status_stop, made: doors.made })
}

/// The exit code after the engine's thread ended by itself.
pub(super) fn store_failed(failed: Result<StoreError, oneshot::error::RecvError>) -> u8 {
    let Ok(error) = failed else {
        tracing::error!("the engine's thread ended without a word; leaving, to recover from disk");
        return exit::STORE;
    };
    tracing::error!(error = exit::chain(&error), "the store failed; leaving, to recover from disk");
    exit::of_store(&error)
}

/// One reload: all or nothing.
struct Reload<'a> {
    file: &'a Option<PathBuf>,
    backend: &'a Arc<dyn Backend>,
    engine: &'a Engine,
}

impl Reload<'_> {
    /// The configuration now in force; none if the file is bad, and then nothing has changed.
    async fn take_up(&self, running: &Config) -> Option<Config> {
        let new = match Config::load(self.file.as_deref(), settings::handler_problems) {
            Ok(new) => new,
            Err(error) => return refused(&error.0),
        };
        let changed = settings::needing_restart(running, &new);
        let next = settings::reloadable(running, new);
        let around = settings::surroundings(&next, Arc::clone(self.backend));
        let registry = match Registry::build(&settings::routes(&next), &around) {
            Ok(registry) => registry,
            Err(problems) => return refused(&problems),
        };
        self.engine.reload(settings::engine(&next), Arc::new(registry)).await;
        if !changed.is_empty() {
            tracing::warn!(keys = changed.join(", "), "changed keys that only a restart takes up");
        }
        tracing::info!("configuration reloaded");
        Some(next)
    }
}

fn refused(problems: &[String]) -> Option<Config> {
    for problem in problems {
        tracing::error!(error = problem, "the configuration is wrong; nothing was changed");
    }
    None
}
