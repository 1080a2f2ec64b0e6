//! Verbs for a program that actiond runs, about its own action: step, checkpoint, progress, message, result, redact.
//!
//! They return when what they said is on disk, whether the daemon runs or not (`runner::say`), and start no runtime: a
//! script may say many of them.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand};

use super::exit::{Exit, STEP_IS_DONE};
use super::output::{Failure, Out};
use crate::runner::keeper::words::{Answer, WORD_BYTES_MAX, Word};
use crate::runner::say::{Unsaid, say};

/// As a shell tells it.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

#[derive(Debug, Subcommand)]
pub enum StepVerb {
    /// Begin a step: exit 0 says do it now, exit 3 that it is done, by an earlier attempt perhaps
    Begin { name: String },
    /// A step is done; it is never begun again
    Done { name: String },
    /// Begin a step, run a command, and if that exits 0 the step is done; nothing if it was done before
    Run {
        name: String,
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// KEY=VALUE sets a key, several of them at once; KEY alone prints its value, or exits 1 if there is none
    #[arg(required = true, value_name = "KEY[=VALUE]")]
    pub keys: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ProgressArgs {
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    pub percent: u8,
    /// What it is at
    #[arg(default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub message: String,
}

pub fn step(out: Out, verb: StepVerb) -> ExitCode {
    match verb {
        StepVerb::Begin { name } => match tell(&Word::StepBegin { name }) {
            Ok(Answer::Done) => ExitCode::from(STEP_IS_DONE),
            told => ended(out, told),
        },
        StepVerb::Done { name } => ended(out, tell(&Word::StepDone { name })),
        StepVerb::Run { name, command } => match tell(&Word::StepBegin { name: name.clone() }) {
            Ok(Answer::Done) => ExitCode::SUCCESS,
            Ok(_) => match run(&command) {
                Ok(0) => ended(out, tell(&Word::StepDone { name })),
                Ok(code) => ExitCode::from(code),
                Err((code, text)) => {
                    out.say(format!("actiond: {}", super::output::escape(&text)));
                    ExitCode::from(code)
                }
            },
            Err(failure) => ended(out, Err(failure)),
        },
    }
}

pub fn checkpoint(out: Out, args: CheckpointArgs) -> ExitCode {
    if let [key] = args.keys.as_slice()
        && !key.contains('=')
    {
        return recall(out, key).unwrap_or_else(|failure| ended(out, Err(failure)));
    }
    let mut values = BTreeMap::new();
    for word in args.keys {
        let Some((key, value)) = word.split_once('=') else {
            let text = format!("{word} is no KEY=VALUE; only one KEY can be asked for at once");
            return ended(out, Err(Failure::new(Exit::Usage, text)));
        };
        values.insert(key.to_owned(), value.to_owned());
    }
    ended(out, tell(&Word::Checkpoint { values }))
}

pub fn progress(out: Out, args: ProgressArgs) -> ExitCode {
    ended(out, tell(&Word::Progress { percent: args.percent, message: args.message }))
}

pub fn message(out: Out, text: String) -> ExitCode {
    ended(out, tell(&Word::Message { text }))
}

pub fn result(out: Out, json: String) -> ExitCode {
    ended(out, given(json).and_then(|json| tell(&Word::Result { json })))
}

pub fn redact(out: Out, value: String) -> ExitCode {
    ended(out, given(value).and_then(|value| tell(&Word::Redact { value })))
}

/// Its value goes out as it is, for a script to take.
fn recall(out: Out, key: &str) -> Result<ExitCode, Failure> {
    let Answer::Value(value) = tell(&Word::Recall { key: key.to_owned() })? else {
        return Err(Failure::new(Exit::Failed, "the keeper gave another answer than a value"));
    };
    let exit = if value.is_some() { Exit::Done } else { Exit::Failed };
    if out.json {
        out.json(&value)?;
    } else if let Some(value) = value {
        let mut stdout = io::stdout().lock();
        stdout.write_all(value.as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(exit.into())
}

/// A word's text, which `-` takes from standard input, less the end of its last line.
fn given(word: String) -> Result<String, Failure> {
    if word != "-" {
        return Ok(word);
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(WORD_BYTES_MAX as u64 + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Refused, format!("cannot read standard input: {error}")))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// The exit code of a command, as a shell tells it; or that, and why it was not started.
fn run(command: &[std::ffi::OsString]) -> Result<u8, (u8, String)> {
    let Some((program, arguments)) = command.split_first() else { return Ok(0) };
    let status = Command::new(program).args(arguments).status().map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
        (code, format!("cannot start {}: {error}", program.to_string_lossy()))
    })?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    // Never 0 for what was not.
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

fn tell(word: &Word) -> Result<Answer, Failure> {
    say(word).map_err(|unsaid| {
        let exit = match unsaid {
            Unsaid::NoProgram => Exit::Usage,
            Unsaid::NoKeeper | Unsaid::Unreachable { .. } | Unsaid::NoPipe(_) => Exit::Unreachable,
            Unsaid::NotAllowed => Exit::NotAllowed,
            Unsaid::Refused(_) => Exit::Refused,
        };
        Failure::new(exit, unsaid.to_string())
    })
}

fn ended(out: Out, told: Result<Answer, Failure>) -> ExitCode {
    told.map_or_else(
        |failure| {
            out.fail(&failure);
            failure.exit.into()
        },
        |_| Exit::Done.into(),
    )
}
