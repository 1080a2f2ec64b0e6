//! The command line as types; `--help` is made of these comments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::demo::DemoArgs;
use super::exit;
use super::look::ListArgs;
use super::say::{CheckpointArgs, ProgressArgs, StepVerb};
use super::submit::SubmitArgs;

/// A durable action queue for one host: on disk before it says OK, recovered after a crash.
#[derive(Debug, Parser)]
#[command(name = "actiond", version, after_help = exit::TABLE, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Args)]
pub struct Global {
    /// The daemon's Unix socket [default: the system's if it exists, else the user's own]
    #[arg(long, global = true, env = "ACTIOND_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Data as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours; NO_COLOR is respected
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon in the foreground
    Serve {
        /// The configuration file [default: /etc/actiond/actiond.toml for root, $XDG_CONFIG_HOME/actiond/actiond.toml for
        /// anyone else, where it exists; without one the built-in defaults]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the effective configuration, or all its problems
    CheckConfig {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Submit an action; its id is printed when it is on disk
    Submit(Box<SubmitArgs>),
    /// List actions, newest first
    List(Box<ListArgs>),
    /// Show one action
    Show { id: u64 },
    /// Print the log of an attempt
    Logs {
        id: u64,
        /// Go on until the attempt ends
        #[arg(short, long)]
        follow: bool,
        /// Which attempt [default: the last]
        #[arg(long, value_name = "N")]
        attempt: Option<u32>,
    },
    /// Wait until actions are final or held; survives a restart of the daemon
    Wait {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        /// Longest wait, such as 90s or 1h
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Cancel waiting or running actions
    Cancel {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Submit a finished action again, as a new action
    Retry { id: u64 },
    /// Keep an action from running until a person resumes it
    Hold {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Let held actions run
    Resume {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
    },
    /// Settle a held action by hand
    Resolve(ResolveArgs),
    /// Free the resource of a held action
    Unlock { id: u64 },
    /// Show, pause or resume queues
    Queue {
        #[command(subcommand)]
        verb: QueueVerb,
    },
    /// Show the action types that are built in, or all that there is to know of one
    Actions {
        #[arg(value_name = "TYPE")]
        action: Option<String>,
        /// All pages, as the README has them
        #[arg(long, conflicts_with_all = ["action", "json"])]
        markdown: bool,
    },
    /// Say why an action waits
    Explain { id: u64 },
    /// Show what the daemon says of itself
    Status,
    /// See the main job: real actions, a kill in the middle, nothing lost
    Demo(DemoArgs),
    /// Within a program: begin and end a step of its action
    Step {
        #[command(subcommand)]
        verb: StepVerb,
    },
    /// Within a program: keep values for the attempt after an interruption, or ask for one
    Checkpoint(CheckpointArgs),
    /// Within a program: show how far it is, in percent
    Progress(ProgressArgs),
    /// Within a program: what the action says of its end; the last one counts
    Message {
        #[arg(allow_hyphen_values = true)]
        text: String,
    },
    /// Within a program: the action's result, a JSON object, or - for standard input; the last one counts
    Result {
        #[arg(value_name = "JSON")]
        object: String,
    },
    /// Within a program: keep a value out of its log and of all it says from now on; - takes it from standard input
    Redact {
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("found").required(true).args(["succeeded", "failed"]))]
pub struct ResolveArgs {
    pub id: u64,
    /// Its effect is there
    #[arg(long)]
    pub succeeded: bool,
    /// Its effect is not there
    #[arg(long)]
    pub failed: bool,
    /// What was found, for the record
    #[arg(long, value_name = "TEXT")]
    pub message: String,
}

#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// List all queues
    List,
    /// Start nothing more from a queue; what runs goes on
    Pause { name: String },
    /// Let a paused queue go on
    Resume { name: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_take_the_documented_arguments() {
        for line in [
            "actiond serve --config /etc/actiond.toml",
            "actiond submit --action deploy --type Stack --resource-id 34 --metadata {} --wait 5m --json",
            "actiond submit --action deploy --resource-type Stack --resource-id 34 --started-via hook --wait",
            "actiond submit --file - --follow",
            "actiond list --state queued,running --all --color never",
            "actiond logs 3 -f --attempt 2",
            "actiond wait 1 2 3 --timeout 90s",
            "actiond cancel 1 2 --reason late",
            "actiond resolve 7 --succeeded --message seen",
            "actiond queue pause default",
            "actiond actions deploy --json",
            "actiond actions --markdown",
            "actiond submit --action deploy --type Stack --resource-id 3 --set git_ref=main --set servers=1,2",
            "actiond --socket /tmp/s status",
            "actiond demo --keep --dir /tmp/x",
            "actiond step begin build",
            "actiond step done build",
            "actiond step run build -- make -j4 all",
            "actiond checkpoint image=a=b pushed=3",
            "actiond checkpoint image",
            "actiond progress 40 pushing",
            "actiond progress 100",
            "actiond message done",
            "actiond result -",
            "actiond redact -",
            "actiond redact --secret",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "actiond",
            "actiond wait",
            "actiond resolve 7 --message m",
            "actiond resolve 7 --succeeded --failed --message m",
            "actiond submit --action deploy",
            "actiond submit --file x --action deploy",
            "actiond submit --file x --set a=b",
            "actiond actions deploy --markdown",
            "actiond show minus-one",
            "actiond wait 1 --timeout soon",
            "actiond step begin",
            "actiond step run build",
            "actiond step run build make",
            "actiond checkpoint",
            "actiond progress 101",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
