//! memcached: all items of a server, by its text protocol (doc/protocol.txt).
//!
//! `flush_all` makes every item invalid at once; they are counted until something looks at them, so the crawler is sent
//! after them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::super::Failure;
use super::super::run::{Found, Run};
use super::{Cleared, step};
use crate::handlers::targets::Target;

/// Longest wait for a connection, and for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for the crawler; what it has not seen yet is counted, but is never given to anybody.
const CRAWL_PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// `[targets.NAME]` with `engine = "memcached"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Memcached {
    /// The server's Unix socket.
    socket: PathBuf,
}

/// What was there before.
#[derive(Serialize, Deserialize)]
struct Before {
    entries: u64,
}

/// How many entries there are to clear.
pub(super) async fn count(target: &Target) -> Result<u64, Failure> {
    Session::open(target).await?.count().await
}

pub(super) async fn clear(run: &Run, target: &Target) -> Result<Cleared, Failure> {
    let before = async || Ok(Before { entries: count(target).await? });
    let clear = async |before: &Before| {
        let mut session = Session::open(target).await?;
        let mut entries_after = session.count().await?;
        if entries_after > 0 {
            session.flush().await?;
            entries_after = session.crawl(run).await?;
        }
        Ok(Cleared {
            changed: before.entries > 0,
            entries_before: before.entries,
            entries_after,
            bytes_freed: None,
        })
    };
    run.step(&step(target), before, clear, async |_: &Before| Ok(Found::NotDone)).await
}

/// A connection of this attempt.
struct Session {
    stream: BufReader<UnixStream>,
    name: String,
}

impl Session {
    async fn open(target: &Target) -> Result<Self, Failure> {
        let Memcached { socket } =
            target.settings().map_err(|problem| Failure::permanent("target", problem))?;
        let stream = in_time(UnixStream::connect(&socket)).await.map_err(|error| {
            let told = format!("cannot connect to {} ({}): {error}", target.name, socket.display());
            Failure::transient("unreachable", told)
        })?;
        Ok(Self { stream: BufReader::new(stream), name: target.name.clone() })
    }

    async fn count(&mut self) -> Result<u64, Failure> {
        let stats = self.ask("stats", "END").await?;
        let count = stats.iter().find_map(|line| line.strip_prefix("STAT curr_items "));
        count.and_then(|count| count.parse().ok()).ok_or_else(|| {
            Failure::permanent("protocol", format!("{} does not say how many items it has", self.name))
        })
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.ask("flush_all", "OK").await.map(drop)
    }

    /// Has the crawler take the invalid items away, as far as it may; how many are left.
    async fn crawl(&mut self, run: &Run) -> Result<u64, Failure> {
        if let Err(unwilling) = self.ask("lru_crawler crawl all", "OK").await {
            run.log(&format!("{}: {}", self.name, unwilling.message()));
            return self.count().await;
        }
        let emptied =
            run.wait_for(CRAWL_PATIENCE, async || Ok((self.count().await? == 0).then_some(()))).await?;
        match emptied {
            Some(()) => Ok(0),
            None => self.count().await,
        }
    }

    /// The lines of an answer before `end`.
    async fn ask(&mut self, command: &str, end: &str) -> Result<Vec<String>, Failure> {
        let asked = in_time(async {
            self.stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = (&mut self.stream).take(ANSWER_BYTES_MAX);
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if answer.read_line(&mut line).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let line = line.trim_end();
                if line == end {
                    return Ok(Ok(lines));
                }
                if ["ERROR", "CLIENT_ERROR", "SERVER_ERROR", "BUSY"].iter().any(|word| line.starts_with(word))
                {
                    return Ok(Err(line.to_owned()));
                }
                lines.push(line.to_owned());
            }
        });
        match asked.await {
            Ok(Ok(lines)) => Ok(lines),
            Ok(Err(refused)) => Err(Failure::permanent(
                "memcached",
                format!("{} answers {command} with {refused}", self.name),
            )),
            Err(error) => Err(Failure::transient(
                "unreachable",
                format!("{} does not answer {command}: {error}", self.name),
            )),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
