//! The connection to systemd: its D-Bus interface as far as units need it, and what its refusals mean.
//!
//! Interface: org.freedesktop.systemd1(5). Methods that find nothing answer with None rather than with an error.
//! Called by [`super::Units`], which sees to it that the connection is a living one, and by the built-in handlers of units.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use zbus::connection::Builder;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, fdo, proxy};

use super::UnitState;
use super::plan::UnitPlan;

/// systemd answers at once; a polkit that has to be started first takes a moment.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Ends of jobs that may wait for those who wait for them; whoever is later looks for himself.
const REMOVED_MAX: usize = 256;

const SIGKILL: i32 = 9;

pub(crate) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(crate) const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// A unit in the answer of `ListUnitsByPatterns`: name, description, load, active and sub state, who follows, path, and
/// the job's number, type and path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

type Properties<'a> = Vec<(&'a str, Value<'a>)>;

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &Properties<'_>,
        others: &[(&str, Properties<'_>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn freeze_unit(&self, name: &str) -> zbus::Result<()>;
    fn thaw_unit(&self, name: &str) -> zbus::Result<()>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn version(&self) -> zbus::Result<String>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Listed>>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: &str, result: &str) -> zbus::Result<()>;
}

/// The end of a job.
#[derive(Clone)]
pub(crate) struct Removed {
    pub(crate) job: OwnedObjectPath,
    /// `done`, `failed`, `canceled`, `timeout`, `dependency`, `skipped`.
    pub(crate) result: String,
}

/// One connection, subscribed to the ends of jobs.
pub(crate) struct Bus {
    connection: Connection,
    manager: ManagerProxy<'static>,
    removed: broadcast::Receiver<Removed>,
    /// A signal that nobody takes would block all that comes after it, so somebody always does.
    _listener: AbortOnDropHandle<()>,
}

impl Bus {
    pub(crate) async fn connect(address: Option<&str>) -> zbus::Result<Self> {
        // zbus has no limit of its own for the first words with a bus.
        timeout(ANSWER_TIMEOUT, Self::connect_at_last(address)).await.unwrap_or_else(|_| {
            let told = io::Error::new(io::ErrorKind::TimedOut, "the bus does not answer");
            Err(zbus::Error::InputOutput(Arc::new(told)))
        })
    }

    async fn connect_at_last(address: Option<&str>) -> zbus::Result<Self> {
        let builder = match address {
            Some(address) => Builder::address(address)?,
            None => Builder::system()?,
        };
        let connection = builder.method_timeout(ANSWER_TIMEOUT).build().await?;
        let manager = ManagerProxy::new(&connection).await?;
        // What has a subscription takes it back when it is dropped, and needs the runtime for that: so only the task has one.
        let mut signals = ManagerProxy::new(&connection).await?.receive_job_removed().await?;
        // Only now it emits them.
        manager.subscribe().await?;
        let (to, removed) = broadcast::channel(REMOVED_MAX);
        let alive = connection.clone();
        let listener = tokio::spawn(async move {
            let listen = async {
                while let Some(signal) = signals.next().await {
                    if let Ok(args) = signal.args() {
                        let (job, result) = (args.job.clone().into(), args.result.to_owned());
                        let _ = to.send(Removed { job, result });
                    }
                }
            };
            // Then `to` is dropped, which tells all who wait.
            tokio::select! {
                () = listen => {}
                () = alive.closed() => {}
            }
        });
        Ok(Self { connection, manager, removed, _listener: AbortOnDropHandle::new(listener) })
    }

    /// For what else answers on this bus.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// The ends of jobs from now on.
    pub(crate) fn removed_jobs(&self) -> broadcast::Receiver<Removed> {
        self.removed.resubscribe()
    }

    pub(super) async fn is_main_of_service(&self, pid: u32) -> zbus::Result<bool> {
        let unit = match self.manager.get_unit_by_pid(pid).await {
            Err(error) if is_named(&error, "NoUnitForPID") => return Ok(false),
            unit => unit?,
        };
        let id: String = self.get(&unit, UNIT, "Id").await?;
        Ok(id.ends_with(".service") && self.get::<u32>(&unit, SERVICE, "MainPID").await? == pid)
    }

    /// The job that starts it.
    pub(super) async fn start(&self, plan: &UnitPlan, stdin: &OwnedFd) -> zbus::Result<OwnedObjectPath> {
        self.manager.start_transient_unit(&plan.name, "fail", &plan.properties(stdin.as_fd()), &[]).await
    }

    /// SIGKILL to all that is in its cgroup and below.
    pub(super) async fn kill(&self, name: &str) -> zbus::Result<()> {
        found(self.manager.kill_unit(name, "all", SIGKILL).await).map(|_| ())
    }

    /// The job that stops it.
    pub(super) async fn stop(&self, name: &str) -> zbus::Result<Option<OwnedObjectPath>> {
        found(self.manager.stop_unit(name, "replace").await)
    }

    /// Reads its file, if that is not done; a unit of which there is none is found too, as `not-found`.
    pub(crate) async fn load(&self, name: &str) -> zbus::Result<OwnedObjectPath> {
        self.manager.load_unit(name).await
    }

    /// The job that stops it, if it runs, and starts it.
    pub(crate) async fn restart(&self, name: &str) -> zbus::Result<OwnedObjectPath> {
        self.manager.restart_unit(name, "replace").await
    }

    /// Forgets its failures, and how often it was started of late.
    pub(crate) async fn reset_failed(&self, name: &str) -> zbus::Result<()> {
        self.manager.reset_failed_unit(name).await
    }

    pub(crate) async fn freeze(&self, name: &str) -> zbus::Result<()> {
        self.manager.freeze_unit(name).await
    }

    pub(crate) async fn thaw(&self, name: &str) -> zbus::Result<()> {
        self.manager.thaw_unit(name).await
    }

    /// As `252.39-1~deb12u2`.
    pub(crate) async fn version(&self) -> zbus::Result<String> {
        self.manager.version().await
    }

    pub(crate) async fn has_job(&self, name: &str) -> zbus::Result<bool> {
        let Some(unit) = found(self.manager.get_unit(name).await)? else { return Ok(false) };
        let (job, _): (u32, OwnedObjectPath) = self.get(&unit, UNIT, "Job").await?;
        Ok(job != 0)
    }

    pub(super) async fn state(&self, name: &str) -> zbus::Result<Option<UnitState>> {
        let Some(unit) = found(self.manager.get_unit(name).await)? else { return Ok(None) };
        let (loaded, active, sub, freezer, invocation, main_pid, control_group) = tokio::try_join!(
            self.get::<String>(&unit, UNIT, "LoadState"),
            self.get::<String>(&unit, UNIT, "ActiveState"),
            self.get::<String>(&unit, UNIT, "SubState"),
            self.get::<String>(&unit, UNIT, "FreezerState"),
            self.get::<Vec<u8>>(&unit, UNIT, "InvocationID"),
            self.get::<u32>(&unit, SERVICE, "MainPID"),
            self.get::<String>(&unit, SERVICE, "ControlGroup"),
        )?;
        // It was collected between the questions, which brought its name back as that of a file that is not there.
        if loaded == "not-found" {
            return Ok(None);
        }
        let invocation_id =
            invocation.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"));
        let main_pid = Some(main_pid).filter(|pid| *pid != 0);
        Ok(Some(UnitState { active, sub, freezer, main_pid, control_group, invocation_id }))
    }

    /// The names of services with this prefix.
    pub(super) async fn list(&self, prefix: &str) -> zbus::Result<Vec<String>> {
        // A number follows: an administrator's service may begin alike.
        let pattern = format!("{prefix}[0-9]*.service");
        let listed = self.manager.list_units_by_patterns(&[], &[&pattern]).await?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// All properties of an interface of a unit.
    pub(crate) async fn get_all(
        &self,
        unit: &ObjectPath<'_>,
        interface: &str,
    ) -> zbus::Result<HashMap<String, OwnedValue>> {
        let answer = self
            .connection
            .call_method(
                Some("org.freedesktop.systemd1"),
                unit,
                Some("org.freedesktop.DBus.Properties"),
                "GetAll",
                &interface,
            )
            .await?;
        answer.body().deserialize()
    }

    async fn get<T>(&self, unit: &ObjectPath<'_>, interface: &str, property: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedValue>,
        T::Error: Into<zbus::Error>,
    {
        let answer = self
            .connection
            .call_method(
                Some("org.freedesktop.systemd1"),
                unit,
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &(interface, property),
            )
            .await?;
        let value: OwnedValue = answer.body().deserialize()?;
        T::try_from(value).map_err(Into::into)
    }
}

/// What was found; None if there is no such unit.
fn found<T>(answer: zbus::Result<T>) -> zbus::Result<Option<T>> {
    match answer {
        Err(error) if is_named(&error, "NoSuchUnit") => Ok(None),
        answer => answer.map(Some),
    }
}

pub(crate) fn is_named(error: &zbus::Error, last: &str) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.rsplit('.').next() == Some(last))
}

/// Whether the bus is away, or systemd from it: both come back.
pub(crate) fn is_bus_away(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => true,
        zbus::Error::MethodError(name, ..) => {
            let name = name.strip_prefix("org.freedesktop.DBus.Error.").unwrap_or_default();
            matches!(name, "ServiceUnknown" | "NameHasNoOwner" | "NoReply" | "Disconnected" | "NoServer")
                || name.starts_with("Spawn.")
        }
        zbus::Error::FDO(error) => matches!(
            **error,
            fdo::Error::ServiceUnknown(_)
                | fdo::Error::NameHasNoOwner(_)
                | fdo::Error::NoReply(_)
                | fdo::Error::Disconnected(_)
                | fdo::Error::NoServer(_)
                | fdo::Error::SpawnFailed(_)
                | fdo::Error::SpawnChildExited(_)
        ),
        _ => false,
    }
}

/// The refusal as callers know it.
pub(super) fn in_words(of: &str, error: &zbus::Error) -> io::Error {
    match error {
        zbus::Error::MethodError(_, detail, _) => {
            let detail = detail.as_deref().unwrap_or("no reason given");
            let kind = if is_named(error, "UnitExists") {
                io::ErrorKind::AlreadyExists
            } else if is_named(error, "AccessDenied") || is_named(error, "InteractiveAuthorizationRequired") {
                return io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("systemd refuses {of}: {detail}; is the polkit rule 50-actiond.rules installed?"),
                );
            } else {
                io::ErrorKind::Other
            };
            io::Error::new(kind, format!("systemd refuses {of}: {detail}"))
        }
        zbus::Error::InputOutput(cause) | zbus::Error::Connection(cause, _) => {
            io::Error::new(cause.kind(), format!("asking systemd about {of}: {cause}"))
        }
        error => io::Error::other(format!("asking systemd about {of}: {error}")),
    }
}
