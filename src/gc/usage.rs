//! What takes the space: `rbuild du`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::store::{Room, Store, StoreError};

use super::survey::Survey;

/// One thing and what it takes.
#[derive(Clone, Debug)]
pub struct ThingUsage {
    /// Its room.
    pub room: Room,
    /// Its name.
    pub id: String,
    /// Bytes on disk.
    pub size: u64,
    /// When it was last used.
    pub used: SystemTime,
    /// More than one image name or cache record leads to it.
    pub shared: bool,
    /// No image name leads to it.
    pub reclaimable: bool,
    /// What it is.
    pub note: String,
}

/// All things of one room together.
#[derive(Clone, Copy, Debug, Default)]
pub struct KindUsage {
    /// How many.
    pub count: usize,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes that several names or records lead to.
    pub shared: u64,
    /// Bytes that no image name leads to.
    pub reclaimable: u64,
    /// The last use of any.
    pub used: Option<SystemTime>,
}

/// What a store takes.
#[derive(Debug, Default)]
pub struct Usage {
    /// By room.
    pub kinds: BTreeMap<Room, KindUsage>,
    /// Each thing, largest first.
    pub things: Vec<ThingUsage>,
}

impl Usage {
    /// The sum over all rooms.
    pub fn total(&self) -> KindUsage {
        let mut sum = KindUsage::default();
        for kind in self.kinds.values() {
            sum.count += kind.count;
            sum.size += kind.size;
            sum.shared += kind.shared;
            sum.reclaimable += kind.reclaimable;
            sum.used = sum.used.max(kind.used);
        }
        sum
    }
}

/// Measures a store. Every file counts once, however many images it belongs to.
pub fn usage(store: &Store) -> Result<Usage, StoreError> {
    let survey = Survey::take(store, true)?;
    let roots = roots(&survey);
    let mut usage = Usage::default();
    for (thing, roots) in survey.things.iter().zip(roots) {
        let one = ThingUsage {
            room: thing.item.room,
            id: thing.item.name.clone(),
            size: thing.size,
            used: thing.item.used,
            shared: roots > 1,
            reclaimable: !thing.named,
            note: thing.note.clone(),
        };
        let kind = usage.kinds.entry(one.room).or_default();
        kind.count += 1;
        kind.size += one.size;
        kind.shared += if one.shared { one.size } else { 0 };
        kind.reclaimable += if one.reclaimable { one.size } else { 0 };
        kind.used = kind.used.max(Some(one.used));
        usage.things.push(one);
    }
    usage.things.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    Ok(usage)
}

/// How many names and records lead to each thing.
fn roots(survey: &Survey) -> Vec<u32> {
    let mut counts = vec![0u32; survey.things.len()];
    let mut seen_by = vec![usize::MAX; survey.things.len()];
    for (root, thing) in survey.things.iter().enumerate() {
        if !matches!(thing.item.room, Room::Refs | Room::Records) || thing.uses.is_empty() {
            continue;
        }
        let mut open = thing.uses.clone();
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut seen_by[at], root) != root {
                counts[at] += 1;
                open.extend(&survey.things[at].uses);
            }
        }
    }
    counts
}
