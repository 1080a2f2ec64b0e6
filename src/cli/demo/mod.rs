//! `demo`: the main job in one command, with the real daemon as a second process and real effects.
//!
//! It submits a mix of actions over the socket, kills the daemon with SIGKILL in the middle of a deploy, which goes on,
//! starts it again, follows all to their end, and exits 0 only if every acknowledged action ended as it must exactly
//! once: by the daemon's word and, independently, by what the programs left in the directory.

mod daemon;
mod place;
mod plan;
mod proof;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::follow::glance;
use super::output::{Failure, Out, escape};
use super::table;
use crate::action::State;
use crate::api::wire;
use crate::client::{Client, Filter, body};
use daemon::{Daemon, failed, get_over_tcp};
use place::Place;
use plan::{CANCELLED, HELD, KEYED, PLAN, RUNNING};

const LOOK_EVERY: Duration = Duration::from_millis(80);
const CRASH_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(60);
/// The deploy is cut off between these, in percent: begun for sure, and far from done.
const CUT: std::ops::Range<u8> = 25..60;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the directory
    #[arg(long)]
    pub keep: bool,
    /// A new or empty directory [default: one under the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

pub async fn demo(out: Out, args: DemoArgs) -> Result<Exit, Failure> {
    let place = Place::make(args.dir)?;
    let mut story = Story { out, began: Instant::now(), told: HashMap::new(), ids: Vec::new() };
    match story.play(&place).await {
        Ok(()) => {
            let dir = escape(&place.dir.display().to_string());
            if args.keep {
                story.tell(&format!(
                    "\nKept: {dir}\nStart it again:  actiond serve --config {dir}/actiond.toml\nThen ask it:     \
                     curl --unix-socket {dir}/actiond.sock http://localhost/v1/actions/1"
                ))?;
            } else {
                place.remove().map_err(|error| failed(&format!("cannot remove {dir}: {error}")))?;
            }
            Ok(Exit::Done)
        }
        Err(mut failure) => {
            let (dir, log) = (place.dir.display(), place.log_tail());
            if !failure.text.is_empty() {
                failure.text += "\nkept for a look: ";
                failure.text += &dir.to_string();
                failure.text += "\nend of its daemon.log:\n";
                failure.text += &log;
            }
            Err(failure)
        }
    }
}

/// What the demo has told so far.
struct Story {
    out: Out,
    began: Instant,
    told: HashMap<u64, String>,
    ids: Vec<u64>,
}

impl Story {
    /// The story is the data of this verb, unless stdout is for JSON.
    fn tell(&self, text: &str) -> Result<(), Failure> {
        if self.out.json {
            self.out.say(text);
            return Ok(());
        }
        self.out.text(text)
    }

    fn stamp(&self, text: &str) -> Result<(), Failure> {
        self.tell(&format!("{:6.2} s  {text}", self.began.elapsed().as_secs_f64()))
    }

    async fn play(&mut self, place: &Place) -> Result<(), Failure> {
        let client = Client::new(place.socket());
        self.tell(&format!(
            "A durable queue, shown on this machine in {}\n",
            escape(&place.dir.display().to_string())
        ))?;
        let (daemon, status) = Daemon::start(place, &client).await?;
        let first_start = status.incarnation;
        self.stamp(&format!("daemon started, pid {}, start number {first_start}", daemon.pid))?;
        self.submit(&client).await?;
        let (before, percent) = self.until_the_cut(&client).await?;
        let pid = daemon.pid;
        daemon.kill().await?;
        self.stamp(&format!("kill -9 {pid}: the daemon is gone; the deploy, at {percent} %, goes on"))?;

        let (daemon, status) = Daemon::start(place, &client).await?;
        self.stamp(&format!(
            "daemon started again, pid {}, start number {}",
            daemon.pid, status.incarnation
        ))?;
        if status.incarnation <= first_start {
            return Err(failed("the second start has no number of its own"));
        }
        let held = self.id(HELD)?;
        client.command(held, "resume", &json!({})).await?;
        self.stamp(&format!("action {held} resumed"))?;
        let mut actions = self.until_the_end(&client).await?;
        actions.sort_by_key(|action| action.id);
        self.tell(&format!("\n{}\n", table::actions(&actions)))?;
        let address = self.show_status(&client, place).await?;
        let seconds = self.began.elapsed().as_secs_f64();
        daemon.stop().await?;
        self.stamp("SIGTERM: the daemon stopped with exit code 0")?;
        self.judge(place, &actions, &before, percent, seconds, &address)
    }

    fn id(&self, index: usize) -> Result<u64, Failure> {
        self.ids.get(index).copied().ok_or_else(|| failed("an action of the plan was not acknowledged"))
    }

    /// All but the last in one NDJSON stream; the last twice with one key; one is cancelled, one held.
    async fn submit(&mut self, client: &Client) -> Result<(), Failure> {
        let now = crate::clock::now();
        let (sender, source) = body();
        let mut text = Vec::new();
        for planned in PLAN.iter().take(KEYED) {
            let line = serde_json::to_vec(&planned.request(now, None));
            text.extend(line.map_err(|error| failed(&error.to_string()))?);
            text.push(b'\n');
        }
        sender.send(text.into()).await;
        drop(sender);
        let mut answers = client.submit_stream(source).await?;
        while let Some(answer) = answers.next().await? {
            let Some(action) = answer.action else {
                let said = answer.problem.map_or_else(String::new, |problem| problem.detail);
                return Err(failed(&format!("line {} was refused: {said}", answer.line)));
            };
            self.acknowledged(&action)?;
        }
        let Some(keyed) = PLAN.get(KEYED) else { return Ok(()) };
        let first = client.submit(&keyed.request(now, Some("demo-key"))).await?;
        self.acknowledged(&first.action)?;
        let again = client.submit(&keyed.request(now, Some("demo-key"))).await?;
        if again.fresh || again.action.id != first.action.id {
            return Err(failed("the same key and request made a second action"));
        }
        self.stamp(&format!("the same key again is answered with the same action {}", again.action.id))?;
        let (cancelled, held) = (self.id(CANCELLED)?, self.id(HELD)?);
        client.command(cancelled, "cancel", &json!({ "reason": "not needed" })).await?;
        client.command(held, "hold", &json!({ "reason": "over the crash" })).await?;
        self.stamp(&format!("action {cancelled} cancelled, action {held} held"))
    }

    fn acknowledged(&mut self, action: &wire::Action) -> Result<(), Failure> {
        let shows = PLAN.get(self.ids.len()).map_or("", |planned| planned.shows);
        self.ids.push(action.id);
        let what = format!("{} on stack {}", escape(&action.action), action.resource_id);
        self.stamp(&format!("on disk: action {:<2} {what:<28} {shows}", action.id))
    }

    /// Looks until the deploy, and nothing else, is in the middle. Returns what was final then, and how far it was.
    async fn until_the_cut(&mut self, client: &Client) -> Result<(Vec<wire::Action>, u8), Failure> {
        let deploy = self.id(RUNNING)?;
        let until = Instant::now() + CRASH_LIMIT;
        loop {
            let actions = self.look(client).await?;
            let running: Vec<_> =
                actions.iter().filter(|action| action.state == State::Running.as_str()).collect();
            if let [only] = running.as_slice()
                && only.id == deploy
                && let Some(percent) = only.progress.as_ref().map(|progress| progress.percent)
                && CUT.contains(&percent)
            {
                return Ok((actions.into_iter().filter(is_final).collect(), percent));
            }
            if Instant::now() > until {
                return Err(failed("the deploy was never seen alone in its middle"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn until_the_end(&mut self, client: &Client) -> Result<Vec<wire::Action>, Failure> {
        let until = Instant::now() + END_LIMIT;
        loop {
            let actions = self.look(client).await?;
            if actions.iter().all(is_final) {
                return Ok(actions);
            }
            if Instant::now() > until {
                return Err(failed("not everything came to an end within a minute"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Reads all actions and tells what is new.
    async fn look(&mut self, client: &Client) -> Result<Vec<wire::Action>, Failure> {
        let page = client.list(&Filter { limit: Some(100), ..Filter::default() }).await?;
        for action in page.actions.iter().rev() {
            let now = glance(action);
            if self.told.get(&action.id) != Some(&now) {
                self.stamp(&format!("action {:<2} {:<16} {now}", action.id, escape(&action.action)))?;
                self.told.insert(action.id, now);
            }
        }
        Ok(page.actions)
    }

    async fn show_status(&self, client: &Client, place: &Place) -> Result<String, Failure> {
        let status = client.status().await?;
        let address = status.status_address.ok_or_else(|| failed("the status endpoint is off"))?;
        let code = get_over_tcp(&address, "/readyz").await?;
        if code != 200 {
            return Err(failed(&format!("http://{address}/readyz answers {code}")));
        }
        let socket = escape(&place.socket().display().to_string());
        self.tell(&format!(
            "Status page while it ran: http://{}/ (readyz: 200)\nThe same over its socket: curl --unix-socket {socket} \
             http://localhost/v1/actions\n(with --keep you can start it again and try)\n",
            escape(&address)
        ))?;
        Ok(address)
    }

    fn judge(
        &self,
        place: &Place,
        actions: &[wire::Action],
        before: &[wire::Action],
        percent: u8,
        seconds: f64,
        address: &str,
    ) -> Result<(), Failure> {
        let generations: BTreeMap<_, _> = ["web", "worker", "mailer", "cron", "never"]
            .into_iter()
            .map(|name| (name, place.read(&format!("services/{name}"))))
            .collect();
        let findings = proof::findings(&proof::Evidence {
            ids: &self.ids,
            actions,
            before,
            ledger: &place.read("ledger"),
            generations: &generations,
            current: (&place.current(1), &format!("releases/{}", place.v1)),
            main: &place.main,
        });
        if self.out.json {
            self.out.json(&json!({
                "passed": findings.is_empty(), "findings": findings, "actions": actions,
                "killed_at_percent": percent, "seconds": seconds, "status_address": address,
            }))?;
        }
        if !findings.is_empty() {
            return Err(failed(&format!("the demo found what must not be:\n  {}", findings.join("\n  "))));
        }
        self.tell(&format!(
            "\nProven, by the daemon's word and by the ledger that the programs wrote:\n\
             - {} actions were acknowledged, and all {0} are there: the kill at {percent} % of a deploy lost none.\n\
             - Each ended once and as it must: {} that were final before the crash did not change after it.\n\
             - The deploy went on without its daemon and took effect once; commit {} was live, then its follower deployed \
             v1.0.\n\
             - No attempt began twice, none ran unclaimed, and the cancelled action never ran.\n\
             - The scheduled, the held and the retried action came through the crash and did their work once.\n\
             All in {seconds:.1} s.",
            self.ids.len(),
            before.len(),
            place.main.get(..10).unwrap_or(&place.main),
        ))
    }
}

fn is_final(action: &wire::Action) -> bool {
    State::from_word(&action.state).is_some_and(State::is_final)
}
