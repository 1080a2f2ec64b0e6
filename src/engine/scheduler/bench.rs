//! What one life costs the scheduler while others wait: one enters, one leaves, the next one starts.

use divan::Bencher;

use super::tests::ticket;
use super::*;

#[divan::bench(args = [1_000, 1_000_000], sample_size = 1_000)]
fn enter_leave_start(bencher: Bencher<'_, '_>, waiting: u64) {
    let mut scheduler = Scheduler::new(&[64], 64);
    let mut commands = Vec::new();
    let mut last = 0;
    let mut enter = |scheduler: &mut Scheduler, commands: &mut Vec<Command>| {
        last += 1;
        scheduler.step(Timestamp(0), Input::Enter(ticket(last, last)), commands);
    };
    for _ in 0..waiting + 64 {
        enter(&mut scheduler, &mut commands);
    }
    scheduler.start_ready(&mut commands);
    let mut running: std::collections::VecDeque<Command> = commands.drain(..).collect();
    bencher.bench_local(|| {
        enter(&mut scheduler, &mut commands);
        let Some(Command::Start(id)) = running.pop_front() else { panic!("nothing runs") };
        scheduler.step(Timestamp(0), Input::Leave(id), &mut commands);
        scheduler.start_ready(&mut commands);
        running.extend(commands.drain(..));
    });
}
