//! Compares what the daemon says with what the handler programs did to the world.
//!
//! The programs write a line to the ledger when they begin and when their effect is there, each line in one
//! write. The daemon's word and the ledger are independent of each other; the demo passes only if they agree.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::plan::{PLAN, Planned, RETRIED, RUNNING};
use crate::api::wire;

/// What is found at the end.
pub struct Evidence<'a> {
    /// The acknowledged ids in the order of the plan.
    pub ids: &'a [u64],
    /// All actions that the daemon knows.
    pub actions: &'a [wire::Action],
    /// Those that were final before the crash, as they were.
    pub before: &'a [wire::Action],
    pub ledger: &'a str,
    /// The generation of each service, as its file says.
    pub generations: &'a BTreeMap<&'static str, String>,
    /// Where `current` of stack 1 points, and where it must.
    pub current: (&'a str, &'a str),
    /// Hash of the commit that the deploy had to bring which was in its middle.
    pub main: &'a str,
}

/// Begins and effects of one action in the ledger.
#[derive(Default)]
struct Marks {
    begun: Vec<u32>,
    effects: usize,
}

/// Everything that is not as it must be, a sentence each; empty: proven.
pub fn findings(evidence: &Evidence<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let known: HashMap<u64, &wire::Action> =
        evidence.actions.iter().map(|action| (action.id, action)).collect();
    let marks = read(evidence.ledger, &mut wrong);
    if known.len() != evidence.actions.len() || known.len() != PLAN.len() {
        wrong.push(format!(
            "{} actions were acknowledged, the daemon lists {}",
            PLAN.len(),
            evidence.actions.len()
        ));
    }
    for (id, planned) in evidence.ids.iter().zip(PLAN) {
        match known.get(id) {
            None => wrong.push(format!("action {id} was acknowledged and is lost")),
            Some(action) => one(&planned, action, marks.get(id), &mut wrong),
        }
    }
    if let Some(stray) = marks.keys().find(|id| !evidence.ids.contains(id)) {
        wrong.push(format!("the ledger has action {stray}, which nobody submitted"));
    }
    for was in evidence.before {
        let is = known.get(&was.id);
        let same = is.is_some_and(|is| {
            (is.version, &is.state, &is.finished_at) == (was.version, &was.state, &was.finished_at)
        });
        if !same {
            wrong.push(format!("action {} was final before the crash and has changed since", was.id));
        }
    }
    deploy(evidence, &known, &mut wrong);
    retried(evidence, &known, &mut wrong);
    world(evidence, &mut wrong);
    wrong
}

fn one(planned: &Planned, action: &wire::Action, marks: Option<&Marks>, wrong: &mut Vec<String>) {
    let id = action.id;
    if action.state != planned.state {
        wrong.push(format!("action {id} must be {} and is {}", planned.state, action.state));
    }
    if action.finished_at.is_none() || action.finished_success != Some(planned.state == "succeeded") {
        wrong.push(format!("action {id} has no outcome that fits its state"));
    }
    let successes = action.attempts.iter().filter(|attempt| attempt.outcome == "succeeded").count();
    if successes != usize::from(planned.state == "succeeded") {
        wrong.push(format!("action {id} has {successes} attempts that succeeded"));
    }
    let none = Marks::default();
    let Marks { begun, effects } = marks.unwrap_or(&none);
    if *effects != planned.effects {
        wrong.push(format!(
            "the effect of action {id} is in the ledger {effects} times, not {}",
            planned.effects
        ));
    }
    let different: HashSet<_> = begun.iter().collect();
    if different.len() != begun.len() {
        wrong.push(format!("one attempt of action {id} began twice"));
    }
    if begun.iter().any(|attempt| *attempt == 0 || *attempt > action.attempt) {
        wrong.push(format!("an attempt of action {id} ran that the daemon never claimed"));
    }
    if action.attempt == 0 && !begun.is_empty() {
        wrong.push(format!("action {id} ran though it was ended before"));
    }
}

/// The one in whose middle the daemon was killed: it went on, in one attempt, to the right commit.
fn deploy(evidence: &Evidence<'_>, known: &HashMap<u64, &wire::Action>, wrong: &mut Vec<String>) {
    let Some(action) = evidence.ids.get(RUNNING).and_then(|id| known.get(id)) else { return };
    let cut = action.attempts.iter().filter(|attempt| attempt.outcome == "interrupted").count();
    if cut != 0 || action.attempt != 1 {
        wrong.push(format!("the deploy had {cut} interrupted of {} attempts, not 0 of 1", action.attempt));
    }
    let result = action.finished_result.as_ref().map_or("", |json| json.get());
    if !result.contains(evidence.main) {
        wrong.push(format!("the deploy's result does not name commit {}: {result}", evidence.main));
    }
}

fn retried(evidence: &Evidence<'_>, known: &HashMap<u64, &wire::Action>, wrong: &mut Vec<String>) {
    let Some(action) = evidence.ids.get(RETRIED).and_then(|id| known.get(id)) else { return };
    let tried = action.attempts.iter().filter(|attempt| attempt.outcome != "interrupted").count();
    if tried != 3 {
        wrong.push(format!("the retried action ended {tried} tries, not 3"));
    }
}

/// What the effects left behind.
fn world(evidence: &Evidence<'_>, wrong: &mut Vec<String>) {
    let (is, must) = evidence.current;
    if is != must {
        wrong.push(format!("stack 1 has {is:?} as its current release, not {must:?}"));
    }
    for (service, must) in [("web", "2"), ("worker", "1"), ("mailer", "1"), ("cron", "1"), ("never", "")] {
        let is = evidence.generations.get(service).map_or("", |text| text.trim());
        if is != must {
            wrong.push(format!("service {service} is at generation {is:?}, not {must:?}"));
        }
    }
}

fn read(ledger: &str, wrong: &mut Vec<String>) -> BTreeMap<u64, Marks> {
    let mut marks: BTreeMap<u64, Marks> = BTreeMap::new();
    for line in ledger.lines() {
        let mut words = line.split(' ');
        let id = words.next().and_then(|word| word.parse().ok());
        let attempt = words.next().and_then(|word| word.parse().ok());
        match (id, attempt, words.next()) {
            (Some(id), Some(attempt), Some("begin")) => marks.entry(id).or_default().begun.push(attempt),
            (Some(id), Some(_), Some("end")) => marks.entry(id).or_default().effects += 1,
            _ => wrong.push(format!("the ledger has a line that is none: {line:?}")),
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::tests::sample;

    const MAIN: &str = "0123456789012345678901234567890123456789";

    struct World {
        actions: Vec<wire::Action>,
        ledger: String,
    }

    /// A run in which all went as it must.
    fn good() -> World {
        let attempt = |attempt, outcome: &str| wire::Attempt {
            attempt,
            began_at: String::new(),
            ended_at: Some(String::new()),
            outcome: outcome.into(),
            message: None,
        };
        let mut world = World { actions: Vec::new(), ledger: String::new() };
        for (index, planned) in PLAN.iter().enumerate() {
            let mut action = sample();
            action.id = index as u64 + 1;
            action.state = planned.state.into();
            action.finished_at = Some("2026-03-01T14:08:40.000Z".into());
            action.finished_success = Some(planned.state == "succeeded");
            action.attempts = match (index, planned.state) {
                (RETRIED, _) => vec![attempt(3, "succeeded"), attempt(2, "failed"), attempt(1, "failed")],
                (_, "cancelled") => vec![],
                (_, state) => vec![attempt(1, state)],
            };
            action.attempt = u32::try_from(action.attempts.len()).unwrap();
            action.tries_used = action.attempt;
            if index == RUNNING {
                let result = format!("{{\"git_hash\":\"{MAIN}\"}}");
                action.finished_result = serde_json::value::RawValue::from_string(result).ok();
            }
            if planned.action != "maintenance_mode" {
                for attempt in 1..=action.attempt {
                    world.ledger.extend([format!("{} {attempt} begin x\n", action.id)]);
                }
            }
            if planned.effects == 1 {
                world.ledger.extend([format!("{} {} end x\n", action.id, action.attempt)]);
            }
            world.actions.push(action);
        }
        world
    }

    fn judge(world: &World) -> String {
        let ids: Vec<u64> = (1..=PLAN.len() as u64).collect();
        let generations = [("web", "2\n"), ("worker", "1\n"), ("mailer", "1\n"), ("cron", "1\n")]
            .map(|(k, v)| (k, v.to_owned()));
        findings(&Evidence {
            ids: &ids,
            actions: &world.actions,
            before: &[],
            ledger: &world.ledger,
            generations: &generations.into_iter().collect(),
            current: ("releases/a", "releases/a"),
            main: MAIN,
        })
        .join("; ")
    }

    #[test]
    fn a_good_run_has_no_findings() {
        assert_eq!(judge(&good()), "");
    }

    #[test]
    fn each_broken_promise_is_found() {
        let mut world = good();
        world.actions.remove(3);
        assert!(judge(&world).contains("action 4 was acknowledged and is lost"));
        let mut world = good();
        world.ledger += "3 1 end x\n";
        assert!(judge(&world).contains("action 3 is in the ledger 2 times, not 1"));
        let mut world = good();
        world.ledger += "3 1 begin x\n";
        assert!(judge(&world).contains("one attempt of action 3 began twice"));
        let mut world = good();
        world.ledger += "3 2 begin x\n";
        assert!(judge(&world).contains("never claimed"));
        let mut world = good();
        world.ledger += "10 1 begin x\n";
        assert!(judge(&world).contains("action 10 ran though it was ended before"));
        let mut world = good();
        world.actions[5].state = "queued".into();
        assert!(judge(&world).contains("action 6 must be succeeded and is queued"));
        let mut world = good();
        world.actions[0].attempts[0].outcome = "interrupted".into();
        assert!(judge(&world).contains("1 interrupted"));
        let mut world = good();
        world.ledger += "half a li";
        assert!(judge(&world).contains("a line that is none"));
    }
}
