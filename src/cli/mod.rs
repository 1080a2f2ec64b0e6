//! The command line: reads the arguments, carries out one verb, returns its exit code (`exit`).
//!
//! Data goes to stdout and talk to stderr (`output`); with `--json` stdout carries JSON only. The verbs are
//! clients of the daemon like any other: all but `serve` and `check-config` reach it through [`crate::client`] alone. What a
//! running program says of its own action goes to its keeper (`say`).
//! Called by `main`.

mod act;
mod actions;
mod args;
mod demo;
mod exit;
mod follow;
mod look;
mod output;
mod queue;
mod say;
mod serve;
mod submit;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::client::Client;
use crate::config::Config;
use args::{Cli, Color, Global, Verb};
use exit::Exit;
use output::{Failure, Out};

/// Carries out the command line of this process and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => {
            let exit = if refused.use_stderr() { Exit::Usage } else { Exit::Done };
            // A help that nobody reads (`--help | head`) is no failure.
            let _ = refused.print();
            return exit.into();
        }
    };
    match cli.global.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    let out = Out { json: cli.global.json };
    match cli.verb {
        Verb::Serve { config } => serve::serve(out, config),
        Verb::CheckConfig { config } => serve::check(out, config.as_deref()).into(),
        Verb::Actions { action, markdown } => actions::actions(out, action.as_deref(), markdown).into(),
        Verb::Step { verb } => say::step(out, verb),
        Verb::Checkpoint(args) => say::checkpoint(out, args),
        Verb::Progress(args) => say::progress(out, args),
        Verb::Message { text } => say::message(out, text),
        Verb::Result { object } => say::result(out, object),
        Verb::Redact { value } => say::redact(out, value),
        verb => client_verb(&cli.global, out, verb).into(),
    }
}

/// Carries out a verb that talks to the daemon.
fn client_verb(global: &Global, out: Out, verb: Verb) -> Exit {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out.fail(&Failure::new(Exit::Failed, format!("cannot start the runtime: {error}")));
            return Exit::Failed;
        }
    };
    let done = runtime.block_on(async {
        let socket = global.socket.clone().unwrap_or_else(Config::default_socket);
        dispatch(&Client::new(socket), out, verb).await
    });
    // A read of a terminal that never comes back must not keep the process.
    runtime.shutdown_background();
    done.unwrap_or_else(|failure| {
        out.fail(&failure);
        failure.exit
    })
}

async fn dispatch(client: &Client, out: Out, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        // Taken by `main`.
        Verb::Serve { .. }
        | Verb::Actions { .. }
        | Verb::CheckConfig { .. }
        | Verb::Step { .. }
        | Verb::Checkpoint(_)
        | Verb::Progress(_)
        | Verb::Message { .. }
        | Verb::Result { .. }
        | Verb::Redact { .. } => Ok(Exit::Usage),
        Verb::Submit(args) => submit::submit(client, out, *args).await,
        Verb::List(args) => look::list(client, out, *args).await,
        Verb::Show { id } => look::show(client, out, id).await,
        Verb::Explain { id } => look::explain(client, out, id).await,
        Verb::Status => look::status(client, out).await,
        Verb::Logs { id, follow, attempt } => follow::logs(client, out, id, attempt, follow).await,
        Verb::Wait { ids, timeout } => follow::wait(client, out, &ids, timeout).await,
        Verb::Cancel { ids, reason } => act::many(client, out, "cancel", &ids, &reason).await,
        Verb::Hold { ids, reason } => act::many(client, out, "hold", &ids, &reason).await,
        Verb::Resume { ids } => act::many(client, out, "resume", &ids, "").await,
        Verb::Retry { id } => act::retry(client, out, id).await,
        Verb::Resolve(args) => act::resolve(client, out, &args).await,
        Verb::Unlock { id } => act::many(client, out, "unlock", &[id], "").await,
        Verb::Queue { verb } => queue::queue(client, out, verb).await,
        Verb::Demo(args) => demo::demo(out, args).await,
    }
}
