//! Which attempts that an earlier run of the daemon claimed still run, or ended meanwhile, and which are gone.
//!
//! A claim is durable before its keeper gets its go, and names it; the keeper owns the attempt before it starts the program,
//! and writes down how it ended. So nothing is guessed:
//!
//! | found | then |
//! | --- | --- |
//! | an outcome | it has ended: adopted, to record that |
//! | a keeper as owner, and it lives | adopted |
//! | no owner, though a keeper may have got its go | never started: a tombstone is put there, and a late keeper stops; run again |
//! | no keeper named, by a claim that is gated | never started: none got its go; run again |
//! | a keeper as owner, and it is gone, or of another boot | gone |
//!
//! For what is gone the recovery policy decides.
//!
//! Called once at a start, before [`super::leftovers::end_all`] and before anything is claimed. Blocks.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use super::keeper::place::{AttemptPlace, Owner};
use super::keeper::statements::{Statement, StatementReader};
use super::keeper::words::StepLine;
use super::proc::Process;
use crate::action::{ActionId, Claim, JsonText, Program, Step};

/// An attempt that was claimed and not ended.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: ActionId,
    pub attempt: u32,
    pub claim: Claim,
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Survey {
    /// Running on, or ended with an outcome.
    pub adoptable: HashSet<ActionId>,
    /// It is certain that their program was not started: no keeper named, or one that owns nothing.
    pub unstarted: HashSet<ActionId>,
    /// The names of the keepers that are gone.
    pub gone: Vec<(ActionId, String)>,
    /// What the programs of those that are gone had stated.
    pub stated: HashMap<ActionId, Stated>,
    /// Processes of those that are gone: to be looked for and ended.
    pub known: Vec<(ActionId, Program)>,
}

/// The last durable statements of a program whose keeper is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    pub checkpoint: Option<JsonText>,
    pub steps: Option<Vec<Step>>,
}

impl Stated {
    /// Puts in the place of what is known what was stated beside the attempt, unless that is behind it. A checkpoint without
    /// steps is of a step that has not begun.
    pub(crate) fn carry_on(self, steps: &mut Vec<Step>, checkpoint: &mut Option<JsonText>) {
        let Some(stated) = self.steps.filter(|stated| Step::extent(stated) >= Step::extent(steps)) else {
            return;
        };
        *steps = stated;
        *checkpoint = self.checkpoint.or(checkpoint.take());
    }
}

/// Looks for the keepers of all that was claimed.
#[must_use]
pub fn survey(attempts_dir: &Path, claimed: &[Claimed], boot_id: &str) -> Survey {
    let mut survey = Survey::default();
    for Claimed { id, attempt, claim } in claimed {
        let of_this_boot = claim.boot_id == boot_id;
        let keeper = claim.program.filter(|_| of_this_boot);
        let name = format!("{id}.{attempt}");
        let place = AttemptPlace::of(attempts_dir, &name);
        // On whatever boot: what was not durable by the end of an earlier one had no go either.
        let names_none = claim.is_gated && claim.program.is_none();
        match find(&place, keeper, names_none, of_this_boot) {
            Ok(Found::Adoptable) => {
                survey.adoptable.insert(*id);
            }
            Ok(Found::Unstarted) => {
                survey.unstarted.insert(*id);
                survey.known.extend(keeper.map(|keeper| (*id, keeper)));
                survey.gone.extend(of_this_boot.then_some((*id, name)));
            }
            Ok(Found::Gone { program }) => {
                survey.known.extend([keeper, program].into_iter().flatten().map(|program| (*id, program)));
                survey.stated.insert(*id, stated(&place));
                survey.gone.extend(of_this_boot.then_some((*id, name)));
            }
            Err(error) => {
                // Not known to be gone: whatever lives of it is ended, and then its policy decides.
                tracing::warn!(action_id = id.0, attempt, %error, "cannot look for the keeper of an attempt");
                survey.known.extend(keeper.map(|keeper| (*id, keeper)));
                survey.gone.extend(of_this_boot.then_some((*id, name)));
            }
        }
    }
    survey
}

/// What the program of an attempt had stated, whose keeper is gone. Blocks.
pub(crate) fn stated(place: &AttemptPlace) -> Stated {
    let mut stated = Stated::default();
    let statements = StatementReader::new(&place.statements()).read().unwrap_or_else(|error| {
        tracing::warn!(path = %place.prefix().display(), %error, "cannot read what a program stated");
        Vec::new()
    });
    for statement in statements {
        match statement {
            Statement::Checkpoint(checkpoint) => {
                stated.checkpoint = Some(JsonText::from_checked(checkpoint.get()));
            }
            Statement::Steps(steps) => stated.steps = Some(steps.into_iter().map(StepLine::into).collect()),
            Statement::Progress { .. } | Statement::Message(_) | Statement::Result(_) => {}
        }
    }
    stated
}

/// What a start of the daemon finds of an attempt that an earlier run has claimed.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Its keeper runs, or has written how it ended.
    Adoptable,
    /// Its keeper got no go, or got it and has not begun; now it never will.
    Unstarted,
    /// Its keeper is gone, or never had it.
    Gone {
        /// The program, if the keeper came to noting it.
        program: Option<Program>,
    },
}

/// Looks for an attempt's keeper. `keeper` is the one that the claim names, if it is of this boot: only it can have got its
/// go. `names_none`: the claim says that a keeper would be named before it got its go, and names none. After this no
/// keeper starts the attempt's program any more, unless one has.
fn find(
    place: &AttemptPlace,
    keeper: Option<Program>,
    names_none: bool,
    of_this_boot: bool,
) -> io::Result<Found> {
    if place.ended()?.is_some() {
        return Ok(Found::Adoptable);
    }
    // Without one nobody got a go that could still be underway.
    if keeper.is_some() && place.bury()? {
        return Ok(Found::Unstarted);
    }
    let program = match place.owner()? {
        Some(Owner::Keeper(program)) => program,
        // Found out by a start that died before it could say so.
        Some(Owner::Nobody) if keeper.is_some() => return Ok(Found::Unstarted),
        // With a keeper as owner the claim is older than the files: of a store that was restored from a backup.
        Some(Owner::Nobody) | None if names_none => return Ok(Found::Unstarted),
        Some(Owner::Nobody) | None => return Ok(Found::Gone { program: None }),
    };
    let is_alive = match keeper {
        Some(keeper) => Process::read(keeper.pid)?.is_some_and(|now| now.program == keeper && now.is_alive()),
        None => false,
    };
    // It may have ended between the two looks.
    if is_alive || place.ended()?.is_some() {
        return Ok(Found::Adoptable);
    }
    Ok(Found::Gone { program: program.filter(|_| of_this_boot) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Timestamp;

    fn own() -> Program {
        Process::read(std::process::id()).unwrap().unwrap().program
    }

    fn dead() -> Program {
        Program { start_ticks: own().start_ticks + 1, ..own() }
    }

    /// What is found of action 7, whose claim names that keeper.
    fn found(place: &AttemptPlace, keeper: Option<Program>, boot_id: &str) -> Survey {
        found_of(place, true, keeper, boot_id)
    }

    fn found_of(place: &AttemptPlace, is_gated: bool, keeper: Option<Program>, boot_id: &str) -> Survey {
        let claim = Claim {
            incarnation: 1,
            fence: 1,
            boot_id: boot_id.to_owned(),
            began_at: Timestamp(0),
            is_gated,
            program: keeper,
        };
        let claimed = Claimed { id: ActionId(7), attempt: 1, claim };
        survey(place.prefix().parent().unwrap(), &[claimed], "now")
    }

    fn place() -> (tempfile::TempDir, AttemptPlace) {
        let home = tempfile::tempdir().unwrap();
        let place = AttemptPlace::of(&home.path().join("attempts"), "7.1");
        (home, place)
    }

    #[test]
    fn keeper_that_lives_is_adopted_and_a_dead_one_is_not() {
        let (_home, place) = place();
        let program = Program { pid: 1, start_ticks: 5 };
        place.own(own()).unwrap().unwrap().note_program(program).unwrap();
        assert!(found(&place, Some(own()), "now").adoptable.contains(&ActionId(7)));
        for (keeper, boot_id, known) in [
            (Some(dead()), "now", vec![dead(), program]),
            (Some(own()), "before", vec![]),
            (None, "now", vec![program]),
        ] {
            let found = found(&place, keeper, boot_id);
            assert!(found.adoptable.is_empty(), "{keeper:?} {boot_id}");
            let known: Vec<_> = known.into_iter().map(|program| (ActionId(7), program)).collect();
            assert_eq!(found.known, known, "{keeper:?} {boot_id}");
        }
    }

    #[test]
    fn outcome_is_taken_up_whoever_wrote_it_and_when() {
        let (_home, place) = place();
        place.own(dead()).unwrap();
        place.end(&super::super::keeper::place::Ended::default()).unwrap();
        for boot_id in ["now", "before"] {
            assert!(found(&place, Some(dead()), boot_id).adoptable.contains(&ActionId(7)), "{boot_id}");
        }
    }

    #[test]
    fn program_without_an_owner_never_starts() {
        let (_home, place) = place();
        for _ in 0..2 {
            let found = found(&place, Some(own()), "now");
            assert!(found.adoptable.is_empty());
            assert_eq!(found.known, [(ActionId(7), own())], "a keeper that got its go is ended");
            assert!(found.unstarted.contains(&ActionId(7)));
        }
        assert!(place.own(own()).unwrap().is_none(), "a late keeper stops");
    }

    #[test]
    fn claim_that_names_no_keeper_tells_of_a_program_only_if_it_is_gated() {
        for boot_id in ["now", "before"] {
            let (_home, place) = place();
            for is_gated in [true, false] {
                // Not gated: in-process, started directly, or claimed by a release that did not say.
                let found = found_of(&place, is_gated, None, boot_id);
                assert_eq!(found.unstarted.contains(&ActionId(7)), is_gated, "{boot_id}");
                assert_eq!((found.known.len(), place.owner().unwrap()), (0, None), "{boot_id}");
                assert_eq!(found.gone.len(), usize::from(boot_id == "now"), "a unit may be on its way");
            }
            // The store is older than its keepers' files.
            place.own(dead()).unwrap();
            assert!(found_of(&place, true, None, boot_id).unstarted.is_empty(), "{boot_id}");
        }
    }

    #[test]
    fn what_was_stated_is_not_lost_with_the_keeper() {
        let (_home, place) = place();
        place.own(dead()).unwrap();
        std::fs::write(
            place.statements(),
            "{\"version\":1,\"generation\":0}\n{\"checkpoint\":{\"n\":1}}\n{\"checkpoint\":{\"n\":2}}\n{\"steps\":[{\"name\":\"a\",\"begun_at\":1,\"done_at\":2}]}\n{\"chec",
        )
        .unwrap();
        let stated = &found(&place, Some(dead()), "now").stated[&ActionId(7)];
        assert_eq!(stated.checkpoint, Some(JsonText::from_checked("{\"n\":2}")));
        let step = Step { name: "a".into(), begun_at: Timestamp(1), done_at: Some(Timestamp(2)) };
        assert_eq!(stated.steps, Some(vec![step]));
    }
}
