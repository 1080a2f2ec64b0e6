//! Every section and key of the configuration: its field, its default, its bounds. Said once, here.
//!
//! Reading, printing and the proof that the shipped file is complete all walk the same lists
//! ([`Section::keys`]), so a key cannot be read but not printed, or printed but not documented.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::action::{Recovery, RetryPolicy};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEARS: u64 = 3_650 * DAY;

/// One key's value, by kind, with what bounds it.
pub(super) enum Field<'a> {
    Text(&'a mut String),
    OptionalText(&'a mut Option<String>),
    Path(&'a mut PathBuf),
    /// A string of octal digits.
    Mode(&'a mut u32),
    Word(&'a mut String, &'static [&'static str]),
    Bytes(&'a mut u64, RangeInclusive<u64>),
    Millis(&'a mut u64, RangeInclusive<u64>),
    Count(&'a mut u64, RangeInclusive<u64>),
    Flag(&'a mut bool),
    OptionalFlag(&'a mut Option<bool>),
    Texts(&'a mut Vec<String>),
    Ids(&'a mut Vec<u32>),
    Recovery(&'a mut Option<Recovery>),
    Retry(&'a mut RetryPolicy),
}

/// Who walks the keys of a section: the reader, the printer, the test of the shipped file.
pub(super) trait Keys {
    fn key(&mut self, name: &'static str, field: Field<'_>);
}

/// A table with a fixed list of keys.
pub(super) trait Section {
    fn keys(&mut self, to: &mut dyn Keys);
}

macro_rules! section {
    (
        $(#[$doc:meta])* $name:ident {
            $( $(#[$field_doc:meta])* $field:ident / $key:literal: $type:ty = $default:expr,
               $kind:ident $( ( $bound:expr ) )?; )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $type, )* }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl Section for $name {
            fn keys(&mut self, to: &mut dyn Keys) {
                $( to.key($key, Field::$kind(&mut self.$field $(, $bound)?)); )*
            }
        }
    };
}

section! {
    /// `[store]`: where the store lives and how large its parts may grow.
    Store {
        dir / "dir": PathBuf = PathBuf::from("/var/lib/actiond"), Path;
        segment_bytes / "segment_bytes": u64 = 16 * MIB, Bytes(256 * KIB..=GIB);
        memory_bytes_max / "memory_bytes_max": u64 = 32 * MIB, Bytes(MIB..=64 * GIB);
        cache_bytes / "cache_bytes": u64 = 16 * MIB, Bytes(MIB..=64 * GIB);
        snapshot_after_bytes / "snapshot_after_bytes": u64 = 32 * MIB, Bytes(MIB..=1024 * GIB);
        disk_reserve_bytes / "disk_reserve_bytes": u64 = 256 * MIB, Bytes(0..=1024 * GIB);
    }
}

section! {
    /// `[retention]`: how long what is finished can be read.
    Retention {
        age_ms / "age": u64 = 30 * DAY, Millis(MINUTE..=YEARS);
        count / "count": u64 = 100_000, Count(0..=1_000_000_000);
        idempotency_keys_ms / "idempotency_keys": u64 = 7 * DAY, Millis(7 * DAY..=YEARS);
    }
}

section! {
    /// `[socket]`: the door for agents.
    Socket {
        path / "path": PathBuf = PathBuf::from("/run/actiond/actiond.sock"), Path;
        mode / "mode": u32 = 0o660, Mode;
        group / "group": String = String::new(), Text;
    }
}

section! {
    /// `[status]`: the door for health checks and people; reads only.
    Status {
        listen / "listen": String = "127.0.0.1:7466".to_owned(), Text;
        details / "details": bool = false, Flag;
        hosts / "hosts": Vec<String> = Vec::new(), Texts;
    }
}

section! {
    /// `[limits]`: beyond each of these the answer is a clear error.
    Limits {
        body_bytes_max / "body_bytes_max": u64 = MIB, Bytes(KIB..=64 * MIB);
        metadata_bytes_max / "metadata_bytes_max": u64 = 64 * KIB, Bytes(2..=MIB);
        metadata_depth_max / "metadata_depth_max": u64 = 32, Count(1..=100);
        connections_max / "connections_max": u64 = 1_200, Count(1..=100_000);
        header_timeout_ms / "header_timeout": u64 = 10 * SECOND, Millis(SECOND..=10 * MINUTE);
        write_timeout_ms / "write_timeout": u64 = MINUTE, Millis(SECOND..=10 * MINUTE);
        wait_max_ms / "wait_max": u64 = 10 * MINUTE, Millis(SECOND..=DAY);
        waiting_max / "waiting_max": u64 = 5_000_000, Count(1..=100_000_000);
        running_max / "running_max": u64 = 64, Count(1..=4_096);
        log_bytes_max / "log_bytes_max": u64 = MIB, Bytes(4 * KIB..=GIB);
        result_bytes_max / "result_bytes_max": u64 = 64 * KIB, Bytes(2..=MIB);
    }
}

section! {
    /// `[access]`: who may touch the actions of others, beside root and the daemon's own user.
    Access {
        operator_uids / "operator_uids": Vec<u32> = Vec::new(), Ids;
        operator_gids / "operator_gids": Vec<u32> = Vec::new(), Ids;
    }
}

section! {
    /// `[log]`: what the daemon says of itself.
    Log {
        level / "level": String = "info".to_owned(), Word(&["error", "warn", "info", "debug", "trace"]);
        format / "format": String = "auto".to_owned(), Word(&["auto", "text", "journald"]);
    }
}

section! {
    /// `[shutdown]`: how long what runs may go on after SIGTERM.
    Shutdown {
        grace_ms / "grace": u64 = 20 * SECOND, Millis(0..=22 * SECOND);
        kill_grace_ms / "kill_grace": u64 = 5 * SECOND, Millis(0..=5 * SECOND);
    }
}

section! {
    /// `[reboot]`: what happens when an action asks for a reboot of the host.
    Reboot {
        wait_ms / "wait": u64 = 10 * MINUTE, Millis(0..=DAY);
        command / "command": Vec<String> = Vec::new(), Texts;
    }
}

section! {
    /// One `[[queue]]`.
    Queue {
        name / "name": String = String::new(), Text;
        concurrency / "concurrency": u64 = 8, Count(1..=4_096);
        length_max / "length_max": u64 = 5_000_000, Count(1..=100_000_000);
    }
}

/// One `[[handler]]`: what is common to all handlers, and the rest as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    pub action: String,
    pub resource_type: Option<String>,
    /// The key `use`.
    pub handler: String,
    pub queue: String,
    pub recovery: Option<Recovery>,
    pub timeout_ms: u64,
    pub retry: RetryPolicy,
    pub exclusive: Option<bool>,
    /// Every other key: the handler's own settings, which only it can judge.
    pub own: toml::Table,
    /// Where the table stands in the file, for messages; 0 if it stands in none.
    pub line: Line,
}

/// A line of the file; says nothing about what is configured, so all lines are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line(pub usize);

impl PartialEq for Line {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Default for Handler {
    fn default() -> Self {
        Self {
            action: String::new(),
            resource_type: None,
            handler: String::new(),
            queue: "default".to_owned(),
            recovery: None,
            timeout_ms: 30 * MINUTE,
            retry: RetryPolicy::default(),
            exclusive: None,
            own: toml::Table::new(),
            line: Line::default(),
        }
    }
}

impl Section for Handler {
    fn keys(&mut self, to: &mut dyn Keys) {
        to.key("action", Field::Text(&mut self.action));
        to.key("resource_type", Field::OptionalText(&mut self.resource_type));
        to.key("use", Field::Text(&mut self.handler));
        to.key("queue", Field::Text(&mut self.queue));
        to.key("recovery", Field::Recovery(&mut self.recovery));
        to.key("timeout", Field::Millis(&mut self.timeout_ms, SECOND..=30 * DAY));
        to.key("retry", Field::Retry(&mut self.retry));
        to.key("exclusive", Field::OptionalFlag(&mut self.exclusive));
    }
}

/// The keys of a handler's `retry` table.
pub(super) struct Retry {
    attempts: u64,
    policy: RetryPolicy,
}

impl Retry {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { attempts: u64::from(policy.attempts), policy }
    }

    pub(super) fn policy(&self) -> RetryPolicy {
        let attempts = u32::try_from(self.attempts).unwrap_or(u32::MAX);
        RetryPolicy { attempts, ..self.policy }
    }
}

impl Section for Retry {
    fn keys(&mut self, to: &mut dyn Keys) {
        to.key("attempts", Field::Count(&mut self.attempts, 1..=1_000));
        to.key("backoff", Field::Millis(&mut self.policy.backoff_ms, 0..=DAY));
        to.key("backoff_max", Field::Millis(&mut self.policy.backoff_max_ms, 0..=30 * DAY));
    }
}
