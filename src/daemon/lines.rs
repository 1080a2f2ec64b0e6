//! Writes the lines of the log to stderr: one that comes alone at once, many together.
//!
//! A line that comes within 10 ms of the write before waits for the end of that time, and goes with all that came
//! meanwhile: a daemon that carries out tens of thousands of actions a second would else spend a good part of the engine's
//! time on a system call for each. Warnings and errors never wait, and take with them what waits.
//!
//! # Guarantees
//!
//! - Lines leave whole and in their order. After a failure in the middle of one the next begins a line of its own.
//! - What waits is bounded. It is lost only if the process is killed within those 10 ms, or if stderr does not take it.
//!
//! Used by `logging`.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait.
const WAIT: Duration = Duration::from_millis(10);
/// So many bytes do not wait.
const BYTES_MAX: usize = 64 << 10;

/// The way of all lines. Clones lead to the same place.
#[derive(Clone)]
pub(super) struct Lines {
    shared: Arc<Shared>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

struct Waiting {
    out: Box<dyn Write + Send>,
    text: Vec<u8>,
    written_at: Option<Instant>,
    /// Somebody writes what waits.
    is_looked_after: bool,
    /// The last thing that was written was no whole line.
    is_inside_line: bool,
}

/// Writes one line.
pub(super) struct Line<'a> {
    shared: &'a Shared,
    is_urgent: bool,
}

impl Lines {
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        let waiting = Waiting {
            out: Box::new(out),
            text: Vec::new(),
            written_at: None,
            is_looked_after: false,
            is_inside_line: false,
        };
        let lines = Self { shared: Arc::new(Shared { waiting: Mutex::new(waiting), came: Condvar::new() }) };
        let shared = Arc::clone(&lines.shared);
        let thread = std::thread::Builder::new().name("log".to_owned());
        let started = thread.spawn(move || shared.write_what_waits());
        lines.shared.lock().is_looked_after = started.is_ok();
        lines
    }

    /// Writes what waits.
    pub(super) fn flush(&self) {
        self.shared.lock().write();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_what_waits(&self) {
        let mut waiting = self.lock();
        loop {
            let came = self.came.wait_while(waiting, |waiting| waiting.text.is_empty());
            drop(came.unwrap_or_else(PoisonError::into_inner));
            std::thread::sleep(WAIT);
            waiting = self.lock();
            waiting.write();
        }
    }
}

impl Waiting {
    fn write(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let mut left = &self.text[..];
        while let Some(last) = left.last() {
            match self.out.write(left) {
                Ok(count @ 1..) => {
                    left = left.get(count..).unwrap_or_default();
                    self.is_inside_line = !left.is_empty() || *last != b'\n';
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody is left who could be told.
                Ok(_) | Err(_) => break,
            }
        }
        self.text.clear();
        self.written_at = Some(Instant::now());
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { shared: &self.shared, is_urgent: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { shared: &self.shared, is_urgent: *meta.level() <= Level::WARN }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.shared.lock();
        let is_first = waiting.text.is_empty();
        if is_first && waiting.is_inside_line {
            waiting.text.push(b'\n');
        }
        waiting.text.extend_from_slice(line);
        let is_close = !is_first || waiting.written_at.is_some_and(|at| at.elapsed() < WAIT);
        let waits = is_close && !self.is_urgent && waiting.is_looked_after && waiting.text.len() < BYTES_MAX;
        if !waits {
            waiting.write();
        } else if is_first {
            self.shared.came.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    struct Out(Sender<String>);

    impl Write for Out {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.send(String::from_utf8(text.to_vec()).unwrap()).unwrap();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (Lines, Receiver<String>) {
        let (out, written) = channel();
        (Lines::to(Out(out)), written)
    }

    fn say(lines: &Lines, is_urgent: bool, line: &str) {
        Line { shared: &lines.shared, is_urgent }.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn line_alone_is_written_at_once_and_many_go_together() {
        let (lines, written) = lines();
        say(&lines, false, "one\n");
        assert_eq!(written.try_recv().unwrap(), "one\n");
        lines.shared.lock().written_at = Some(Instant::now() + Duration::from_secs(60));
        let all = "two\nthree\nfour\n";
        all.split_inclusive('\n').for_each(|line| say(&lines, false, line));
        let mut got = String::new();
        while got.len() < all.len() {
            got += &written.recv().unwrap();
        }
        assert_eq!(got, all);
    }

    #[test]
    fn warning_takes_with_it_what_waits() {
        let (lines, written) = lines();
        say(&lines, false, "first\n");
        lines.shared.lock().written_at = Some(Instant::now() + Duration::from_secs(60));
        say(&lines, false, "told\n");
        say(&lines, true, "warned\n");
        let got: String = written.try_iter().collect();
        assert_eq!(got, "first\ntold\nwarned\n");
        say(&lines, false, "last\n");
        lines.flush();
        assert_eq!(written.try_iter().collect::<String>(), "last\n");
    }

    #[test]
    fn line_behind_one_that_was_cut_short_stands_alone() {
        /// Takes so many bytes, then fails once.
        struct Short(Sender<String>, Option<usize>);

        impl Write for Short {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                let count = self.1.unwrap_or(text.len());
                if count == 0 {
                    self.1 = None;
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.1 = self.1.map(|_| 0);
                self.0.send(String::from_utf8(text[..count].to_vec()).unwrap()).unwrap();
                Ok(count)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (out, written) = channel();
        let lines = Lines::to(Short(out, Some(3)));
        say(&lines, true, "broken\n");
        say(&lines, true, "whole\n");
        say(&lines, true, "next\n");
        assert_eq!(written.try_iter().collect::<String>(), "bro\nwhole\nnext\n");
    }
}
