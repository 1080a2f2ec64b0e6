//! Transient systemd units: where the keepers of a daemon that is a systemd service run, each outside the daemon's
//! cgroup and in one of its own.
//!
//! ```text
//!  Units::start ─▶ StartTransientUnit (job) ─▶ JobRemoved "done" ─▶ main pid, control group
//!  Units::end   ─▶ KillUnit SIGKILL, StopUnit (job) ─▶ inactive, and nothing alive in its cgroup
//! ```
//!
//! systemd (PID 1) owns every unit, so it outlives the daemon; name and control group find it again after any crash.
//! A unit is collected as soon as it is over, and then its name is free again.
//!
//! # Guarantees
//!
//! - A unit that [`Units::start`] returned is active with its main process past its `execve`.
//! - After [`Units::end`] nothing of the unit is alive: not what ignores SIGTERM, is stopped or frozen, or has begun a
//!   session of its own.
//! - A bus that restarts is waited for. What cannot be known then is an error, never a guess: after an error from
//!   [`Units::start`] other than `AlreadyExists` the unit may be there, and [`Units::end`] settles it. (A keeper
//!   whose standard input is at its end has no go and ends by itself.)
//!
//! # Rights
//!
//! Root may do all of it. Another user needs the polkit rule `systemd/50-actiond.rules`, which says what it gives away.
//!
//! Called by the backend of `runner` that runs programs in units; knows neither keepers nor programs.

pub(crate) mod bus;
mod plan;
mod settings;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use zbus::zvariant::OwnedObjectPath;

use self::bus::{Bus, Removed, in_words, is_bus_away};
pub use self::plan::{UnitPlan, unit_name};
pub use self::settings::UnitSettings;

/// So begin the names of all units of programs; `actiond.service` does not.
const PREFIX: &str = "actiond-";

/// Questions asked at once. Each is of up to seven messages, and the system's bus lets a connection wait for 128 answers
/// (`max_replies_per_connection` in dbus-daemon(1)); one more it refuses.
const QUESTIONS_MAX: usize = 16;

/// How long a bus may be away, or systemd from it, before that is an error.
const BUS_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is tried meanwhile, and looked whether what was killed is gone.
const PAUSE: Duration = Duration::from_millis(20);

/// After so long without a word about a job it is looked whether there still is one: a signal can be lost.
const JOB_SILENCE: Duration = Duration::from_secs(1);

/// SIGKILL works at once but on a process that waits for a device. systemd gives such a one up after two times
/// [`plan::STOP_TIMEOUT`].
const END_PATIENCE: Duration = Duration::from_secs(12);

/// systemd on this host, asked over D-Bus.
pub struct Units {
    /// None: the system's bus.
    address: Option<String>,
    /// Replaced when the bus has closed it.
    live: Mutex<Option<Arc<Bus>>>,
    questions: Semaphore,
}

/// A unit that is running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitStarted {
    /// In the pid namespace of systemd.
    pub main_pid: u32,
    /// Its path below the root of the cgroup hierarchy, beginning with a slash.
    pub control_group: String,
    /// Another one for each start of a unit, 32 hexadecimal digits (systemd.exec(5), `$INVOCATION_ID`).
    pub invocation_id: String,
}

/// What systemd says of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// `active`, `activating`, `deactivating`, `inactive`, `failed`, ...
    pub active: String,
    /// For a service `running`, `exited`, `stop-sigkill`, ...
    pub sub: String,
    /// `running`, `frozen`, ...; empty where systemd knows no freezer.
    pub freezer: String,
    /// None if there is none, or it has ended.
    pub main_pid: Option<u32>,
    /// Empty if the unit has none.
    pub control_group: String,
    pub invocation_id: String,
}

impl UnitState {
    /// Whether systemd has done with it.
    pub fn is_over(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }
}

impl fmt::Debug for Units {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Units").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Units {
    /// systemd, if this very process is the main process of one of its services; only then programs need units of
    /// their own. None also for a child of a service, and in a session.
    ///
    /// # Errors
    ///
    /// This process is in a service, but systemd does not answer.
    pub async fn of_this_service() -> io::Result<Option<Self>> {
        // sd_booted(3); and without a bus nothing needs to be asked about a process in no service.
        let booted = Path::new("/run/systemd/system").is_dir();
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if !booted || !cgroups.contains(".service") {
            return Ok(None);
        }
        let units = Self::at(None);
        let pid = std::process::id();
        let is_main =
            units.ask("this process", |bus| async move { bus.is_main_of_service(pid).await }).await?;
        Ok(is_main.then_some(units))
    }

    /// The systemd behind a bus, whoever asks; None is the system's bus. Connects with the first question, whose tokio
    /// runtime then carries the connection: it has to outlive all questions.
    pub fn at(address: Option<String>) -> Self {
        Self { address, live: Mutex::new(None), questions: Semaphore::new(QUESTIONS_MAX) }
    }

    /// Starts a unit. `stdin` becomes its standard input. systemd keeps it open as long as the unit is there: who is at the
    /// other end finds its end when the unit is over, not when it is closed in there.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`: a unit has this name. `PermissionDenied`: the polkit rule is not there. Nothing was started then;
    /// after any other error the unit may be there, or come yet.
    pub async fn start(&self, plan: &UnitPlan, stdin: OwnedFd) -> io::Result<UnitStarted> {
        let name = plan.name.as_str();
        let bus = self.bus().await?;
        // Heard before it is asked for: the job may be over before the answer is here.
        let removed = bus.removed_jobs();
        let question = self.questions.acquire().await;
        let job = bus.start(plan, &stdin).await.map_err(|error| in_words(name, &error))?;
        drop(question);
        // systemd has it now.
        drop(stdin);
        let result = self.finished(name, &job, removed).await?;
        if result.as_deref().is_none_or(|result| result == "done")
            && let Some(state) = self.find(name).await?
            && let Some(main_pid) = state.main_pid
        {
            let UnitState { control_group, invocation_id, .. } = state;
            return Ok(UnitStarted { main_pid, control_group, invocation_id });
        }
        let result = result.unwrap_or_else(|| "it is not running".to_owned());
        Err(io::Error::other(format!("systemd could not start {name} ({result}): see journalctl -u {name}")))
    }

    /// Kills all that is in a unit, and stops it. False if there is no such unit.
    ///
    /// # Errors
    ///
    /// `TimedOut`: something in it could not be killed. This may be asked again.
    pub async fn end(&self, name: &str) -> io::Result<bool> {
        // Root may end anything.
        if !name.starts_with(PREFIX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} is no unit of a program"),
            ));
        }
        let Some(first) = self.find(name).await? else { return Ok(false) };
        let ended = timeout(END_PATIENCE, async {
            let removed = self.bus().await?.removed_jobs();
            let killed = |bus: Arc<Bus>| async move {
                bus.kill(name).await?;
                bus.stop(name).await
            };
            // None: it was over before it was stopped.
            if let Some(job) = self.ask(name, killed).await? {
                self.finished(name, &job, removed).await?;
            }
            while self.find(name).await?.is_some_and(|state| !state.is_over()) {
                sleep(PAUSE).await;
            }
            // systemd gives up a unit whose processes do not die.
            while is_populated(&first.control_group) {
                sleep(PAUSE).await;
            }
            Ok(true)
        });
        ended.await.unwrap_or_else(|_| {
            let told = format!("something in {name} does not die: see its cgroup {}", first.control_group);
            Err(io::Error::new(io::ErrorKind::TimedOut, told))
        })
    }

    /// What systemd knows of a unit; None if it knows none of this name.
    pub async fn find(&self, name: &str) -> io::Result<Option<UnitState>> {
        self.ask(name, |bus| async move { bus.state(name).await }).await
    }

    /// The names of all units of programs that systemd knows, whichever daemon started them.
    pub async fn list(&self) -> io::Result<Vec<String>> {
        self.ask("units", |bus| async move { bus.list(PREFIX).await }).await
    }

    /// Waits until a job is over; its result, or None if nobody said it.
    async fn finished(
        &self,
        name: &str,
        job: &OwnedObjectPath,
        mut removed: Receiver<Removed>,
    ) -> io::Result<Option<String>> {
        loop {
            match timeout(JOB_SILENCE, removed.recv()).await {
                Ok(Ok(said)) if said.job == *job => return Ok(Some(said.result)),
                Ok(Ok(_)) => continue,
                Ok(Err(RecvError::Closed)) => removed = self.bus().await?.removed_jobs(),
                Ok(Err(RecvError::Lagged(_))) | Err(_) => {}
            }
            if !self.ask(name, |bus| async move { bus.has_job(name).await }).await? {
                return Ok(None);
            }
        }
    }

    /// Asks what may be asked twice, and asks it again if the bus goes away meanwhile.
    async fn ask<T, Answer>(&self, name: &str, what: impl Fn(Arc<Bus>) -> Answer) -> io::Result<T>
    where
        Answer: Future<Output = zbus::Result<T>>,
    {
        let since = Instant::now();
        loop {
            let bus = self.bus().await?;
            let question = self.questions.acquire().await;
            let answer = what(bus).await;
            drop(question);
            match answer {
                Err(error) if is_bus_away(&error) && since.elapsed() < BUS_PATIENCE => sleep(PAUSE).await,
                answer => return answer.map_err(|error| in_words(name, &error)),
            }
        }
    }

    /// The connection; a new one, and that as soon as systemd is on the bus, if there was none or it is closed.
    async fn bus(&self) -> io::Result<Arc<Bus>> {
        // Before its turn: those who wait behind each other for a bus that stays away are not patient one by one.
        let since = Instant::now();
        let mut live = self.live.lock().await;
        if let Some(bus) = live.as_ref().filter(|bus| !bus.is_closed()) {
            return Ok(Arc::clone(bus));
        }
        loop {
            match Bus::connect(self.address.as_deref()).await {
                Ok(bus) => return Ok(Arc::clone(live.insert(Arc::new(bus)))),
                Err(error) if is_bus_away(&error) && since.elapsed() < BUS_PATIENCE => sleep(PAUSE).await,
                Err(error) => return Err(in_words("the bus", &error)),
            }
        }
    }
}

/// Whether a process is in this cgroup or below; not if there is no such cgroup (any more).
fn is_populated(control_group: &str) -> bool {
    let events = format!("/sys/fs/cgroup{control_group}/cgroup.events");
    std::fs::read_to_string(events).is_ok_and(|events| events.contains("populated 1"))
}
