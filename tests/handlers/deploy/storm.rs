//! Deploys that are killed at a random place of a random step, again and again: `current` always leads to a whole release, a
//! release that is not healthy is taken back and says so, and a branch that moves meanwhile is not followed.
//!
//! `STORM_SEED` repeats a run, as far as the scheduler of the kernel lets it.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::json;

use super::{Deploy, INSTANCES, Origin};
use crate::cases::Stage;
use crate::common::{Daemon, Home, all_processes};
use crate::servers::signal;
use crate::subject::Subject as _;

const ROUNDS: u32 = 50;
/// The kill comes at most so long after a step has begun, where it is to hit it at its work.
const WORK_MS_MAX: u64 = 40;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Daemon,
    /// Its keeper and the daemon live.
    Handler,
    /// As by a loss of power.
    All,
}

#[derive(Debug)]
struct Round {
    number: u32,
    /// An instance that does not become healthy.
    sick: Option<&'static str>,
    step: &'static str,
    place: &'static str,
    victim: Victim,
    /// The branch gets another commit meanwhile.
    moves: bool,
    work_ms: u64,
}

impl Round {
    fn draw(number: u32, rng: &mut Rng) -> Self {
        let sick = if rng.u8(0..4) == 0 { rng.choice(INSTANCES) } else { None };
        let all = ["fetch", "unpack", "switch", "restart.1", "restart.2", "mark", "prune"];
        let first = ["fetch", "unpack", "switch", "restart.1", "undo.switch", "undo.restart.1", "undo.mark"];
        let second = [
            "fetch",
            "unpack",
            "switch",
            "restart.1",
            "restart.2",
            "undo.switch",
            "undo.restart.2",
            "undo.restart.1",
            "undo.mark",
        ];
        let steps = match sick {
            None => all.as_slice(),
            Some("web-1") => &first,
            Some(_) => &second,
        };
        let step = rng.choice(steps.iter().copied()).expect("a step");
        // The step of the instance that is sick takes effect, but never comes to its end.
        let never_ends =
            matches!((sick, step), (Some("web-1"), "restart.1") | (Some("worker-1"), "restart.2"));
        let places = ["intent", "work", "acted", "done"];
        let places = if never_ends { &places[..2] } else { &places };
        Self {
            number,
            sick,
            step,
            place: rng.choice(places.iter().copied()).expect("a place"),
            victim: rng.choice([Victim::Daemon, Victim::Handler, Victim::All]).expect("a victim"),
            moves: rng.bool(),
            work_ms: rng.u64(0..WORK_MS_MAX),
        }
    }

    fn carry_out<'a>(&self, mut daemon: Daemon<'a>, deploy: &Deploy, stage: &'a Stage<'_>) -> Daemon<'a> {
        let branch = format!("storm/{}", self.number);
        let sick: Vec<&str> = self.sick.into_iter().collect();
        let (hash, previous) = (deploy.origin.commit(&branch, &sick), deploy.current());
        let place = if self.place == "work" { "intent" } else { self.place };
        stage.breakpoint(self.step, place, "wait");
        let id = daemon.accepted(&stage.spec(&json!({ "git_ref": branch })));
        stage.await_reached(&daemon, id, self.step, place);
        if self.place == "work" {
            stage.release(self.step, place);
            std::thread::park_timeout(Duration::from_millis(self.work_ms));
        }
        let dies = match self.victim {
            Victim::Handler => {
                for handler in handlers(&stage.home) {
                    signal(handler, Signal::KILL);
                }
                Some(daemon)
            }
            Victim::Daemon => {
                daemon.kill9();
                None
            }
            Victim::All => {
                daemon.kill9();
                stage.home.kill_programs();
                None
            }
        };
        if self.moves {
            deploy.origin.commit(&branch, &[]);
        }
        if self.place != "work" {
            stage.release(self.step, place);
        }
        daemon = dies.unwrap_or_else(|| Daemon::start(&stage.home));
        let action = daemon.finished(id);
        let result = &action["finished_result"];
        if self.sick.is_some() {
            let found = (&action["state"], &result["error"]["code"], &result["rolled_back"]);
            assert_eq!(found, (&json!("failed"), &json!("unhealthy"), &json!(true)), "{self:?}: {action}");
            assert_eq!(deploy.current(), previous, "{self:?}: {action}");
            deploy.assert_live(&previous, &action);
        } else {
            let found = (&action["state"], &result["git_hash"]);
            assert_eq!(found, (&json!("succeeded"), &json!(hash)), "{self:?}: {action}");
            assert_eq!(deploy.current(), hash, "{self:?}: {action}");
            deploy.assert_live(&hash, &action);
        }
        daemon
    }
}

/// The handlers of this home: what a keeper started, not the keeper.
fn handlers(home: &Home) -> Vec<u32> {
    let mark = format!("STEP_BREAKPOINTS={}", home.path("breakpoints").display());
    let is_handler = |pid: &u32| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cmdline").split(|byte| *byte == 0).nth(1) == Some(b"handle")
            && read("environ").split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    all_processes().into_iter().filter(is_handler).collect()
}

/// Looks at `current`, and what it leads to, all the time.
struct Watch<'a> {
    app: PathBuf,
    origin: &'a Origin,
    is_over: AtomicBool,
    looks: AtomicU64,
    fault: Mutex<Option<String>>,
}

impl Watch<'_> {
    fn run(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            if let Some(fault) = self.look() {
                *self.fault.lock().expect("a fault") = Some(fault);
                return;
            }
            self.looks.fetch_add(1, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn look(&self) -> Option<String> {
        let current = self.app.join("current");
        let link = match fs::read_link(&current) {
            Ok(link) => link,
            Err(error) => return Some(format!("there is no current release: {error}")),
        };
        let fault = self.origin.fault(&self.app.join(&link))?;
        // One that is not the current one any more may go.
        fs::read_link(&current).is_ok_and(|now| now == link).then_some(fault)
    }

    fn assert_fine(&self, round: &Round) {
        let fault = self.fault.lock().expect("a fault");
        assert!(fault.is_none(), "{fault:?} in or before {round:?}");
    }
}

/// Ends the watch also when a round fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub fn storm(deploy: &Deploy, stage: &Stage<'_>) {
    let seed = std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("deploy: storm: STORM_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut daemon = Daemon::start(&stage.home);
    let action = daemon.finished(daemon.accepted(&stage.spec(&deploy.prepare())));
    assert_eq!(action["state"], "succeeded", "{action}");
    let watch = Watch {
        app: deploy.path("app"),
        origin: &deploy.origin,
        is_over: AtomicBool::new(false),
        looks: AtomicU64::new(0),
        fault: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&watch.is_over);
        scope.spawn(|| watch.run());
        for number in 1..=ROUNDS {
            let round = Round::draw(number, &mut rng);
            daemon = round.carry_out(daemon, deploy, stage);
            watch.assert_fine(&round);
        }
    });
    println!("deploy: storm: {ROUNDS} rounds, {} looks at current: ok", watch.looks.load(Ordering::SeqCst));
}
