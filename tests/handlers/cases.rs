//! What is tried with every subject.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Daemon, Home, processes_of, spec, until, with};
use crate::secrets;
use crate::servers::signal;
use crate::subject::Subject;
use crate::table::Table;

type Case = fn(&Stage<'_>);

/// In their order; each has a column.
pub const CASES: &[(&str, Case)] = &[
    ("success", success),
    ("already", already),
    ("dry_run", dry_run),
    ("refused", refused),
    ("down", down),
    ("dies", dies),
    ("timeout", timeout),
    ("cancel", cancel),
    ("daemon_killed", daemon_killed),
    ("handler_killed", handler_killed),
    ("all_killed", all_killed),
    ("undo_killed", undo_killed),
    ("between", between),
    ("own", own),
];

/// Where a step can be stopped: its intent is durable; its effect is there; its result is durable.
const PLACES: [&str; 3] = ["intent", "acted", "done"];

/// A subject and a home for daemons that can carry it out.
pub struct Stage<'a> {
    subject: &'a dyn Subject,
    pub home: Home,
}

/// Tries everything with a subject.
pub fn run(subject: &dyn Subject, table: &Mutex<Table>) {
    for (case, try_it) in CASES {
        let since = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| try_it(&Stage::new(subject))));
        let ended = tried.map(|()| since.elapsed()).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        });
        table.lock().expect("the table").enter(&subject.name(), case, ended);
    }
}

impl<'a> Stage<'a> {
    fn new(subject: &'a dyn Subject) -> Self {
        let home = Home::new();
        fs::create_dir(home.path("breakpoints")).expect("a directory");
        subject.enter(&home.path(""));
        let stage = Self { subject, home };
        stage.configure(1);
        stage
    }

    pub fn configure(&self, attempts: u32) {
        self.configure_retry(attempts, "100ms", "200ms");
    }

    pub fn configure_retry(&self, attempts: u32, backoff: &str, backoff_max: &str) {
        let breakpoints = self.home.path("breakpoints");
        let handler = format!(
            "[[handler]]\naction = \"{}\"\n{}\nenv = {{ STEP_BREAKPOINTS = \"{}\" }}\n\
             retry = {{ attempts = {attempts}, backoff = \"{backoff}\", backoff_max = \"{backoff_max}\" }}\n{}",
            self.subject.action(),
            self.subject.handler(),
            breakpoints.display(),
            self.subject.tables()
        );
        self.home.rewrite("", &handler);
    }

    pub fn spec(&self, metadata: &Value) -> Value {
        with(spec(self.subject.action(), 7), "metadata", metadata.clone())
    }

    pub fn breakpoint(&self, step: &str, place: &str, what: &str) {
        fs::write(self.home.path("breakpoints").join(format!("{step}.{place}")), what).expect("a breakpoint");
    }

    fn reached(&self, step: &str, place: &str) -> PathBuf {
        self.home.path("breakpoints").join(format!("{step}.{place}.reached"))
    }

    pub fn await_reached(&self, daemon: &Daemon<'_>, id: u64, step: &str, place: &str) {
        until(&format!("{step}.{place}"), || {
            let action = daemon.action(id);
            assert!(action["finished_at"].is_null(), "it ended before {step}.{place}: {action}");
            self.reached(step, place).exists().then_some(())
        });
    }

    /// Waits until a breakpoint that was reached before is reached once more.
    pub fn await_taken(&self, daemon: &Daemon<'_>, id: u64, step: &str, place: &str) {
        let set = self.home.path("breakpoints").join(format!("{step}.{place}"));
        until(&format!("{step}.{place}"), || {
            let action = daemon.action(id);
            assert!(action["finished_at"].is_null(), "it ended before {step}.{place}: {action}");
            (!set.exists()).then_some(())
        });
    }

    /// Who waits at one goes on, and nobody waits any more.
    pub fn clear_breakpoints(&self) {
        for file in fs::read_dir(self.home.path("breakpoints")).expect("a directory").flatten() {
            fs::remove_file(file.path()).expect("a breakpoint");
        }
    }

    pub fn release(&self, step: &str, place: &str) {
        fs::remove_file(self.reached(step, place)).expect("a breakpoint that is reached");
    }

    /// Kills the process of the attempt that runs, and nothing else.
    pub fn kill_handler(&self) {
        let handler = |line: &String| {
            let mut words = line.split(' ');
            let pid = words.next()?.parse().ok()?;
            (words.nth(1) == Some("handle")).then_some(pid)
        };
        let all = processes_of(&self.home, std::process::id());
        let handlers: Vec<u32> = all.iter().filter_map(handler).collect();
        let [pid] = handlers[..] else { panic!("handlers: {all:?}") };
        signal(pid, Signal::KILL);
    }

    /// Its steps, as a success has them.
    fn steps(&self) -> Vec<String> {
        let daemon = Daemon::start(&self.home);
        let metadata = self.subject.prepare();
        let action = daemon.finished(daemon.accepted(&self.spec(&metadata)));
        assert_eq!(action["state"], "succeeded", "{action}");
        let steps = action["finished_result"]["steps"].as_array().expect("steps");
        let names: Vec<String> =
            steps.iter().map(|step| step["name"].as_str().expect("a name").to_owned()).collect();
        assert!(!names.is_empty(), "no step: {action}");
        names
    }
}

fn code(action: &Value) -> &str {
    action["finished_result"]["error"]["code"].as_str().unwrap_or_default()
}

fn success(stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let metadata = stage.subject.prepare();
    let action = daemon.finished(daemon.accepted(&stage.spec(&metadata)));
    assert_eq!(action["state"], "succeeded", "{action}");
    assert_eq!(action["finished_result"]["changed"], true, "{action}");
    assert_eq!(action["finished_result"]["recovered"], false, "{action}");
    stage.subject.assert_done(&metadata, &action);
    for (secret, file) in stage.subject.secrets(&action) {
        secrets::assert_kept(&secret, file.as_deref(), &stage.home, &daemon, &action);
    }
}

fn already(stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let metadata = stage.subject.prepare();
    let first = daemon.finished(daemon.accepted(&stage.spec(&metadata)));
    assert_eq!(first["state"], "succeeded", "{first}");
    if stage.subject.repeats() {
        stage.subject.assert_done(&metadata, &first);
    }
    let again = daemon.finished(daemon.accepted(&stage.spec(&metadata)));
    if stage.subject.repeats() {
        assert_eq!(again["state"], "succeeded", "{again}");
        assert_eq!(again["finished_result"]["changed"], true, "{again}");
        return stage.subject.assert_done(&metadata, &again);
    }
    if let Some(expected) = stage.subject.again() {
        assert_eq!((&again["state"], code(&again)), (&json!("failed"), expected), "{again}");
    } else {
        assert_eq!(again["state"], "succeeded", "{again}");
        assert_eq!(again["finished_result"]["changed"], false, "{again}");
    }
    stage.subject.assert_done(&metadata, &first);
}

fn dry_run(stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let metadata = stage.subject.prepare();
    let action = daemon.finished(daemon.accepted(&stage.spec(&with(metadata.clone(), "dry_run", true))));
    assert_eq!(action["state"], "succeeded", "{action}");
    let result = &action["finished_result"];
    assert_eq!((&result["changed"], &result["dry_run"]), (&json!(false), &json!(true)), "{action}");
    assert!(result["plan"].as_array().is_some_and(|plan| !plan.is_empty()), "{action}");
    stage.subject.assert_undone(&metadata, &action);
}

fn refused(stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let mut all = stage.subject.refused();
    let good = stage.subject.prepare();
    if !stage.subject.takes_any_metadata() {
        all.push((with(good.clone(), "no_such_key", 1), "no_such_key"));
        all.push((with(good.clone(), "password", "x"), "password"));
        all.push((with(good.clone(), "target", "nowhere"), "nowhere"));
    }
    all.push((with(good.clone(), "timeout_s", 0), "timeout_s"));
    for (metadata, word) in all {
        let answer = daemon.submit(&stage.spec(&metadata));
        assert!((400..500).contains(&answer.status), "{metadata}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains(word), "{metadata}: no {word:?} in {}", answer.text());
    }
    assert_eq!(daemon.get("/v1/actions")["actions"], json!([]), "something was queued");
    for (metadata, expected) in stage.subject.fails() {
        let action = daemon.finished(daemon.accepted(&stage.spec(&metadata)));
        assert_eq!((&action["state"], code(&action)), (&json!("failed"), expected), "{metadata}: {action}");
        stage.subject.assert_undone(&good, &action);
    }
}

fn down(stage: &Stage<'_>) {
    let daemon = Daemon::start(&stage.home);
    let metadata = stage.subject.prepare();
    stage.subject.take_down();
    let action = catch_unwind(AssertUnwindSafe(|| daemon.finished(daemon.accepted(&stage.spec(&metadata)))));
    stage.subject.bring_up();
    let action = action.expect("an end");
    assert_eq!((&action["state"], code(&action)), (&json!("failed"), stage.subject.down_code()), "{action}");
    stage.subject.assert_undone(&metadata, &action);
}

/// The component crashes at each step; once it is back, another try goes on.
fn dies(stage: &Stage<'_>) {
    for step in stage.steps() {
        stage.configure(1_000);
        let daemon = Daemon::start(&stage.home);
        let metadata = stage.subject.prepare();
        stage.breakpoint(&step, "intent", "wait");
        let id = daemon.accepted(&stage.spec(&metadata));
        stage.await_reached(&daemon, id, &step, "intent");
        stage.subject.take_down();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            stage.release(&step, "intent");
            until("another try, or an end", || {
                let action = daemon.action(id);
                (action["attempt"].as_u64() > Some(1) || !action["finished_at"].is_null()).then_some(())
            });
        }));
        stage.subject.bring_up();
        tried.expect("another try");
        let action = daemon.finished(id);
        assert_eq!(action["state"], "succeeded", "at {step}: {action}");
        stage.subject.assert_done(&metadata, &action);
    }
}

fn timeout(stage: &Stage<'_>) {
    for step in stage.steps() {
        let daemon = Daemon::start(&stage.home);
        let metadata = stage.subject.prepare();
        stage.breakpoint(&step, "acted", "wait");
        let id = daemon.accepted(&stage.spec(&with(metadata.clone(), "timeout_s", 1)));
        let action = daemon.finished(id);
        assert_eq!((&action["state"], code(&action)), (&json!("failed"), "timeout"), "at {step}: {action}");
        if !stage.subject.keeps_effect() {
            stage.subject.assert_undone(&metadata, &action);
        }
        let _ = fs::remove_file(stage.reached(&step, "acted"));
    }
}

/// At each place of each step.
fn cancel(stage: &Stage<'_>) {
    for step in stage.steps() {
        let daemon = Daemon::start(&stage.home);
        for place in PLACES {
            let metadata = stage.subject.prepare();
            stage.breakpoint(&step, place, "wait");
            let id = daemon.accepted(&stage.spec(&metadata));
            stage.await_reached(&daemon, id, &step, place);
            let answer = daemon.command(id, "cancel");
            assert!(answer.status < 300, "{}", answer.text());
            let action = daemon.finished(id);
            assert_eq!(
                (&action["state"], code(&action)),
                (&json!("cancelled"), "cancelled"),
                "{step}.{place}: {action}"
            );
            if !stage.subject.keeps_effect() {
                stage.subject.assert_undone(&metadata, &action);
            }
            stage.release(&step, place);
        }
    }
}

/// The daemon is killed at each place of each step: the handler goes on, and the next daemon takes it up.
fn daemon_killed(stage: &Stage<'_>) {
    for step in stage.steps() {
        for place in PLACES {
            let mut daemon = Daemon::start(&stage.home);
            let metadata = stage.subject.prepare();
            stage.breakpoint(&step, place, "wait");
            let id = daemon.accepted(&stage.spec(&metadata));
            stage.await_reached(&daemon, id, &step, place);
            daemon = daemon.crash();
            stage.release(&step, place);
            let action = daemon.finished(id);
            assert_eq!(action["state"], "succeeded", "{step}.{place}: {action}");
            assert_eq!(action["attempt"], 1, "it did not go on: {step}.{place}: {action}");
            stage.subject.assert_done(&metadata, &action);
        }
    }
}

/// The handler alone is killed at each place of each step, as for want of memory: another attempt goes on.
fn handler_killed(stage: &Stage<'_>) {
    for step in stage.steps() {
        let daemon = Daemon::start(&stage.home);
        for place in PLACES {
            let metadata = stage.subject.prepare();
            stage.breakpoint(&step, place, "wait");
            let id = daemon.accepted(&stage.spec(&metadata));
            stage.await_reached(&daemon, id, &step, place);
            stage.kill_handler();
            stage.release(&step, place);
            if let Some(reason) = stage.subject.held_at(&step, place) {
                let action = daemon.in_state(id, "held");
                assert!(action["reason"].as_str().is_some_and(|told| told.contains(reason)), "{action}");
                let path = format!("/v1/actions/{id}:resolve");
                let answer = daemon.ask("POST", &path, Some(&json!({ "success": false })));
                assert!(answer.status < 300, "{}", answer.text());
                continue;
            }
            let action = daemon.finished(id);
            assert_eq!(action["state"], "succeeded", "{step}.{place}: {action}");
            assert_eq!(action["attempt"], 2, "{step}.{place}: {action}");
            assert_eq!(action["finished_result"]["recovered"], true, "{step}.{place}: {action}");
            stage.subject.assert_done(&metadata, &action);
        }
    }
}

/// Cancelled between two attempts, or its deadline is over then: what the first has done is taken back.
fn between(stage: &Stage<'_>) {
    let steps = stage.steps();
    for (step, state) in
        steps.iter().map(|step| (step, "cancelled")).chain(steps.last().map(|step| (step, "timed_out")))
    {
        let daemon = Daemon::start(&stage.home);
        let metadata = stage.subject.prepare();
        stage.breakpoint(step, "acted", "wait");
        let mut spec = stage.spec(&metadata);
        if state == "timed_out" {
            spec = with(spec, "deadline", soon());
        }
        let id = daemon.accepted(&spec);
        stage.await_reached(&daemon, id, step, "acted");
        daemon.pause_queue("default", true);
        stage.kill_handler();
        stage.release(step, "acted");
        daemon.in_state(id, "queued");
        if state == "cancelled" {
            let answer = daemon.command(id, "cancel");
            assert!(answer.status < 300, "{}", answer.text());
        }
        until("its end is wanted", || {
            let reason = daemon.action(id)["reason"].as_str().unwrap_or_default().to_owned();
            reason.contains("taken back when it has its turn").then_some(())
        });
        daemon.pause_queue("default", false);
        let action = daemon.finished(id);
        let code = if state == "cancelled" { "cancelled" } else { "timeout" };
        assert_eq!((&action["state"], self::code(&action)), (&json!(state), code), "{step}: {action}");
        if !stage.subject.keeps_effect() {
            stage.subject.assert_undone(&metadata, &action);
        }
    }
}

/// A time that comes when an attempt has reached its breakpoint, mostly.
pub fn soon() -> String {
    soon_from(0)
}

/// As if it were so many seconds later.
pub fn soon_from(seconds: i64) -> String {
    let at = chrono::Utc::now() + chrono::TimeDelta::seconds(3 + seconds);
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Daemon, keeper and handler are killed at each place of each step, as by a loss of power.
fn all_killed(stage: &Stage<'_>) {
    for step in stage.steps() {
        for place in PLACES {
            let mut daemon = Daemon::start(&stage.home);
            let metadata = stage.subject.prepare();
            stage.breakpoint(&step, place, "wait");
            let id = daemon.accepted(&stage.spec(&metadata));
            stage.await_reached(&daemon, id, &step, place);
            daemon.kill9();
            stage.home.kill_programs();
            stage.release(&step, place);
            daemon = Daemon::start(&stage.home);
            if let Some(reason) = stage.subject.held_at(&step, place) {
                let action = daemon.in_state(id, "held");
                assert!(action["reason"].as_str().is_some_and(|told| told.contains(reason)), "{action}");
                // The next one is on the same resource.
                daemon.commanded(id, "unlock");
                continue;
            }
            let action = daemon.finished(id);
            assert_eq!(action["state"], "succeeded", "{step}.{place}: {action}");
            assert_eq!(action["finished_result"]["recovered"], true, "{step}.{place}: {action}");
            stage.subject.assert_done(&metadata, &action);
        }
    }
}

/// What a cancelled action has done is taken back although its handler is killed: with the daemon, as by a loss of power, or
/// without it.
fn undo_killed(stage: &Stage<'_>) {
    for step in stage.steps() {
        for place in ["intent", "acted"] {
            for with_daemon in [true, false] {
                let mut daemon = Daemon::start(&stage.home);
                let metadata = stage.subject.prepare();
                stage.breakpoint(&step, place, "wait");
                let id = daemon.accepted(&stage.spec(&metadata));
                stage.await_reached(&daemon, id, &step, place);
                // So the handler is told later, and the kill mostly comes before it has taken everything back.
                for keeper in stage.home.keepers() {
                    signal(keeper, Signal::STOP);
                }
                assert!(daemon.command(id, "cancel").status < 300);
                if with_daemon {
                    daemon.kill9();
                    stage.home.kill_programs();
                    stage.release(&step, place);
                    daemon = Daemon::start(&stage.home);
                } else {
                    stage.home.kill_keepers();
                    stage.release(&step, place);
                }
                let action = daemon.finished(id);
                let found = (&action["state"], code(&action));
                assert_eq!(
                    found,
                    (&json!("cancelled"), "cancelled"),
                    "{step}.{place} {with_daemon}: {action}"
                );
                if !stage.subject.keeps_effect() {
                    stage.subject.assert_undone(&metadata, &action);
                }
            }
        }
    }
}

/// What is to be tried with it alone.
fn own(stage: &Stage<'_>) {
    stage.subject.special(stage);
    let daemon = Daemon::start(&stage.home);
    stage.subject.own(&|metadata| daemon.finished(daemon.accepted(&stage.spec(&metadata))));
}
