//! Choosing what goes, and taking it away.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, SystemTime};

use crate::cancel::Cancel;
use crate::store::{Collector, Fate, Room, Store, StoreError};

use super::policy::Policy;
use super::survey::Survey;

/// Says what goes under a policy, as positions in the survey: what was unused longest first, and
/// nothing before what refers to it. `free` is what the disk has left, in bytes. With limits on space
/// the survey must have been measured.
pub fn select(survey: &Survey, policy: &Policy, now: SystemTime, free: u64) -> Vec<usize> {
    let mut total = survey.total();
    let keep = policy.space.keep(total, free);
    let mut referrers: Vec<usize> = survey.things.iter().map(|thing| thing.referrers).collect();
    let mut open = BinaryHeap::new();
    let may_go = |at: usize, meant: bool| {
        let thing = &survey.things[at];
        // Unpacked layers that no chain leads to are of no use to anybody.
        let useless = thing.item.room == Room::Snapshots && !policy.filters.iter().any(is_id);
        let idle = now.duration_since(thing.item.used).unwrap_or_default();
        !thing.named
            && (meant || policy.means(&thing.item))
            && (useless || idle >= policy.age(thing.item.room))
    };
    for at in (0..survey.things.len()).filter(|at| referrers[*at] == 0 && may_go(*at, false)) {
        open.push(Reverse((survey.things[at].item.used, at)));
    }
    let mut chosen = Vec::new();
    while let Some(Reverse((_, at))) = open.pop() {
        if keep.is_some_and(|keep| total <= keep) {
            break;
        }
        chosen.push(at);
        total = total.saturating_sub(survey.things[at].size);
        for below in &survey.things[at].uses {
            referrers[*below] -= 1;
            // Who names a record by its ID means its layer too.
            if referrers[*below] == 0 && may_go(*below, true) {
                open.push(Reverse((survey.things[*below].item.used, *below)));
            }
        }
    }
    chosen
}

fn is_id(filter: &super::Filter) -> bool {
    matches!(filter, super::Filter::Id(_))
}

/// Things of one room that went.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Removed {
    /// How many.
    pub count: usize,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// What went, as positions in the survey, with the bytes it took on disk.
    pub gone: Vec<(usize, u64)>,
    /// By room.
    pub removed: BTreeMap<Room, Removed>,
    /// Stray files that went.
    pub strays: usize,
    /// What stayed because a living process has seen it.
    pub in_use: usize,
    /// Why things stayed, or lie in `tmp` still, that should have gone; each names its path.
    pub failures: Vec<StoreError>,
}

impl Collected {
    /// Bytes freed.
    pub fn bytes(&self) -> u64 {
        self.removed.values().fold(0, |sum, removed| sum.saturating_add(removed.bytes))
    }

    fn note(&mut self, survey: &Survey, at: usize, bytes: u64) {
        let entry = self.removed.entry(survey.things[at].item.room).or_default();
        entry.count += 1;
        entry.bytes = entry.bytes.saturating_add(bytes);
        self.gone.push((at, bytes));
    }
}

/// Takes away what the policy says. Waits at most `wait` for another collection. With `dry_run` only
/// tells what would go. What cannot be removed keeps nothing else from going: see
/// [`Collected::failures`].
pub fn collect(
    store: &Store,
    policy: &Policy,
    dry_run: bool,
    wait: Duration,
    cancel: &Cancel,
) -> Result<(Survey, Collected), StoreError> {
    let collector = store.collector(wait)?;
    let survey = Survey::take(store, policy.space.is_set())?;
    let chosen = select(&survey, policy, SystemTime::now(), free_space(store));
    let collected = if dry_run {
        let mut would = Collected { strays: survey.strays.len(), ..Collected::default() };
        for at in chosen {
            would.note(&survey, at, survey.things[at].item.measure());
        }
        would
    } else {
        collector.note_collection();
        sweep(&collector, &survey, &chosen, cancel)
    };
    Ok((survey, collected))
}

pub(super) fn free_space(store: &Store) -> u64 {
    crate::fs::disk_space(store.root()).map_or(u64::MAX, |(_, free)| free)
}

/// Takes the chosen things away, in their order. What is in use or cannot be removed stays, with all
/// it refers to.
pub(super) fn sweep(collector: &Collector, survey: &Survey, chosen: &[usize], cancel: &Cancel) -> Collected {
    let mut collected = Collected::default();
    let mut spared = vec![None; survey.things.len()];
    for at in chosen.iter().copied() {
        if cancel.is_cancelled() {
            return collected;
        }
        if let Some(why) = spared[at] {
            spare(survey, at, why, &mut spared);
            collected.in_use += usize::from(why == Stays::InUse);
            continue;
        }
        let item = &survey.things[at].item;
        let bytes = if survey.things[at].size > 0 { survey.things[at].size } else { item.measure() };
        match collector.remove(item) {
            Ok(Fate::Removed) => collected.note(survey, at, bytes),
            Ok(Fate::Gone) => {}
            Ok(Fate::InUse) => {
                spare(survey, at, Stays::InUse, &mut spared);
                collected.in_use += 1;
            }
            Err(error) => {
                spare(survey, at, Stays::Failed, &mut spared);
                collected.failures.push(error);
            }
        }
    }
    for stray in &survey.strays {
        match collector.remove_stray(stray) {
            Ok(fate) => collected.strays += usize::from(fate == Fate::Removed),
            Err(error) => collected.failures.push(error),
        }
    }
    collected
}

/// Why a thing that should go stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stays {
    InUse,
    Failed,
}

/// Everything below a thing that stays comes later in the order, and stays too.
fn spare(survey: &Survey, at: usize, why: Stays, spared: &mut [Option<Stays>]) {
    for below in &survey.things[at].uses {
        spared[*below].get_or_insert(why);
    }
}
