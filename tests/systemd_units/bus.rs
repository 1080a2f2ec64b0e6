//! The connection to systemd: a bus that goes away and comes back, a systemd that does, and many at once.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::container::Container;
use crate::{line, plan, socket, start, wait};

#[test]
fn bus_that_restarts_is_waited_for() {
    let container = Container::boot();
    wait(async {
        let units = container.units();
        let kept = plan(40, "read -r line");
        let (_socket, started) = start(&units, &kept).await;
        for id in 41..44 {
            container.restart_bus();
            assert_eq!(units.find(&kept.name).await.unwrap().unwrap().main_pid, Some(started.main_pid));
            let short = plan(id, "read -r line");
            let _ = start(&units, &short).await;
            container.restart_bus();
            let listed = units.list().await.unwrap();
            assert!(listed.contains(&kept.name), "{listed:?}");
            container.restart_bus();
            units.end(&short.name).await.unwrap();
        }
        assert!(units.end(&kept.name).await.unwrap());
    });
}

#[test]
fn whatever_a_bus_that_restarts_meanwhile_leaves_open_is_settled_by_end() {
    let container = Container::boot();
    let (units, container) = (container.units(), &container);
    std::thread::scope(|scope| {
        let restarting = scope.spawn(|| (0..10).for_each(|_| container.restart_bus()));
        wait(async {
            for id in 50.. {
                let plan = plan(id, "exec sleep 98780");
                let (_here, there) = socket();
                let _ = units.start(&plan, there).await;
                units.end(&plan.name).await.unwrap();
                assert_eq!(units.find(&plan.name).await.unwrap(), None);
                if restarting.is_finished() {
                    break;
                }
            }
            let left = units.list().await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        });
    });
    assert_eq!(container.processes("98780"), 0);
}

#[test]
fn systemd_that_executes_itself_anew_keeps_its_units_and_its_listeners() {
    let container = Container::boot();
    wait(async {
        let units = container.units();
        let kept = plan(70, "read -r line; echo \"still $line $0\" >&0; read -r line");
        let (mut socket, started) = start(&units, &kept).await;
        for id in 71..74 {
            container.run(&["systemctl", if id == 71 { "daemon-reload" } else { "daemon-reexec" }]);
            let state = units.find(&kept.name).await.unwrap().unwrap();
            assert_eq!(state.main_pid, Some(started.main_pid));
            assert_eq!(state.invocation_id, started.invocation_id);
            let short = plan(id, "read -r line");
            let since = Instant::now();
            let (_socket, _) = start(&units, &short).await;
            assert!(units.end(&short.name).await.unwrap());
            // After a second without a word about a job it is looked up: twice here, if the words are lost.
            assert!(since.elapsed() < Duration::from_secs(2), "the ends of jobs are not heard any more");
        }
        socket.write_all(b"here\n").unwrap();
        assert_eq!(line(&mut socket), "still here /bin/sh");
        assert!(units.end(&kept.name).await.unwrap());
    });
}

#[test]
fn many_start_at_once_on_one_connection() {
    let container = Container::start();
    let units = Arc::new(container.units());
    wait(async {
        let started = (0..80).map(|nth| {
            let units = Arc::clone(&units);
            tokio::spawn(async move {
                let plan = plan(100 + nth, "exec sleep 98795");
                let (_socket, started) = start(&units, &plan).await;
                assert_eq!(units.find(&plan.name).await.unwrap().unwrap().main_pid, Some(started.main_pid));
                assert!(units.end(&plan.name).await.unwrap());
                started.main_pid
            })
        });
        let mut pids = HashSet::new();
        for started in started.collect::<Vec<_>>() {
            assert!(pids.insert(started.await.unwrap()));
        }
    });
    assert_eq!(container.processes("98795"), 0);
}
