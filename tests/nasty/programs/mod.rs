//! Programs that do not want to end, and how each is made to: the same for every place where programs run.
//!
//! A [`Scenario`] is a script and when it counts as under way. [`play`] runs it on a [`Stage`] (a daemon in plain sessions in
//! the crate `nasty`, the shipped service with its units in the crate `systemd`), has it ended, and looks itself whether
//! anything of it is alive: every process has a number in its command line that no other has, and all processes of the
//! machine are looked at, those of containers too. What the daemon says is only compared with that.
//!
//! # What is promised, and how it is judged
//!
//! - Nothing of it is alive once its end is told, and that is `cancelled`, or `timed_out`, or what the recovery policy
//!   says. A scenario in which that is not so fails at once.
//! - It takes [`GRACE`] and 2 s at most, from the request, or the limit, to the end, by the daemon's own times. On a machine
//!   that is busy with other work the 2 s are multiplied by how much longer than alone a piece of work takes there, just
//!   before the program or just after its end, whichever is longer ([`slowness`]); what the program itself does to
//!   the machine is no excuse. What is over that is played again, and has failed when it was over [`TURNS`] times out of as
//!   many: a machine that others use may stand still for a moment.
//! - What takes the processor from the daemon and its keeper as well ([`Scenario::starves`]) is measured and printed as the
//!   others, but has failed only when it took [`STARVED`] times the 2 s: how the kernel shares the processor out differs.
//!
//! `SCENARIO=name` in the environment plays one alone.

mod processes;
mod scenarios;

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use self::processes::{AllEnds, alive, freeze, freezer_v1};
use self::scenarios::{ALL, Frozen, Scenario, Stop, witness};
pub use self::scenarios::{scripts, tables};

/// Between SIGTERM and SIGKILL, in [`tables`].
pub const GRACE: Duration = Duration::from_millis(700);
const BEYOND: Duration = Duration::from_secs(2);
/// See [`Scenario::starves`].
const STARVED: f64 = 3.0;
/// Between SIGTERM and SIGKILL of systemd for a unit.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Plays of what takes too long.
const TURNS: u32 = 3;
/// Longest wait for an end, which then has failed; and until a program is under way, which takes long on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon whose configuration has [`tables`].
pub trait Stage {
    /// What it answers; it has to be content.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value;
    /// Whether programs run in units.
    fn has_units(&self) -> bool;
}

/// Why a play has failed.
enum Wrong {
    /// It took too long, and all else was as it has to be.
    Late(String),
    Failed(String),
}

/// Plays all scenarios that this stage can have, one after the other, and then says what went wrong.
pub fn play_all(stage: &dyn Stage) {
    let only = std::env::var("SCENARIO").ok();
    let mut wrong = Vec::new();
    for (index, scenario) in ALL.iter().enumerate() {
        let is_out = scenario.frozen == Frozen::ProgramV1 && (stage.has_units() || freezer_v1().is_none());
        if is_out || only.as_ref().is_some_and(|only| only != scenario.name) {
            continue;
        }
        for turn in 1..=TURNS {
            match play(stage, scenario, &witness(index)) {
                Ok(()) => break,
                Err(Wrong::Late(what)) if turn < TURNS => println!("{}: once more: {what}", scenario.name),
                Err(Wrong::Late(what) | Wrong::Failed(what)) => {
                    wrong.push(format!("{}: {what}", scenario.name));
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn play(stage: &dyn Stage, scenario: &Scenario, witness: &str) -> Result<(), Wrong> {
    let all_end = AllEnds(witness);
    let slow_before = slowness();
    let mut body = json!({
        "user": "a@example.com", "resource_type": "Host", "action": scenario.name, "resource_id": 1,
        "started_via": "api", "on_conflict": "parallel",
    });
    let now = chrono::Utc::now();
    match scenario.stop {
        Stop::TimeOut(seconds) => body["timeout"] = format!("{seconds}s").into(),
        Stop::Deadline(seconds) => {
            let deadline = now + Duration::from_secs(seconds.into());
            body["deadline"] = deadline.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into();
        }
        Stop::Cancel | Stop::KeeperKilled => {}
    }
    let id = stage.ask("POST", "/v1/actions", Some(&body))["id"].as_u64().expect("an id");
    let begun = Instant::now();
    let mut most = 0;
    loop {
        let alive = alive(witness);
        most = most.max(alive.len());
        let in_state = |state| alive.values().any(|process| process.state == state);
        if alive.len() >= scenario.processes && scenario.state.is_none_or(in_state) {
            break;
        }
        let limit = match scenario.stop {
            // On a busy machine its time may be over before.
            Stop::TimeOut(seconds) | Stop::Deadline(seconds) => Duration::from_secs(seconds.into()),
            Stop::Cancel | Stop::KeeperKilled => PATIENCE,
        };
        if begun.elapsed() > limit {
            return Err(Wrong::Late(format!("not under way: {alive:?}: {}", settled(stage, id))));
        }
    }
    let _thawed = freeze(scenario.frozen, witness).map_err(Wrong::Failed)?;
    let asked = Instant::now();
    if scenario.stop == Stop::Cancel {
        stage.ask("POST", &format!("/v1/actions/{id}:cancel"), None);
    }
    let answered = asked.elapsed();
    let action = settled(stage, id);
    let waited = asked.elapsed();
    let took = match scenario.stop {
        Stop::Cancel => since(&action, &action["cancel"]["at"], 0),
        Stop::TimeOut(seconds) => since(&action, &action["started_at"], seconds),
        Stop::Deadline(seconds) => since(&action, &json!(now.to_rfc3339()), seconds),
        Stop::KeeperKilled => since(&action, &action["started_at"], 0),
    };
    let left = alive(witness);
    let expected = match scenario.stop {
        Stop::Cancel => "cancelled",
        Stop::TimeOut(_) | Stop::Deadline(_) => "timed_out",
        Stop::KeeperKilled => "failed",
    };
    let is_excused = scenario.is_escape && !stage.has_units();
    if !left.is_empty() && !is_excused {
        return Err(Wrong::Failed(format!("{} are alive: {left:?}: {action}", left.len())));
    }
    if action["state"] != expected {
        return Err(Wrong::Failed(format!("not {expected}: {action}")));
    }
    drop(all_end);
    let slowness = slow_before.max(slowness());
    let mut beyond = BEYOND.mul_f64(slowness);
    // systemd itself ends what the main process of a unit leaves, with a patience of its own: TimeoutStopSec=.
    if scenario.stop == Stop::KeeperKilled && stage.has_units() {
        beyond += STOP_TIMEOUT;
    }
    let promised = GRACE + beyond;
    let bound = GRACE + beyond.mul_f64(if scenario.starves { STARVED } else { 1.0 });
    println!(
        "{:50} {took:?} of {promised:?}{}, {} of {most} alive; answered after {answered:?}, told after {waited:?}",
        scenario.name,
        if took > promised { " (MORE THAN PROMISED)" } else { "" },
        left.len()
    );
    if took > bound {
        return Err(Wrong::Late(format!(
            "it took {took:?}, more than {bound:?} (slowness {slowness:.1}): {action}"
        )));
    }
    Ok(())
}

/// The action once it is final or held, or after [`PATIENCE`].
fn settled(stage: &dyn Stage, id: u64) -> Value {
    let since = Instant::now();
    loop {
        let action = stage.ask("GET", &format!("/v1/actions/{id}?wait=10s"), None);
        if !action["finished_at"].is_null() || action["state"] == "held" || since.elapsed() > PATIENCE {
            return action;
        }
    }
}

/// From so many seconds after that time to the action's end.
fn since(action: &Value, from: &Value, seconds: u32) -> Duration {
    let time = |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok();
    let Some((from, end)) = time(from).zip(time(&action["finished_at"])) else { return PATIENCE };
    (end - from).to_std().unwrap_or_default().saturating_sub(Duration::from_secs(seconds.into()))
}

/// How many times longer than on an idle machine a piece of work takes.
fn slowness() -> f64 {
    let worked = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time").as_secs_f64();
    let (since, before) = (Instant::now(), worked());
    while worked() < before + 0.05 {}
    since.elapsed().as_secs_f64() / (worked() - before)
}
