//! What a step reads, compared with what it read.

use std::sync::Arc;

use crate::cache::Input;
use crate::digest::Digest;

use super::cause::{Cause, CauseKind, InputChange};
use super::definition::{instruction, variable};
use super::earlier::Sides;
use super::files;
use super::record::StepRecord;

/// Files of one input that are kept by name.
const MOST_FILES: usize = 100;

/// Gives what the digest of an input was made of.
pub type Listings<'a> = &'a dyn Fn(&Digest) -> Option<Arc<Vec<u8>>>;

/// The first difference in what a step reads, with all of them.
pub(super) fn difference(new: &StepRecord, old: &StepRecord, sides: &Sides<'_>) -> Option<Cause> {
    let changes = changes(&new.inputs, &old.inputs, sides);
    let first = changes.first()?;
    let same_text = sides.has_same_text(new, old);
    let cause = match (&first.old, &first.new) {
        _ if !same_text && !reads_the_same(new, old) => instruction(new, old),
        _ if first.name.starts_with("--") => Cause::new(CauseKind::Option, option(first)),
        _ if first.name.starts_with("secret ") => {
            Cause::new(CauseKind::Secret, format!("{} changed", first.name))
        }
        (Some(_), Some(_)) if first.name.starts_with("heredoc: ") => match variable(new, old, sides) {
            Some(cause) => cause,
            None => Cause::new(CauseKind::Instruction, "the text of its here-document changed"),
        },
        (Some(_), Some(_)) if first.name.contains("://") || first.name.starts_with("git@") => {
            Cause::new(CauseKind::Remote, format!("what {} has is something else", first.name))
        }
        (Some(_), Some(_)) => of_files(first, sides),
        // The words of its sources are others, and the instruction is not.
        _ => match variable(new, old, sides) {
            Some(cause) => cause,
            None => Cause::new(CauseKind::Setting, format!("it reads {} now", read(new, old))),
        },
    };
    Some(Cause { inputs: changes, ..cause })
}

fn read(new: &StepRecord, old: &StepRecord) -> String {
    let known = |input: &&Input| !old.inputs.iter().any(|before| before.name == input.name);
    match new.inputs.iter().find(known) {
        Some(input) => input.name.clone(),
        None => "less than before".into(),
    }
}

/// Whether words that select files are the same, though the instruction is written otherwise.
fn reads_the_same(new: &StepRecord, old: &StepRecord) -> bool {
    let names = |step: &StepRecord| step.inputs.iter().map(|input| input.name.clone()).collect::<Vec<_>>();
    // What these leave out shows in the files alone.
    let selects = |step: &StepRecord| ["--exclude", "--parents"].iter().any(|flag| step.text.contains(flag));
    names(new) == names(old) && !selects(new) && !selects(old)
}

fn option(change: &InputChange) -> String {
    match (&change.old, &change.new) {
        (None, _) => format!("{} is given", change.name),
        (_, None) => format!("{} is not given any more", change.name),
        _ => format!("{} changed", change.name),
    }
}

fn of_files(change: &InputChange, sides: &Sides<'_>) -> Cause {
    let Some(first) = change.files.first() else {
        return Cause::new(CauseKind::Files, format!("files of {} changed", change.name));
    };
    let mut words = first.text();
    let others = change.files.len() - 1 + change.more;
    if others > 0 {
        words.push_str(&format!(" (and {others} more)"));
    }
    if sides.new.ignore != sides.old.ignore && change.files.iter().all(|file| file.is_presence()) {
        words.push_str("; the ignore file changed");
    }
    Cause::new(CauseKind::Files, words)
}

/// Inputs that are not what they were, in order of mention.
fn changes(new: &[Input], old: &[Input], sides: &Sides<'_>) -> Vec<InputChange> {
    let mut changes = Vec::new();
    // A word may be written twice.
    let mut left: Vec<&Input> = old.iter().collect();
    for input in new {
        let before = left.iter().position(|before| before.name == input.name).map(|at| left.remove(at));
        if before.is_some_and(|before| before.digest == input.digest) {
            continue;
        }
        changes.push(change(&input.name, before.map(|before| before.digest), Some(input.digest), sides));
    }
    changes.extend(left.into_iter().map(|gone| change(&gone.name, Some(gone.digest), None, sides)));
    changes
}

fn change(name: &str, old: Option<Digest>, new: Option<Digest>, sides: &Sides<'_>) -> InputChange {
    let compared = match (&old, &new) {
        (Some(old), Some(new)) => compare(name, old, new, sides),
        _ => None,
    };
    let (files, all) = compared.unwrap_or_default();
    let more = all - files.len();
    InputChange { name: name.to_owned(), old, new, files, more }
}

fn compare(
    name: &str,
    old: &Digest,
    new: &Digest,
    sides: &Sides<'_>,
) -> Option<(Vec<files::FileChange>, usize)> {
    let (old, new) = ((sides.listings)(old)?, (sides.listings)(new)?);
    let pattern = name.rsplit_once(": ").map_or(name, |(_, pattern)| pattern);
    files::compare(pattern, &old, &new, MOST_FILES)
}
