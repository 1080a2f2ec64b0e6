//! `queue list|pause|resume`.

use serde_json::json;

use super::args::QueueVerb;
use super::exit::Exit;
use super::output::{Failure, Out, escape};
use super::table;
use crate::client::Client;

pub async fn queue(client: &Client, out: Out, verb: QueueVerb) -> Result<Exit, Failure> {
    let (name, paused) = match verb {
        QueueVerb::List => {
            let queues = client.queues().await?;
            if out.json {
                out.json(&json!({ "queues": queues }))?;
            } else {
                out.text(table::queues(&queues))?;
            }
            return Ok(Exit::Done);
        }
        QueueVerb::Pause { name } => (name, true),
        QueueVerb::Resume { name } => (name, false),
    };
    let queue = client.pause_queue(&name, paused).await?;
    if out.json {
        out.json(&queue)?;
    } else {
        let state = if queue.paused { "paused" } else { "open" };
        let (waiting, running) = (queue.waiting, queue.running);
        out.text(format!("queue {} is {state}: {waiting} waiting, {running} running", escape(&queue.name)))?;
    }
    Ok(Exit::Done)
}
