//! Tells the next start which attempt took the daemon down.
//!
//! A fatal signal (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT) on a thread that polls an in-process handler is
//! that attempt's doing. The hook writes its id and number into a small file that was opened before, then
//! lets the signal do what it always does. The next start reads it. SIGKILL, a power cut and programs of
//! their own leave no words and never count.
//!
//! Not seen: a stack overflow, because the signal hook runs on the very stack that is full.
//!
//! ```text
//! last-words: 0 magic "LASTWORD" | 8 action id, u64 LE | 16 attempt, u32 LE | 20 signal, u32 LE | 24 end
//! ```
//!
//! The file needs no sync: what matters is the death of a process, not of the host.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use signal_hook::consts::signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};

use crate::action::ActionId;
use crate::engine::Death;
use crate::handlers::in_process;

const MAGIC: [u8; 8] = *b"LASTWORD";
const BYTES: usize = 24;
const FATAL: [i32; 5] = [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT];

/// The file, open for the life of the daemon.
pub(super) struct LastWords(Arc<File>);

impl LastWords {
    /// Opens the file, and says what the previous run left in it.
    pub(super) fn open(store_dir: &Path) -> io::Result<(Self, Option<Death>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(store_dir.join("last-words"))?;
        let mut words = [0; BYTES];
        let death = match file.read_exact_at(&mut words, 0) {
            Ok(()) => decode(&words),
            Err(_) => None,
        };
        if death.is_none() {
            // Written out now, so that the hook never needs a block of a disk that is full.
            file.write_all_at(&[0; BYTES], 0)?;
        }
        Ok((Self(Arc::new(file)), death))
    }

    /// From now on a fatal signal writes its words.
    pub(super) fn arm(&self) -> io::Result<()> {
        for signal in FATAL {
            let file = Arc::clone(&self.0);
            let hook = move || {
                if let Some((id, attempt)) = in_process::current() {
                    let _ = rustix::io::pwrite(&*file, &encode(id, attempt, signal), 0);
                }
                // Restores the default, raises the signal again, and does not come back.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            };
            #[expect(
                unsafe_code,
                reason = "the hook is async-signal-safe: it loads a constant-initialised thread-local without \
                          destructor, fills an array on its stack, makes the raw pwrite(2) call on a \
                          descriptor that stays open as long as the hook, and calls signal-hook's \
                          emulation of the default, which is documented as safe there; it neither \
                          allocates nor locks nor panics, and it never returns to the faulty instruction"
            )]
            unsafe {
                signal_hook_registry::register_signal_unchecked(signal, hook)?;
            }
        }
        Ok(())
    }

    /// Forgets what the previous run left. Called when what follows from it is durable.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.0.write_all_at(&[0; BYTES], 0)
    }
}

fn encode(id: ActionId, attempt: u32, signal: i32) -> [u8; BYTES] {
    let mut words = [0; BYTES];
    words[..8].copy_from_slice(&MAGIC);
    words[8..16].copy_from_slice(&id.0.to_le_bytes());
    words[16..20].copy_from_slice(&attempt.to_le_bytes());
    words[20..].copy_from_slice(&signal.to_le_bytes());
    words
}

fn decode(words: &[u8; BYTES]) -> Option<Death> {
    let rest = words.strip_prefix(&MAGIC)?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    let (attempt, _) = rest.split_first_chunk::<4>()?;
    Some(Death { id: ActionId(u64::from_le_bytes(*id)), attempt: u32::from_le_bytes(*attempt) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    const CHILD: &str = "ACTIOND_TEST_LAST_WORDS";

    #[test]
    fn words_stay_until_they_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let (words, none) = LastWords::open(dir.path()).unwrap();
        assert_eq!(none, None);
        words.0.write_all_at(&encode(ActionId(7), 3, SIGSEGV), 0).unwrap();
        let (again, death) = LastWords::open(dir.path()).unwrap();
        assert_eq!(death, Some(Death { id: ActionId(7), attempt: 3 }));
        assert_eq!(
            LastWords::open(dir.path()).unwrap().1,
            death,
            "a crash before the decision loses nothing"
        );
        again.clear().unwrap();
        assert_eq!(LastWords::open(dir.path()).unwrap().1, None);
    }

    /// Runs only as a child of the tests below: dies by a signal, within or outside an attempt.
    #[test]
    fn child_that_dies() {
        let Some(spec) = std::env::var_os(CHILD) else { return };
        let spec = spec.into_string().unwrap();
        let (blamed, dir) = spec.split_once(' ').unwrap();
        LastWords::open(Path::new(dir)).unwrap().0.arm().unwrap();
        let signal = if blamed == "aborts" { SIGABRT } else { SIGSEGV };
        let die = Box::pin(async move { signal_hook::low_level::raise(signal).unwrap() });
        if blamed == "blamed" {
            futures_util::FutureExt::now_or_never(in_process::Marked::new(ActionId(9), 4, die));
        } else {
            futures_util::FutureExt::now_or_never(die);
        }
    }

    fn child(how: &str) -> (i32, Option<Death>) {
        let dir = tempfile::tempdir().unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon::last_words::tests::child_that_dies", "--nocapture"])
            .env(CHILD, format!("{how} {}", dir.path().display()))
            .output()
            .unwrap()
            .status;
        (status.signal().unwrap_or(0), LastWords::open(dir.path()).unwrap().1)
    }

    #[test]
    fn fatal_signal_in_an_attempt_is_blamed_on_it_and_still_kills() {
        assert_eq!(child("blamed"), (SIGSEGV, Some(Death { id: ActionId(9), attempt: 4 })));
    }

    #[test]
    fn fatal_signal_outside_an_attempt_is_blamed_on_nobody() {
        assert_eq!(child("other"), (SIGSEGV, None));
        assert_eq!(child("aborts"), (SIGABRT, None));
    }
}
