use super::*;
use proptest::prelude::*;

fn ticket(id: u64, lock: u64) -> Ticket {
    Ticket {
        id: ActionId(id),
        queue: 0,
        priority: 5,
        kind: 0,
        locks: if lock == 0 { vec![] } else { vec![LockKey(lock)] },
        state: State::Queued,
        attempt: 0,
        due_at: None,
        deadline: None,
    }
}

struct Bench(Scheduler);

impl Bench {
    fn new(concurrency: u32) -> Self {
        Self(Scheduler::new(&[concurrency], 100))
    }

    fn at(&mut self, now: i64, input: Input) -> Vec<Command> {
        let mut commands = Vec::new();
        self.0.step(Timestamp(now), input, &mut commands);
        self.0.start_ready(&mut commands);
        commands
    }

    fn does(&mut self, input: Input) -> Vec<u64> {
        let starts = self.at(0, input);
        starts
            .into_iter()
            .map(|command| match command {
                Command::Start(id) => id.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

#[test]
fn one_resource_runs_one_action_at_a_time_in_order_of_acceptance() {
    let mut bench = Bench::new(8);
    assert_eq!(bench.does(Input::Enter(ticket(1, 7))), [1]);
    assert!(bench.does(Input::Enter(Ticket { priority: 1, ..ticket(2, 7) })).is_empty());
    assert!(bench.does(Input::Enter(Ticket { priority: 9, ..ticket(3, 7) })).is_empty());
    assert_eq!(bench.0.behind(ActionId(3)), Some(ActionId(1)));
    assert_eq!(bench.does(Input::Leave(ActionId(1))), [2], "priority acts only between resources");
    assert_eq!(bench.does(Input::Leave(ActionId(2))), [3]);
    assert!(bench.does(Input::Leave(ActionId(3))).is_empty());
    assert_eq!(bench.0.len(), 0);
}

#[test]
fn higher_priority_is_served_first_between_resources() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.does(Input::Enter(ticket(1, 1))), [1]);
    bench.does(Input::Enter(Ticket { priority: 0, ..ticket(2, 2) }));
    bench.does(Input::Enter(Ticket { priority: 9, ..ticket(3, 3) }));
    bench.does(Input::Enter(Ticket { priority: 9, ..ticket(4, 4) }));
    assert_eq!(bench.0.ahead_in_queue(ActionId(2), 10), Some(2));
    assert_eq!(bench.does(Input::Leave(ActionId(1))), [3]);
    assert_eq!(bench.does(Input::Leave(ActionId(3))), [4]);
    assert_eq!(bench.does(Input::Leave(ActionId(4))), [2]);
}

#[test]
fn scheduled_action_takes_its_place_by_id_when_it_is_due() {
    let mut bench = Bench::new(1);
    bench.does(Input::Enter(Ticket { state: State::Scheduled, due_at: Some(Timestamp(50)), ..ticket(1, 7) }));
    assert_eq!(bench.does(Input::Enter(ticket(2, 9))), [2], "what is not due blocks nobody");
    bench.does(Input::Enter(ticket(3, 7)));
    assert_eq!(bench.0.next_tick(), Some(Timestamp(50)));
    assert_eq!(bench.at(50, Input::Tick), [Command::Due(ActionId(1))]);
    assert_eq!(bench.does(Input::Leave(ActionId(2))), [1], "accepted before 3 on their resource");
}

#[test]
fn locks_stay_taken_while_an_action_waits_for_its_next_try_or_is_held() {
    let mut bench = Bench::new(8);
    bench.does(Input::Enter(ticket(1, 7)));
    bench.does(Input::Enter(ticket(2, 7)));
    assert!(bench.does(Input::RetryAt(ActionId(1), Timestamp(10))).is_empty());
    assert_eq!(bench.at(10, Input::Tick), [Command::Due(ActionId(1)), Command::Start(ActionId(1))]);
    assert!(bench.does(Input::Hold(ActionId(1))).is_empty());
    assert_eq!(bench.does(Input::Unlock(ActionId(1))), [2]);
    assert!(bench.does(Input::Queue(ActionId(1))).is_empty(), "it gave its lock away");
    assert_eq!(bench.does(Input::Leave(ActionId(2))), [1]);
}

#[test]
fn held_before_it_began_it_lets_others_pass() {
    let mut bench = Bench::new(8);
    bench.does(Input::Enter(ticket(1, 7)));
    bench.does(Input::Enter(ticket(2, 7)));
    bench.does(Input::Enter(ticket(3, 7)));
    bench.does(Input::Hold(ActionId(2)));
    assert_eq!(bench.does(Input::Leave(ActionId(1))), [3]);
    bench.does(Input::Queue(ActionId(2)));
    assert_eq!(bench.does(Input::Leave(ActionId(3))), [2]);
}

#[test]
fn several_locks_are_taken_all_or_none() {
    let mut bench = Bench::new(8);
    bench.does(Input::Enter(ticket(1, 7)));
    assert!(
        bench.does(Input::Enter(Ticket { locks: vec![LockKey(7), LockKey(8)], ..ticket(2, 0) })).is_empty()
    );
    assert!(bench.does(Input::Enter(ticket(3, 8))).is_empty(), "2 was accepted before it");
    assert_eq!(bench.does(Input::Leave(ActionId(1))), [2]);
    assert_eq!(bench.does(Input::Leave(ActionId(2))), [3]);
}

#[test]
fn paused_queue_and_drain_start_nothing() {
    let mut bench = Bench::new(8);
    bench.does(Input::PauseQueue(0, true));
    assert!(bench.does(Input::Enter(ticket(1, 7))).is_empty());
    assert_eq!(bench.does(Input::PauseQueue(0, false)), [1]);
    bench.does(Input::Drain);
    assert!(bench.does(Input::Enter(ticket(2, 8))).is_empty());
}

#[test]
fn deadline_expires_what_waits_and_not_what_runs() {
    let mut bench = Bench::new(1);
    let dead = |id, lock| Ticket { deadline: Some(Timestamp(20)), ..ticket(id, lock) };
    bench.does(Input::Enter(dead(1, 1)));
    bench.does(Input::Enter(dead(2, 2)));
    assert_eq!(bench.at(20, Input::Tick), [Command::Expire(ActionId(2))]);
}

proptest! {
    /// Random lives on few resources: never two on one lock, never more than the limit, nothing forgotten.
    #[test]
    fn random_lives_keep_every_promise(steps in proptest::collection::vec((0u8..8, 1u64..5, 0u8..10), 1..300)) {
        let mut bench = Bench::new(3);
        let mut next = 1u64;
        let mut lock_of = HashMap::new();
        let mut running: BTreeSet<u64> = BTreeSet::new();
        let mut held: BTreeSet<u64> = BTreeSet::new();
        let mut waiting: BTreeSet<u64> = BTreeSet::new();
        for (now, (what, lock, priority)) in steps.into_iter().enumerate() {
            let now = i64::try_from(now).unwrap();
            let mut commands = bench.at(now, Input::Tick);
            let input = match what {
                0..=2 => {
                    lock_of.insert(next, lock);
                    waiting.insert(next);
                    next += 1;
                    Some(Input::Enter(Ticket { priority, ..ticket(next - 1, lock) }))
                }
                3..=4 => running.pop_first().map(|id| Input::Leave(ActionId(id))),
                5 => running.pop_last().map(|id| { waiting.insert(id); Input::RetryAt(ActionId(id), Timestamp(now + 3)) }),
                6 => waiting.pop_last().map(|id| { held.insert(id); Input::Hold(ActionId(id)) }),
                _ => held.pop_first().map(|id| { waiting.insert(id); Input::Queue(ActionId(id)) }),
            };
            // A start in the tick's commands may concern the one just picked: apply those first.
            for command in &commands {
                if let Command::Start(id) = command { prop_assert!(!running.contains(&id.0)); }
            }
            let started_by_tick: Vec<u64> = commands.drain(..).filter_map(|command| match command { Command::Start(id) => Some(id.0), _ => None }).collect();
            for id in started_by_tick { if waiting.remove(&id) { running.insert(id); } else { prop_assert!(held.remove(&id)); running.insert(id); } }
            if let Some(input) = input {
                if let Input::Hold(id) = &input { if running.contains(&id.0) { held.remove(&id.0); continue; } }
                for command in bench.at(now, input) {
                    if let Command::Start(id) = command { prop_assert!(waiting.remove(&id.0)); prop_assert!(running.insert(id.0)); }
                }
            }
            prop_assert!(running.len() <= 3);
            let mut locks: Vec<u64> = running.iter().map(|id| lock_of[id]).collect();
            locks.sort_unstable();
            let count = locks.len();
            locks.dedup();
            prop_assert_eq!(locks.len(), count, "two on one lock");
        }
        // Whatever is left comes to an end.
        for id in held { for command in bench.at(1 << 40, Input::Queue(ActionId(id))) { if let Command::Start(id) = command { running.insert(id.0); } } waiting.insert(id); }
        for command in bench.at(1 << 40, Input::Tick) { if let Command::Start(id) = command { running.insert(id.0); } }
        while let Some(id) = running.pop_first() {
            for command in bench.at(1 << 40, Input::Leave(ActionId(id))) { if let Command::Start(id) = command { running.insert(id.0); } }
        }
        prop_assert_eq!(bench.0.len(), 0, "something was forgotten");
    }
}
