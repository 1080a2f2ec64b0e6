//! A part of the keeper's cgroup for its program alone: one write kills all that is in it, however fast it forks.
//!
//! Only a keeper with a cgroup of its own that it may divide has one: that of its unit. Whatever the program starts stays
//! in it unless it moves itself, and is found by its descent then, as everywhere else.
//!
//! Many processes that all want to run leave the keeper a hundredth of the processor each time it looks at them. Here they are
//! stopped for that moment; elsewhere the keeper asks for more of the processor than they have together.
//!
//! Called by `start`, and by `ending`'s caller.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::runner::tree::MANY;

/// The mounts of cgroup version 2, alone and beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The program's cgroup.
#[derive(Clone)]
pub(super) struct Leaf {
    keepers: PathBuf,
    own: PathBuf,
}

/// All in the leaf is stopped.
pub(super) struct Still<'a>(&'a Leaf);

impl Leaf {
    /// Does the work, which starts the program, in a new leaf. Without one, if there can be none, it is done all the same.
    pub(super) fn around<T>(work: impl FnOnce() -> T) -> (Option<Self>, T) {
        let leaf = Self::make();
        let is_in = leaf.as_ref().is_some_and(|leaf| enter(&leaf.own).is_ok());
        let done = work();
        // Who cannot get out again must not kill all that is in it.
        let leaf = leaf.filter(|leaf| is_in && enter(&leaf.keepers).is_ok());
        (leaf, done)
    }

    fn make() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let mut mounts = MOUNTS.iter().map(Path::new);
        let keepers = mounts.find(|mount| mount.join("cgroup.procs").exists())?.join(cgroup);
        // With others in it, it is not the keeper's.
        let alone = fs::read_to_string(keepers.join("cgroup.procs")).ok()?;
        if alone.trim() != std::process::id().to_string() {
            return None;
        }
        let own = keepers.join("program");
        fs::create_dir(&own).ok()?;
        Some(Self { keepers, own })
    }

    /// The same in time, while a look at all that a fork bomb has started may take the keeper long. A thread of its own, which
    /// ends with the keeper.
    pub(super) fn kill_after(&self, grace: Duration) {
        let leaf = self.clone();
        let wait = move || {
            std::thread::sleep(grace);
            leaf.kill();
        };
        let _ = std::thread::Builder::new().name("kill".to_owned()).spawn(wait);
    }

    /// Stops all that is in it as long as what is returned is there, if that are so many that whoever looks at them would
    /// hardly get any of the processor beside them. It is for the moment of a look: who is asked to end has his grace.
    pub(super) fn hold_still(&self) -> Option<Still<'_>> {
        let all = fs::read(self.own.join("cgroup.procs")).ok()?;
        if memchr::memchr_iter(b'\n', &all).count() <= MANY {
            return None;
        }
        self.freeze("1").ok().map(|()| Still(self))
    }

    fn freeze(&self, word: &str) -> io::Result<()> {
        fs::write(self.own.join("cgroup.freeze"), word)
    }

    /// Kills all that is in it. What is not is looked for as everywhere.
    pub(super) fn kill(&self) {
        // Not there before Linux 5.14.
        let _ = fs::write(self.own.join("cgroup.kill"), "1");
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        // It could be written to before.
        let _ = self.0.freeze("0");
    }
}

fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// From here on the session of this process, which is alone in it, gets as much of the processor as 80 others, where the
/// kernel shares it out between sessions (`sched(7)`, autogroups). Needs `CAP_SYS_NICE`.
pub(super) fn comes_first() {
    let _ = fs::write("/proc/self/autogroup", "-20");
}
