//! The status page as text: sections in the order in which somebody asks at night. Pure.
//!
//! Everything that is not a number or a word of this program is escaped.

use std::fmt::Write as _;

use super::Found;
use crate::action::{Action, State, Timestamp};
use crate::api::convert::Show;
use crate::api::{status, time};
use crate::engine::{Cause, EngineStatus};
use crate::store::Health;

/// Text shown of one message, in characters.
const TEXT_CHARS_MAX: usize = 160;

const HEAD: &str = include_str!("head.html");

/// All that the page is made of.
pub(super) struct View<'a> {
    pub engine: &'a EngineStatus,
    pub store: &'a Health,
    pub found: Result<&'a Found, &'a String>,
    /// Why each of the waiting waits, in their order.
    pub reasons: &'a [Vec<Cause>],
    pub show: Show,
    pub now: Timestamp,
}

fn count(engine: &EngineStatus, states: &[State]) -> u64 {
    states.iter().map(|state| engine.by_state.get(*state as usize).copied().unwrap_or(0)).sum()
}

pub(super) fn held(engine: &EngineStatus) -> u64 {
    count(engine, &[State::Held])
}

pub(super) fn running(engine: &EngineStatus) -> u64 {
    count(engine, &[State::Running, State::Cancelling, State::Rebooting])
}

pub(super) fn waiting(engine: &EngineStatus) -> u64 {
    count(engine, &[State::Scheduled, State::Queued, State::RetryWait])
}

impl View<'_> {
    pub(super) fn html(&self) -> String {
        let mut out = String::from(HEAD);
        // Writing into a string does not fail.
        let _ = write!(out, "<h1>actiond {}</h1>", env!("CARGO_PKG_VERSION"));
        self.standing(&mut out);
        match self.found {
            Ok(found) => self.sections(&mut out, found),
            Err(detail) => {
                let _ = write!(out, "<p class=\"box warn\">Actions cannot be listed: {}", escaped(detail));
            }
        }
        self.queues(&mut out);
        self.store(&mut out);
        let _ = writeln!(
            out,
            "<p class=dim>Start number {}; since then {} actions accepted, {} interrupted attempts recovered. As of {}; \
             reloads every 5 s. <a href=\"/readyz\">readyz</a> <a href=\"/metrics\">metrics</a> \
             <a href=\"/v1/actions\">actions as JSON</a></p></body></html>",
            self.engine.incarnation,
            self.engine.accepted,
            self.engine.recovered,
            time::text(self.now)
        );
        out
    }

    /// One line for the whole, then one for each thing that somebody should look at.
    fn standing(&self, out: &mut String) {
        let (running, waiting, held) = (running(self.engine), waiting(self.engine), held(self.engine));
        let (class, word) = match (self.engine.draining, &self.store.rebuilding) {
            (true, _) => ("bad", "Stopping: nothing more is started"),
            (false, Some(_)) => ("warn", "Working, while the table of actions is rebuilt"),
            (false, None) => ("good", "Working"),
        };
        let _ = write!(
            out,
            "<p class=\"box {class}\">{word}. {running} running, {waiting} waiting, {held} held; the store is {}.",
            if self.store.rebuilding.is_some() { "being rebuilt" } else { "healthy" }
        );
        if self.engine.reboot_due {
            out.push_str(
                "<p class=\"box warn\">An action has asked for a reboot of the host, and nothing is started before. \
                 <code>actiond list --state rebooting</code>",
            );
        }
        if held > 0 {
            let _ = write!(
                out,
                "<p class=\"box bad\">{held} held: a person must decide. <code>actiond explain ID</code> says why; then \
                 <code>actiond resume ID</code>, <code>cancel</code> or <code>resolve</code>."
            );
        }
        for queue in self.engine.queues.iter().filter(|queue| queue.paused) {
            let name = escaped(&queue.name);
            let _ = write!(
                out,
                "<p class=\"box warn\">Queue {name} is paused with {} waiting or held. <code>actiond queue resume {name}</code>",
                queue.waiting
            );
        }
    }

    fn sections(&self, out: &mut String, found: &Found) {
        if held(self.engine) > 0 {
            self.section(out, "Held", held(self.engine), "held", &found.held, &["since", "why"]);
        }
        self.section(
            out,
            "Running",
            running(self.engine),
            "running,cancelling,rebooting",
            &found.running,
            &["began", "progress"],
        );
        self.section(
            out,
            "Waiting",
            waiting(self.engine),
            "queued,scheduled,retry_wait",
            &found.waiting,
            &["accepted", "why it waits"],
        );
        let outline = self.show == Show::Outline;
        let ended = ["finished", if outline { "" } else { "message" }];
        let failed = found.failed.len() as u64;
        let why = ["finished", if outline { "why" } else { "message" }];
        self.section(out, "Failed last", failed, "failed,timed_out,expired", &found.failed, &why);
        let finished = found.finished.len() as u64;
        self.section(
            out,
            "Finished last",
            finished,
            "succeeded,cancelled,superseded",
            &found.finished,
            &ended,
        );
        if found.cut {
            out.push_str("<p class=dim>Older actions were not looked at: <code>actiond list --all</code>.");
        }
    }

    /// One table of actions; `total` may be more than there are rows.
    fn section(
        &self,
        out: &mut String,
        title: &str,
        total: u64,
        states: &str,
        rows: &[Action],
        last: &[&str; 2],
    ) {
        let _ = write!(out, "<h2>{title}</h2>");
        if rows.is_empty() {
            out.push_str(if total == 0 {
                "<p class=dim>None."
            } else {
                "<p class=dim>None among the newest."
            });
        } else {
            let [when, what] = last;
            let _ = write!(
                out,
                "<div><table><tr><th>id<th>state<th>action<th>resource<th>queue<th>attempt<th>{when}<th>{what}"
            );
            for (at, action) in rows.iter().enumerate() {
                self.row(out, action, self.reasons.get(at));
            }
            out.push_str("</table></div>");
        }
        if total > rows.len() as u64 {
            let _ = write!(
                out,
                "<p class=dim>{} of {total} shown; the rest: <code>actiond list --state {states}</code>.",
                rows.len()
            );
        }
    }

    fn row(&self, out: &mut String, action: &Action, reasons: Option<&Vec<Cause>>) {
        let (body, status) = (&action.body, &action.status);
        let (when, what) = self.columns(action, reasons);
        let _ = write!(
            out,
            "<tr><td class=n><a href=\"/v1/actions/{0}\">{0}</a><td class=\"s {1}\">{2}<td>{3}<td>{4} {5}<td>{6}\
             <td class=n>{7}<td class=t title=\"{8}\">{9}<td>{10}",
            action.id,
            class_of(status.state),
            status.state,
            escaped(&body.action),
            escaped(&body.resource_type),
            body.resource_id,
            escaped(&body.queue),
            status.attempt,
            time::text(when),
            self.distance(when),
            escaped(&what)
        );
    }

    /// The time that matters about an action in its state, and what there is to say.
    fn columns(&self, action: &Action, reasons: Option<&Vec<Cause>>) -> (Timestamp, String) {
        let (body, status) = (&action.body, &action.status);
        let said = |text: &str| if self.show == Show::All { short(text) } else { String::new() };
        let last_ended = || status.attempts.last().map_or(body.accepted_at, |attempt| attempt.ended_at);
        match (status.state, &status.finish) {
            (State::Failed | State::TimedOut | State::Expired, Some(finish))
                if self.show == Show::Outline =>
            {
                (finish.at, format!("actiond show {}", action.id))
            }
            (_, Some(finish)) => (finish.at, said(&finish.message)),
            (State::Held, _) if self.show == Show::Outline => {
                (last_ended(), format!("actiond explain {}", action.id))
            }
            (State::Held, _) => (last_ended(), said(&status.reason)),
            (State::Scheduled | State::Queued | State::RetryWait, _) => {
                (body.accepted_at, self.why(action, reasons))
            }
            _ => {
                let began = status.claim.as_ref().map_or(body.accepted_at, |claim| claim.began_at);
                let progress = status.progress.as_ref();
                let text = progress.map(|at| format!("{} % {}", at.percent, said(&at.message)));
                (began, text.unwrap_or_default())
            }
        }
    }

    fn why(&self, action: &Action, reasons: Option<&Vec<Cause>>) -> String {
        let due =
            || action.status.due_at.map(|due| format!(", due {}", self.distance(due))).unwrap_or_default();
        match action.status.state {
            State::Scheduled => format!("its time has not come{}", due()),
            State::RetryWait if self.show == Show::Outline => format!("waits between two tries{}", due()),
            State::RetryWait => short(&format!("{}{}", action.status.reason, due())),
            _ => {
                let causes: Vec<_> = reasons.into_iter().flatten().map(|cause| self.cause(cause)).collect();
                short(&causes.join("; "))
            }
        }
    }

    /// A cause in a sentence; without quoting anybody where the door does not show that.
    fn cause(&self, cause: &Cause) -> String {
        if self.show == Show::All {
            return cause.text.clone();
        }
        match (cause.code, cause.behind) {
            ("behind_resource", Some(other)) => format!("action {other} comes first on its resource"),
            ("queue_paused", _) => "its queue is paused".into(),
            ("queue_full", _) => "its queue runs as many as it may".into(),
            ("running_limit", _) => "as many actions run in all as may".into(),
            ("reboot_due", _) => "a reboot of the host is due".into(),
            ("draining", _) => "the daemon is stopping".into(),
            ("behind_in_queue", _) => "others are served before it".into(),
            (code, _) => code.replace('_', " "),
        }
    }

    fn queues(&self, out: &mut String) {
        out.push_str(
            "<h2>Queues</h2><div><table><tr><th>queue<th>state<th>running<th>at most<th>waiting or held<th>at most",
        );
        for queue in &self.engine.queues {
            let state = if queue.paused { "<td class=warn>paused" } else { "<td class=good>open" };
            let _ = write!(
                out,
                "<tr><td>{}{state}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}",
                escaped(&queue.name),
                queue.running,
                queue.concurrency,
                queue.waiting,
                queue.length_max
            );
        }
        out.push_str("</table></div><h2>All actions by state</h2><div><table><tr><th>state<th>count");
        let mut any = false;
        for (state, count) in status::states(self.engine).filter(|(_, count)| *count > 0) {
            any = true;
            let _ = write!(out, "<tr><td class={}>{state}<td class=n>{count}", class_of(state));
        }
        out.push_str(if any { "</table></div>" } else { "</table></div><p class=dim>None." });
        out.push_str("<p class=dim>Final states are counted since this start.");
    }

    fn store(&self, out: &mut String) {
        let store = self.store;
        out.push_str("<h2>Store</h2><p>");
        match &store.rebuilding {
            Some(why) => {
                let _ = write!(out, "<span class=warn>Being rebuilt: {}.</span> ", escaped(why));
            }
            None => out.push_str("<span class=good>Healthy.</span> "),
        }
        let _ = write!(
            out,
            "Journal {} since the last snapshot; {} of changes in memory; disk free {}.",
            size(store.journal_bytes),
            size(store.memory_bytes),
            size(store.disk_free_bytes)
        );
        if let Some(why) = &store.last_rebuild_reason {
            let times = store.rebuilds;
            let _ = write!(out, " Rebuilt {times} times since the start, last because: {}.", escaped(why));
        }
    }

    /// How far away a time is.
    fn distance(&self, at: Timestamp) -> String {
        let (s, ahead) = match self.now.0 - at.0 {
            ms if ms < 0 => (-ms / 1_000, true),
            ms => (ms / 1_000, false),
        };
        let far = match s {
            0..120 => format!("{s} s"),
            120..7_200 => format!("{} min", s / 60),
            7_200..172_800 => format!("{} h", s / 3_600),
            _ => format!("{} d", s / 86_400),
        };
        if ahead { format!("in {far}") } else { format!("{far} ago") }
    }
}

fn class_of(state: State) -> &'static str {
    match state {
        State::Failed | State::TimedOut | State::Expired | State::Held => "bad",
        State::RetryWait | State::Cancelling | State::Rebooting => "warn",
        State::Succeeded | State::Running => "good",
        State::Scheduled | State::Queued | State::Cancelled | State::Superseded => "dim",
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(TEXT_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::ActionId;
    use crate::api::convert::tests::example;
    use crate::engine::QueueStatus;

    fn in_state(state: State, reason: &str) -> Action {
        let mut action = example();
        (action.status.state, action.status.finish) = (state, None);
        action.status.reason = reason.into();
        action
    }

    fn page(show: Show) -> String {
        let queue = QueueStatus {
            name: "<b>".into(),
            concurrency: 1,
            paused: true,
            waiting: 3,
            running: 0,
            length_max: 9,
        };
        let mut engine = EngineStatus { queues: vec![queue], ..EngineStatus::default() };
        engine.reboot_due = true;
        engine.by_state[State::Held as usize] = 1;
        engine.by_state[State::Queued as usize] = 40;
        let mut found = Found::default();
        found.take(example());
        found.take(in_state(State::Held, "<i>may have half happened"));
        found.take(in_state(State::Queued, ""));
        let behind = ActionId(7);
        let cause =
            Cause { code: "behind_resource", text: "action 7 (secret) has it".into(), behind: Some(behind) };
        let (store, now) = (Health::default(), time::parse("2024-01-15T10:46:30Z").unwrap());
        let reasons = [vec![cause]];
        View { engine: &engine, store: &store, found: Ok(&found), reasons: &reasons, show, now }.html()
    }

    #[test]
    fn page_shows_states_and_times_but_no_payload() {
        let html = page(Show::Outline);
        for part in [
            "98765",
            "succeeded",
            "2024-01-15T10:45:00Z",
            "90 s ago",
            "&lt;b&gt; is paused with 3 waiting or held",
            "1 held: a person must decide",
            "action 7 comes first on its resource",
            "1 of 40 shown",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        for hidden in
            ["john@", "git_ref", "Deployment completed", "half happened", "secret", "<b>", "<script"]
        {
            assert!(!html.contains(hidden), "{hidden} in {html}");
        }
    }

    #[test]
    fn page_with_details_quotes_messages_and_nobodys_name() {
        let html = page(Show::All);
        for part in ["Deployment completed", "&lt;i&gt;may have half happened", "action 7 (secret) has it"] {
            assert!(html.contains(part), "{part} in {html}");
        }
        for hidden in ["john@", "git_ref", "<b>", "<i>", "<script"] {
            assert!(!html.contains(hidden), "{hidden} in {html}");
        }
    }

    #[test]
    fn long_text_is_cut_and_sizes_have_units() {
        assert_eq!(short(&"é".repeat(500)).chars().count(), TEXT_CHARS_MAX + 1);
        assert_eq!(
            (size(2_048), size(3 << 20), size(20 << 30)),
            ("2 KiB".into(), "3 MiB".into(), "20 GiB".into())
        );
    }
}
