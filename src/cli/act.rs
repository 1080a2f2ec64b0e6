//! Verbs that change one action: cancel, hold, resume, retry, resolve, unlock.

use serde_json::json;

use super::args::ResolveArgs;
use super::exit::Exit;
use super::output::{Failure, Out, escape};
use super::table::state_word;
use crate::api::wire;
use crate::client::Client;

/// Carries out `verb` on each action; one that refuses does not keep the others from it.
pub async fn many(client: &Client, out: Out, verb: &str, ids: &[u64], reason: &str) -> Result<Exit, Failure> {
    let body = if reason.is_empty() { json!({}) } else { json!({ "reason": reason }) };
    let mut first = Exit::Done;
    for id in ids {
        match client.command(*id, verb, &body).await {
            Ok(action) => tell(out, &action)?,
            Err(error) => {
                let mut failure = Failure::from(error);
                failure.text = format!("{verb} {id}: {}", failure.text);
                if failure.exit == Exit::Unreachable || ids.len() == 1 {
                    return Err(failure);
                }
                out.fail(&failure);
                if first == Exit::Done {
                    first = failure.exit;
                }
            }
        }
    }
    Ok(first)
}

/// Submits a finished action again; prints the new one's id.
pub async fn retry(client: &Client, out: Out, id: u64) -> Result<Exit, Failure> {
    let action = client.command(id, "retry", &json!({})).await?;
    if out.json {
        out.json(&action)?;
    } else {
        out.say(format!("action {} repeats action {id}", action.id));
        out.text(action.id.to_string())?;
    }
    Ok(Exit::Done)
}

pub async fn resolve(client: &Client, out: Out, args: &ResolveArgs) -> Result<Exit, Failure> {
    let body = json!({ "success": args.succeeded, "message": args.message });
    tell(out, &client.command(args.id, "resolve", &body).await?)?;
    Ok(Exit::Done)
}

fn tell(out: Out, action: &wire::Action) -> Result<(), Failure> {
    if out.json {
        return out.json(action);
    }
    let reason = action.reason.as_deref().filter(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!(": {}", escape(reason))).unwrap_or_default();
    out.text(format!("action {} is {}{reason}", action.id, state_word(&action.state)))
}
