//! A bus that goes away and comes back.

use crate::container::Container;
use crate::{plan, socket, start, wait};

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
