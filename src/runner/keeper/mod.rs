//! The keeper: the small process that starts a program and stays with it, whatever becomes of the daemon.
//!
//! ```text
//!  daemon ── stream ─▶ keeper: order ─▶ says who it is ─▶ waits at its gate ── go ─▶ owns the attempt
//!                                             │                   └─ the daemon is gone: it ends, nothing was started
//!            makes that durable ◀─────────────┘
//!  keeper ─▶ starts the program in a session of its own ─▶ copies its output to the log, its statements to a file
//!         ─▶ ends what it is told to end, and what the program leaves ─▶ tells the daemon, or writes down, how
//!            it ended ─▶ ends
//! ```
//!
//! The keeper is this very binary, without runtime and with one thread (`leaf` has another, at the end): `actiond keeper`
//! with its stream as standard input, or a fork of the zygote (`actiond keeper zygote`). It adopts every process that its
//! program starts (`PR_SET_CHILD_SUBREAPER`, prctl(2)): so all of them stay below it, and none gets away while it lives.
//!
//! # Guarantees
//!
//! - The program is started at most once, and only after its keeper's identity is durable in the store and no recovery has
//!   decided that the attempt is gone (`place`).
//! - The daemon may die, and another one may come, at any moment: no line of the log, no statement and no outcome is
//!   lost or doubled. The keeper alone writes the attempt's log while it lives.
//! - Before it ends, the outcome is durable: in the store, by the daemon's word, or in a file.
//! - When the outcome is there, nothing of the attempt is alive, or the outcome says what is.
//!
//! # Who may say what
//!
//! The socket is found by `ACTIOND_KEEPER`. The daemon is whoever runs as the keeper's own user, or root; the program is
//! whoever is below the keeper, or of the program's session (`peers`). There is no secret.

pub(crate) mod address;
mod ending;
mod leaf;
mod life;
mod memory;
mod pages;
mod peers;
mod pipes;
pub(crate) mod place;
mod start;
pub(crate) mod statements;
mod user;
pub(crate) mod words;
mod zygote;

use std::ffi::{CString, OsString};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2};

use self::place::AttemptPlace;
use self::words::{AtGate, Cannot, Order, VERSION, WORD_BYTES_MAX, Word, line};
use super::proc::{self, Process};
use crate::crash_point::crash_point;

/// Longest order: a program and an environment at their largest (execve(2) takes 2 MiB of both by default), a
/// checkpoint, and all of them escaped.
const ORDER_BYTES_MAX: u64 = 16 << 20;

/// What is sent to every process of this name, such as for a reload, is not for a keeper; SIGTERM is.
const NOT_FOR_KEEPERS: [i32; 5] = [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2];

/// Runs with the arguments that follow `keeper`.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    for signal in NOT_FOR_KEEPERS {
        // Heard and forgotten; its program gets all of them back as they were.
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
    let words: Vec<OsString> = args.into_iter().collect();
    match words.as_slice() {
        [word] if word == "zygote" => zygote::serve(),
        [word, rest @ ..] if word == "as" => user::become_program(rest),
        [] => {
            let Ok(stream) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
            keep(stream.into());
            end()
        }
        _ => {
            complain("it is started by the daemon only");
            ExitCode::from(64)
        }
    }
}

/// Ends this process, all of whose work is done. To give back its memory piece by piece, as the way out through `main`
/// does, takes longer than to let the kernel do that at once.
fn end() -> ! {
    signal_hook::low_level::exit(0)
}

/// Keeps one attempt to its end. What goes wrong is told over the stream, and to whoever reads standard error.
fn keep(stream: UnixStream) {
    let mut daemon = BufReader::new(stream);
    if let Err(error) = carry(&mut daemon) {
        let cannot = Cannot { cannot: error.to_string(), errno: error.raw_os_error() };
        let _ = daemon.get_ref().write_all(&line(&cannot));
        // The daemon need not wait for whoever reads the complaint.
        drop(daemon);
        complain(&error.to_string());
    }
}

fn carry(daemon: &mut BufReader<UnixStream>) -> io::Result<()> {
    let Some((order, input)) = take_order(daemon)? else { return Ok(()) };
    // As `ps` and the kernel's messages show it.
    if let Ok(name) = CString::new(format!("keeper {}.{}", order.id, order.attempt)) {
        let _ = rustix::thread::set_name(&name);
    }
    let own = Process::read(std::process::id())?;
    let own = own.ok_or_else(|| io::Error::other("/proc does not show the keeper"))?.program;
    let at_gate = AtGate { pid: own.pid, start_ticks: own.start_ticks };
    daemon.get_ref().write_all(&line(&at_gate))?;
    // While the daemon makes that durable.
    let place = AttemptPlace::at(order.place.clone());
    let prepared = life::Prepared::new(order, input, place.clone())?;
    crash_point("keeper_at_gate");
    if !gate_opens(daemon)? {
        return Ok(());
    }
    crash_point("keeper_released");
    let Some(owned) = proc::while_short(|| place.own(own))? else { return Ok(()) };
    crash_point("keeper_owner");
    // Words that came together with the go are not lost.
    let early = daemon.buffer().to_vec();
    let stream = daemon.get_ref().try_clone()?;
    prepared.run(owned, stream, early)
}

/// The order and the program's input; none if the daemon went away before it had said all of it.
fn take_order(daemon: &mut BufReader<UnixStream>) -> io::Result<Option<(Order, Vec<u8>)>> {
    let mut text = Vec::new();
    daemon.take(ORDER_BYTES_MAX).read_until(b'\n', &mut text)?;
    if text.last() != Some(&b'\n') {
        return Ok(None);
    }
    let order: Order = serde_json::from_slice(&text)
        .map_err(|error| io::Error::other(format!("the keeper cannot understand its order: {error}")))?;
    if order.version != VERSION {
        let told = format!("the keeper cannot understand an order of version {}", order.version);
        return Err(io::Error::other(told));
    }
    let mut input = Vec::with_capacity(order.input_bytes);
    daemon.take(order.input_bytes as u64).read_to_end(&mut input)?;
    Ok((input.len() == order.input_bytes).then_some((order, input)))
}

/// Waits for the go; false if the daemon is gone.
fn gate_opens(daemon: &mut BufReader<UnixStream>) -> io::Result<bool> {
    let mut text = Vec::new();
    daemon.take(WORD_BYTES_MAX as u64).read_until(b'\n', &mut text)?;
    Ok(matches!(serde_json::from_slice(&text), Ok(Word::Go)))
}

/// To whoever reads standard error: the daemon's log, or the journal of the keeper's unit.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "actiond keeper: {what}");
}
