//! What the scheduler does, case by case; `model` tries any order of events against its promises.

mod model;

use super::*;
use crate::action::LockKey;

pub(super) fn ticket(id: u64, lock: u64) -> Ticket<'static> {
    Ticket {
        id: ActionId(id),
        queue: 0,
        priority: 5,
        kind: 0,
        locks: if lock == 0 { vec![] } else { vec![LockKey(lock)] }.into(),
        state: State::Queued,
        attempt: 0,
        locks_freed: false,
        due_at: None,
        deadline: None,
    }
}

struct Bench(Scheduler);

impl Bench {
    fn new(concurrency: u32) -> Self {
        Self(Scheduler::new(&[concurrency], 100))
    }

    fn at(&mut self, now: i64, input: Input<'_>) -> Vec<Command> {
        let mut commands = Vec::new();
        self.0.step(Timestamp(now), input, &mut commands);
        self.0.start_ready(&mut commands);
        commands
    }

    fn does(&mut self, input: Input<'_>) -> Vec<u64> {
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
        bench
            .does(Input::Enter(Ticket { locks: vec![LockKey(7), LockKey(8)].into(), ..ticket(2, 0) }))
            .is_empty()
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

#[test]
fn action_that_is_due_and_expired_at_once_is_not_started() {
    let mut bench = Bench::new(8);
    let ticket = Ticket {
        state: State::Scheduled,
        due_at: Some(Timestamp(10)),
        deadline: Some(Timestamp(20)),
        ..ticket(1, 7)
    };
    bench.does(Input::Enter(ticket));
    assert_eq!(bench.at(30, Input::Tick), [Command::Due(ActionId(1)), Command::Expire(ActionId(1))]);
    assert_eq!(bench.0.len(), 0);
    assert!(bench.does(Input::Leave(ActionId(1))).is_empty(), "the engine's own leave changes nothing more");
}

#[test]
fn what_has_begun_keeps_its_locks_over_its_deadline_until_it_leaves_or_is_queued_again() {
    for leaves in [true, false] {
        let mut bench = Bench::new(8);
        let waits =
            Ticket { state: State::RetryWait, attempt: 1, due_at: Some(Timestamp(50)), ..ticket(1, 7) };
        bench.does(Input::Enter(Ticket { deadline: Some(Timestamp(20)), ..waits }));
        assert!(bench.does(Input::Enter(ticket(2, 7))).is_empty());
        assert_eq!(bench.at(20, Input::Tick), [Command::Expire(ActionId(1))]);
        assert!(bench.at(60, Input::Tick).is_empty(), "it is told once, and starts no more");
        if leaves {
            assert_eq!(bench.does(Input::Leave(ActionId(1))), [2]);
        } else {
            assert_eq!(bench.does(Input::Queue(ActionId(1))), [1]);
            assert!(bench.at(61, Input::Tick).is_empty(), "its deadline is over and done with");
        }
    }
}

#[test]
fn deadline_that_passed_while_it_was_held_counts_when_it_is_resumed() {
    let mut bench = Bench::new(8);
    bench.does(Input::PauseQueue(0, true));
    bench.does(Input::Enter(Ticket { deadline: Some(Timestamp(20)), ..ticket(1, 7) }));
    bench.does(Input::Hold(ActionId(1)));
    assert!(bench.at(30, Input::Tick).is_empty());
    assert!(bench.at(31, Input::Queue(ActionId(1))).is_empty());
    assert_eq!(bench.at(31, Input::Tick), [Command::Expire(ActionId(1))]);
}

#[test]
fn locks_that_a_person_freed_before_a_restart_stay_freed() {
    let held = |id| Ticket { state: State::Held, attempt: 1, locks_freed: true, ..ticket(id, 7) };
    let running = |id| Ticket { state: State::Running, attempt: 1, ..ticket(id, 7) };
    for (first, second) in [(held(1), running(2)), (running(1), held(2))] {
        let mut bench = Bench::new(8);
        let (holder, freed) = if first.state == State::Running { (1, 2) } else { (2, 1) };
        bench.does(Input::Enter(first));
        bench.does(Input::Enter(second));
        assert!(bench.does(Input::Queue(ActionId(freed))).is_empty(), "it has no lock any more");
        assert_eq!(bench.does(Input::Leave(ActionId(holder))), [freed]);
    }
}

#[test]
fn waiting_action_with_a_resource_of_its_own_costs_thirty_bytes() {
    assert!(size_of::<Entry>() == 16);
    let mut bench = Bench::new(1);
    bench.does(Input::PauseQueue(0, true));
    for id in 1..=1_000_000 {
        bench.0.step(Timestamp(0), Input::Enter(ticket(id, id)), &mut Vec::new());
    }
    let (entries, locks) = (bench.0.entries.heap_bytes(), bench.0.locks.heap_bytes());
    // The ready set has two numbers for each 64 of them.
    let ready = 1_000_000 / 64 * 16 * 11 / 6;
    assert!(entries + locks + ready < 30_000_000, "{entries} {locks} {ready}");
}

#[test]
fn times_of_neighbours_share_their_timers() {
    let mut bench = Bench::new(1);
    bench.does(Input::Enter(ticket(0, 0)));
    for id in 1..6_400 {
        let times = (Some(Timestamp(1_000 + id)), Some(Timestamp(9_000 - id)));
        let state = if id % 2 == 0 { State::Queued } else { State::Scheduled };
        bench.does(Input::Enter(Ticket {
            state,
            due_at: times.0,
            deadline: times.1,
            ..ticket(id.cast_unsigned(), 0)
        }));
    }
    let timers = bench.0.timers.len();
    assert!(timers <= 100, "{timers} timers");
}

#[test]
fn each_queue_gets_its_turn_by_its_first_whatever_changed() {
    let mut scheduler = Scheduler::new(&[1; 1_000], 2);
    let mut starts = |input| {
        let mut commands = Vec::new();
        scheduler.step(Timestamp(0), input, &mut commands);
        scheduler.start_ready(&mut commands);
        commands
    };
    let start = |id| Command::Start(ActionId(id));
    assert_eq!(starts(Input::Enter(ticket(1, 1))), [start(1)]);
    assert_eq!(starts(Input::Enter(Ticket { queue: 999, ..ticket(2, 2) })), [start(2)]);
    for (id, queue, priority) in [(3, 7, 5), (4, 0, 9), (5, 8, 9), (6, 7, 9)] {
        assert_eq!(starts(Input::Enter(Ticket { queue, priority, ..ticket(id, id) })), []);
    }
    assert_eq!(starts(Input::Leave(ActionId(2))), [start(5)], "queue 0 has no room");
    assert_eq!(starts(Input::PauseQueue(7, true)), []);
    assert_eq!(starts(Input::Leave(ActionId(5))), [], "queue 7 is paused");
    assert_eq!(starts(Input::Leave(ActionId(1))), [start(4)]);
    assert_eq!(starts(Input::PauseQueue(7, false)), [start(6)]);
    assert_eq!(starts(Input::Leave(ActionId(6))), [start(3)]);
    scheduler.set_limits(&[2; 1_000], 9);
    assert_eq!((scheduler.running(), scheduler.len()), (2, 2));
}

#[test]
fn action_that_enters_again_is_there_once() {
    let mut bench = Bench::new(1);
    let last = ActionId::MAX.0;
    for _ in 0..2 {
        bench.does(Input::Enter(Ticket { deadline: Some(Timestamp(9)), ..ticket(last, 7) }));
        bench.does(Input::Enter(ticket(last, 7)));
    }
    assert_eq!((bench.0.len(), bench.0.queue_counts(0)), (1, (0, 1, false)));
    assert!(bench.does(Input::Leave(ActionId(last))).is_empty());
    assert_eq!((bench.0.len(), bench.0.queue_counts(0)), (0, (0, 0, false)));
    assert!(bench.0.locks.is_empty());
}

#[test]
fn timer_of_an_action_that_left_is_not_kept() {
    let mut bench = Bench::new(1);
    for id in 1..1_000 {
        bench.does(Input::Enter(Ticket { deadline: Some(Timestamp(i64::MAX - 1)), ..ticket(id, id) }));
        bench.does(Input::Leave(ActionId(id)));
    }
    assert_eq!((bench.0.timers.len(), bench.0.next_tick()), (0, None));
}

#[test]
fn only_an_action_whose_locks_were_not_freed_has_them_after_a_restart() {
    for (state, locks_freed) in
        [State::Held, State::RetryWait, State::Queued].into_iter().flat_map(|s| [(s, false), (s, true)])
    {
        let mut bench = Bench::new(1);
        bench.does(Input::PauseQueue(0, true));
        bench.does(Input::Enter(ticket(1, 7)));
        let due_at = (state == State::RetryWait).then_some(Timestamp(50));
        bench.does(Input::Enter(Ticket { state, attempt: 1, locks_freed, due_at, ..ticket(2, 7) }));
        let first = if locks_freed { 1 } else { 2 };
        assert_eq!(bench.0.behind(ActionId(1)), (first == 2).then_some(ActionId(2)), "{state} {locks_freed}");
        let starts = bench.does(Input::PauseQueue(0, false));
        // The later action has the lock: whatever its state, the earlier one does not begin.
        let started = if locks_freed {
            vec![1]
        } else if state == State::Queued {
            vec![2]
        } else {
            vec![]
        };
        assert_eq!(starts, started, "{state} {locks_freed}");
    }
}
