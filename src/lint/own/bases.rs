//! Bases and stages as a whole.

use crate::image::Reference;
use crate::image::reference::is_id_only;
use crate::lint::finding::{Findings, Place};
use crate::lint::rule as rules;
use crate::lint::stages::{Base, Stages, same};

pub(super) fn check(stages: &Stages<'_>, findings: &mut Findings<'_>) {
    for (stage, line) in stages.dockerfile.stages.iter().zip(&stages.froms) {
        let place = Place::from(&stage.from);
        if let Base::Image(name) = &line.base {
            unlocked(stages, name, Place::from(&stage.from), findings);
            unpinned(stages, name, place, findings);
        }
    }
    unused(stages, findings);
}

fn unpinned(stages: &Stages<'_>, name: &str, place: Place<'_>, findings: &mut Findings<'_>) {
    let Ok(reference) = Reference::parse(name) else { return };
    let context = stages.input.contexts.iter().any(|context| same(context, name));
    let canonical = reference.to_string();
    let last = canonical.rsplit('/').next().unwrap_or("");
    let floating = !last.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    // An ID never means another image.
    if floating && !context && !is_id_only(name) {
        let detail = format!("{name:?} is not pinned and can change at any time; name a version or a digest");
        findings.add(&rules::UNPINNED_BASE, place, detail);
    }
}

/// A matter of taste, until somebody has made a lock.
fn unlocked(stages: &Stages<'_>, name: &str, place: Place<'_>, findings: &mut Findings<'_>) {
    let Ok(reference) = Reference::parse(name).map(Reference::with_default_tag) else { return };
    if is_id_only(name) || stages.input.contexts.iter().any(|context| same(context, name)) {
        return;
    }
    match stages.input.locked {
        Some(is_locked) if is_locked(&reference.to_string()) => {}
        Some(_) => {
            let detail = format!("{name:?} is not in the lock of this Dockerfile; `rbuild lock` adds it");
            findings.add_asked(&rules::UNLOCKED_BASE, place, detail);
        }
        None => {
            let detail = format!("{name:?} is not locked: there is no lock; `rbuild lock` makes one");
            findings.add(&rules::UNLOCKED_BASE, place, detail);
        }
    }
}

/// A stage with a name may be somebody's `--target`. One without is there for the next stages only.
fn unused(stages: &Stages<'_>, findings: &mut Findings<'_>) {
    let last = stages.dockerfile.stages.len().saturating_sub(1);
    let mut used = vec![false; last + 1];
    for (index, line) in stages.froms.iter().enumerate() {
        if let Base::Stage(base) = line.base {
            used[base] = true;
        }
        for stage in stages.uses(index) {
            used[stage] = true;
        }
    }
    for stage in &stages.dockerfile.stages {
        if stage.index != last
            && stage.name().is_none()
            && !used[stage.index]
            && stages.target() != stage.index
        {
            let detail = "This stage has no name and no other stage uses it, so it is never built";
            findings.add(&rules::UNUSED_STAGE, Place::from(&stage.from), detail);
        }
    }
}
