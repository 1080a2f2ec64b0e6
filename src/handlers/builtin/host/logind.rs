//! What logind of a host is asked (org.freedesktop.login1(5)), and what its answers mean.

use zbus::proxy;
use zbus::zvariant::ObjectPath;

use super::Host;
use crate::action::Timestamp;
use crate::handlers::builtin::Failure;
use crate::runner::units::bus::{Bus, UNIT, is_bus_away, is_named};

/// logind's word for a reboot.
const REBOOT: &str = "reboot";
/// logind looks for locks also if root asks (`SD_LOGIND_ROOT_CHECK_INHIBITORS`).
const CHECK_INHIBITORS: u64 = 1;
/// It does not look for them (`SD_LOGIND_SKIP_INHIBITORS`; systemd 257 and later look otherwise).
const SKIP_INHIBITORS: u64 = 1 << 4;

const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const SYSTEMD_MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A lock: what it keeps from happening, who has it, why, `block` or `delay`, uid, pid.
type Inhibitor = (String, String, String, String, u32, u32);

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Manager {
    fn can_reboot(&self) -> zbus::Result<String>;
    fn list_inhibitors(&self) -> zbus::Result<Vec<Inhibitor>>;
    fn reboot(&self, interactive: bool) -> zbus::Result<()>;
    fn reboot_with_flags(&self, flags: u64) -> zbus::Result<()>;
    fn schedule_shutdown(&self, kind: &str, at_us: u64) -> zbus::Result<()>;
    fn cancel_scheduled_shutdown(&self) -> zbus::Result<bool>;
    fn set_wall_message(&self, message: &str, enable: bool) -> zbus::Result<()>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_shutdown(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn scheduled_shutdown(&self) -> zbus::Result<(String, u64)>;
}

/// A connection to the logind of a host, and to its systemd.
pub(super) struct Logind {
    bus: Bus,
    manager: ManagerProxy<'static>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Taken,
    /// The bus went away before there was an answer: it may have been taken.
    Unknown,
}

impl Logind {
    /// # Errors
    ///
    /// Transient, if it cannot be reached.
    pub(super) async fn connect(host: &Host) -> Result<Self, Failure> {
        let connect = async {
            let bus = Bus::connect(host.bus.as_deref()).await?;
            let manager = ManagerProxy::new(bus.connection()).await?;
            Ok(Self { bus, manager })
        };
        connect.await.map_err(|error| failure("cannot connect to logind", &error))
    }

    /// Nothing keeps the host from being rebooted.
    ///
    /// # Errors
    ///
    /// `inhibited`, which passes; `not_allowed`; `not_supported`.
    pub(super) async fn may_reboot(&self, ignore_inhibitors: bool) -> Result<(), Failure> {
        if !ignore_inhibitors {
            self.is_not_inhibited().await?;
        }
        let can =
            self.manager.can_reboot().await.map_err(|error| failure("cannot ask for CanReboot", &error))?;
        match can.as_str() {
            "yes" => Ok(()),
            "na" => Err(Failure::permanent("not_supported", "logind says that this host cannot be rebooted")),
            word => Err(not_allowed(format!("logind does not let this user reboot the host ({word})"))),
        }
    }

    async fn is_not_inhibited(&self) -> Result<(), Failure> {
        let locks = self.manager.list_inhibitors().await;
        let locks = locks.map_err(|error| failure("cannot ask for the locks against a shutdown", &error))?;
        let blocks = |(what, _, _, mode, ..): &&Inhibitor| {
            mode.starts_with("block") && what.split(':').any(|what| what == "shutdown")
        };
        let blocking: Vec<String> = locks
            .iter()
            .filter(blocks)
            .map(|(_, who, why, _, uid, pid)| format!("{who} (pid {pid}, uid {uid}): {why}"))
            .collect();
        if blocking.is_empty() {
            return Ok(());
        }
        let told = format!("somebody keeps the host from shutting down: {}", blocking.join("; "));
        Err(Failure::transient("inhibited", told)
            .with("inhibitors", blocking)
            .with("hint", "see systemd-inhibit --list; ignore_inhibitors needs the right to ignore them"))
    }

    /// What is scheduled, and for when.
    pub(super) async fn scheduled(&self) -> Result<Option<(String, Timestamp)>, Failure> {
        let scheduled = self.manager.scheduled_shutdown().await;
        let (kind, at_us) =
            scheduled.map_err(|error| failure("cannot ask for the scheduled shutdown", &error))?;
        // Of what was at once the kind may stay.
        let is_set = !kind.is_empty() && !matches!(at_us, 0 | u64::MAX);
        Ok(is_set.then(|| (kind, Timestamp(i64::try_from(at_us / 1_000).unwrap_or(i64::MAX)))))
    }

    /// Whether this reboot is scheduled.
    pub(super) async fn has_scheduled(&self, at: Timestamp) -> Result<bool, Failure> {
        Ok(self.scheduled().await?.is_some_and(|scheduled| scheduled == (REBOOT.to_owned(), at)))
    }

    /// Whether the host goes down.
    pub(super) async fn is_going_down(&self) -> Result<bool, Failure> {
        let is = self.manager.preparing_for_shutdown().await;
        is.map_err(|error| failure("cannot ask whether the host goes down", &error))
    }

    /// What those who are logged in are told. Nobody fails who may not say anything.
    pub(super) async fn announce(&self, reason: &str) -> Result<(), String> {
        self.manager.set_wall_message(reason, true).await.map_err(|error| error.to_string())
    }

    /// The host is asked to reboot now.
    pub(super) async fn reboot(&self, ignore_inhibitors: bool) -> Result<Asked, Failure> {
        let flags = if ignore_inhibitors { SKIP_INHIBITORS } else { CHECK_INHIBITORS };
        let asked = match self.manager.reboot_with_flags(flags).await {
            Err(error) if is_named(&error, "UnknownMethod") || is_named(&error, "InvalidArgs") => {
                self.manager.reboot(false).await
            }
            asked => asked,
        };
        self.asked(asked, ignore_inhibitors).await
    }

    /// The host is asked to reboot then.
    pub(super) async fn schedule(&self, at: Timestamp, ignore_inhibitors: bool) -> Result<Asked, Failure> {
        let at_us = u64::try_from(at.0).unwrap_or_default().saturating_mul(1_000);
        let asked = self.manager.schedule_shutdown(REBOOT, at_us).await;
        self.asked(asked, ignore_inhibitors).await
    }

    async fn asked(&self, asked: zbus::Result<()>, ignore_inhibitors: bool) -> Result<Asked, Failure> {
        match asked {
            Ok(()) => Ok(Asked::Taken),
            // Somebody else was faster.
            Err(error) if is_named(&error, "OperationInProgress") => Ok(Asked::Taken),
            Err(error) if is_bus_away(&error) => Ok(Asked::Unknown),
            Err(error) => {
                // A lock that was taken a moment ago is told as itself.
                if !ignore_inhibitors {
                    self.is_not_inhibited().await?;
                }
                Err(failure("logind does not reboot the host", &error))
            }
        }
    }

    /// Nothing is scheduled any more.
    pub(super) async fn cancel(&self) -> Result<(), Failure> {
        let cancelled = self.manager.cancel_scheduled_shutdown().await;
        cancelled.map(drop).map_err(|error| failure("cannot cancel the scheduled reboot", &error))
    }

    /// When systemd came up.
    pub(super) async fn booted_at(&self) -> Result<Timestamp, Failure> {
        let path = ObjectPath::from_static_str_unchecked(SYSTEMD_PATH);
        let properties = self.bus.get_all(&path, SYSTEMD_MANAGER).await;
        let mut properties =
            properties.map_err(|error| failure("cannot ask when systemd came up", &error))?;
        let at = properties.remove("UserspaceTimestamp").and_then(|at| u64::try_from(at).ok());
        let at = at.ok_or_else(|| Failure::permanent("systemd", "systemd does not say when it came up"))?;
        Ok(Timestamp(i64::try_from(at / 1_000).unwrap_or(i64::MAX)))
    }

    /// Load state and active state of a unit.
    pub(super) async fn unit(&self, name: &str) -> Result<(String, String), Failure> {
        let look = async {
            let path = self.bus.load(name).await?;
            self.bus.get_all(&path, UNIT).await
        };
        let mut unit = look.await.map_err(|error| failure(&format!("cannot look at {name}"), &error))?;
        let mut word = |property: &str| {
            unit.remove(property).and_then(|word| String::try_from(word).ok()).unwrap_or_default()
        };
        Ok((word("LoadState"), word("ActiveState")))
    }
}

fn not_allowed(told: String) -> Failure {
    Failure::permanent("not_allowed", told).with(
        "hint",
        "is the polkit rule 50-actiond.rules installed? It lets nobody reboot against a lock (systemd-inhibit)",
    )
}

fn failure(what: &str, error: &zbus::Error) -> Failure {
    if is_bus_away(error) {
        return Failure::transient("unreachable", format!("{what}: {error}"));
    }
    let zbus::Error::MethodError(name, detail, _) = error else {
        return Failure::permanent("logind", format!("{what}: {error}"));
    };
    let told = format!("{what}: {}", detail.as_deref().unwrap_or(name.as_str()));
    let is_denied = is_named(error, "AccessDenied") || is_named(error, "InteractiveAuthorizationRequired");
    let failure = if is_denied { not_allowed(told) } else { Failure::permanent("logind", told) };
    failure.with("dbus_error", name.as_str())
}
