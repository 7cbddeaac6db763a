//! Steps compared with those of earlier builds, to the first cause.

use std::collections::BTreeMap;

use crate::solve::Miss;

use super::align::align;
use super::cause::{Cause, CauseKind};
use super::definition::{self, links};
use super::inputs::{self, Listings};
use super::record::{BuildRecord, PlatformRecord, StepOutcome, StepRecord};
use super::text;

/// An earlier build, as far as it concerns one platform.
pub struct Earlier {
    /// The build.
    pub record: BuildRecord,
    /// Position of the platform in it.
    pub platform: usize,
    /// Whether things were removed from the store since it ended: on which day, as `2026-03-01`.
    pub pruned: Option<String>,
}

/// Gives what stands for a text that is not shown. The same text has the same.
pub type Keyed<'a> = &'a dyn Fn(&str) -> String;

/// Two builds that are compared.
pub(super) struct Sides<'a> {
    pub new: &'a BuildRecord,
    pub old: &'a BuildRecord,
    pub listings: Listings<'a>,
    pub keyed: Keyed<'a>,
}

/// Explains the misses of a build by the builds before it.
pub struct Explainer<'a> {
    /// The build, without its steps.
    pub build: &'a BuildRecord,
    /// Its steps, as far as they were looked up.
    pub steps: &'a [StepRecord],
    /// Builds before it, the newest first.
    pub earlier: &'a [Earlier],
    /// What digests of inputs were made of.
    pub listings: Listings<'a>,
    /// What stands for texts that are not shown.
    pub keyed: Keyed<'a>,
}

impl Earlier {
    fn steps(&self) -> &[StepRecord] {
        self.record.platforms.get(self.platform).map_or(&[], |platform: &PlatformRecord| &platform.steps)
    }
}

impl Explainer<'_> {
    /// Why the step at a position has no result. `filtered` says that its stage was to be executed again.
    pub fn cause(&self, at: usize, miss: Miss) -> Cause {
        if miss == Miss::NotAsked {
            return match self.build.no_cache {
                true => Cause::new(CauseKind::NoCache, "--no-cache"),
                false => Cause::new(CauseKind::NoCacheFilter, "--no-cache-filter"),
            };
        }
        let mut newest = None;
        for earlier in self.earlier {
            let compared = Compared::of(self, earlier);
            match compared.pairs.get(at).copied().flatten() {
                Some(before) if earlier.steps().get(before).is_some_and(StepRecord::is_complete) => {
                    return compared.cause(at, before, miss);
                }
                // It did not get so far.
                Some(_) => {}
                None => {
                    newest.get_or_insert(compared);
                }
            }
        }
        match (self.steps.get(at), newest) {
            (Some(step), Some(compared)) => compared.new_instruction(step),
            _ => Cause::new(CauseKind::FirstBuild, "never built here"),
        }
    }
}

/// A build beside an earlier one.
struct Compared<'a> {
    steps: &'a [StepRecord],
    old: &'a [StepRecord],
    pruned: Option<&'a str>,
    sides: Sides<'a>,
    /// For each step the one that it was.
    pairs: Vec<Option<usize>>,
}

impl<'a> Compared<'a> {
    fn of(explainer: &'a Explainer<'a>, earlier: &'a Earlier) -> Self {
        let (steps, old) = (explainer.steps, earlier.steps());
        let Explainer { build, listings, keyed, .. } = *explainer;
        let sides = Sides { new: build, old: &earlier.record, listings, keyed };
        Compared { steps, old, pruned: earlier.pruned.as_deref(), sides, pairs: pairs(steps, old) }
    }

    fn cause(&self, at: usize, before: usize, miss: Miss) -> Cause {
        if self.sides.new.keys != self.sides.old.keys {
            return Cause::new(
                CauseKind::Generation,
                "this version of rbuild makes the keys of steps otherwise",
            );
        }
        let (Some(new), Some(old)) = (self.steps.get(at), self.old.get(before)) else {
            return Cause::new(CauseKind::FirstBuild, "never built here");
        };
        if let Some(cause) = self.own(new, old) {
            return cause;
        }
        if let Some(cause) = self.below(new, old) {
            return cause;
        }
        let same = new.layers.is_none() || old.layers.is_none() || new.layers == old.layers;
        if let (false, Some(parent)) = (same, new.parent.and_then(|id| self.steps.get(id))) {
            let words = format!("the step before it came out different: {}", text::instruction(&parent.name));
            return Cause::new(CauseKind::Parent, words);
        }
        match (miss, self.pruned) {
            (Miss::NoLayer, _) => {
                Cause::new(CauseKind::LostLayer, "the layer of its result is no longer in the store")
            }
            (_, Some(day)) => Cause::new(CauseKind::Pruned, format!("its result was pruned on {day}")),
            _ => Cause::new(CauseKind::Pruned, "its result is no longer in the store"),
        }
    }

    /// What of the step itself is different.
    fn own(&self, new: &StepRecord, old: &StepRecord) -> Option<Cause> {
        if new.outcome == StepOutcome::Base || old.outcome == StepOutcome::Base {
            return base(new, old, &self.sides);
        }
        if !new.is_known() || !old.is_known() {
            return None;
        }
        let sides = &self.sides;
        let defined = definition::difference(new, old, sides);
        let read = inputs::difference(new, old, sides);
        match (defined, read) {
            (Some(cause), read) => {
                Some(Cause { inputs: read.map(|read| read.inputs).unwrap_or_default(), ..cause })
            }
            (None, Some(cause)) => Some(self.made_elsewhere(new, cause)),
            (None, None) => None,
        }
    }

    /// Files of a stage differ because something in that stage does.
    fn made_elsewhere(&self, new: &StepRecord, cause: Cause) -> Cause {
        if cause.kind != CauseKind::Files {
            return cause;
        }
        let mut known = BTreeMap::new();
        let from_context = cause.inputs.first().is_some_and(|input| input.name.contains("build context"));
        let roots = new.sources.iter().filter(|_| !from_context).find_map(|id| self.root(*id, &mut known));
        match roots {
            Some(root) => Cause { inputs: cause.inputs, ..root },
            None => cause,
        }
    }

    /// What is different below a step.
    fn below(&self, new: &StepRecord, old: &StepRecord) -> Option<Cause> {
        if links(new) {
            return None;
        }
        let parent = new.parent?;
        // The same layers: whatever changed below, nothing came of it. Of a step that was just executed they may be
        // known in time or not, and what is said must not depend on that.
        let ran = self.steps.get(parent).is_some_and(|step| step.cause.as_ref().is_some_and(Cause::is_news));
        if !ran && new.layers.is_some() && new.layers == old.layers {
            return None;
        }
        let paired = self.pairs.get(parent).copied().flatten();
        if let Some(cause) = self.root(parent, &mut BTreeMap::new()) {
            return Some(cause);
        }
        if paired == old.parent {
            return None;
        }
        let gone = old.parent.filter(|id| !self.pairs.contains(&Some(*id)));
        Some(match gone.and_then(|id| self.old.get(id)) {
            Some(gone) => self.removed_instruction(gone),
            None => Cause::new(CauseKind::Moved, "the order of the instructions changed"),
        })
    }

    /// An instruction that stood nowhere before, or somewhere else.
    fn new_instruction(&self, step: &StepRecord) -> Cause {
        let words = text::normal(&step.text);
        let unpaired = self.old.iter().enumerate().filter(|(at, _)| !self.pairs.contains(&Some(*at)));
        let moved = unpaired.into_iter().any(|(_, old)| text::normal(&old.text) == words);
        self.named(&step.text, moved, CauseKind::NewInstruction, "the instruction is new")
    }

    /// An instruction that stands nowhere any more, or somewhere else.
    fn removed_instruction(&self, gone: &StepRecord) -> Cause {
        let words = text::normal(&gone.text);
        let unpaired = self.steps.iter().zip(&self.pairs).filter(|(_, pair)| pair.is_none());
        let moved = unpaired.into_iter().any(|(new, _)| text::normal(&new.text) == words);
        self.named(&gone.text, moved, CauseKind::RemovedInstruction, "an instruction was removed")
    }

    fn named(&self, text: &str, moved: bool, kind: CauseKind, words: &str) -> Cause {
        let shown = text::instruction(text);
        match moved {
            true => Cause::new(CauseKind::Moved, format!("an instruction moved: {shown}")),
            false => Cause::new(kind, format!("{words}: {shown}")),
        }
    }

    /// The first cause of a step's being other than it was, as its consequences name it. Steps from the cache may be
    /// others as well: those of a build before the last.
    fn root(&self, at: usize, known: &mut BTreeMap<usize, Option<Cause>>) -> Option<Cause> {
        if let Some(cause) = known.get(&at) {
            return cause.clone();
        }
        // Whatever comes of it: no step is looked at twice.
        known.insert(at, None);
        let step = self.steps.get(at)?;
        let shown = text::cut(&text::normal(&step.name), SHOWN);
        let cause = match (&step.cause, self.pairs.get(at).copied().flatten()) {
            // Who executes it again for want of a result gets what it gave.
            (Some(cause), _) if cause.is_news() => Some(cause.of_step(&shown)),
            (_, Some(before)) => {
                let old = self.old.get(before)?;
                match self.own(step, old) {
                    Some(cause) if step.outcome == StepOutcome::Base => Some(cause),
                    Some(cause) => Some(cause.of_step(&shown)),
                    None => {
                        let below = step.parent.filter(|_| !links(step)).and_then(|id| self.root(id, known));
                        below.or_else(|| self.removed(step, old))
                    }
                }
            }
            (_, None) => Some(self.new_instruction(step)),
        };
        known.insert(at, cause.clone());
        cause
    }

    /// What stood between a step and the one below it.
    fn removed(&self, new: &StepRecord, old: &StepRecord) -> Option<Cause> {
        let paired = new.parent.and_then(|id| self.pairs.get(id).copied().flatten());
        let gone = old.parent.filter(|id| Some(*id) != paired && !self.pairs.contains(&Some(*id)))?;
        Some(self.removed_instruction(self.old.get(gone)?))
    }
}

/// The longest a step is shown in the cause of another one, in characters.
const SHOWN: usize = 60;

/// What became of a base.
fn base(new: &StepRecord, old: &StepRecord, sides: &Sides<'_>) -> Option<Cause> {
    match (&new.base, &old.base) {
        (new, old) if new == old => None,
        (Some((name, digest)), Some((before, other))) if name == before => {
            let short = |digest: &str| digest.get(..19).unwrap_or(digest).to_owned();
            let words = format!("base {name}: {} -> {}", short(other), short(digest));
            Some(Cause::new(CauseKind::Base, words))
        }
        _ => {
            if let Some(cause) = definition::variable(new, old, sides) {
                return Some(cause);
            }
            let name = |base: &Option<(String, String)>| {
                base.as_ref().map_or("scratch", |(name, _)| name).to_owned()
            };
            let words = format!("the base changed: {} -> {}", name(&old.base), name(&new.base));
            Some(Cause::new(CauseKind::Base, words))
        }
    }
}

/// For each step the one that it was: stages by their names or their first words, steps by their words.
fn pairs(new: &[StepRecord], old: &[StepRecord]) -> Vec<Option<usize>> {
    let (new_stages, old_stages) = (stages(new), stages(old));
    let (a, b) = (names(&new_stages, new), names(&old_stages, old));
    let stages = align(&a, &b, |_, _| true);
    let mut found = vec![None; new.len()];
    for (at, other) in stages.iter().enumerate() {
        let Some(other) = other else { continue };
        let (mine, theirs) = (&new_stages[at], &old_stages[*other]);
        let words = |steps: &[StepRecord], ids: &[usize]| -> Vec<String> {
            ids.iter().map(|id| text::normal(&steps[*id].text)).collect()
        };
        let (a, b) = (words(new, mine), words(old, theirs));
        let keyword = |text: &str| text.split(' ').next().unwrap_or_default().to_uppercase();
        for (at, other) in
            align(&a, &b, |a_at, b_at| keyword(&a[a_at]) == keyword(&b[b_at])).iter().enumerate()
        {
            found[mine[at]] = other.map(|other| theirs[other]);
        }
    }
    found
}

/// Positions of the steps of each stage.
fn stages(steps: &[StepRecord]) -> Vec<Vec<usize>> {
    let mut all: Vec<(&str, Vec<usize>)> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match all.iter_mut().find(|(name, _)| *name == step.stage) {
            Some((_, ids)) => ids.push(at),
            None => all.push((&step.stage, vec![at])),
        }
    }
    all.into_iter().map(|(_, ids)| ids).collect()
}

/// What stages go by: their names; without one, what they begin with.
fn names(stages: &[Vec<usize>], steps: &[StepRecord]) -> Vec<String> {
    let name = |ids: &Vec<usize>| {
        let first = ids.first().and_then(|id| steps.get(*id))?;
        let unnamed = first.stage.bytes().all(|c| c.is_ascii_digit());
        Some(if unnamed { text::normal(&first.text) } else { first.stage.clone() })
    };
    stages.iter().map(|ids| name(ids).unwrap_or_default()).collect()
}
