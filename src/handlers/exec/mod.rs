//! `exec`: a configured program carries out the action.
//!
//! The program gets the action as one JSON object on standard input, `ACTIOND_ID` and `ACTIOND_ATTEMPT` in
//! a cleared environment, and may report over descriptor 3 (`ACTIOND_REPORT`). Exit 0 is success, 75 is "try again" (a further
//! try, if the retry policy has one left), anything else is failure for good. What it prints is only ever log.
//! Whether its effect may be repeated is for the program's author to say, with `recovery` and `probe`.
//!
//! A program has to stay in the foreground: when it has ended, what it left behind is ended too.
//!
//! It is started under a keeper (`runner::keeper`), which stays with it when the daemon stops, dies or is upgraded: the
//! next start takes the attempt up where it is. With `adopt = false` it is started directly, without the process in
//! between and without a record of it: short programs run at more than twice the rate. After a crash of the daemon such a
//! program is known by its mark alone, and it is always run again; so this is only for handlers with
//! `recovery = "rerun"`.

mod direct;
mod end;
mod input;
mod kept;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{User, getgrouplist};
use tokio::sync::watch;

use super::registry::Surroundings;
use super::{Asked, Attempt, BoxFuture, Handler, InvalidMetadata, NotRecorded, Port, StopReason};
use crate::action::{Action, JsonText, LockKey, Outcome, ProbeAnswer, Program, Recovery, Step};
use crate::runner::adoption::stated;
use crate::runner::keeper::place::AttemptPlace;
use crate::runner::keeper::words::UserIds;
use crate::runner::kept::end_beside;
use crate::runner::leftovers::MARK;
use crate::runner::logs::LogWriter;
use crate::runner::proc::is_shortage;
use crate::runner::program::PATH;
use crate::runner::units::UnitSettings;

/// A probe that has not answered by then knows nothing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the name of what takes an attempt back adds to the attempt's.
const UNDO: &str = ".undo-";

/// What a program gets by contract and cannot be configured.
const RESERVED_PREFIX: &str = "ACTIOND_";

pub(super) use self::end::{HOLD, TRY_AGAIN};

/// The handler, with its settings checked.
pub struct Exec {
    /// For people, instead of the program's own name.
    title: Option<&'static str>,
    /// It ends by itself what it starts, and goes on to start something when it is told to end.
    ends_children: bool,
    program: Vec<String>,
    probe: Option<Vec<String>>,
    env: Vec<(String, String)>,
    cwd: PathBuf,
    kill_grace: Duration,
    adopt: bool,
    /// Whom the program runs as; none is the daemon's own user.
    user: Option<UserIds>,
    unit: UnitSettings,
    around: Surroundings,
}

impl Exec {
    /// Reads the handler's own keys of its `[[handler]]` table: `program`, `env`, `cwd`, `probe`, `kill_grace`,
    /// `adopt`. `recovery` is what that table says, if it says anything.
    ///
    /// # Errors
    ///
    /// One sentence per problem, each naming the key.
    pub fn new(
        own: &toml::Table,
        recovery: Option<Recovery>,
        around: &Surroundings,
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut exec = Self {
            title: None,
            ends_children: false,
            program: Vec::new(),
            probe: None,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            kill_grace: Duration::from_millis(around.kill_grace_ms),
            adopt: true,
            user: None,
            unit: UnitSettings::default(),
            around: around.clone(),
        };
        if !own.contains_key("program") {
            problems.push("program is missing: the path of the program and its arguments".to_owned());
        }
        for (key, value) in own {
            let read = match key.as_str() {
                "program" => argv(value).map(|argv| exec.program = argv),
                "probe" => argv(value).map(|argv| exec.probe = Some(argv)),
                "env" => environment(value).map(|env| exec.env = env),
                "cwd" => directory(value).map(|cwd| exec.cwd = cwd),
                "kill_grace" => duration(value).map(|grace| exec.kill_grace = grace),
                "user" => user(value).map(|user| exec.user = Some(user)),
                "unit" => match unit(value) {
                    Ok(unit) => {
                        exec.unit = unit;
                        Ok(())
                    }
                    Err(found) => {
                        problems.extend(found.into_iter().map(|problem| format!("unit: {problem}")));
                        Ok(())
                    }
                },
                "adopt" => {
                    value.as_bool().ok_or("must be true or false".to_owned()).map(|adopt| exec.adopt = adopt)
                }
                _ => Err("is not a key of exec".to_owned()),
            };
            problems.extend(read.err().map(|problem| format!("{key} {problem}")));
        }
        if !exec.adopt && recovery != Some(Recovery::Rerun) {
            problems.push(
                "adopt = false needs recovery = \"rerun\" in the same table: it is not recorded which program was \
                 started, so after a crash it is always run again"
                    .to_owned(),
            );
        }
        if !exec.adopt && (exec.user.is_some() || exec.unit != UnitSettings::default()) {
            problems.push(
                "adopt = false goes with neither user nor unit: it is a child of the daemon".to_owned(),
            );
        }
        if problems.is_empty() { Ok(exec) } else { Err(problems) }
    }

    /// A program of our own, which takes back what it has done when it is told to end; `title` is for people.
    #[must_use]
    pub(super) fn of_ours(self, title: &'static str) -> Self {
        Self { title: Some(title), ends_children: true, ..self }
    }

    /// What takes up attempts whose handler is not configured any more: it starts nothing.
    #[must_use]
    pub fn only_adopting(around: &Surroundings) -> Self {
        Self {
            title: None,
            ends_children: false,
            program: Vec::new(),
            probe: None,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            kill_grace: Duration::from_millis(around.kill_grace_ms),
            adopt: true,
            user: None,
            unit: UnitSettings::default(),
            around: around.clone(),
        }
    }

    /// Whether the program is started without a keeper. Whether it is known to run matters only where it would not
    /// simply be run again.
    fn is_direct(&self, action: &Action) -> bool {
        !self.adopt && action.body.recovery == Recovery::Rerun
    }

    /// The program's own name, for people.
    fn name(&self) -> &str {
        if let Some(title) = self.title {
            return title;
        }
        let path = self.program.first().map_or("its program", String::as_str);
        Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
    }

    /// The whole environment of a program, `NAME=value` each. A name that is configured takes the place of a common one.
    fn environment(&self, attempt: &Attempt, report: &str, keeper: Option<&Path>) -> Vec<String> {
        let is_configured = |name: &str| self.env.iter().any(|(configured, _)| configured == name);
        let common =
            [("PATH", PATH), ("LANG", "C.UTF-8")].into_iter().filter(|(name, _)| !is_configured(name));
        let common = common.map(|(name, value)| format!("{name}={value}"));
        let configured = self.env.iter().map(|(name, value)| format!("{name}={value}"));
        let own = [
            format!("ACTIOND_ID={}", attempt.action.id),
            format!("ACTIOND_ATTEMPT={}", attempt.action.status.attempt),
            format!("ACTIOND_FENCE={}", attempt.action.status.claim.as_ref().map_or(0, |claim| claim.fence)),
            format!("ACTIOND_SOCKET={}", self.around.socket.display()),
            format!("ACTIOND_REPORT={report}"),
            format!("{MARK}={}", attempt.mark),
        ];
        let keeper = keeper.map(|keeper| format!("ACTIOND_KEEPER={}", keeper.display()));
        common.chain(configured).chain(own).chain(keeper).collect()
    }

    /// Runs the program. `settings` follow the action on its standard input.
    pub(super) async fn outcome(&self, attempt: &Attempt, settings: &[u8]) -> Outcome {
        let ended = if self.is_direct(&attempt.action) {
            match direct::run(self, &self.program, attempt).await {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    kept::run(self, attempt, settings).await
                }
                ended => ended.map(|ended| end::outcome(self, ended)),
            }
        } else {
            kept::run(self, attempt, settings).await
        };
        ended.unwrap_or_else(|error| {
            // One in words says what could not be done, the kernel's only why.
            let path = self.program.first().map_or("", String::as_str);
            let is_in_words = error.get_ref().is_some();
            let message =
                if is_in_words { error.to_string() } else { format!("cannot start {path}: {error}") };
            Outcome::Failed { message, result: None, retryable: is_shortage(&error) }
        })
    }

    /// Runs the program once more for an attempt whose own run is over, to take back what was done: from the steps as they
    /// stand, whoever was the last to have done one. It ends with the daemon; what is left of an earlier one is ended first.
    pub(super) async fn undo(&self, of: &Attempt, settings: &[u8]) -> Outcome {
        let place = AttemptPlace::of(&self.around.attempts_dir, &kept::name(of, ""));
        let files = place.clone();
        let earlier = tokio::task::spawn_blocking(move || files.beside(UNDO)).await.unwrap_or_default();
        let left = end_beside(&*self.around.backend, &earlier, of.action.id, of.mark.clone()).await;
        let left = left.unwrap_or_else(|error| Some(format!("cannot look for its processes: {error}")));
        if let Some(alive) = left {
            return Outcome::Unkillable { message: format!("an earlier try of it: {alive}") };
        }
        let mut action = Action::clone(&of.action);
        let (files, stated) = tokio::task::spawn_blocking(move || {
            let stated: Vec<_> = earlier.iter().map(stated).collect();
            (earlier, stated)
        })
        .await
        .unwrap_or_default();
        for stated in stated {
            stated.carry_on(&mut action.status.steps, &mut action.status.checkpoint);
        }
        let attempt = of.beside(Arc::new(action));
        // Each with a name of its own: the keeper of the one before may still be removing what is its.
        let suffix = format!("{UNDO}{:08x}", fastrand::u32(..));
        let ended = kept::start(self, &self.program, &suffix, &attempt, settings).await;
        let afterwards = attempt.take_afterwards();
        let runtime = tokio::runtime::Handle::current();
        of.when_recorded(move || {
            if let Some(afterwards) = afterwards {
                afterwards();
            }
            runtime.spawn_blocking(move || {
                for files in files.into_iter().chain([place]) {
                    // A start of the daemon removes what is left.
                    let _ = files.remove();
                }
            });
        });
        match ended {
            Ok(end) => kept::means(self, end),
            Err(error) => {
                let message = format!("it cannot be started: {error}");
                Outcome::Failed { message, result: None, retryable: false }
            }
        }
    }

    async fn ask(&self, argv: &[String], attempt: &Attempt) -> ProbeAnswer {
        // Each with a name of its own: the keeper of the one before may still be removing what is its.
        let suffix = format!(".probe-{:08x}", fastrand::u32(..));
        let asked = kept::start(self, argv, &suffix, attempt, b"").await;
        // Nobody but this needs to know how it ended.
        if let Some(afterwards) = attempt.take_afterwards() {
            afterwards();
        }
        match asked {
            Ok(kept::End::Ended(ended)) => end::answer(&ended),
            Ok(_) => ProbeAnswer::Unknown,
            Err(error) => {
                tracing::warn!(action_id = attempt.action.id.0, %error, "cannot start a probe");
                ProbeAnswer::Unknown
            }
        }
    }
}

fn argv(value: &toml::Value) -> Result<Vec<String>, String> {
    let words: Option<Vec<String>> = value
        .as_array()
        .and_then(|words| words.iter().map(|word| word.as_str().map(str::to_owned)).collect());
    match words {
        Some(words) if words.iter().any(|word| word.contains('\0')) => {
            Err("holds a NUL character".to_owned())
        }
        Some(words) if words.first().is_some_and(|path| path.starts_with('/')) => Ok(words),
        _ => Err("must be an array of strings that begins with an absolute path".to_owned()),
    }
}

fn environment(value: &toml::Value) -> Result<Vec<(String, String)>, String> {
    let table = value.as_table().ok_or("must be a table of strings")?;
    let pair = |(name, value): (&String, &toml::Value)| {
        let value = value.as_str().ok_or_else(|| format!("must be a table of strings: {name} is none"))?;
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("has the variable {name:?}, which cannot be in an environment"));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(format!(
                "may not set {name}: names that begin with {RESERVED_PREFIX} are the daemon's"
            ));
        }
        Ok((name.clone(), value.to_owned()))
    };
    table.iter().map(pair).collect()
}

/// A user of this host with all of its groups.
fn user(value: &toml::Value) -> Result<UserIds, String> {
    let name = value.as_str().ok_or("must be the name of a user")?;
    let unknown = || format!("is {name:?}, and there is no such user");
    let user = User::from_name(name)
        .map_err(|error| format!("cannot be looked up: {error}"))?
        .ok_or_else(unknown)?;
    let c_name = std::ffi::CString::new(name).map_err(|_| unknown())?;
    let groups = getgrouplist(&c_name, user.gid).map_err(|error| format!("cannot be looked up: {error}"))?;
    let groups = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
    Ok(UserIds { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups })
}

fn unit(value: &toml::Value) -> Result<UnitSettings, Vec<String>> {
    let table = value.as_table().ok_or_else(|| vec!["must be a table of unit settings".to_owned()])?;
    UnitSettings::new(table)
}

fn directory(value: &toml::Value) -> Result<PathBuf, String> {
    let path = value.as_str().filter(|path| path.starts_with('/') && !path.contains('\0'));
    path.map(PathBuf::from).ok_or_else(|| "must be an absolute path".to_owned())
}

fn duration(value: &toml::Value) -> Result<Duration, String> {
    let word = value.as_str().ok_or("must be a duration such as \"10s\"")?;
    let duration = humantime::parse_duration(word).map_err(|error| format!("must be a duration: {error}"))?;
    if duration > Duration::from_secs(3600) {
        return Err("may be 1h at most".to_owned());
    }
    Ok(duration)
}

impl Handler for Exec {
    /// Any metadata: what it means is the program's business.
    fn validate(&self, _asked: &Asked<'_>) -> Result<Vec<LockKey>, InvalidMetadata> {
        Ok(Vec::new())
    }

    fn in_process(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Outcome> {
        Box::pin(self.outcome(attempt, b""))
    }

    /// Also under the policies that `adopt = false` does not go with.
    fn is_gated(&self, action: &Action) -> bool {
        !self.is_direct(action)
    }

    fn outlives_daemon(&self, action: &Action) -> bool {
        !self.is_direct(action)
    }

    fn adopt<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Outcome> {
        Box::pin(kept::adopt(self, attempt))
    }

    fn probe<'a>(&'a self, action: &'a Action, mark: &'a str) -> BoxFuture<'a, ProbeAnswer> {
        Box::pin(async move {
            let Some(argv) = &self.probe else { return ProbeAnswer::Unknown };
            let (stop, stopped) = watch::channel(None);
            let attempt = Attempt::new(
                Arc::new(action.clone()),
                LogWriter::nowhere(),
                mark.to_owned(),
                Arc::new(Nobody),
                stopped,
            );
            let timer = async {
                tokio::time::sleep(PROBE_TIMEOUT).await;
                let _ = stop.send(Some(StopReason::TimeOut));
                std::future::pending().await
            };
            tokio::select! {
                answer = self.ask(argv, &attempt) => answer,
                answer = timer => answer,
            }
        })
    }
}

/// Where a probe's statements go.
struct Nobody;

impl Port for Nobody {
    fn progress(&self, _percent: u8, _message: &str) {}

    fn checkpoint(&self, _checkpoint: JsonText) -> BoxFuture<'_, Result<(), NotRecorded>> {
        Box::pin(async { Ok(()) })
    }

    fn steps(&self, _steps: Vec<Step>) -> BoxFuture<'_, Result<(), NotRecorded>> {
        Box::pin(async { Ok(()) })
    }

    fn program_started(&self, _program: Program) -> BoxFuture<'_, Result<(), NotRecorded>> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(own: &str) -> Result<Exec, Vec<String>> {
        with_recovery(own, None)
    }

    fn with_recovery(own: &str, recovery: Option<Recovery>) -> Result<Exec, Vec<String>> {
        let around = Surroundings::of_tests(10_000);
        Exec::new(&own.parse().unwrap(), recovery, &around)
    }

    #[test]
    fn settings_are_read_with_their_defaults() {
        let exec = new(r#"program = ["/bin/true"]"#).unwrap();
        assert!(exec.adopt);
        assert_eq!((exec.cwd.to_str(), exec.kill_grace), (Some("/"), Duration::from_secs(10)));
        let own = r#"program = ["/p", "-x"]
            probe = ["/q"]
            env = { A = "1" }
            cwd = "/tmp"
            kill_grace = "1s 500ms""#;
        let exec = new(own).unwrap();
        assert_eq!(exec.env, [("A".to_owned(), "1".to_owned())]);
        assert_eq!((exec.probe.unwrap().len(), exec.kill_grace), (1, Duration::from_millis(1500)));
    }

    #[test]
    fn every_problem_is_told_and_names_its_key() {
        let own = r#"env = { ACTIOND_ID = "1" }
            cwd = "here"
            probe = []
            kill_grace = 3
            adopt = 1
            shell = true"#;
        let Err(problems) = new(own) else { panic!("accepted") };
        for key in ["program ", "env ", "cwd ", "probe ", "kill_grace ", "adopt ", "shell "] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key}: {problems:?}");
        }
        assert!(new(r#"program = ["true"]"#).is_err());
        assert!(new("program = [1]").is_err());
    }

    #[test]
    fn only_what_is_run_again_anyway_may_go_without_its_gate() {
        let own = r#"program = ["/bin/true"]
            adopt = false"#;
        assert!(!with_recovery(own, Some(Recovery::Rerun)).unwrap().adopt);
        for recovery in [None].into_iter().chain(Recovery::ALL.map(Some)) {
            let problems = with_recovery(own, recovery).err();
            assert_eq!(problems.is_none(), recovery == Some(Recovery::Rerun), "{recovery:?}");
            let told =
                |problems: Vec<String>| problems[0].starts_with("adopt = false needs recovery = \"rerun\"");
            assert!(problems.is_none_or(told));
        }
    }
}
