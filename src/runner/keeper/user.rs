//! Becomes another user, and then the program: `actiond keeper as UID GID GROUPS CWD PROGRAM ARGUMENT...`.
//!
//! Executed by a keeper between itself and a program of another user, with everything else that the program will have. Of
//! the rights that let the keeper do that the program gets none.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use nix::unistd::{Gid, Uid, execv, setgid, setgroups, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities};

use super::words::{Order, UserIds};

/// Exit code of a program that could not be started (the shells' code for this).
const CANNOT_START: u8 = 127;

/// What the keeper executes for the program of an order.
pub(super) fn argv(order: &Order, user: &UserIds) -> Vec<String> {
    let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
    let own = ["actiond", "keeper", "as", &user.uid.to_string(), &user.gid.to_string(), &groups.join(",")];
    let own = own.map(str::to_owned).into_iter();
    own.chain([order.cwd.to_string_lossy().into_owned()]).chain(order.argv.iter().cloned()).collect()
}

/// Runs with the arguments that follow `as`. Returns only if the program was not started, which it says as the program
/// would: over descriptor 3.
pub(super) fn become_program(words: &[OsString]) -> ExitCode {
    let Err(why) = try_to(words);
    let said = serde_json::json!({ "message": why }).to_string() + "\n";
    let _ = File::options()
        .write(true)
        .open("/proc/self/fd/3")
        .and_then(|mut report| report.write_all(said.as_bytes()));
    super::complain(&why);
    ExitCode::from(CANNOT_START)
}

fn try_to(words: &[OsString]) -> Result<Infallible, String> {
    let [uid, gid, groups, cwd, program @ ..] = words else {
        return Err("it is started by a keeper only".to_owned());
    };
    let number =
        |word: &str| word.parse::<u32>().map_err(|_| format!("{word:?} is no number of a user or group"));
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    let (uid, gid) = (number(&text(uid))?, number(&text(gid))?);
    let groups = text(groups);
    let groups = groups.split(',').filter(|group| !group.is_empty());
    let groups = groups.map(|group| number(group).map(Gid::from_raw)).collect::<Result<Vec<_>, _>>()?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |errno: nix::Error| format!("cannot {what}: {}", io::Error::from(errno))
    };
    setgroups(&groups).map_err(failed("take the groups of its user"))?;
    setgid(Gid::from_raw(gid)).map_err(failed("take the group of its user"))?;
    setuid(Uid::from_raw(uid)).map_err(failed("become its user"))?;
    // Ambient capabilities outlive a change between two users neither of whom is root (capabilities(7)).
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let dropped = clear_ambient_capability_set().and_then(|()| set_capabilities(None, sets));
    dropped.map_err(|errno| format!("cannot drop its capabilities: {}", io::Error::from(errno)))?;
    std::env::set_current_dir(cwd)
        .map_err(|error| format!("cannot change into the directory {}: {error}", cwd.display()))?;
    let argv: Result<Vec<CString>, _> = program.iter().map(|word| CString::new(word.as_bytes())).collect();
    let argv = argv.map_err(|_| "an argument holds a NUL character".to_owned())?;
    let path = argv.first().ok_or("no program is configured")?;
    let Err(errno) = execv(path, &argv);
    Err(format!("cannot start {}: {}", path.to_string_lossy(), io::Error::from(errno)))
}
