//! A handler's `unit` table: limits and sandboxing of the units that its programs run in.
//!
//! ```toml
//! unit = { MemoryMax = "512M", TasksMax = 100, PrivateNetwork = true, ProtectSystem = "strict" }
//! ```
//!
//! Keys are systemd's own (systemd.exec(5), systemd.resource-control(5)), with its spelling and its units (`M` is
//! 1024 * 1024 bytes). Only those listed here are taken: each is known with its type on D-Bus, and none takes away what
//! a keeper needs. Checked when the configuration is read, so a typo is found then and not by the first action.

use zbus::zvariant::Value;

/// Checked settings; the default adds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitSettings(Vec<(&'static Known, Setting)>);

/// A property that may be set.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    key: &'static str,
    takes: Takes,
}

/// What a property takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Flag,
    /// A size in bytes, or "infinity".
    Bytes,
    /// A number, or "infinity".
    Count,
    /// As a count; the soft limit, a property of its own, becomes the same.
    Limit(&'static str),
    /// From, to.
    Range(i32, i32),
    Weight,
    /// Part of one CPU, such as "150%".
    Percent,
    /// One of these; "yes" and "no" also as true and false.
    Word(&'static [&'static str]),
    Slice,
    Paths,
    Names,
    /// Names to allow, or to deny if the first begins with "~".
    Filter,
}

/// A value as D-Bus has it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Setting {
    Flag(bool),
    Unsigned(u64),
    Signed(i32),
    Text(String),
    Texts(Vec<String>),
    Filter(bool, Vec<String>),
}

/// In order of the alphabet, as the error shows them.
const KNOWN: &[Known] = &[
    Known { key: "CPUQuota", takes: Takes::Percent },
    Known { key: "CPUWeight", takes: Takes::Weight },
    Known { key: "IOWeight", takes: Takes::Weight },
    Known { key: "InaccessiblePaths", takes: Takes::Paths },
    Known { key: "LimitNPROC", takes: Takes::Limit("LimitNPROCSoft") },
    Known { key: "LockPersonality", takes: Takes::Flag },
    Known { key: "MemoryDenyWriteExecute", takes: Takes::Flag },
    Known { key: "MemoryHigh", takes: Takes::Bytes },
    Known { key: "MemoryMax", takes: Takes::Bytes },
    Known { key: "MemorySwapMax", takes: Takes::Bytes },
    Known { key: "Nice", takes: Takes::Range(-20, 19) },
    Known { key: "NoNewPrivileges", takes: Takes::Flag },
    Known { key: "OOMScoreAdjust", takes: Takes::Range(-1000, 1000) },
    Known { key: "PrivateDevices", takes: Takes::Flag },
    Known { key: "PrivateIPC", takes: Takes::Flag },
    Known { key: "PrivateNetwork", takes: Takes::Flag },
    Known { key: "PrivateTmp", takes: Takes::Flag },
    Known { key: "ProtectClock", takes: Takes::Flag },
    Known { key: "ProtectHome", takes: Takes::Word(&["yes", "no", "read-only", "tmpfs"]) },
    Known { key: "ProtectHostname", takes: Takes::Flag },
    Known { key: "ProtectKernelLogs", takes: Takes::Flag },
    Known { key: "ProtectKernelModules", takes: Takes::Flag },
    Known { key: "ProtectKernelTunables", takes: Takes::Flag },
    Known { key: "ProtectSystem", takes: Takes::Word(&["yes", "no", "full", "strict"]) },
    Known { key: "ReadOnlyPaths", takes: Takes::Paths },
    Known { key: "ReadWritePaths", takes: Takes::Paths },
    Known { key: "RestrictAddressFamilies", takes: Takes::Filter },
    Known { key: "RestrictRealtime", takes: Takes::Flag },
    Known { key: "RestrictSUIDSGID", takes: Takes::Flag },
    Known { key: "Slice", takes: Takes::Slice },
    Known { key: "SupplementaryGroups", takes: Takes::Names },
    Known { key: "SystemCallFilter", takes: Takes::Filter },
    Known { key: "TasksMax", takes: Takes::Count },
];

/// Those after which a path may be unreadable or read-only that was not.
const RESTRICT_PATHS: [&str; 5] =
    ["InaccessiblePaths", "ProtectHome", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths"];

impl UnitSettings {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each naming the key.
    pub fn new(table: &toml::Table) -> Result<Self, Vec<String>> {
        let (mut settings, mut problems) = (Vec::new(), Vec::new());
        for (key, value) in table {
            let Some(known) = KNOWN.iter().find(|known| known.key == key) else {
                let keys: Vec<&str> = KNOWN.iter().map(|known| known.key).collect();
                problems.push(format!("{key} is not a key of unit; known are {}", keys.join(", ")));
                continue;
            };
            match known.takes.read(value) {
                Ok(setting) => settings.push((known, setting)),
                Err(problem) => problems.push(format!("{key} {problem}")),
            }
        }
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }

    /// As `StartTransientUnit` takes them.
    pub(super) fn properties(&self) -> impl Iterator<Item = (&'static str, Value<'_>)> {
        self.0.iter().flat_map(|(known, setting)| {
            let (name, second) = match known.takes {
                // systemd has done the sum by the time that it is on D-Bus.
                Takes::Percent => ("CPUQuotaPerSecUSec", None),
                Takes::Limit(soft) => (known.key, Some((soft, setting.value()))),
                _ => (known.key, None),
            };
            std::iter::once((name, setting.value())).chain(second)
        })
    }

    pub(super) fn restricts_paths(&self) -> bool {
        self.0.iter().any(|(known, _)| RESTRICT_PATHS.contains(&known.key))
    }
}

impl Setting {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Flag(is_set) => Value::from(*is_set),
            Self::Unsigned(number) => Value::from(*number),
            Self::Signed(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
            Self::Texts(texts) => Value::from(texts.clone()),
            Self::Filter(is_allow, names) => Value::from((*is_allow, names.clone())),
        }
    }
}

impl Takes {
    fn read(self, value: &toml::Value) -> Result<Setting, String> {
        match self {
            Self::Flag => {
                value.as_bool().map(Setting::Flag).ok_or_else(|| "must be true or false".to_owned())
            }
            Self::Bytes => bytes(value)
                .map(Setting::Unsigned)
                .ok_or_else(|| "must be a size such as \"512M\" (K, M, G, T), or \"infinity\"".to_owned()),
            Self::Count | Self::Limit(_) => count(value)
                .map(Setting::Unsigned)
                .ok_or_else(|| "must be a number of 1 or more, or \"infinity\"".to_owned()),
            Self::Weight => value
                .as_integer()
                .and_then(|weight| u64::try_from(weight).ok())
                .filter(|weight| (1..=10_000).contains(weight))
                .map(Setting::Unsigned)
                .ok_or_else(|| "must be a number from 1 to 10000".to_owned()),
            Self::Range(from, to) => value
                .as_integer()
                .and_then(|number| i32::try_from(number).ok())
                .filter(|number| (from..=to).contains(number))
                .map(Setting::Signed)
                .ok_or_else(|| format!("must be a number from {from} to {to}")),
            Self::Percent => percent(value)
                .map(Setting::Unsigned)
                .ok_or_else(|| "must be a part of one CPU such as \"150%\"".to_owned()),
            Self::Word(words) => word(value)
                .filter(|word| words.contains(&word.as_str()))
                .map(Setting::Text)
                .ok_or_else(|| format!("must be one of {}", words.join(", "))),
            Self::Slice => word(value)
                .filter(|name| {
                    name.strip_suffix(".slice").is_some_and(|word| !word.is_empty() && !word.contains('/'))
                })
                .map(Setting::Text)
                .ok_or_else(|| "must be the name of a slice, such as \"batch.slice\"".to_owned()),
            Self::Paths => strings(value)
                .filter(|paths| paths.iter().all(|path| is_path(path)))
                .map(Setting::Texts)
                .ok_or_else(|| {
                    "must be an array of absolute paths; a \"-\" before one lets it be missing".to_owned()
                }),
            Self::Names => {
                strings(value).map(Setting::Texts).ok_or_else(|| "must be an array of strings".to_owned())
            }
            Self::Filter => strings(value)
                .and_then(filter)
                .ok_or_else(|| "must be an array of names; a \"~\" before the first denies them".to_owned()),
        }
    }
}

fn strings(value: &toml::Value) -> Option<Vec<String>> {
    let strings: Option<Vec<String>> =
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect();
    strings.filter(|strings| {
        !strings.is_empty() && strings.iter().all(|text| !text.is_empty() && !text.contains('\0'))
    })
}

fn is_path(path: &str) -> bool {
    path.strip_prefix('-').unwrap_or(path).starts_with('/')
}

fn filter(mut names: Vec<String>) -> Option<Setting> {
    let first = names.first_mut()?;
    let denied = first.strip_prefix('~').map(str::to_owned);
    let is_allow = denied.is_none();
    if let Some(denied) = denied {
        *first = denied;
    }
    Some(Setting::Filter(is_allow, names))
}

fn word(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::Boolean(true) => Some("yes".to_owned()),
        toml::Value::Boolean(false) => Some("no".to_owned()),
        toml::Value::String(word) => Some(word.clone()),
        _ => None,
    }
}

/// `u64::MAX` is systemd's "infinity" on D-Bus.
fn count(value: &toml::Value) -> Option<u64> {
    if value.as_str() == Some("infinity") {
        return Some(u64::MAX);
    }
    value.as_integer().and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
}

fn bytes(value: &toml::Value) -> Option<u64> {
    let Some(text) = value.as_str().filter(|text| *text != "infinity") else { return count(value) };
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
    number.checked_mul(1 << shift)
}

/// Microseconds of each second.
fn percent(value: &toml::Value) -> Option<u64> {
    let percent: u64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    percent.checked_mul(10_000).filter(|micros| *micros > 0)
}
