//! How actions look to people: tables, the page of one action, words in the colour of their state.
//!
//! Everything here is escaped ([`escape`]) and coloured; where it goes decides whether the colours stay.

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};

use super::output::{escape, styled};
use crate::action::State;
use crate::api::wire;

/// Longest text in a cell of a list, in characters.
const CELL_CHARS_MAX: usize = 60;

/// A list of actions.
#[must_use]
pub fn actions(actions: &[wire::Action]) -> String {
    let mut table = plain(&["ID", "STATE", "ACTION", "RESOURCE", "USER", "STARTED", "TRIES", "MESSAGE"]);
    for action in actions {
        let mut state = Cell::new(escape(&action.state));
        if let Some(color) = color_of(&action.state) {
            state = state.fg(color.1);
        }
        table.add_row(vec![
            Cell::new(action.id),
            state,
            Cell::new(cell(&action.action)),
            Cell::new(cell(&format!("{} {}", action.resource_type, action.resource_id))),
            Cell::new(cell(&action.user)),
            Cell::new(seconds(&action.started_at)),
            Cell::new(action.attempt),
            Cell::new(cell(&summary(action))),
        ]);
    }
    // On a narrow terminal the words that people copy stay whole; `show` has what is left out there.
    let width = table.width().unwrap_or(u16::MAX);
    for (left_out, below) in [(4, 110), (5, 80)] {
        if let Some(column) = table.column_mut(left_out).filter(|_| width < below) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    for whole in [0, 1, 2, 3, 6] {
        if let Some(column) = table.column_mut(whole) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    finish(&table)
}

/// A list of queues.
#[must_use]
pub fn queues(queues: &[wire::Queue]) -> String {
    let mut table = plain(&["QUEUE", "STATE", "RUNNING", "AT MOST", "WAITING", "AT MOST"]);
    for queue in queues {
        let (word, color) = if queue.paused { ("paused", Color::Yellow) } else { ("open", Color::Green) };
        table.add_row(vec![
            Cell::new(cell(&queue.name)),
            Cell::new(word).fg(color),
            Cell::new(queue.running),
            Cell::new(queue.concurrency),
            Cell::new(queue.waiting),
            Cell::new(queue.length_max),
        ]);
    }
    finish(&table)
}

/// Names and values, one pair a line.
#[must_use]
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let dim = Style::new().dimmed();
    let rows: Vec<_> =
        rows.iter().map(|(name, value)| format!("{dim}{name:>width$}{dim:#}  {value}")).collect();
    rows.join("\n")
}

/// One action in full.
#[must_use]
pub fn action(action: &wire::Action) -> String {
    let mut rows = vec![
        ("action", format!("{} {}", action.id, escape(&action.action))),
        ("resource", format!("{} {}", escape(&action.resource_type), action.resource_id)),
        ("state", state_word(&action.state)),
    ];
    let mut add = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            rows.push((name, value));
        }
    };
    add("reason", action.reason.as_deref().map(escape));
    add("user", Some(format!("{} via {}", escape(&action.user), escape(&action.started_via))));
    add("started", Some(escape(&action.started_at)));
    add("finished", action.finished_at.as_deref().map(escape));
    add("message", action.finished_message.as_deref().map(escape));
    add("result", action.finished_result.as_ref().map(|json| escape(json.get())));
    add("metadata", action.metadata.as_ref().map(|json| escape(json.get())));
    add("progress", action.progress.as_ref().map(progress));
    add("due", action.due_at.as_deref().map(escape));
    add("deadline", action.deadline.as_deref().map(escape));
    let queue = format!(
        "{}, priority {}, on conflict: {}",
        escape(&action.queue),
        action.priority,
        action.on_conflict
    );
    add("queue", Some(escape(&queue)));
    let tries = format!("{} of {}, attempt {}", action.tries_used, action.retry.attempts, action.attempt);
    add("tries", Some(tries));
    add("recovery", Some(format!("{}, timeout {}", escape(&action.recovery), escape(&action.timeout))));
    add("key", action.idempotency_key.as_deref().map(escape));
    add("repeats", action.retry_of.map(|id| format!("action {id}")));
    add("submitter", action.submitter.as_ref().map(|who| format!("uid {} pid {}", who.uid, who.pid)));
    add("checkpoint", action.checkpoint.as_ref().map(|json| escape(json.get())));
    for wire::Step { name, begun_at, done_at } in &action.steps {
        let end =
            done_at.as_ref().map_or_else(|| "not known to be done".to_owned(), |at| format!("done {at}"));
        add("step", Some(escape(&format!("{name}: begun {begun_at}, {end}"))));
    }
    add("reboots", Some(action.reboots).filter(|count| *count > 0).map(|count| count.to_string()));
    add("fence", action.claim.as_ref().map(|claim| claim.fence.to_string()));
    let cancel = action.cancel.as_ref();
    add("cancel", cancel.map(|who| escape(&format!("by uid {} at {} {}", who.uid, who.at, who.reason))));
    for attempt in &action.attempts {
        let wire::Attempt { attempt, began_at, ended_at, outcome, message } = attempt;
        let ended_at = ended_at.as_deref().unwrap_or("now");
        // The last one's stands above, whole.
        let message = cell(message.as_deref().unwrap_or_default());
        let line = format!("{attempt}: {outcome}, {began_at} to {ended_at}");
        add("attempt", Some(format!("{}  {message}", escape(&line)).trim_end().to_owned()));
    }
    pairs(&rows)
}

/// A state in its colour.
#[must_use]
pub fn state_word(state: &str) -> String {
    let word = escape(state);
    color_of(state).map_or_else(|| word.clone(), |(color, _)| styled(color.on_default(), &word))
}

/// What a person who looks at an action in `state` will want to do next.
#[must_use]
pub fn next_step(id: u64, state: &str) -> Option<String> {
    Some(match State::from_word(state)? {
        State::Held => format!(
            "next: actiond resume {id} (run it), actiond cancel {id}, or, if you know what became of it, \
             actiond resolve {id} --succeeded|--failed --message TEXT"
        ),
        State::Failed | State::TimedOut => format!("see: actiond logs {id}; again: actiond retry {id}"),
        State::Running => format!("see: actiond logs -f {id}"),
        State::Queued | State::Scheduled | State::RetryWait => format!("see: actiond explain {id}"),
        _ => return None,
    })
}

/// How far it is, in a few words.
#[must_use]
pub fn progress(progress: &wire::Progress) -> String {
    format!("{} % {}", progress.percent, escape(&progress.message)).trim_end().into()
}

/// What a list says of an action: how it ended, why it waits, or how far it is.
fn summary(action: &wire::Action) -> String {
    let said = [&action.finished_message, &action.reason].into_iter().flatten().find(|text| !text.is_empty());
    match (said, &action.progress) {
        (Some(said), _) => said.clone(),
        (None, Some(progress)) => format!("{} % {}", progress.percent, progress.message),
        (None, None) => String::new(),
    }
}

fn color_of(state: &str) -> Option<(AnsiColor, Color)> {
    Some(match State::from_word(state)? {
        State::Succeeded => (AnsiColor::Green, Color::DarkGreen),
        State::Failed | State::TimedOut => (AnsiColor::Red, Color::DarkRed),
        State::Held => (AnsiColor::Magenta, Color::DarkMagenta),
        State::Running | State::Cancelling | State::Rebooting => (AnsiColor::Cyan, Color::DarkCyan),
        State::Scheduled | State::Queued | State::RetryWait => (AnsiColor::Yellow, Color::DarkYellow),
        State::Cancelled | State::Expired | State::Superseded => (AnsiColor::BrightBlack, Color::DarkGrey),
    })
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(Cell::new).collect::<Vec<_>>());
    // Anstream takes the colours away where they do not belong.
    table.enforce_styling();
    table
}

fn finish(table: &Table) -> String {
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Text for a cell: escaped, and cut where it is too long.
fn cell(text: &str) -> String {
    let mut short: String = text.chars().take(CELL_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    escape(&short)
}

/// A time of the wire without its fraction.
fn seconds(at: &str) -> String {
    let whole = at.split('.').next().unwrap_or(at);
    escape(whole).replacen('T', " ", 1).trim_end_matches('Z').into()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An action as the wire gives it, for tests.
    pub fn sample() -> wire::Action {
        let json = r#"{"id":8,"user":"a@example.com","resource_type":"Stack","action":"deploy","resource_id":34,
            "started_via":"web","started_at":"2026-03-01T14:08:29.123Z","finished_at":null,"finished_success":null,
            "finished_message":null,"finished_result":null,"metadata":{"git_ref":"main"},"state":"running",
            "reason":null,"queue":"default","priority":5,"attempt":1,"tries_used":1,
            "progress":{"percent":40,"message":"pushing","at":"2026-03-01T14:08:30.000Z"},"run_at":null,
            "due_at":null,"deadline":null,"timeout":"30m","on_conflict":"queue","idempotency_key":null,
            "retry":{"attempts":1},"recovery":"rerun","retry_of":null,"submitter":{"uid":0,"gid":0,"pid":9},
            "checkpoint":null,"attempts":[{"attempt":1,"began_at":"2026-03-01T14:08:29.200Z","ended_at":null,
            "outcome":"running","message":null}],"cancel":null,"version":3}"#;
        serde_json::from_str(json).unwrap()
    }

    fn bare(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_list_has_a_line_for_each_action() {
        let mut second = sample();
        second.id = 7;
        second.state = "failed".into();
        second.finished_message = Some("exit 1\u{1b}[2J".into());
        let list = actions(&[sample(), second]);
        let list = bare(&list);
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("STATE") && lines[0].contains("RESOURCE"));
        assert!(lines[1].contains("2026-03-01 14:08:29") && lines[1].contains("40 % pushing"));
        assert!(lines[2].contains("failed") && lines[2].ends_with("exit 1\\u{1b}[2J"));
    }

    #[test]
    fn states_have_colours_and_unknown_words_none() {
        assert_eq!(state_word("succeeded"), "\u{1b}[32msucceeded\u{1b}[0m");
        assert_eq!(state_word("new\u{7}"), "new\\u{7}");
    }

    #[test]
    fn a_page_shows_what_is_there_and_nothing_else() {
        let page = bare(&action(&sample()));
        assert!(page.contains("metadata  {\"git_ref\":\"main\"}"));
        assert!(page.contains("attempt  1: running, 2026-03-01T14:08:29.200Z to now"));
        assert!(!page.contains("finished") && !page.contains("repeats"));
        assert!(!page.contains("step") && !page.contains("fence") && !page.contains("reboots"));
        let mut further = sample();
        let step = |name: &str, done: Option<&str>| wire::Step {
            name: name.into(),
            begun_at: "2026-03-01T14:08:29Z".into(),
            done_at: done.map(str::to_owned),
        };
        further.steps = vec![step("build", Some("2026-03-01T14:08:30Z")), step("push", None)];
        further.claim = Some(wire::Claim { fence: 4_294_967_297, began_at: "2026-03-01T14:08:29Z".into() });
        let page = bare(&action(&further));
        assert!(
            page.contains("step  build: begun 2026-03-01T14:08:29Z, done 2026-03-01T14:08:30Z"),
            "{page}"
        );
        assert!(page.contains("push: begun 2026-03-01T14:08:29Z, not known to be done"), "{page}");
        assert!(page.contains("fence  4294967297"), "{page}");
    }

    #[test]
    fn long_text_is_cut_in_a_cell() {
        assert_eq!(cell(&"x".repeat(100)).chars().count(), CELL_CHARS_MAX + 1);
        assert_eq!(cell("short"), "short");
    }
}
