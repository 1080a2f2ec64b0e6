//! Where words go: data to stdout, talk to stderr, and every foreign string without its control characters.
//!
//! # Guarantees
//!
//! - A reader that went away (`| head`) ends the verb quietly.
//! - Colours leave only towards a terminal, or as `--color` and `NO_COLOR` say.
//! - No text that came from an action, a program or a file reaches the terminal with a control character or
//!   an invisible direction mark in it: it could move the cursor, or lie about the text around it.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::exit::Exit;
use crate::client::ClientError;

/// Why a verb ended early: its code and what to say on stderr.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// Empty: there is nothing to say.
    pub text: String,
    /// The daemon's own document, for `--json`.
    pub problem: Option<Box<crate::api::wire::Problem>>,
}

impl Failure {
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), problem: None }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = Exit::of_error(&error);
        let mut text = error.to_string();
        if let ClientError::Unreachable { kind, .. } = &error {
            text.push_str(match kind {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "\nis it running? start it with `actiond serve` or `systemctl start actiond`; \
                     if it listens elsewhere, say where with --socket or ACTIOND_SOCKET"
                }
                io::ErrorKind::PermissionDenied => {
                    "\nthis user may not open the socket: join its group, see `ls -l` on it"
                }
                io::ErrorKind::TimedOut => "\nthe daemon hangs or is overloaded: see its log",
                _ => "",
            });
        }
        let problem = match error {
            ClientError::Problem(problem) => Some(problem),
            _ => None,
        };
        if let Some(problem) = &problem {
            text = describe(problem);
        }
        Self { exit, text, problem }
    }
}

impl From<io::Error> for Failure {
    /// Only writing to stdout fails this way.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, "");
        }
        Self::new(Exit::Failed, format!("cannot write to standard output: {error}"))
    }
}

/// A problem in one sentence.
pub fn describe(problem: &crate::api::wire::Problem) -> String {
    // Details of these name the offending part alone.
    let bare = ["not-json", "unknown-field", "missing-field", "bad-query", "no-such-page"];
    let word = problem.kind.rsplit(':').next().unwrap_or_default();
    let said = match problem.detail.as_str() {
        "" => problem.title.clone(),
        detail if bare.contains(&word) => format!("{}: {detail}", problem.title),
        detail => detail.to_owned(),
    };
    match problem.action_id {
        Some(id) if !said.contains(&id.to_string()) => format!("{said} (see action {id})"),
        _ => said,
    }
}

/// The two voices of a verb.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    pub json: bool,
}

#[expect(
    clippy::unused_self,
    reason = "a verb speaks through what it was given, also where the setting is global"
)]
impl Out {
    /// Data for people: a line, or several, to stdout. The caller has escaped what is foreign.
    pub fn text(self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{}", text.as_ref())?;
        Ok(stdout.flush()?)
    }

    /// Data for programs: one JSON document on a line of its own.
    pub fn json<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot write JSON: {error}")))?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        Ok(stdout.flush()?)
    }

    /// Talk: to stderr. Nobody there to hear it is no failure. The caller has escaped what is foreign.
    pub fn say(self, text: impl AsRef<str>) {
        let _ = writeln!(anstream::stderr().lock(), "{}", text.as_ref());
    }

    /// Says why a verb ended early.
    pub fn fail(self, failure: &Failure) {
        if self.json
            && let Some(problem) = &failure.problem
        {
            let _ = self.json(problem);
        }
        if !failure.text.is_empty() {
            let style = AnsiColor::Red.on_default().bold();
            self.say(format!("{style}actiond:{style:#} {}", lines(&failure.text)));
        }
    }
}

/// The text on one line, with what could harm or deceive a terminal written as `\u{..}`.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if is_harmful(c) => {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// As [`escape`], with line ends and tabs kept.
#[must_use]
pub fn lines(text: &str) -> String {
    text.split('\n')
        .map(|line| line.split('\t').map(escape).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// C0 and C1 controls, DEL, line and paragraph separators, marks and overrides of direction (Unicode TR 36),
/// and characters without width.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` in `style`, for places that anstream cleans.
#[must_use]
pub fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_harm_a_terminal_is_written_out() {
        assert_eq!(escape("\x1b[2Jgone\x07"), "\\u{1b}[2Jgone\\u{7}");
        assert_eq!(escape("a\nb\tc\r"), "a\\nb\\tc\\r");
        assert_eq!(escape("\u{9b}31m\u{7f}"), "\\u{9b}31m\\u{7f}");
        assert_eq!(escape("abc\u{202e}txt.exe\u{2066}"), "abc\\u{202e}txt.exe\\u{2066}");
        assert_eq!(escape("søren 東京 🚀"), "søren 東京 🚀");
        assert_eq!(lines("a\x1b\n\tb\r\n"), "a\\u{1b}\n\tb\\r\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((gone.exit, gone.text.as_str()), (Exit::Done, ""));
        let full = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit, Exit::Failed);
        assert!(full.text.contains("standard output"));
    }

    #[test]
    fn an_absent_daemon_comes_with_the_next_step() {
        let error = ClientError::Unreachable {
            socket: "/run/x.sock".into(),
            cause: "No such file or directory (os error 2)".into(),
            kind: io::ErrorKind::NotFound,
        };
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.text.starts_with("cannot reach actiond at /run/x.sock: No such file"));
        assert!(failure.text.contains("actiond serve"));
    }
}
