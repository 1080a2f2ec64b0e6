//! `submit`: one action from flags, or what a file holds; its id is on stdout once it is on disk.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;

use super::exit::Exit;
use super::follow::{self, Patience};
use super::output::{Failure, Out};
use super::table::state_word;
use crate::api::wire;
use crate::client::{Client, Submitted};

mod metadata;
mod stream;

#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    pub spec: Spec,
    /// One JSON object, or NDJSON of many, from a file or stdin (-); an object wins if it is the only one
    #[arg(long, value_name = "FILE", conflicts_with = "Spec")]
    pub file: Option<std::path::PathBuf>,
    /// Take the file as NDJSON from its first line on, without a look at the second
    #[arg(long, requires = "file")]
    pub ndjson: bool,
    /// Wait until it is final or held, and exit with its code
    #[arg(long, value_name = "DURATION", num_args = 0..=1, value_parser = humantime::parse_duration)]
    #[expect(clippy::option_option, reason = "absent, without a value, with a value: clap's way to say it")]
    pub wait: Option<Option<Duration>>,
    /// As --wait, with progress and log lines on stderr
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct Spec {
    /// On whose behalf, an email address [default: $USER@HOST]
    #[arg(long)]
    pub user: Option<String>,
    /// What kind of thing it is done to, such as Stack
    #[arg(
        long = "type",
        visible_alias = "resource-type",
        value_name = "TYPE",
        required_unless_present = "file"
    )]
    pub resource_type: Option<String>,
    /// What to do, such as deploy
    #[arg(long, required_unless_present = "file")]
    pub action: Option<String>,
    /// Which one
    #[arg(long, value_name = "N", required_unless_present = "file", allow_negative_numbers = true)]
    pub resource_id: Option<u64>,
    /// Where it was started
    #[arg(long = "started-via", visible_alias = "via", value_name = "WORD", default_value = "cli")]
    pub via: String,
    /// A JSON object, or @FILE with one (@- for stdin)
    #[arg(long, value_name = "JSON")]
    pub metadata: Option<String>,
    /// A key of the metadata, over --metadata; as its type has it, and a list as WORD,WORD; more than once for several
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Which queue [default: the handler's]
    #[arg(long)]
    pub queue: Option<String>,
    /// 0 to 9; 9 is served first
    #[arg(long, value_name = "0-9", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub priority: Option<u8>,
    /// Not before: a time (RFC 3339), or from now, such as 10m
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub run_at: Option<String>,
    /// Not after: a time, or from now
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub deadline: Option<String>,
    /// Longest time for one attempt, such as 30m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<String>,
    /// When its resource is taken
    #[arg(long, value_name = "WHAT", value_parser = ["queue", "reject", "join", "replace_queued", "parallel"])]
    pub on_conflict: Option<String>,
    /// Idempotency key: the same key and request again is answered with the first action
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Tries in all, the first included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub retry_attempts: Option<u32>,
    /// Pause before the second try; doubles with each further one
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "retry_attempts")]
    pub retry_backoff: Option<String>,
    /// Longest pause between two tries
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "retry_attempts")]
    pub retry_backoff_max: Option<String>,
}

pub async fn submit(client: &Client, out: Out, args: SubmitArgs) -> Result<Exit, Failure> {
    let SubmitArgs { spec, file, ndjson, wait, follow } = args;
    let patience = (wait.is_some() || follow).then(|| Patience::new(wait.flatten(), true, follow));
    if let Some(file) = file {
        return stream::submit_file(client, out, &file, ndjson, patience).await;
    }
    let request = request(spec)?;
    let submitted = client.submit(&request).await.map_err(|error| {
        let mut failure = Failure::from(error);
        let problem = failure.problem.as_deref();
        let help =
            problem.and_then(|problem| metadata::help(problem, &request.action, request.metadata.as_deref()));
        if let Some(help) = help {
            failure.text = format!("{}\n{help}", failure.text);
        }
        failure
    })?;
    accepted(client, out, &submitted, patience).await
}

/// Tells the answer to one submission, and waits if so asked.
async fn accepted(
    client: &Client,
    out: Out,
    submitted: &Submitted,
    patience: Option<Patience>,
) -> Result<Exit, Failure> {
    let Submitted { action, fresh } = submitted;
    let id = action.id;
    let word = if *fresh { "accepted" } else { "was there before" };
    if !out.json {
        out.say(format!("action {id} {word}, {}", state_word(&action.state)));
        out.text(id.to_string())?;
    }
    let Some(patience) = patience else {
        if out.json {
            out.json(action)?;
        }
        return Ok(Exit::Done);
    };
    let (ended, exit) = follow::all(client, out, &[id], patience).await?;
    // The one document of --json is the action as it ended, or as it was accepted if the wait ran out.
    let last = ended.first().unwrap_or(action);
    if out.json {
        out.json(last)?;
    } else if !ended.is_empty() {
        out.say(follow::verdict(last));
    }
    Ok(exit)
}

/// The request that the flags describe.
fn request(spec: Spec) -> Result<wire::SubmitRequest, Failure> {
    let Spec {
        user,
        resource_type,
        action,
        resource_id,
        via,
        metadata,
        set,
        queue,
        priority,
        run_at,
        deadline,
        timeout,
        on_conflict,
        key,
        retry_attempts,
        retry_backoff,
        retry_backoff_max,
    } = spec;
    let missing = |name| move || Failure::new(Exit::Usage, format!("{name} is missing"));
    let action = action.ok_or_else(missing("--action"))?;
    Ok(wire::SubmitRequest {
        user: user.unwrap_or_else(default_user),
        resource_type: resource_type.ok_or_else(missing("--type"))?,
        resource_id: resource_id.ok_or_else(missing("--resource-id"))?,
        started_via: via,
        metadata: metadata::of(&action, metadata.as_deref(), &set)?,
        action,
        queue,
        priority,
        run_at,
        deadline,
        timeout,
        on_conflict,
        idempotency_key: key,
        retry: retry_attempts.map(|attempts| wire::Retry {
            attempts,
            backoff: retry_backoff,
            backoff_max: retry_backoff_max,
        }),
    })
}

/// Who seems to sit here; a label, never an identity.
fn default_user() -> String {
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| format!("uid{}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

/// A time on the wire from a time, or from a duration counted from now.
fn instant(text: &str) -> Result<String, String> {
    if let Ok(from_now) = humantime::parse_duration(text.trim_start_matches('+')) {
        let ms = u64::try_from(from_now.as_millis()).unwrap_or(u64::MAX);
        let at = crate::clock::now().plus_ms(ms).0;
        return DateTime::<Utc>::from_timestamp_millis(at)
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
            .ok_or_else(|| "that is too far away".into());
    }
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::Millis, true))
        .map_err(|_| "give a time such as 2026-03-01T14:08:29Z, or a duration from now such as 10m".into())
}

/// A duration, checked here and sent as it was written.
fn duration(text: &str) -> Result<String, String> {
    humantime::parse_duration(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Verb};
    use super::*;
    use clap::Parser;

    fn spec(line: &[&str]) -> Spec {
        let Verb::Submit(args) = Cli::try_parse_from(line).unwrap().verb else { panic!("no submit") };
        args.spec
    }

    #[test]
    fn flags_become_the_request() {
        let spec = spec(&[
            "actiond",
            "submit",
            "--user",
            "a@example.com",
            "--action",
            "deploy",
            "--type",
            "Stack",
            "--resource-id",
            "34",
            "--metadata",
            r#"{"git_ref": "main"}"#,
            "--priority",
            "9",
            "--run-at",
            "2026-03-01T15:08:29+01:00",
            "--timeout",
            "30m",
            "--on-conflict",
            "join",
            "--key",
            "k1",
            "--retry-attempts",
            "3",
            "--retry-backoff",
            "1s",
        ]);
        let json = serde_json::to_value(request(spec).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "user": "a@example.com", "resource_type": "Stack", "action": "deploy", "resource_id": 34,
                "started_via": "cli", "metadata": {"git_ref": "main"}, "priority": 9,
                "run_at": "2026-03-01T14:08:29.000Z", "timeout": "30m", "on_conflict": "join",
                "idempotency_key": "k1", "retry": {"attempts": 3, "backoff": "1s"},
            })
        );
    }

    #[test]
    fn what_is_left_out_is_left_to_the_daemon() {
        let line = ["actiond", "submit", "--action", "noop", "--type", "Stack", "--resource-id", "1"];
        let json = serde_json::to_value(request(spec(&line)).unwrap()).unwrap();
        let mut keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["action", "resource_id", "resource_type", "started_via", "user"]);
        assert!(json["user"].as_str().unwrap().contains('@'));
    }

    #[test]
    fn times_may_be_counted_from_now() {
        let before = crate::clock::now();
        let at = DateTime::parse_from_rfc3339(&instant("10m").unwrap()).unwrap().timestamp_millis();
        assert!(at >= before.0 + 600_000 && at < before.0 + 660_000);
        assert!(instant("+1h").is_ok());
        assert!(instant("tomorrow").is_err());
    }
}
