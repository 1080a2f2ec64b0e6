//! Units from their start to their end, whatever is in them.

use std::io::ErrorKind::{AlreadyExists, WouldBlock};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::container::Container;
use crate::{line, plan, settings, socket, start, until, wait};

#[test]
fn unit_talks_over_its_standard_input_and_is_gone_when_it_has_ended() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let mut plan =
            plan(1, "echo for the journal; read -r line <&0; echo \"$GREETING $line $$\" >&0; read -r line");
        plan.env = vec![("GREETING".to_owned(), "hello  %h $HOME".to_owned())];
        let (mut socket, started) = start(&units, &plan).await;
        socket.write_all(b"world\n").unwrap();
        assert_eq!(line(&mut socket), format!("hello  %h $HOME world {}", started.main_pid));
        let state = units.find(&plan.name).await.unwrap().unwrap();
        assert_eq!(
            (state.active.as_str(), state.sub.as_str(), state.freezer.as_str()),
            ("active", "running", "running")
        );
        assert_eq!(state.main_pid, Some(started.main_pid));
        assert_eq!(started.control_group, "/system.slice/actiond-1.1.service");
        assert_eq!(
            (&state.control_group, &state.invocation_id),
            (&started.control_group, &started.invocation_id)
        );
        assert_eq!(started.invocation_id.len(), 32);
        assert!(units.list().await.unwrap().contains(&plan.name));
        // The daemon goes away: the unit finds the end of its input, and ends.
        drop(socket);
        until("its end", || container.processes("for the journal") == 0);
        until("its line in the journal", || {
            container
                .run(&["journalctl", "--quiet", "--output=cat", "--unit", &plan.name])
                .contains("for the journal")
        });
        while units.find(&plan.name).await.unwrap().is_some() {}
        assert!(!units.end(&plan.name).await.unwrap());
        assert!(!units.list().await.unwrap().contains(&plan.name));
    });
}

#[test]
fn nothing_outlives_the_end_of_its_unit() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let stubborn = "
            trap '' TERM HUP INT
            python3 -c 'import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(98761)
    os._exit(0)
os.wait()'
            setsid sleep 98762 &
            sleep 98763 & kill -STOP $!
            sh -c 'trap \"\" TERM; while :; do sleep 98764; done' &
            echo ready >&0
            while :; do sleep 98765; done";
        for (id, freezes) in [(10, false), (11, true)] {
            let plan = plan(id, stubborn);
            let (mut socket, started) = start(&units, &plan).await;
            assert_eq!(line(&mut socket), "ready");
            until("all of it", || {
                ["98761", "98762", "98763", "98764", "98765"]
                    .iter()
                    .all(|sleep| container.processes(sleep) > 0)
            });
            if freezes {
                container.run(&["systemctl", "freeze", &plan.name]);
                assert_eq!(units.find(&plan.name).await.unwrap().unwrap().freezer, "frozen");
            }
            let since = Instant::now();
            assert!(units.end(&plan.name).await.unwrap());
            assert!(since.elapsed() < Duration::from_secs(2), "it took {:?}", since.elapsed());
            assert_eq!(container.processes("9876[1-5]"), 0);
            assert_eq!(units.find(&plan.name).await.unwrap(), None);
            container.run(&["test", "!", "-e", &format!("/sys/fs/cgroup{}", started.control_group)]);
        }
    });
}

#[test]
fn fork_bomb_ends_with_its_unit() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let bomb = "echo ready >&0; exec python3 -c '98766
import os
while True:
    try: os.fork()
    except OSError: pass'";
        let mut plan = plan(12, bomb);
        plan.user = Some((65_534, 65_534));
        plan.settings = settings("LimitNPROC = 200").unwrap();
        let (mut socket, _) = start(&units, &plan).await;
        assert_eq!(line(&mut socket), "ready");
        until("the bomb", || container.processes("98766") > 100);
        let since = Instant::now();
        assert!(units.end(&plan.name).await.unwrap());
        assert!(since.elapsed() < Duration::from_secs(2), "it took {:?}", since.elapsed());
        assert_eq!(container.processes("98766"), 0);
    });
}

#[test]
fn taken_name_starts_nothing_and_disturbs_nothing() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let plan = plan(20, "read -r line; echo \"first $line\" >&0; read -r line");
        let (mut first, _) = start(&units, &plan).await;
        let (mut second, there) = socket();
        let refused = units.start(&plan, there).await.unwrap_err();
        assert_eq!(refused.kind(), AlreadyExists, "{refused}");
        assert_eq!(second.read(&mut [0]).unwrap(), 0, "nobody has the second's other end");
        first.write_all(b"goes on\n").unwrap();
        assert_eq!(line(&mut first), "first goes on");
        assert!(units.end(&plan.name).await.unwrap());
    });
}

#[test]
fn start_that_fails_says_so_and_leaves_the_name_free() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let mut plan = plan(21, "");
        plan.argv = vec!["/nowhere/actiond".to_owned(), "keeper".to_owned()];
        let refused = units.start(&plan, socket().1).await.unwrap_err().to_string();
        assert!(refused.contains("could not start actiond-21.1.service"), "{refused}");
        while units.find(&plan.name).await.unwrap().is_some() {}
        plan.argv = ["/bin/sleep", "infinity"].map(String::from).to_vec();
        let _ = start(&units, &plan).await;
        assert!(units.end(&plan.name).await.unwrap());
    });
}

#[test]
fn runtime_max_ends_what_everybody_else_forgot() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let mut plan = plan(22, "exec sleep 98770");
        plan.runtime_max = Some(Duration::from_millis(300));
        let _socket = start(&units, &plan).await;
        until("its end", || container.processes("98770") == 0);
    });
}

#[test]
fn its_cgroup_is_its_own_to_divide() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let script = "
            own=/sys/fs/cgroup$(sed s/0:://p -n /proc/self/cgroup)
            mkdir $own/program
            sh -c 'echo 0 > '$own'/program/cgroup.procs; setsid sleep 98771 & exec sleep 98771' &
            while [ $(wc -l < $own/program/cgroup.procs) != 2 ]; do :; done
            echo 1 > $own/program/cgroup.kill
            wait
            while grep -q 'populated 1' $own/program/cgroup.events; do :; done
            rmdir $own/program
            echo alone >&0
            read -r line";
        let mut plan = plan(23, script);
        plan.user = Some((65_534, 65_534));
        let (mut socket, _) = start(&units, &plan).await;
        assert_eq!(line(&mut socket), "alone");
        assert_eq!(container.processes("^sleep 98771"), 0);
        assert!(units.end(&plan.name).await.unwrap());
    });
}

#[test]
fn standard_input_ends_with_the_unit_and_not_when_it_is_closed_in_there() {
    let container = Container::start();
    wait(async {
        let units = container.units();
        let plan = plan(25, "exec 0< /dev/null; exec sleep 98796");
        let (mut socket, _) = start(&units, &plan).await;
        until("the close", || container.processes("^sleep 98796") == 1);
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), WouldBlock);
        socket.set_nonblocking(false).unwrap();
        assert!(units.end(&plan.name).await.unwrap());
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    });
}
