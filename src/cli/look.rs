//! Verbs that only look: list, show, explain, status.

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::output::{Failure, Out, escape};
use super::table;
use crate::client::{Client, Filter};

/// Actions asked for at once with `--all`.
const PAGE: u32 = 500;

#[derive(Debug, Default, Args)]
pub struct ListArgs {
    /// Only these states, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "STATE", value_parser = state)]
    pub state: Vec<String>,
    #[arg(long)]
    pub queue: Option<String>,
    #[arg(long)]
    pub action: Option<String>,
    #[arg(long = "type", visible_alias = "resource-type", value_name = "TYPE")]
    pub resource_type: Option<String>,
    #[arg(long, value_name = "N")]
    pub resource_id: Option<u64>,
    #[arg(long)]
    pub user: Option<String>,
    /// Only ids below this one
    #[arg(long, value_name = "ID")]
    pub before: Option<u64>,
    /// Longest page
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// All pages; with --json one document a page
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

fn state(word: &str) -> Result<String, String> {
    let known = crate::action::State::from_word(word);
    known.map(|state| state.as_str().to_owned()).ok_or_else(|| {
        let words: Vec<_> = crate::action::State::ALL.iter().map(|state| state.as_str()).collect();
        format!("the states are {}", words.join(", "))
    })
}

pub async fn list(client: &Client, out: Out, args: ListArgs) -> Result<Exit, Failure> {
    let ListArgs { state, queue, action, resource_type, resource_id, user, before, limit, all } = args;
    let limit = if all { Some(PAGE) } else { limit };
    let mut filter = Filter { states: state, queue, action, resource_type, resource_id, user, before, limit };
    let mut shown = 0;
    loop {
        let page = client.list(&filter).await?;
        if out.json {
            out.json(&page)?;
        } else if !page.actions.is_empty() {
            out.text(table::actions(&page.actions))?;
        }
        shown += page.actions.len();
        match page.next {
            Some(next) if all => filter.before = Some(next),
            Some(next) => {
                if !out.json {
                    out.say(format!("there are more: add --before {next}, or --all"));
                }
                break;
            }
            None => break,
        }
    }
    if shown == 0 && !out.json {
        out.say("no actions");
    }
    Ok(Exit::Done)
}

pub async fn show(client: &Client, out: Out, id: u64) -> Result<Exit, Failure> {
    let action = client.action(id).await?;
    if out.json {
        out.json(&action)?;
    } else {
        out.text(table::action(&action))?;
        if let Some(hint) = table::next_step(id, &action.state) {
            out.say(hint);
        }
    }
    Ok(Exit::Done)
}

pub async fn explain(client: &Client, out: Out, id: u64) -> Result<Exit, Failure> {
    let explanation = client.explain(id).await?;
    if out.json {
        out.json(&explanation)?;
        return Ok(Exit::Done);
    }
    out.text(format!("action {} is {}", explanation.id, table::state_word(&explanation.state)))?;
    for cause in &explanation.causes {
        out.text(format!("  {}", escape(&cause.text)))?;
    }
    if let Some(hint) = table::next_step(explanation.id, &explanation.state) {
        out.say(hint);
    }
    Ok(Exit::Done)
}

pub async fn status(client: &Client, out: Out) -> Result<Exit, Failure> {
    let status = client.status().await?;
    if out.json {
        out.json(&json!(status))?;
        return Ok(Exit::Done);
    }
    let counts = status.states.iter().filter(|(_, count)| **count > 0);
    let words: Vec<_> = counts.map(|(state, count)| format!("{count} {state}")).collect();
    let store = &status.store;
    let mut rows = vec![
        ("actiond", format!("{}, start {}", escape(&status.version), status.incarnation)),
        ("socket", escape(&client.socket().display().to_string())),
        (
            "status page",
            status.status_address.as_deref().map_or("off".into(), |at| format!("http://{}/", escape(at))),
        ),
        ("actions", if words.is_empty() { "none".into() } else { escape(&words.join(", ")) }),
        ("since start", format!("{} accepted, {} recovered", status.accepted, status.recovered)),
        ("store", if store.rebuilding.is_some() { "works, while sled is rebuilt" } else { "healthy" }.into()),
        (
            "journal",
            format!(
                "{} in {} groups, {} checkpoints",
                mib(store.journal_bytes),
                store.journal_groups,
                store.checkpoints
            ),
        ),
        ("memory table", mib(store.memory_bytes)),
        ("disk free", mib(store.disk_free_bytes)),
    ];
    if status.draining {
        rows.push(("draining", "it stops and takes no more actions".into()));
    }
    if status.reboot_due {
        rows.push(("reboot", "an action has asked for one, and nothing is started before".into()));
    }
    if let Some(reason) = &store.rebuilding {
        rows.push(("rebuilding", escape(reason)));
    }
    if let Some(reason) = &store.last_rebuild_reason {
        rows.push((
            "rebuilt",
            format!("{} times since the start, last because: {}", store.rebuilds, escape(reason)),
        ));
    }
    out.text(table::pairs(&rows))?;
    if !status.queues.is_empty() {
        out.text(format!("\n{}", table::queues(&status.queues)))?;
    }
    Ok(Exit::Done)
}

fn mib(bytes: u64) -> String {
    let (shift, unit) = if bytes < 10 << 30 { (20, "MiB") } else { (30, "GiB") };
    let tenths = bytes.saturating_mul(10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_states_pass() {
        assert_eq!(state("retry_wait").unwrap(), "retry_wait");
        assert!(state("done").unwrap_err().contains("succeeded"));
    }

    #[test]
    fn bytes_are_told_in_mebibytes_and_many_in_gibibytes() {
        assert_eq!(mib(40 << 30), "40.0 GiB");
        assert_eq!(mib(0), "0.0 MiB");
        assert_eq!(mib(3 << 19), "1.5 MiB");
    }
}
