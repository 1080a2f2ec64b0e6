use super::*;
use crate::action::State;
use crate::engine::outcome::tests::action;
use std::sync::mpsc::channel;
use tokio::sync::broadcast;

fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        status: Mutex::default(),
        progress: Mutex::default(),
        waiters: Mutex::default(),
        changes: broadcast::channel(1).0,
        draining: watch::channel(false).0,
    })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

fn work(
    work: impl Future<Output = Outcome> + Send + 'static,
) -> BoxFuture<'static, std::thread::Result<Outcome>> {
    Box::pin(AssertUnwindSafe(work).catch_unwind())
}

#[test]
fn panic_of_a_handler_is_a_failure_with_its_message() {
    let (stop, _) = watch::channel(None);
    let outcome = run(within(Duration::MAX, &stop, work(async { panic!("index {}", 7) })));
    let Outcome::Failed { message, retryable: false, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(message, "its handler panicked: index 7");
}

#[test]
fn attempt_whose_time_is_over_is_told_and_then_waited_for() {
    let (stop, mut stopped) = watch::channel(None);
    let handler = work(async move {
        let reason = *stopped.wait_for(Option::is_some).await.unwrap();
        assert_eq!(reason, Some(StopReason::TimeOut));
        // It takes its time to end what it started.
        tokio::task::yield_now().await;
        Outcome::TimedOut { message: "ended".into(), result: None }
    });
    let outcome = run(within(Duration::ZERO, &stop, handler));
    assert_eq!(outcome, Outcome::TimedOut { message: "ended".into(), result: None });
}

#[test]
fn first_reason_to_stop_stands() {
    let (sender, receiver) = watch::channel(None);
    stop(&sender, StopReason::Cancel);
    stop(&sender, StopReason::Shutdown);
    stop(&sender, StopReason::TimeOut);
    assert_eq!(*receiver.borrow(), Some(StopReason::Cancel));
}

#[test]
fn time_limit_is_the_timeout_or_the_deadline_whichever_is_first() {
    let mut action = action(State::Running);
    let limit = |action: &Action| time_limit(action, Timestamp(1_000));
    assert_eq!(limit(&action), Duration::from_secs(59), "what has passed since the claim counts");
    let body = Arc::make_mut(&mut action.body);
    body.deadline = Some(Timestamp(3_000));
    assert_eq!(limit(&action), Duration::from_secs(2));
    Arc::make_mut(&mut action.body).deadline = Some(Timestamp(10));
    assert_eq!(limit(&action), Duration::ZERO);
}

#[test]
fn statements_become_requests_and_are_durable_only_when_answered() {
    let (inbox, requests) = channel();
    let shared = shared();
    let port = EnginePort {
        id: ActionId(7),
        attempt: 2,
        inbox,
        shared: Arc::clone(&shared),
        clock: || Timestamp(5),
        open: Mutex::new(true),
    };
    let mut said = port.program_started(Program { pid: 1, start_ticks: 2 });
    assert!((&mut said).now_or_never().is_none(), "not before the engine answers");
    let Ok(Request::Attempt { id: ActionId(7), attempt: 2, said: Said::Program(_, reply) }) = requests.recv()
    else {
        panic!("another request")
    };
    reply.send(Ok(())).unwrap();
    assert_eq!(said.now_or_never(), Some(Ok(())));

    port.progress(140, "more than all");
    let shown = unpoison(shared.progress.lock()).remove(&ActionId(7)).unwrap();
    assert_eq!((shown.percent, shown.at), (100, Timestamp(5)));
    port.close();
    port.progress(1, "too late");
    assert!(unpoison(shared.progress.lock()).is_empty());

    drop(requests);
    assert_eq!(run(port.checkpoint(JsonText::empty())), Err(NotRecorded::Stopping), "the engine is gone");
}
