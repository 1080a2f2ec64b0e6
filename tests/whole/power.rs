//! Real power cuts: the store lies on an ext4 file system of its own that loses what was not synced.
//!
//! An image in a directory is mounted over a loop device; under load of every kind, `FS_IOC_SHUTDOWN` drops
//! all dirty pages and the uncommitted part of ext4's journal; then the image is mounted again. The store's sizes are
//! so small that submissions, claims, finishes, checkpoints, snapshots and segment switches all happen
//! many times between two cuts. Needs root for the mounts, and says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::daemon::{Start, code};
use crate::common::home::{NOOP, SMALL_STORE, exec};
use crate::common::sender::stream;
use crate::common::{Connection, Daemon, Home, demand_root, is_final, spec, state, until, with};

fn run(program: &str, words: &[&str]) {
    let output =
        Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mounted file system whose power can be cut. Unmounted when dropped.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn new(home: &Home) -> Self {
        demand_root("mount a file system whose power it can cut");
        let disk = Self { image: home.path("image"), mount: home.path("mount") };
        std::fs::create_dir(&disk.mount).expect("a mount point");
        std::fs::File::create(&disk.image).and_then(|file| file.set_len(512 << 20)).expect("an image");
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", text(&disk.image)]);
        disk.mount();
        disk
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", text(&self.image), text(&self.mount)]);
    }

    fn unmount(&self) {
        let unmounted = || Command::new("umount").arg(&self.mount).output().expect("umount").status.success();
        until("the file system to be free", || unmounted().then_some(()));
    }

    /// Drops everything that was not synced. Whoever uses the disk gets errors until [`Self::restore`].
    fn cut(&self) {
        run("python3", &[concat!(env!("CARGO_MANIFEST_DIR"), "/tests/power/cut.py"), text(&self.mount)]);
    }

    /// The power comes back; nothing may use the disk at this moment. Whether the control file was lost, as it must.
    fn restore(&self) -> bool {
        // The mount namespace of another test may have a copy of the mount, and as long as it has, the file system without
        // power is what is mounted again.
        until("a file system that has power", || {
            self.unmount();
            self.mount();
            let probe = self.mount.join("probe");
            std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)).ok()
        });
        let control = self.mount.join("control");
        let kept = std::fs::read(&control).unwrap_or_default();
        let _ = std::fs::remove_file(control);
        kept != b"unsynced".repeat(8_192)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", text(&self.mount)]).output();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ASCII")
}

/// What the daemon said before a cut, and so must still be true after it.
#[derive(Default)]
struct Told {
    /// Each acknowledged action with the furthest that was seen of it.
    actions: BTreeMap<u64, Value>,
    /// Lines sent, whether or not they were answered.
    sent: u64,
}

impl Told {
    fn take(&mut self, action: &Value) {
        let id = action["id"].as_u64().expect("an id");
        let known = self.actions.entry(id).or_insert_with(|| action.clone());
        if version(action) > version(known) {
            *known = action.clone();
        }
    }
}

fn version(action: &Value) -> u64 {
    action["version"].as_u64().expect("a version")
}

/// Submits and reads without pause, from several connections, until the disk is cut.
fn load(home: &Home, told: &Mutex<Told>, cut: &AtomicBool, seed: u64) {
    thread::scope(|scope| {
        for worker in 0..4_u64 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed * 10 + worker);
                while !cut.load(Ordering::Relaxed) {
                    if worker == 0 {
                        submit_stream(home, told, &mut random);
                    } else if submit_one(home, told, &mut random).is_none() {
                        return;
                    }
                }
            });
        }
    });
}

fn new_spec(told: &Mutex<Told>, random: &mut fastrand::Rng) -> Value {
    let number = {
        let mut told = told.lock().expect("told");
        told.sent += 1;
        told.sent
    };
    let kind = if number.is_multiple_of(20) { "deploy" } else { "restart" };
    // Few and large, so that the store writes much while the test has little to compare.
    let padding: String = (0..random.usize(200..4_000)).map(|_| random.alphanumeric()).collect();
    let spec = with(spec(kind, random.u64(0..50)), "metadata", json!({"number": number, "padding": padding}));
    with(spec, "idempotency_key", format!("n{number}"))
}

/// One submission, then what became of it; none when the daemon is gone.
fn submit_one(home: &Home, told: &Mutex<Told>, random: &mut fastrand::Rng) -> Option<()> {
    let mut door = Connection::unix(&home.socket()).ok()?;
    let spec = new_spec(told, random).to_string();
    let answer = door.ask("POST", "/v1/actions", Some(spec.as_bytes())).ok()?;
    if answer.status != 202 {
        return (answer.status == 503).then_some(());
    }
    let action = answer.json();
    told.lock().expect("told").take(&action);
    let wait = if random.bool() { "?wait=1s" } else { "" };
    let answer = door.ask("GET", &format!("/v1/actions/{}{wait}", action["id"]), None).ok()?;
    if answer.status == 200 {
        told.lock().expect("told").take(&answer.json());
    }
    Some(())
}

fn submit_stream(home: &Home, told: &Mutex<Told>, random: &mut fastrand::Rng) {
    let lines: Vec<String> = (0..30).map(|_| new_spec(told, random).to_string()).collect();
    stream(home, &lines, |answer| {
        if answer["status"] == 202 {
            told.lock().expect("told").take(&answer["action"]);
        }
        matches!(answer["status"].as_u64(), Some(202 | 503))
    });
}

/// Everything told is still true: each action is there, with its body, at least as far as it was seen.
/// How many actions are there of which no answer told.
fn verify(daemon: &Daemon<'_>, told: &mut Told, cut: &str) -> usize {
    let all: BTreeMap<u64, Value> = daemon
        .all_actions()
        .into_iter()
        .map(|action| (action["id"].as_u64().expect("an id"), action))
        .collect();
    for (id, before) in &mut told.actions {
        let now = all.get(id).unwrap_or_else(|| panic!("{cut}: acknowledged action {id} is lost"));
        assert!(version(now) >= version(before), "{cut}: action {id} went back: {before} is now {now}");
        for name in
            ["user", "resource_type", "action", "resource_id", "metadata", "started_at", "idempotency_key"]
        {
            assert_eq!(now[name], before[name], "{cut}: {name} of action {id}");
        }
        if is_final(before) {
            assert_eq!(now, before, "{cut}: a final action changed");
        }
        *before = now.clone();
    }
    let unique: std::collections::BTreeSet<u64> =
        all.values().filter_map(|action| action["metadata"]["number"].as_u64()).collect();
    assert_eq!(unique.len(), all.len(), "{cut}: a submission became two actions");
    let in_doubt = all.len() - told.actions.len();
    // From now on they are known too: what was there after a cut stays.
    for action in all.values() {
        told.take(action);
    }
    in_doubt
}

/// When the power goes.
enum Moment {
    /// At random.
    AfterMs(u64),
    /// Where the daemon passes that crash point for the n-th time (`name:n`): it stops there as by `kill -9`, and
    /// then the disk loses all that was not synced by then.
    #[cfg(feature = "crash-points")]
    At(&'static str),
}

/// Cuts power again and again, the store living on through all of them. Runs in parallel with others of its kind.
fn cut_power(moments: &[Moment], seed: u64) {
    let place = Home::new();
    let disk = Disk::new(&place);
    let home = Home::with_store(disk.mount.join("store"));
    let program = home
        .script("program", "read -r action\necho \"$ACTIOND_ID $ACTIOND_ATTEMPT\" >> \"$HOME_DIR/began\"");
    let tables = format!("{}{NOOP}", exec("deploy", &program, "recovery = \"rerun\""));
    let home = home.configure(SMALL_STORE, &tables);
    let told = Mutex::new(Told::default());
    let (mut checkpoints, mut snapshots, mut rebuilds, mut in_doubt) = (0, 0, 0, 0);
    for (cut, moment) in (1..).zip(moments) {
        let at = match moment {
            Moment::AfterMs(_) => "",
            #[cfg(feature = "crash-points")]
            Moment::At(name) => name,
        };
        let since = Instant::now();
        let daemon =
            Daemon::start_as(&home, &Start { environment: &[("ACTIOND_CRASH_AT", at)], ..Start::default() });
        let is_cut = AtomicBool::new(false);
        thread::scope(|scope| {
            let (home, told, is_cut) = (&home, &told, &is_cut);
            scope.spawn(move || load(home, told, is_cut, seed * 1_000 + cut));
            match (moment, daemon) {
                (Moment::AfterMs(ms), daemon) => {
                    let daemon = daemon.expect("a daemon");
                    let (since, moment) = (Instant::now(), Duration::from_millis(*ms));
                    while since.elapsed() < moment {
                        thread::park_timeout(moment.saturating_sub(since.elapsed()));
                    }
                    disk.cut();
                    is_cut.store(true, Ordering::Relaxed);
                    daemon.kill9();
                    home.kill_programs();
                }
                #[cfg(feature = "crash-points")]
                (Moment::At(name), daemon) => {
                    let status = daemon.map_or_else(|status| status, Daemon::ended);
                    disk.cut();
                    is_cut.store(true, Ordering::Relaxed);
                    home.kill_programs();
                    assert_eq!(code(status), 137, "{name} was not reached");
                }
            }
        });
        assert!(disk.restore(), "cut {cut} {at} lost nothing that was not synced: it was no power cut");
        let daemon = Daemon::start(&home);
        until("what a rebuild may hide", || {
            daemon.get("/v1/status")["store"]["rebuilding"].is_null().then_some(())
        });
        let store = daemon.get("/v1/status")["store"].take();
        rebuilds += store["rebuilds"].as_u64().expect("a count");
        let mut told = told.lock().expect("told");
        in_doubt += verify(&daemon, &mut told, &format!("cut {cut} {at}"));
        // What is counted is this start's; a checkpoint follows each rebuild.
        let store = daemon.get("/v1/status")["store"].take();
        checkpoints += store["checkpoints"].as_u64().expect("a count");
        snapshots += store["snapshots"].as_u64().expect("a count");
        println!(
            "cut {cut} {at}: {} known, {:?}, {}",
            told.actions.len(),
            since.elapsed(),
            store["last_rebuild_reason"].as_str().unwrap_or("not rebuilt")
        );
        daemon.kill9();
    }
    let daemon = Daemon::start(&home);
    let told = told.into_inner().expect("told");
    let last = told.actions.keys().next_back().expect("an action");
    daemon.finished(*last);
    until("the end of all", || (daemon.unfinished() == 0).then_some(()));
    for action in daemon.all_actions() {
        assert_eq!(state(&action), "succeeded", "{action}");
    }
    let began = home.lines("began");
    let different: std::collections::BTreeSet<&String> = began.iter().collect();
    assert_eq!(different.len(), began.len(), "an attempt was started twice");
    let cuts = moments.len();
    println!(
        "{cuts} cuts, each lost its unsynced control file; {} acknowledged of {} sent, {in_doubt} of those sent without \
         an answer were there; after the cuts {checkpoints} checkpoints, {snapshots} snapshots, {rebuilds} rebuilds",
        told.actions.len(),
        told.sent
    );
    assert!(told.actions.len() > 10 * cuts, "too little load: {} actions", told.actions.len());
    assert!(rebuilds * 2 > cuts as u64, "sled was trusted after power cuts: {rebuilds} rebuilds");
}

fn at_random(cuts: usize, seed: u64) -> Vec<Moment> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..cuts).map(|_| Moment::AfterMs(random.u64(5..500))).collect()
}

#[test]
fn nothing_acknowledged_is_lost_by_fifteen_power_cuts() {
    cut_power(&at_random(15, 1), 1);
}

#[test]
fn nothing_acknowledged_is_lost_by_fifteen_other_power_cuts() {
    cut_power(&at_random(15, 2), 2);
}

/// Submit, claim, finish, checkpoint, snapshot, segment switch: each before, between and after its syncs.
#[cfg(feature = "crash-points")]
#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_at_a_named_point() {
    let points = [
        "journal_write:20",
        "journal_unsynced:21",
        "journal_synced:22",
        "journal_segment:2",
        "journal_segment:3",
        "turn_committed:23",
        "program_recorded:2",
        "program_ended:2",
        "outcome_staged:2",
        "outcome_staged:31",
        "checkpoint_begin:2",
        "checkpoint_batch:2",
        "bodies_block:2",
        "bodies_synced:2",
        "checkpoint_meta:2",
        "checkpoint_flush:2",
        "checkpoint_flushed:2",
        "snapshot_sync:1",
        "snapshot_rename:1",
        "snapshot_renamed:1",
        "journal_release:1",
        "open_running",
        "open_running_left",
        "open_started",
    ];
    cut_power(&points.map(Moment::At), 3);
}

/// As systemd starts a daemon with any protection of file systems: each start has a mount namespace of its own. As the user
/// that a service has, who may read of the file system only what all may.
const PROTECTED: &[&str] = &[
    "unshare",
    "--mount",
    "--propagation=private",
    "sh",
    "-c",
    "chown 65534:65534 $NOTIFY_SOCKET && exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
     --bounding-set=-all \"$0\" \"$@\"",
];

#[test]
fn sled_is_trusted_after_a_mere_death_in_whatever_mount_namespace_and_not_after_a_remount() {
    let place = Home::new();
    let disk = Disk::new(&place);
    let home = Home::with_store(disk.mount.join("store")).configure(SMALL_STORE, NOOP);
    std::fs::create_dir(home.store()).expect("a directory");
    for dir in [&place.path(""), &home.path(""), home.store()] {
        run("chown", &["65534:65534", text(dir)]);
    }
    let start = || {
        let start = Start { wrapper: PROTECTED, ..Start::default() };
        let daemon = Daemon::start_as(&home, &start).expect("a daemon");
        until("what a rebuild may hide", || {
            daemon.get("/v1/status")["store"]["rebuilding"].is_null().then_some(())
        });
        let rebuilds = daemon.get("/v1/status")["store"]["rebuilds"].clone();
        (daemon, rebuilds)
    };
    let padding = "x".repeat(60_000);
    let mut actions = 0;
    let mut fill = |daemon: &Daemon<'_>| {
        until("a checkpoint", || {
            actions += 1;
            daemon.accepted(&with(spec("restart", actions), "metadata", json!({ "padding": padding })));
            (daemon.get("/v1/status")["store"]["checkpoints"].as_u64() > Some(0)).then_some(())
        });
    };
    let (mut daemon, _) = start();
    for _ in 0..3 {
        fill(&daemon);
        daemon.kill9();
        let (next, rebuilds) = start();
        assert_eq!(rebuilds, 0, "only the daemon died: {}", daemon_mark(&home));
        daemon = next;
    }
    for _ in 0..3 {
        fill(&daemon);
        daemon.kill9();
        // Of the same image, on the same loop device as a rule, and without a power cut that the store could notice.
        disk.unmount();
        disk.mount();
        let (next, rebuilds) = start();
        assert_eq!(rebuilds, 1, "the file system was mounted anew: {}", daemon_mark(&home));
        daemon = next;
    }
    assert_eq!(daemon.all_actions().len() as u64, actions);
}

fn daemon_mark(home: &Home) -> String {
    std::fs::read_to_string(home.store().join("running")).unwrap_or_default()
}

#[test]
fn daemon_whose_disk_fails_exits_with_the_code_of_the_store() {
    let place = Home::new();
    let disk = Disk::new(&place);
    let home = Home::with_store(disk.mount.join("store")).configure("disk_reserve_bytes = 1048576", NOOP);
    let daemon = Daemon::start(&home);
    let id = daemon.accepted(&spec("restart", 1));
    daemon.finished(id);
    disk.cut();
    let answer = daemon.connect().ask("POST", "/v1/actions", Some(spec("restart", 2).to_string().as_bytes()));
    assert!(
        answer.as_ref().map_or(true, |answer| answer.status >= 500),
        "acknowledged on a dead disk: {answer:?}"
    );
    assert_eq!(code(daemon.ended()), 74);
    assert!(disk.restore());
    let daemon = Daemon::start(&home);
    assert_eq!(state(&daemon.action(id)), "succeeded");
    daemon.assert_healthy(&spec("restart", 3), "a dead disk");
}
