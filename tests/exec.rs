//! The `exec` handler with real programs, real pipes and the real keeper; only the engine is a stand-in.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actiond::action::{
    Action, ActionId, Actor, Body, Claim, JsonText, OnConflict, Outcome, ProbeAnswer, Program, Recovery,
    RetryPolicy, State, Status, Step, Timestamp,
};
use actiond::handlers::exec::Exec;
use actiond::handlers::registry::Surroundings;
use actiond::handlers::targets::Targets;
use actiond::handlers::{Attempt, BoxFuture, Handler as _, NotRecorded, Port, StopReason};
use actiond::runner::adoption::Survey;
use actiond::runner::backend::{Backend, Sessions};
use actiond::runner::leftovers::{MARK, end_all, mark};
use actiond::runner::logs::Logs;
use tokio::sync::watch;

const ID: ActionId = ActionId(4_711);
const BOUND: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Recorder {
    progress: Mutex<Vec<(u8, String)>>,
    checkpoints: Mutex<Vec<String>>,
    programs: Mutex<Vec<Program>>,
    refuses: bool,
}

impl Port for Recorder {
    fn progress(&self, percent: u8, message: &str) {
        self.progress.lock().unwrap().push((percent, message.to_owned()));
    }

    fn checkpoint(&self, checkpoint: JsonText) -> BoxFuture<'_, Result<(), NotRecorded>> {
        self.checkpoints.lock().unwrap().push(checkpoint.as_str().to_owned());
        Box::pin(async { Ok(()) })
    }

    fn steps(&self, _steps: Vec<Step>) -> BoxFuture<'_, Result<(), NotRecorded>> {
        Box::pin(async { Ok(()) })
    }

    fn program_started(&self, program: Program) -> BoxFuture<'_, Result<(), NotRecorded>> {
        self.programs.lock().unwrap().push(program);
        let answer = if self.refuses { Err(NotRecorded::Stopping) } else { Ok(()) };
        Box::pin(async move { answer })
    }
}

/// One attempt's world: a directory, a log, a recorder and a way to stop it.
struct World {
    home: tempfile::TempDir,
    logs: Logs,
    port: Arc<Recorder>,
    stop: watch::Sender<Option<StopReason>>,
    metadata: String,
    store: String,
    backend: Arc<dyn Backend>,
    /// Under a keeper, or started directly.
    adopt: bool,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("keepers")).unwrap();
        Self {
            backend: Arc::new(Sessions::new(env!("CARGO_BIN_EXE_actiond").into())),
            logs: Logs::new(home.path().join("logs"), 64 << 10),
            store: format!("test-{}", home.path().file_name().unwrap().to_str().unwrap()),
            home,
            port: Arc::default(),
            stop: watch::channel(None).0,
            metadata: "{}".to_owned(),
            adopt: true,
        }
    }

    /// Both ways to start a program: what it finds and what becomes of it must be the same.
    fn both() -> [Self; 2] {
        [Self::new(), Self { adopt: false, ..Self::new() }]
    }

    fn exec(&self, own: &str) -> Exec {
        let around = Surroundings {
            attempts_dir: self.home.path().join("attempts"),
            keepers_dir: self.home.path().join("keepers"),
            backend: Arc::clone(&self.backend),
            kill_grace_ms: 300,
            result_bytes_max: 64 << 10,
            socket: "/run/actiond/actiond.sock".into(),
            binary: "/none".into(),
            targets: Targets::default(),
            secrets_dir: "/none".into(),
        };
        let own = format!("adopt = {}\n{own}", self.adopt);
        Exec::new(&own.parse().unwrap(), Some(Recovery::Rerun), &around).unwrap()
    }

    fn action(&self) -> Action {
        let mut status = Status::accepted(State::Running, None);
        status.attempt = 2;
        status.checkpoint = Some(JsonText::from_checked(r#"{"step":1}"#));
        let step = Step::begun("build", Timestamp(1_705_314_600_000)).unwrap();
        status.steps = vec![
            Step { done_at: Some(Timestamp(1_705_314_601_500)), ..step.clone() },
            Step { name: "push".to_owned(), ..step },
        ];
        status.claim = Some(Claim {
            incarnation: 3,
            boot_id: "b".to_owned(),
            began_at: Timestamp(1_705_314_600_000),
            fence: 12_884_901_889,
            is_gated: true,
            program: None,
        });
        let body = Body {
            user: "john@example.com".to_owned(),
            resource_type: "Stack".to_owned(),
            action: "deploy".to_owned(),
            resource_id: 12_345,
            started_via: "api".to_owned(),
            metadata: JsonText::from_checked(self.metadata.clone()),
            accepted_at: Timestamp(1_705_314_600_000),
            submitter: Actor { uid: 0, gid: 0, pid: 1 },
            queue: "default".to_owned(),
            priority: 4,
            run_at: None,
            deadline: None,
            timeout_ms: 60_000,
            on_conflict: OnConflict::Queue,
            idempotency_key: None,
            request_digest: [0; 16],
            retry: RetryPolicy::default(),
            recovery: Recovery::Rerun,
            locks: Vec::new(),
            retry_of: None,
        };
        Action { id: ID, body: Arc::new(body), status }
    }

    fn attempt(&self, action: Action) -> Attempt {
        Attempt::new(
            Arc::new(action),
            self.logs.writer(ID, 2),
            mark(&self.store, ID, 2),
            Arc::clone(&self.port) as Arc<dyn Port>,
            self.stop.subscribe(),
        )
    }

    async fn run(&self, own: &str) -> Outcome {
        let (exec, attempt) = (self.exec(own), self.attempt(self.action()));
        let outcome = tokio::time::timeout(BOUND, exec.run(&attempt)).await.expect("it ends");
        if let Some(afterwards) = attempt.take_afterwards() {
            afterwards();
        }
        let attempts = self.home.path().join("attempts");
        until(|| std::fs::read_dir(&attempts).map_or(0, Iterator::count) == 0).await;
        let left = std::fs::read_dir(self.home.path().join("attempts")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "the attempt's directory is gone");
        assert_eq!(self.alive(), Vec::<u32>::new(), "nothing of the attempt is alive");
        outcome
    }

    async fn sh(&self, script: &str) -> Outcome {
        self.run(&sh(script)).await
    }

    /// Pids of living processes that carry this world's mark.
    fn alive(&self) -> Vec<u32> {
        let wanted = format!("{MARK}={}/", self.store);
        let carries = |pid: &u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry.starts_with(wanted.as_bytes()))
        };
        let pids = std::fs::read_dir("/proc").unwrap();
        pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).filter(carries).collect()
    }

    fn lines(&self, stream: &str) -> Vec<String> {
        let lines = self.logs.read(ID, Some(2)).unwrap();
        let lines = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines
            .filter(|line| line["stream"] == stream)
            .map(|line| line["line"].as_str().unwrap().to_owned())
            .collect()
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs a script and stops it when it has made the file `ready`.
    async fn stop_when_ready(&self, script: &str, reason: StopReason) -> Outcome {
        tokio::join!(self.sh(script), self.stop_at_ready(reason)).0
    }

    /// The same, and nothing is asserted or removed afterwards.
    async fn stop_when_ready_with(&self, script: &str, reason: StopReason) -> Outcome {
        let (exec, attempt) = (self.exec(&sh(script)), self.attempt(self.action()));
        tokio::join!(exec.run(&attempt), self.stop_at_ready(reason)).0
    }

    async fn stop_at_ready(&self, reason: StopReason) {
        let ready = self.home.path().join("ready");
        until(|| ready.exists()).await;
        self.stop.send_replace(Some(reason));
    }
}

fn sh(script: &str) -> String {
    let argv = ["/bin/sh", "-c", script].map(|word| toml::Value::from(word).to_string());
    format!("program = [{}]", argv.join(", "))
}

/// Waits for a condition, looking again after short pauses, within a bound.
async fn until(condition: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let met = async {
        while !condition() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(BOUND, met).await.expect("the condition comes true within its bound");
}

fn failed(outcome: &Outcome) -> (&str, bool) {
    match outcome {
        Outcome::Failed { message, retryable, .. } => (message, *retryable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn program_gets_the_action_and_its_reports_count() {
    for mut world in World::both() {
        world.metadata = r#"{"git_ref":"main","n":1.10}"#.to_owned();
        let input = world.path("input");
        let script = format!(
            r#"cat > {input}
            echo '{{"progress": 40, "message": "pushing"}}' >&3
            echo '{{"checkpoint": {{"step": 2}}}}' > $ACTIOND_REPORT
            echo nonsense >&3
            echo out; echo err >&2
            printf '{{"result": {{"git_hash": "a1b2", "n": 1.10}}, "message": "deployed"}}' >&3"#
        );
        let outcome = world.sh(&script).await;
        let result = Some(JsonText::from_checked(r#"{"git_hash":"a1b2","n":1.10}"#));
        assert_eq!(outcome, Outcome::Succeeded { message: "deployed".to_owned(), result });
        assert_eq!(*world.port.progress.lock().unwrap(), [(40, "pushing".to_owned())]);
        assert_eq!(*world.port.checkpoints.lock().unwrap(), [r#"{"step":2}"#]);
        assert_eq!(
            (world.lines("stdout"), world.lines("stderr")),
            (vec!["out".to_owned()], vec!["err".to_owned()])
        );
        assert!(world.lines("daemon")[0].contains("nonsense"));
        let expected = concat!(
            r#"{"id":4711,"user":"john@example.com","resource_type":"Stack","action":"deploy","resource_id":12345,"#,
            r#""started_via":"api","started_at":"2024-01-15T10:30:00.000Z","finished_at":null,"finished_success":null,"#,
            r#""finished_message":null,"finished_result":null,"metadata":{"git_ref":"main","n":1.10},"attempt":2,"#,
            r#""fence":12884901889,"checkpoint":{"step":1},"#,
            r#""steps":[{"name":"build","begun_at":"2024-01-15T10:30:00.000Z","done_at":"2024-01-15T10:30:01.500Z"},"#,
            r#"{"name":"push","begun_at":"2024-01-15T10:30:00.000Z","done_at":null}],"#,
            r#""retry_of":null,"idempotency_key":null,"queue":"default","priority":4,"#,
            "\"deadline\":null}\n"
        );
        assert_eq!(std::fs::read_to_string(&input).unwrap(), expected);
    }
}

#[tokio::test]
async fn exit_status_decides() {
    for world in World::both() {
        let quiet = Outcome::Succeeded { message: "sh succeeded".to_owned(), result: None };
        assert_eq!(world.sh("exit 0").await, quiet);
        assert!(failed(&world.sh("exit 75").await).1);
        assert_eq!(failed(&world.sh("exit 3").await), ("sh failed: exit code 3", false));
        assert_eq!(failed(&world.sh("exit 127").await), ("sh failed: exit code 127", false));
        let spoken =
            "echo starting >&2; echo '\\033[31mcould not reach db1\\033[0m' >&2; echo >&2; echo bye; exit 3";
        assert_eq!(failed(&world.sh(spoken).await), ("exit code 3: could not reach db1", false));
        assert_eq!(failed(&world.sh("echo 'no room'; exit 4").await), ("exit code 4: no room", false));
        assert_eq!(failed(&world.sh("echo later >&2; exit 75").await), ("exit code 75: later", true));
        let own = "echo noise >&2; echo '{\"message\": \"no such branch\"}' >&3; exit 3";
        assert_eq!(failed(&world.sh(own).await), ("no such branch", false));
        assert_eq!(failed(&world.sh("kill -SEGV $$").await), ("sh failed: killed by SIGSEGV", false));
        let told = world.sh(r#"echo '{"message": "no space"}' >&3; exit 1"#).await;
        assert_eq!(failed(&told), ("no space", false));
    }
}

#[tokio::test]
async fn program_that_cannot_be_started_fails_with_the_reason() {
    for world in World::both() {
        let plain = world.path("plain");
        std::fs::write(&plain, "exit 0\n").unwrap();
        for (program, mode, reason) in [
            ("/nonexistent/program", 0, "No such file or directory"),
            ("/etc", 0, "Permission denied"),
            (plain.as_str(), 0o644, "Permission denied"),
            (plain.as_str(), 0o755, "Exec format error"),
        ] {
            if mode != 0 {
                std::fs::set_permissions(program, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            let outcome = world.run(&format!("program = [\"{program}\"]")).await;
            let (message, retryable) = failed(&outcome);
            assert!(
                message.starts_with(&format!("cannot start {program}: {reason}")) && !retryable,
                "{message}"
            );
        }
        let outcome = world.run("program = [\"/bin/true\"]\ncwd = \"/nonexistent\"").await;
        assert!(
            failed(&outcome).0.starts_with("cannot change into the directory /nonexistent"),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn environment_descriptors_and_signals_are_those_of_the_contract() {
    for world in World::both() {
        // Inherited by any child that does not close it. Without a keeper that are those that the daemon was started
        // with: `whole::programs` has one.
        let leaked = std::fs::File::open("/etc/passwd").unwrap();
        if world.adopt {
            rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        }
        let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo
            echo $(ls /proc/self/fd)
            grep -E '^Sig(Blk|Ign)' /proc/$$/status | cut -f2
            pwd; ps -o sid= -p $$ | tr -d ' '; echo $$; echo $ACTIOND_ID $ACTIOND_ATTEMPT $OWN";
        world.run(&format!("{}\nenv = {{ OWN = \"1\" }}", sh(script))).await;
        let lines = world.lines("stdout");
        let keeper = if world.adopt { "ACTIOND_KEEPER " } else { "" };
        let names = format!(
            "ACTIOND_ATTEMPT ACTIOND_FENCE ACTIOND_ID {keeper}ACTIOND_MARK ACTIOND_REPORT ACTIOND_SOCKET LANG OWN PATH PWD "
        );
        assert_eq!(lines[0].replace("SHLVL ", "").replace("_ ", ""), names);
        assert_eq!(lines[1], "0 1 2 3 4", "4 is the listing's own");
        let mask = |line: &str| u64::from_str_radix(line, 16).unwrap();
        assert_eq!(mask(&lines[2]), 0, "no signal is blocked");
        // 32 and 33 are the C library's own and cannot be set.
        assert_eq!(mask(&lines[3]) & !(3 << 31), 0, "no signal is ignored: {}", lines[3]);
        assert_eq!(lines[4], "/");
        assert_eq!(lines[5], lines[6], "it leads its own session");
        let recorded = world.port.programs.lock().unwrap().len();
        assert_eq!(recorded, usize::from(world.adopt), "its keeper");
        assert_eq!(lines[7], "4711 2 1");
    }
}

#[tokio::test]
async fn input_that_nobody_reads_and_floods_of_output_do_no_harm() {
    for mut world in World::both() {
        world.metadata = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
        assert!(matches!(world.sh("exit 0").await, Outcome::Succeeded { .. }));
        assert!(matches!(world.sh("exec <&-; seq 1 100000").await, Outcome::Succeeded { .. }));
        let lines = world.logs.read(ID, Some(2)).unwrap();
        assert!(lines.iter().map(|line| line.len() + 1).sum::<usize>() <= 65 << 10);
        let numbers = world.lines("stdout");
        assert_eq!((numbers.first().unwrap().as_str(), numbers.last().unwrap().as_str()), ("1", "100000"));
        assert!(world.lines("daemon")[0].ends_with("bytes left out here]"));
        assert!(matches!(world.sh("wc -c").await, Outcome::Succeeded { .. }));
        let count: usize = world.lines("stdout").last().unwrap().parse().unwrap();
        assert!(count > 1 << 20, "{count}");
    }
}

#[tokio::test]
async fn closed_outputs_do_not_end_the_attempt() {
    for world in World::both() {
        let script = r#"exec >&- 2>&-; sleep 0.2; echo '{"message": "late"}' >&3"#;
        let late = Outcome::Succeeded { message: "late".to_owned(), result: None };
        assert_eq!(world.sh(script).await, late);
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_ended() {
    for world in World::both() {
        let began = Instant::now();
        let script =
            "sleep 1000 & setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & echo started";
        assert!(matches!(world.sh(script).await, Outcome::Succeeded { .. }));
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(world.lines("stdout"), ["started"]);
        assert!(
            world.lines("daemon")[0].contains("ending what it left: process"),
            "{:?}",
            world.lines("daemon")
        );
    }
}

#[tokio::test]
async fn stop_ends_a_polite_program_and_a_deaf_one_with_all_descendants() {
    let world = World::new();
    let ready = world.path("ready");
    let polite = format!("trap 'echo bye; exit 0' TERM; touch {ready}; sleep 1000 & wait");
    assert!(matches!(world.stop_when_ready(&polite, StopReason::Cancel).await, Outcome::Cancelled { .. }));
    assert_eq!(world.lines("stdout"), ["bye"]);
    for (adopt, reason, is_right) in [
        (
            true,
            StopReason::TimeOut,
            (|outcome| matches!(outcome, Outcome::TimedOut { .. })) as fn(&Outcome) -> bool,
        ),
        (true, StopReason::Cancel, |outcome| matches!(outcome, Outcome::Cancelled { .. })),
        (false, StopReason::Shutdown, |outcome| matches!(outcome, Outcome::Interrupted)),
    ] {
        let world = World { adopt, ..World::new() };
        let ready = world.path("ready");
        let deaf = format!(
            "trap '' TERM; (setsid sh -c 'setsid sleep 1000 & sleep 1000 & touch {ready}; wait' &) ; while :; do sleep 1000; done"
        );
        let outcome = world.stop_when_ready(&deaf, reason).await;
        assert!(is_right(&outcome), "{outcome:?}");
    }
}

/// The action as another run of the daemon claimed it, with that keeper.
fn claimed(world: &World, keeper: Program) -> Action {
    let mut action = world.action();
    let claim = Claim {
        incarnation: 1,
        fence: 1,
        is_gated: true,
        boot_id: "now".to_owned(),
        began_at: Timestamp(0),
        program: Some(keeper),
    };
    action.status.claim = Some(claim);
    action
}

#[tokio::test]
async fn attempt_is_left_running_and_taken_up_with_nothing_lost_or_doubled() {
    let world = World::new();
    let (go, ready) = (world.path("go"), world.path("ready"));
    let script = format!(
        r#"i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo "line $i"; echo "{{\"checkpoint\": {{\"n\": $i}}}}" >&3
        [ $i != 100 ] || touch {ready}; [ $i -lt 100 ] || [ -e {go}.$((i / 100)) ] || while [ ! -e {go}.$((i / 100)) ]; do sleep 0.01; done
        done; echo '{{"message": "done", "result": {{"n": 300}}}}' >&3"#
    );
    let left = world.stop_when_ready_with(&script, StopReason::Shutdown).await;
    assert_eq!(left, Outcome::LeftRunning);
    let keeper = world.port.programs.lock().unwrap()[0];
    // While nobody follows.
    std::fs::write(format!("{go}.1"), "").unwrap();
    until(|| world.lines("stdout").len() >= 200).await;
    world.stop.send_replace(None);
    let exec = world.exec(&sh(&script));
    let again = world.attempt(claimed(&world, keeper));
    let go_on = async {
        std::fs::write(format!("{go}.2"), "").unwrap();
        std::fs::write(format!("{go}.3"), "").unwrap();
    };
    let (outcome, ()) = tokio::join!(exec.adopt(&again), go_on);
    let result = Some(JsonText::from_checked(r#"{"n":300}"#));
    let expected = Outcome::Succeeded { message: "done".to_owned(), result };
    assert_eq!(outcome, expected);
    let lines = world.lines("stdout");
    assert_eq!(lines.len(), 300);
    assert!(lines.iter().enumerate().all(|(at, line)| *line == format!("line {}", at + 1)));
    assert_eq!(world.port.checkpoints.lock().unwrap().last().unwrap(), r#"{"n":300}"#);
    // The outcome stands until somebody has recorded it.
    drop(again.take_afterwards());
    let outcome = world.home.path().join("attempts/4711.2.outcome");
    until(|| outcome.exists()).await;
    for _ in 0..2 {
        assert_eq!(exec.adopt(&again).await, expected);
    }
    again.take_afterwards().unwrap()();
    until(|| !outcome.exists()).await;
    assert_eq!(world.alive(), Vec::<u32>::new());
    assert!(matches!(exec.adopt(&again).await, Outcome::Lost { .. }));
}

#[tokio::test]
async fn keeper_is_found_without_its_socket_and_ends_all_when_it_is_told_to() {
    let world = World::new();
    let ready = world.path("ready");
    let script = format!("echo one; touch {ready}; trap '' TERM; while :; do sleep 1000; done");
    assert_eq!(world.stop_when_ready_with(&script, StopReason::Shutdown).await, Outcome::LeftRunning);
    let keeper = world.port.programs.lock().unwrap()[0];
    std::fs::remove_file(world.home.path().join("keepers/4711.2")).unwrap();
    world.stop.send_replace(Some(StopReason::Cancel));
    let (exec, again) = (world.exec(&sh(&script)), world.attempt(claimed(&world, keeper)));
    let outcome = tokio::time::timeout(BOUND, exec.adopt(&again)).await.unwrap();
    assert!(matches!(&outcome, Outcome::Cancelled { .. }), "{outcome:?}");
    assert_eq!(world.alive(), Vec::<u32>::new());
}

#[tokio::test]
async fn what_a_killed_keeper_leaves_is_ended() {
    let world = World::new();
    let ready = world.path("ready");
    let script = format!("trap '' TERM; (setsid sleep 1000 &); touch {ready}; while :; do sleep 1000; done");
    let kill = async {
        until(|| Path::new(&ready).exists()).await;
        let keeper = world.port.programs.lock().unwrap()[0];
        let pid = rustix::process::Pid::from_raw(keeper.pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let (outcome, ()) = tokio::join!(world.sh(&script), kill);
    assert_eq!(outcome, Outcome::Lost { message: "the keeper of sh was killed".to_owned() });
}

#[tokio::test]
async fn program_whose_identity_is_not_recorded_is_never_started() {
    let mut world = World::new();
    world.port = Arc::new(Recorder { refuses: true, ..Recorder::default() });
    let made = world.path("made");
    assert_eq!(world.sh(&format!("touch {made}")).await, Outcome::NotStarted);
    assert!(!Path::new(&made).exists());
}

#[tokio::test]
async fn probe_answers_by_exit_status() {
    let world = World::new();
    for (code, answer) in
        [(0, ProbeAnswer::Committed), (1, ProbeAnswer::NotCommitted), (2, ProbeAnswer::Unknown)]
    {
        let probe = format!(
            "program = [\"/bin/true\"]\nprobe = [\"/bin/sh\", \"-c\", \"grep -q 4711 && exit {code}\"]"
        );
        assert_eq!(world.exec(&probe).probe(&world.action(), &mark(&world.store, ID, 2)).await, answer);
    }
    let missing = "program = [\"/bin/true\"]\nprobe = [\"/nonexistent\"]";
    assert_eq!(
        world.exec(missing).probe(&world.action(), &mark(&world.store, ID, 2)).await,
        ProbeAnswer::Unknown
    );
    assert_eq!(
        world.exec("program = [\"/bin/true\"]").probe(&world.action(), &mark(&world.store, ID, 2)).await,
        ProbeAnswer::Unknown
    );
}

#[tokio::test]
async fn leftovers_of_a_killed_parent_are_ended_by_their_mark_alone() {
    let world = World::new();
    let mut parent = Command::new("/bin/sh")
        .args([
            "-c",
            "setsid sh -c 'trap \"\" TERM; sleep 1000 & while :; do sleep 1000; done' & sleep 1000 & wait",
        ])
        .env(MARK, mark(&world.store, ID, 1))
        .spawn()
        .unwrap();
    until(|| world.alive().len() >= 5).await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(end_all("another-store", &Survey::default(), 0).is_empty());
    assert!(world.alive().len() >= 4, "another store's programs are not touched");
    let store = world.store.clone();
    let survivors =
        tokio::task::spawn_blocking(move || end_all(&store, &Survey::default(), 200)).await.unwrap();
    assert!(survivors.is_empty(), "{survivors:?}");
    assert_eq!(world.alive(), Vec::<u32>::new());
}
