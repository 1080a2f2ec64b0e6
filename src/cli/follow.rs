//! Waiting for actions, and following what they say meanwhile: `wait`, `logs`, `submit --wait|--follow`.
//!
//! # Guarantees
//!
//! - A wait survives a restart of the daemon: it connects again, with growing pauses, until its own limit or,
//!   without one, for [`ABSENCE_LIMIT`] at a time. Only a daemon that was never reached fails at once.
//! - Following is best effort: a log line written while the connection is down may be missed here; the
//!   daemon has it, see `actiond logs`.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::exit::Exit;
use super::output::{Failure, Out, escape};
use super::table::{self, state_word};
use crate::action::State;
use crate::api::wire;
use crate::client::{Client, ClientError};

/// Longest single blocking read; the daemon answers earlier when the action ends or becomes held.
const SLICE: Duration = Duration::from_secs(300);
/// The same while somebody watches the progress.
const WATCHED_SLICE: Duration = Duration::from_millis(250);
/// How long an absent daemon is waited for when the wait has no limit.
const ABSENCE_LIMIT: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long the end of a log may lag behind the end of its action.
const LOG_LAG_MAX: Duration = Duration::from_secs(3);

/// How a wait went on.
pub enum Settled {
    /// Final or held.
    As(Box<wire::Action>, Exit),
    /// The client's own wait ran out.
    Over,
}

/// What a wait is told beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub until: Option<Instant>,
    /// The daemon has answered before: its absence is a restart, not a mistake.
    pub known: bool,
    /// Tell states, progress and log lines on stderr.
    pub follow: bool,
}

impl Patience {
    pub fn new(limit: Option<Duration>, known: bool, follow: bool) -> Self {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        Self { until, known, follow }
    }

    fn left(self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

/// `wait ID...`
pub async fn wait(client: &Client, out: Out, ids: &[u64], limit: Option<Duration>) -> Result<Exit, Failure> {
    let (actions, exit) = all(client, out, ids, Patience::new(limit, false, false)).await?;
    if out.json {
        match actions.as_slice() {
            [action] if ids.len() == 1 => out.json(action)?,
            many => out.json(&serde_json::json!({ "actions": many }))?,
        }
    } else {
        for action in &actions {
            out.text(verdict(action))?;
        }
    }
    Ok(exit)
}

/// Waits for all, in order; the code is that of the first that did not succeed.
pub async fn all(
    client: &Client,
    out: Out,
    ids: &[u64],
    mut patience: Patience,
) -> Result<(Vec<wire::Action>, Exit), Failure> {
    let mut actions = Vec::with_capacity(ids.len());
    let mut first = Exit::Done;
    for id in ids {
        match settle(client, out, *id, patience).await? {
            Settled::As(action, exit) => {
                if first == Exit::Done {
                    first = exit;
                }
                actions.push(*action);
            }
            Settled::Over => {
                out.say(format!("actiond: the wait for action {id} ran out; the action goes on"));
                return Ok((actions, Exit::WaitOver));
            }
        }
        patience.known = true;
    }
    Ok((actions, first))
}

/// Waits until the action is final or held, or patience is at its end.
pub async fn settle(client: &Client, out: Out, id: u64, patience: Patience) -> Result<Settled, Failure> {
    let mut known = patience.known;
    let mut absent: Option<Absence> = None;
    let mut watcher = patience.follow.then(|| Watcher::new(client, out));
    let (began, mut told_why) = (Instant::now(), false);
    // The first read does not block: what is held already is told at once.
    let mut slice = Duration::ZERO;
    loop {
        let left = patience.left().unwrap_or(Duration::MAX);
        match client.action_after(id, slice.min(left)).await {
            Ok(action) => {
                if absent.take().is_some() {
                    out.say("the daemon is back");
                }
                known = true;
                if let Some(watcher) = &mut watcher {
                    watcher.see(&action);
                }
                if let Some(exit) = State::from_word(&action.state).and_then(Exit::of_state) {
                    if let Some(watcher) = watcher {
                        watcher.end().await;
                    }
                    return Ok(Settled::As(Box::new(action), exit));
                }
                if left.is_zero() {
                    return Ok(Settled::Over);
                }
                if !told_why && began.elapsed() >= SLICE {
                    told_why = true;
                    tell_why(client, out, id).await;
                }
                slice = if patience.follow { WATCHED_SLICE } else { SLICE };
            }
            Err(error) if known && error.is_transient() => {
                let absence = absent.get_or_insert_with(|| {
                    out.say(format!("{}; waiting for it to come back", escape(&error.to_string())));
                    Absence::new()
                });
                if left.is_zero() || (patience.until.is_none() && absence.is_over()) {
                    return Err(error.into());
                }
                absence.pause(left).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Says what a wait that takes long is for, unless the action runs. Not being able to say it is no failure.
async fn tell_why(client: &Client, out: Out, id: u64) {
    if let Ok(explained) = client.explain(id).await
        && let Some(cause) = explained.causes.iter().find(|cause| cause.code != "running")
    {
        let (state, text) = (state_word(&explained.state), escape(&cause.text));
        out.say(format!("action {id} is still {state}: {text} (see: actiond explain {id})"));
    }
}

/// A daemon that does not answer: since when, and how long to pause before the next try.
struct Absence {
    since: Instant,
    pause: Duration,
}

impl Absence {
    fn new() -> Self {
        Self { since: Instant::now(), pause: PAUSE_MIN }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= ABSENCE_LIMIT
    }

    async fn pause(&mut self, left: Duration) {
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// Tells what is new about an action each time it is seen, and the log lines of its attempts.
struct Watcher {
    client: std::path::PathBuf,
    out: Out,
    told: String,
    attempt: u32,
    log: Option<JoinHandle<()>>,
}

impl Watcher {
    fn new(client: &Client, out: Out) -> Self {
        Self { client: client.socket().into(), out, told: String::new(), attempt: 0, log: None }
    }

    fn see(&mut self, action: &wire::Action) {
        let now = glance(action);
        if now != self.told {
            self.out.say(format!("action {} {now}", action.id));
            self.told = now;
        }
        if action.attempt > self.attempt {
            self.attempt = action.attempt;
            let client = Client::new(self.client.clone());
            let (out, id, attempt) = (self.out, action.id, action.attempt);
            self.log = Some(tokio::spawn(async move {
                // Its failure takes nothing from the wait: the daemon keeps the log.
                let _ = print_log(&client, id, Some(attempt), true, |line| {
                    out.say(format!("  {}", log_line(line)));
                    Ok(())
                })
                .await;
            }));
        }
    }

    async fn end(self) {
        if let Some(log) = self.log {
            let _ = tokio::time::timeout(LOG_LAG_MAX, log).await;
        }
    }
}

/// `logs ID`
pub async fn logs(
    client: &Client,
    out: Out,
    id: u64,
    attempt: Option<u32>,
    follow: bool,
) -> Result<Exit, Failure> {
    print_log(
        client,
        id,
        attempt,
        follow,
        |line| {
            if out.json { out.json(line) } else { out.text(log_line(line)) }
        },
    )
    .await?;
    Ok(Exit::Done)
}

async fn print_log(
    client: &Client,
    id: u64,
    attempt: Option<u32>,
    follow: bool,
    print: impl Fn(&crate::client::LogLine) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut lines = client.log(id, attempt, follow).await?;
    while let Some(line) = lines.next().await? {
        print(&line)?;
    }
    Ok(())
}

fn log_line(line: &crate::client::LogLine) -> String {
    let crate::client::LogLine { at, stream, line } = line;
    let dim = anstyle::Style::new().dimmed();
    let mark = if stream == "stdout" { String::new() } else { format!(" {}", escape(stream)) };
    format!("{dim}{}{mark}{dim:#} {}", escape(at), escape(line))
}

/// State and progress in a few words.
pub fn glance(action: &wire::Action) -> String {
    let mut text = state_word(&action.state);
    if let Some(progress) = action.progress.as_ref().filter(|_| action.state == State::Running.as_str()) {
        text = format!("{text} {}", table::progress(progress));
    }
    text
}

/// How an action ended, in one line.
pub fn verdict(action: &wire::Action) -> String {
    let said = [&action.finished_message, &action.reason].into_iter().flatten().find(|text| !text.is_empty());
    let said = said.map(|said| format!(": {}", escape(said))).unwrap_or_default();
    format!("action {} {}{said}", action.id, state_word(&action.state))
}

/// Waits until the daemon answers; used after it was started.
pub async fn daemon_answers(client: &Client, limit: Duration) -> Result<wire::Status, ClientError> {
    let patience = Patience::new(Some(limit), true, false);
    let mut absence = Absence::new();
    loop {
        match client.status().await {
            Err(error) if error.is_transient() => {
                let left = patience.left().unwrap_or_default();
                if left.is_zero() {
                    return Err(error);
                }
                absence.pause(left.min(Duration::from_millis(200))).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::sample;
    use super::*;

    fn bare(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn progress_is_told_only_while_it_runs() {
        let mut action = sample();
        assert_eq!(bare(&glance(&action)), "running 40 % pushing");
        action.state = "queued".into();
        assert_eq!(bare(&glance(&action)), "queued");
    }

    #[test]
    fn a_verdict_says_why() {
        let mut action = sample();
        action.state = "failed".into();
        action.finished_message = Some("no\nroom".into());
        assert_eq!(bare(&verdict(&action)), "action 8 failed: no\\nroom");
    }

    #[tokio::test]
    async fn a_daemon_that_was_never_there_fails_at_once_and_a_known_one_is_waited_for() {
        let client = Client::new("/nonexistent/actiond.sock".into());
        let out = Out { json: false };
        let failed = settle(&client, out, 1, Patience::new(None, false, false)).await;
        assert_eq!(failed.err().map(|failure| failure.exit), Some(Exit::Unreachable));
        let began = Instant::now();
        let limit = Duration::from_millis(150);
        let failed = settle(&client, out, 1, Patience::new(Some(limit), true, false)).await;
        assert_eq!(failed.err().map(|failure| failure.exit), Some(Exit::Unreachable));
        assert!(began.elapsed() >= limit);
    }
}
