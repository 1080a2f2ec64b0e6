//! The last thing that a program printed, kept short and clean enough to stand in a message.
//!
//! Whoever is called at night reads the message of a failed action first: it quotes the program's last line. What is
//! kept is bounded while the program runs; terminal sequences, control characters and invalid UTF-8 never get
//! into it.
//!
//! Filled by `output`, read by `handlers::exec`.

use super::report::bounded;

/// Bytes of a line that are looked at.
const LOOKED_AT_MAX: usize = 1_024;
/// Bytes that are quoted.
const QUOTED_MAX: usize = 240;

/// The last line of one output that had something to say; empty if there was none.
#[derive(Debug, Default)]
pub(crate) struct LastLine(Vec<u8>);

impl LastLine {
    /// Takes note of a line, unless it is blank.
    pub(crate) fn note(&mut self, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        // A progress bar draws over itself: what is seen is what was drawn last.
        let drawn = line.rsplit(|byte| *byte == b'\r').find(|part| !part.trim_ascii().is_empty());
        let drawn = drawn.unwrap_or(line);
        self.0.clear();
        self.0.extend_from_slice(drawn.get(..LOOKED_AT_MAX).unwrap_or(drawn));
    }

    /// The line as text for a message; none if nothing readable was printed.
    pub(crate) fn quoted(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let clean = without_sequences(&text);
        let clean = clean.trim();
        (!clean.is_empty()).then(|| bounded(clean, QUOTED_MAX))
    }
}

/// The text without terminal sequences (ECMA-48: CSI, OSC and the two-character ones) and control characters.
fn without_sequences(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => match letters.next() {
                // Parameters, then one final character.
                Some('[') => while letters.next().is_some_and(|part| !('@'..='~').contains(&part)) {},
                // A title or a link, up to BEL or ESC \.
                Some(']') => loop {
                    match letters.next() {
                        None | Some('\u{7}') => break,
                        Some('\u{1b}') => {
                            letters.next_if_eq(&'\\');
                            break;
                        }
                        Some(_) => {}
                    }
                },
                _ => {}
            },
            '\t' => clean.push(' '),
            control if control.is_control() => {}
            // A broken character may be the last one, cut in two by the bound.
            '\u{fffd}' if letters.peek().is_none() => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(lines: &[&[u8]]) -> Option<String> {
        let mut last = LastLine::default();
        for line in lines {
            last.note(line);
        }
        last.quoted()
    }

    #[test]
    fn last_line_that_says_something_is_quoted() {
        assert_eq!(
            last(&[b"first", b"could not reach db1", b"", b"  \t"]).as_deref(),
            Some("could not reach db1")
        );
        assert_eq!(last(&[b"", b" "]), None);
        assert_eq!(last(&[]), None);
    }

    #[test]
    fn what_a_terminal_would_act_on_is_left_out() {
        let coloured = b"\x1b[1;31merror:\x1b[0m no \x1b]8;;http://x\x1b\\room\x1b]0;title\x07\x00 left\x1b7";
        assert_eq!(last(&[coloured]).as_deref(), Some("error: no room left"));
        assert_eq!(last(&[b"10 %\r50 %\r99 %: disk full\r"]).as_deref(), Some("99 %: disk full"));
        assert_eq!(last(&[b"\x1b[31m\x1b[0m"]), None);
    }

    #[test]
    fn quotation_is_bounded_and_whole_characters() {
        let long = "ü".repeat(5_000);
        let quoted = last(&[long.as_bytes()]).unwrap();
        assert!(quoted.len() <= QUOTED_MAX + 3 && quoted.ends_with("ü..."), "{quoted}");
        assert_eq!(last(&[b"a\xffb"]).as_deref(), Some("a\u{fffd}b"));
    }
}
