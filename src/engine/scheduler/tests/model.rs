//! Any order of events: the scheduler's promises hold after each of them, as a plain list of lives says them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// An action as the promises see it, without the scheduler's data structures.
#[derive(Clone, Debug)]
struct Life {
    ticket: Ticket<'static>,
    state: State,
    holds: bool,
}

/// Lives in two queues of 2 and 1 places, 3 places in all, on 4 locks.
struct World {
    bench: Scheduler,
    lives: BTreeMap<u64, Life>,
    paused: [bool; 2],
    now: i64,
}

const PLACES: [usize; 2] = [2, 1];
const WAITING: [State; 4] = [State::Queued, State::Scheduled, State::RetryWait, State::Held];
const HOLDABLE: [State; 4] = [State::Running, State::Queued, State::Scheduled, State::RetryWait];

impl World {
    fn new() -> Self {
        let limits = PLACES.map(|places| u32::try_from(places).unwrap());
        Self { bench: Scheduler::new(&limits, 3), lives: BTreeMap::new(), paused: [false; 2], now: 0 }
    }

    fn does(&mut self, input: Input<'_>) {
        let mut commands = Vec::new();
        self.bench.step(Timestamp(self.now), input, &mut commands);
        self.bench.start_ready(&mut commands);
        while !commands.is_empty() {
            for command in std::mem::take(&mut commands) {
                self.carries_out(command);
            }
            self.bench.start_ready(&mut commands);
        }
    }

    fn carries_out(&mut self, command: Command) {
        match command {
            Command::Due(id) => {
                let life = self.lives.get_mut(&id.0).unwrap();
                assert!(matches!(life.state, State::Scheduled | State::RetryWait), "{life:?}");
                life.state = State::Queued;
            }
            Command::Expire(id) => {
                let life = self.lives.remove(&id.0).unwrap();
                assert!(matches!(life.state, State::Queued | State::RetryWait | State::Scheduled));
                assert!(life.ticket.deadline.unwrap().0 <= self.now);
                if life.holds {
                    self.bench.step(Timestamp(self.now), Input::Leave(id), &mut Vec::new());
                }
            }
            Command::Start(id) => self.starts(id.0),
        }
    }

    fn starts(&mut self, id: u64) {
        let life = self.lives[&id].clone();
        assert_eq!(life.state, State::Queued, "{life:?}");
        assert!(!self.paused[usize::from(life.ticket.queue)], "its queue is paused");
        for (other_id, other) in &self.lives {
            let shares = other.ticket.locks.iter().any(|key| life.ticket.locks.contains(key));
            if *other_id == id || !shares {
                continue;
            }
            assert!(!other.holds, "{other:?} has a lock of {life:?}");
            let waits = other.state == State::Queued;
            assert!(life.holds || !waits || *other_id > id, "{life:?} overtakes {other:?}");
        }
        let life = self.lives.get_mut(&id).unwrap();
        (life.state, life.holds) = (State::Running, true);
        let queue = life.ticket.queue;
        let running = |queue| {
            let runs = |life: &&Life| life.state == State::Running && life.ticket.queue == queue;
            self.lives.values().filter(runs).count()
        };
        assert!(running(queue) <= PLACES[usize::from(queue)]);
        assert!(running(0) + running(1) <= 3);
    }

    /// One of those in that state, chosen by `which`.
    fn pick(&self, states: &[State], which: usize) -> Option<u64> {
        let ids: Vec<u64> =
            self.lives.iter().filter(|(_, life)| states.contains(&life.state)).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[which % ids.len()])
    }

    fn leaves(&mut self, id: u64) {
        self.lives.remove(&id);
        self.does(Input::Leave(ActionId(id)));
    }

    fn becomes(&mut self, id: u64, state: State, input: Input<'_>) {
        let life = self.lives.get_mut(&id).unwrap();
        life.state = state;
        self.does(input);
    }
}

proptest! {
    /// Random lives: never two on one lock, nobody overtakes on a resource, limits and pauses hold, nothing
    /// is forgotten.
    #[test]
    fn random_lives_keep_every_promise(
        steps in proptest::collection::vec((0u8..15, 0usize..64, 1u64..5, 1u64..9, 0u8..10), 1..300)
    ) {
        let mut world = World::new();
        for (next, (what, which, lock, other, priority)) in (1..).zip(steps) {
            world.now += 1;
            world.does(Input::Tick);
            match what {
                0..=4 => {
                    let mut locks = vec![LockKey(lock)];
                    // Half of them take a second lock, unless it is the same one.
                    locks.extend(Some(LockKey(other)).filter(|key| other < 5 && *key != LockKey(lock)));
                    let later = what == 0;
                    let ticket = Ticket {
                        priority,
                        queue: u16::from(which % 3 == 0),
                        locks: locks.into(),
                        state: if later { State::Scheduled } else { State::Queued },
                        due_at: later.then_some(Timestamp(world.now + 5)),
                        deadline: (which % 7 == 0).then_some(Timestamp(world.now + 12)),
                        ..ticket(next, lock)
                    };
                    let life = Life { ticket: ticket.clone(), state: ticket.state, holds: false };
                    world.lives.insert(next, life);
                    world.does(Input::Enter(ticket));
                }
                5 | 6 => if let Some(id) = world.pick(&[State::Running], which) { world.leaves(id) },
                7 => if let Some(id) = world.pick(&WAITING, which) { world.leaves(id) },
                8 => if let Some(id) = world.pick(&[State::Running], which) {
                    let due = Timestamp(world.now + 3);
                    world.becomes(id, State::RetryWait, Input::RetryAt(ActionId(id), due));
                },
                9 => if let Some(id) = world.pick(&[State::Running], which) {
                    world.becomes(id, State::Queued, Input::Queue(ActionId(id)));
                },
                10 => if let Some(id) = world.pick(&HOLDABLE, which) {
                    world.becomes(id, State::Held, Input::Hold(ActionId(id)));
                },
                11 | 12 => if let Some(id) = world.pick(&[State::Held], which) {
                    world.becomes(id, State::Queued, Input::Queue(ActionId(id)));
                },
                13 => if let Some(id) = world.pick(&[State::Held], which) {
                    world.lives.get_mut(&id).unwrap().holds = false;
                    world.does(Input::Unlock(ActionId(id)));
                },
                _ => {
                    let queue = which % 2;
                    world.paused[queue] = !world.paused[queue];
                    let input = Input::PauseQueue(u16::try_from(queue).unwrap(), world.paused[queue]);
                    world.does(input);
                }
            }
            prop_assert_eq!(world.bench.len(), world.lives.len());
        }
        // Whatever is left comes to an end.
        world.paused = [false; 2];
        world.does(Input::PauseQueue(0, false));
        world.does(Input::PauseQueue(1, false));
        while let Some(id) = world.pick(&[State::Held], 0) {
            world.becomes(id, State::Queued, Input::Queue(ActionId(id)));
        }
        world.now += 1_000;
        world.does(Input::Tick);
        while let Some(id) = world.pick(&[State::Running], 0) {
            world.leaves(id);
        }
        prop_assert_eq!(world.bench.len(), 0, "something was forgotten: {:?}", world.lives);
        for queue in 0..2 {
            prop_assert_eq!(world.bench.queue_counts(queue), (0, 0, false));
        }
    }
}
