//! What the source says of itself over the very connection that the replica will use, and whether a server has something of
//! its own that the source lacks.
//!
//! A server's log is a piece of the source's if it is on the source's timeline, or ends before the source's history leaves
//! the timeline that it is on. What is beyond that only it has.

use std::process::Stdio;

use super::super::super::super::postgres::{Session, application};
use super::super::Role;
use super::super::control::Control;
use super::super::lsn::Lsn;
use super::Resync;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::child;

/// The source.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) system: String,
    timeline: u32,
    end: Lsn,
    /// Its earlier timelines, each with where it left it.
    left: Vec<(u32, Lsn)>,
}

impl Origin {
    /// Asks it as the replica's user, by the protocol of replication (PostgreSQL 15, 55.4).
    ///
    /// # Errors
    ///
    /// It cannot be reached that way; transient.
    pub(super) async fn ask(resync: &Resync<'_>) -> Result<Self, Failure> {
        let answer = ask(resync, "IDENTIFY_SYSTEM").await?;
        let fields: Vec<&str> = answer.split('|').collect();
        let [system, timeline, end, ..] = fields.as_slice() else {
            return Err(Failure::permanent("internal", format!("the source says {answer:?} of itself")));
        };
        let problem = |problem: String| Failure::permanent("internal", problem);
        let timeline: u32 = timeline.parse().map_err(|_| problem(format!("{timeline:?} is no timeline")))?;
        // The first one has no history.
        let history = match timeline {
            1 => String::new(),
            _ => ask(resync, &format!("TIMELINE_HISTORY {timeline}")).await?,
        };
        let left = read_history(&history);
        Ok(Self { system: (*system).to_owned(), timeline, end: end.parse().map_err(problem)?, left })
    }

    /// Where it left that timeline; of the one that it is on, where it is.
    fn fork(&self, timeline: u32) -> Option<Lsn> {
        if timeline == self.timeline {
            return Some(self.end);
        }
        self.left.iter().find(|(left, _)| *left == timeline).map(|(_, at)| *at)
    }

    /// Why a log that ends there may have something that the source lacks.
    fn lacks(&self, timeline: u32, end: Lsn) -> Option<String> {
        match self.fork(timeline) {
            None => Some(format!("its timeline {timeline} is none of the source's")),
            Some(fork) if end > fork => Some(format!(
                "its log goes to {end} on timeline {timeline}, of which the source has it to {fork}"
            )),
            Some(_) => None,
        }
    }
}

/// Lines of `TIMELINE`, `LSN` and a reason, by tabs (PostgreSQL 15, `src/backend/access/transam/timeline.c`). What psql has in
/// front of the first one is the file's name.
fn read_history(text: &str) -> Vec<(u32, Lsn)> {
    let of_line = |line: &str| {
        let line = line.rsplit_once('|').map_or(line, |(_, line)| line);
        let mut fields = line.split('\t');
        Some((fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?))
    };
    text.lines().filter_map(of_line).collect()
}

async fn ask(resync: &Resync<'_>, command: &str) -> Result<String, Failure> {
    let what = format!("cannot ask {} as its replica", resync.source_name());
    let conninfo = resync
        .conninfo
        .with("application_name", &application(resync.run.id))
        .with("replication", "true")
        .to_string();
    let words = ["-X", "-A", "-t", "-q", "-w", "-d", conninfo.as_str(), "-c", command];
    let mut psql = resync.server.program(resync.run, "psql", words);
    psql.stdout(Stdio::piped());
    let ended = child::run(&what, &mut psql).await?;
    if ended.is_success() {
        return Ok(ended.output);
    }
    Err(Failure::transient("unreachable", format!("{what}: {}", ended.told())))
}

/// Where the log of a server ends.
#[derive(Debug)]
pub(super) enum Seen {
    At { is_replica: bool, timeline: u32, end: Lsn },
    Unknown(String),
}

impl Seen {
    /// Looks at the server. To be compared with a source that was asked later: both may go on.
    pub(super) async fn look(resync: &Resync<'_>, control: &Control) -> Result<Self, Failure> {
        if resync.server.is_running(resync.run).await? {
            // What is in its control file is old then.
            let role = match Session::open(resync.run, resync.ends.replica, None).await {
                Ok(session) => Role::of(&session).await,
                Err(failure) => Err(failure),
            };
            return Ok(match role {
                Ok(Role { is_replica, timeline, lsn: end, .. }) => Self::At { is_replica, timeline, end },
                Err(failure) => Self::Unknown(format!("it cannot be asked ({})", failure.message())),
            });
        }
        if control.is_replica() {
            let timeline = control.timeline.max(control.recovery_timeline);
            let end = control.recovery_end.max(control.checkpoint);
            return Ok(Self::At { is_replica: true, timeline, end });
        }
        Ok(match control.clean_end() {
            Some(end) => Self::At { is_replica: false, timeline: control.timeline, end },
            None => Self::Unknown(format!("it was not stopped in good order ({})", control.state)),
        })
    }

    /// Why it may have something that the source lacks; none: it has not.
    pub(super) fn own(&self, control: &Control, origin: &Origin) -> Option<String> {
        if control.system != origin.system {
            return Some("its data are of another server".to_owned());
        }
        match self {
            Self::At { is_replica, timeline, end } => own_of(origin, *is_replica, *timeline, *end),
            Self::Unknown(why) => Some(why.clone()),
        }
    }
}

fn own_of(origin: &Origin, is_replica: bool, timeline: u32, end: Lsn) -> Option<String> {
    if !is_replica && timeline == origin.timeline {
        return Some(format!("both were primaries on timeline {timeline}"));
    }
    origin.lacks(timeline, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn log_is_a_piece_of_the_sources_or_its_own() {
        let history = "00000003.history|1\t0/5000000\tno recovery target specified\n\
                       2\t0/7000000\tno recovery target specified\n";
        let left = read_history(history);
        assert_eq!(left, [(1, place("0/5000000")), (2, place("0/7000000"))]);
        let origin = Origin { system: "7".into(), timeline: 3, end: place("0/9000000"), left };
        let has_own = |is_replica, timeline, end| own_of(&origin, is_replica, timeline, place(end)).is_some();
        assert!(!has_own(true, 3, "0/8000000"));
        assert!(has_own(true, 3, "0/9000001"), "ahead of the source");
        assert!(has_own(false, 3, "0/8000000"), "two primaries");
        assert!(!has_own(false, 1, "0/5000000"), "its last checkpoint is at the fork");
        assert!(has_own(false, 1, "0/5000001"));
        assert!(!has_own(true, 2, "0/7000000"));
        assert!(has_own(true, 4, "0/1000000"), "a timeline that the source does not know");
    }
}
