//! Gives back the pages that a keeper has used and does not need while it waits.
//!
//! To take an order, to start a program or to copy a line it runs through code and constants all over the binary and the C
//! library, and for each page that it touches the kernel maps the 16 around it: that makes 4 to 6 MB. Those pages hold
//! what their files do and nothing else. Given back, they stay in the kernel's cache as long as there is room; what is used
//! again is mapped again, a microsecond each. What is left is below 2 MB (`benches/run exec` shows it).
//!
//! Called by `life`.

use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::sys::mman::{MmapAdvise, madvise};

/// From the first use until all is given back: neither a short program nor a busy one costs a call for each thing done.
const AFTER: Duration = Duration::from_secs(1);

/// When to give back; none if nothing was done since.
pub(super) struct Pages(Option<Instant>);

impl Pages {
    pub(super) fn used() -> Self {
        Self(Some(Instant::now() + AFTER))
    }

    pub(super) fn are_used(&mut self) {
        self.0.get_or_insert_with(|| Instant::now() + AFTER);
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0
    }

    /// Does what is due.
    pub(super) fn step(&mut self) {
        if self.0.take_if(|due| *due <= Instant::now()).is_some() {
            // If it cannot, it stays as large as it is.
            let _ = give_back();
        }
    }
}

fn give_back() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for range in unwritten(&maps) {
        let Some(start) = NonNull::new(range.start as *mut c_void) else { continue };
        #[expect(unsafe_code, reason = "what is used again is read from the file: the same bytes as before")]
        // One that is locked in memory stays there.
        let _ = unsafe { madvise(start, range.len(), MmapAdvise::MADV_DONTNEED) };
    }
    Ok(())
}

/// The mappings of proc_pid_maps(5) that hold the bytes of their files: code, and what a file begins with. Constants that
/// the loader has written before it made them constant (RELRO) never come first in a file.
fn unwritten(maps: &str) -> impl Iterator<Item = Range<usize>> {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (rights, offset) = (fields.next()?, u64::from_str_radix(fields.next()?, 16).ok()?);
        // After the device and the number of the file. What is the kernel's own has a name in brackets, or none.
        let is_file = fields.nth(2)?.starts_with('/');
        let is_unwritten = rights == "r-xp" || (rights == "r--p" && offset == 0);
        let number = |text| usize::from_str_radix(text, 16).ok();
        (is_file && is_unwritten).then_some(number(start)?..number(end)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_the_bytes_of_its_file_is_given_back() {
        let maps = "\
55682b1c8000-55682b3fd000 r--p 00000000 fe:00 7                          /usr/bin/actiond (deleted)
55682b3fd000-55682bb05000 r-xp 00234000 fe:00 7                          /usr/bin/actiond (deleted)
55682bb05000-55682bb47000 r--p 0093b000 fe:00 7                          /usr/bin/actiond (deleted)
55682bb47000-55682bb4e000 rw-p 0097c000 fe:00 7                          /usr/bin/actiond (deleted)
55682bb4e000-55682bb55000 rw-p 00000000 00:00 0
7fb5a1000000-7fb5a1001000 r--s 00000000 fe:00 9                          /var/a b
7fb5a1001000-7fb5a1002000 r--p 00000000 00:00 0
7fb5a1ea5000-7fb5a1ea7000 r-xp 00000000 00:00 0                          [vdso]
nonsense
";
        let given: Vec<_> = unwritten(maps).collect();
        assert_eq!(given, [0x5568_2b1c_8000..0x5568_2b3f_d000, 0x5568_2b3f_d000..0x5568_2bb0_5000]);
    }

    #[test]
    fn pages_are_given_back_once_after_each_time_of_use() {
        let mut pages = Pages::used();
        let due = pages.due().unwrap();
        pages.are_used();
        pages.step();
        assert_eq!(pages.due(), Some(due));
        pages.0 = Some(Instant::now());
        pages.step();
        assert_eq!(pages.due(), None);
        pages.are_used();
        assert!(pages.due().is_some());
    }
}
